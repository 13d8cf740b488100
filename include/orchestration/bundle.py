"""The DAG files and params.yaml that a run began with stay its own, whatever is edited meanwhile.

Airflow's own local bundle has no versions: a task that starts after an edit runs the edited file. Here a version is the
content of dags/ and params.yaml, kept below `<data_url>/dags/<version>/`; Airflow notes it with each run, whose tasks
read it from there. An edit shows in the UI within seconds, and new runs begin with it. What is below include/ is the
installed program, of which there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

from include import settings, storage
from include.orchestration.dag_defaults import PARAMS


class SnapshotBundle(BaseDagBundle):  # type: ignore[misc]
    """A folder of DAG files with params.yaml, versioned by content.

    Args:
        folder: the DAG files.
        **kwargs: Airflow's own: name, version, refresh_interval.
    """

    supports_versioning = True

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._folder = Path(folder)
        self._current: str | None = self.version

    @property
    def path(self) -> Path:
        """Where the version's copy lies on this machine.

        The DAG processor parses the copy too: were it to parse the folder, a run could be pinned to a version from
        before the edit that brought its DAG.
        """
        return self.base_dir / "snapshots" / self._current if self._current else self._folder

    def initialize(self) -> None:
        """Bring the version to this machine, or take one of what is in the folder now.

        Raises:
            StorageError: the version's files are gone from storage.
        """
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir():
            url = _url(self.version)
            storage.read_bytes(storage.join(url, PARAMS))
            self._lay_down({name: storage.read_bytes(storage.join(url, name)) for name in storage.list_files(url)})
        super().initialize()

    def refresh(self) -> None:
        """Take a version of what is in the folder now; equal content is the same version."""
        files = {path.name: path.read_bytes() for path in sorted(self._folder.glob("*.py"))}
        files[PARAMS] = settings.environment().params.read_bytes()
        digest = hashlib.sha256()
        for name, data in files.items():
            digest.update(f"{name} {len(data)}\n".encode() + data)
        version = digest.hexdigest()[:16]
        if version != self._current or not self.path.is_dir():
            for name, data in files.items():  # params.yaml last: with it the copy is whole
                storage.write_bytes(storage.join(_url(version), name), data)
            self._current = version
            self._lay_down(files)

    def _lay_down(self, files: dict[str, bytes]) -> None:
        """Write a version's local copy: all of it appears at once."""
        if self.path.is_dir():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".") as folder:
            whole = Path(folder) / "whole"
            whole.mkdir()
            for name, data in files.items():
                (whole / name).write_bytes(data)
            with contextlib.suppress(OSError):  # another process was first, with equal content
                whole.rename(self.path)

    def get_current_version(self) -> BundleVersion | None:
        """The version that this object stands for."""
        return BundleVersion(self._current) if self._current else None

    def view_url(self, version: str | None = None) -> None:
        """There is no page that shows a version."""


def _url(version: str) -> str:
    return storage.join(settings.environment().data_url, "dags", version)
