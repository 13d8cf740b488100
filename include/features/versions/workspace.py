"""Private workspaces of builds and restorations: a folder that belongs to the process that holds its lock."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from include import storage
from include.features import stage
from include.home import Home


@contextlib.contextmanager
def open_workspace(home: Path, name: str) -> Iterator[Path]:
    """A private folder that belongs to this process; those of dead processes are removed."""
    work = Home(home.absolute()).dvc_work
    work.mkdir(parents=True, exist_ok=True)
    storage.ensure_space(work)
    workspace = work / f"{name}-{uuid.uuid4().hex[:12]}"
    with _locked(work / ".lock"):
        _sweep(work)
        workspace.mkdir()
        owner = (workspace / stage.OWNER_LOCK).open("wb")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        owner.close()


def _sweep(work: Path) -> None:
    """Remove the workspaces whose owners are dead."""
    for workspace in work.iterdir():
        if not workspace.is_dir():
            continue
        try:
            with (workspace / stage.OWNER_LOCK).open("rb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(workspace, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(workspace, ignore_errors=True)
        except BlockingIOError:  # alive, or its stage is just about to end
            continue


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
