"""Restores a feature version: the exact files that were built, into a folder of the caller's."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import yaml

from include.features.versions.dvc_repository import open_repository
from include.features.versions.record import recorded
from include.features.versions.workspace import open_workspace
from include.settings import ROOT


class NotEmpty(FileExistsError):
    """Something is already where a version should be restored to; it is never replaced."""


def restore(model: str, version: str, into: Path, *, database_url: str, remote_url: str, home: Path) -> Path:
    """Bring the exact data of a recorded version back: parquet files, feature_set.json and index.json.

    Every file is checked against the hash in the recorded dvc.lock; what the cache has lost or spoilt is
    fetched from the remote.

    Args:
        model: whose features.
        version: as recorded in `feature_versions` and with the MLflow run.
        into: the folder to make; an empty one may be there.
        database_url: the platform's PostgreSQL.
        remote_url: DVC's remote.
        home: the platform's scratch space on this machine.

    Returns:
        `into`.

    Raises:
        FeatureVersionError: the version is unknown, or neither cache nor remote has its bytes.
        NotEmpty: something is there already; nothing was changed.
    """
    _refuse_what_is_there(into)
    lock = recorded(database_url, model, version).dvc_lock
    with open_workspace(home, f"restore-{model}") as workspace:
        shutil.copyfile(ROOT / "dvc.yaml", workspace / "dvc.yaml")
        (workspace / "params.yaml").write_text(yaml.safe_dump({"models": {model: {"features": {}}}}), encoding="utf-8")
        with open_repository(workspace, model, remote_url, home, links="reflink,copy") as repository:
            repository.check_out(lock)
        into.parent.mkdir(parents=True, exist_ok=True)
        copy = into.resolve().with_name(f".{into.resolve().name}.{uuid.uuid4().hex}.tmp")
        shutil.move(workspace / "features" / model, copy)
        try:
            _refuse_what_is_there(into)
            if into.exists():  # it may be the caller's working directory: it is filled, not replaced
                for file in copy.iterdir():
                    file.rename(into / file.name)
            else:
                copy.rename(into)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    return into


def _refuse_what_is_there(into: Path) -> None:
    if into.is_symlink():
        raise NotEmpty(f"{into} is a link: name a new folder; nothing was changed")
    if into.exists() and not into.is_dir():
        raise NotEmpty(f"{into} is a file: name a new folder; nothing was changed")
    if into.is_dir() and any(into.iterdir()):
        raise NotEmpty(f"{into.resolve()} is not empty: name a new or an empty folder; nothing was changed")
