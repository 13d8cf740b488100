"""The DAG files and params.yaml that a run began with stay its own, whatever is edited meanwhile.

Airflow's own local bundle has no versions: a task that starts after an edit runs the edited file. Here a version is the
content of dags/ and params.yaml, kept below `<data_url>/dags/<version>/`; Airflow notes it with each run, whose
tasks read it from there. The DAG processor reads the folder itself, so an edit shows in the UI within seconds, and new
runs begin with it. What is below include/ is the installed program, of which there is one.
"""

from __future__ import annotations

import hashlib
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
        self._current: str | None = None

    @property
    def path(self) -> Path:
        """Where the DAG files lie: the folder itself, or a version's copy on this machine."""
        return self.versions_dir / self.version if self.version else self._folder

    def initialize(self) -> None:
        """Bring the version to this machine, or keep what is in the folder now.

        Raises:
            StorageError: the version's files are gone from storage.
        """
        if self.version is None:
            self.refresh()
        elif not (self.path / PARAMS).is_file():
            url = _url(self.version)
            storage.read_bytes(storage.join(url, PARAMS))
            with self.lock():
                storage.download(url, self.path)
        super().initialize()

    def refresh(self) -> None:
        """Keep a copy of what is in the folder now, once for each content."""
        files = {path.name: path.read_bytes() for path in sorted(self._folder.glob("*.py"))}
        files[PARAMS] = settings.environment().params.read_bytes()
        digest = hashlib.sha256()
        for name, data in files.items():
            digest.update(f"{name} {len(data)}\n".encode() + data)
        version = digest.hexdigest()[:16]
        if version != self._current:
            for name, data in files.items():  # params.yaml last: with it the copy is whole
                storage.write_bytes(storage.join(_url(version), name), data)
            self._current = version

    def get_current_version(self) -> BundleVersion | None:
        """The version that this object stands for."""
        version = self.version or self._current
        return BundleVersion(version) if version else None

    def view_url(self, version: str | None = None) -> None:
        """There is no page that shows a version."""


def _url(version: str) -> str:
    return storage.join(settings.environment().data_url, "dags", version)
