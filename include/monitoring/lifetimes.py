"""What runs leave on this machine's disk and nobody else deletes: it goes when it is older than is declared.

docs/operations.md has a table of all that is stored, with who deletes it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from include import storage
from include.home import Home

DAY = 86_400


@dataclass(frozen=True)
class Gone:
    """What was deleted, or would be."""

    scratch: int
    """Folders of runs: of trainings, and of ingests that did not come to publish."""
    logs: int
    """Files that Airflow's tasks and its DAG processor wrote."""
    bytes: int

    @property
    def summary(self) -> str:
        """In one line."""
        return f"{self.scratch:,} folders of runs and {self.logs:,} logs of Airflow, {self.bytes / 1e6:,.1f} MB"


def delete_what_runs_left(home: Path, data_url: str, days: int, *, now: float, dry_run: bool = False) -> Gone:
    """Delete the scratch and the logs of runs that are older than `days`; runs again as if for the first time.

    Args:
        home: the platform's folder.
        data_url: where staged partitions lie; in object storage a rule of the bucket has to delete them.
        days: to be kept; longer than any run lasts.
        now: seconds since the epoch.
        dry_run: only say what would be deleted.
    """
    paths, before, size = Home(home), now - days * DAY, 0
    folders = [*_folders(paths.all_runs)]
    if storage.is_local(data_url):
        folders += _folders(storage.local_path(storage.join(data_url, "staging")))
    folders = [folder for folder in folders if _newest(folder) < before]
    logs = [file for file in _files(paths.airflow_logs) if _time(file) < before]
    for path in [*folders, *logs]:
        size += sum(_size(file) for file in ([path] if path.is_file() else _files(path)))
        if not dry_run:
            storage.delete(str(path))
    if not dry_run:
        for folder in sorted((path for path in paths.airflow_logs.rglob("*") if path.is_dir()), reverse=True):
            if _time(folder) < before:  # a young one may be about to be written to
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
    return Gone(len(folders), len(logs), size)


def _folders(root: Path) -> Iterator[Path]:
    """One folder for each run, below one for its DAG or its source."""
    yield from (path for path in root.glob("*/*") if path.is_dir() and not path.is_symlink())


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _newest(folder: Path) -> float:
    return max([_time(folder), *map(_time, folder.rglob("*"))])


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # somebody else deletes, too
        return time.time()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
