"""Airflow's DAG processor, which sees an edit when it is saved, and does not parse a file without end after a callback.

    python -m include.orchestration.dag_processor

An edit of some entries of params.yaml concerns some DAGs: each file is parsed for these first, and then for all.

Its loop sleeps until something comes from the processes that parse; what the bundle watches wakes it too
(include/orchestration/watch.py), and the bundle is refreshed at once. Where nothing can be watched, that happens every
`refresh_interval`.

The callback of a run that is pinned to a version is noted under the file's name without a time of its last parse; the
manager takes that note for the file's own (in Airflow 3.3), and parses it again in each round of its loop, from the
first failed run on until the next restart.
"""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import Any

from airflow.cli.commands import dag_processor_command
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager

from include import configuration
from include.orchestration.bundle import SnapshotBundle
from include.orchestration.watch import Watch


class Manager(DagFileProcessorManager):  # type: ignore[misc]
    """The manager, woken by edits, and without notes on versions that it does not parse."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._edited: dict[Any, frozenset[tuple[str, str]]] = {}
        self._in_part: set[DagFileInfo] = set()

    def load_dag_bundles(self) -> None:
        """As ever; their files are watched from here on."""
        super().load_dag_bundles()
        for bundle in self._dag_bundles:
            if isinstance(bundle, SnapshotBundle):
                with contextlib.suppress(OSError):
                    watch = Watch(bundle.watched_folders(), bundle.concerns)
                    self.selector.register(watch, selectors.EVENT_READ, (self._refresh_when_changed(bundle.name), None))

    def _refresh_dag_bundles(self, known_files: dict[str, set[DagFileInfo]]) -> None:
        """As ever; which entries an edit changed is noted for the next parse of each file."""
        super()._refresh_dag_bundles(known_files)
        for bundle in self._dag_bundles:
            if edited := getattr(bundle, "edited", None):
                bundle.edited = None
                self._edited |= {file.presence_key: edited for file in known_files.get(bundle.name, ())}

    def _create_process(self, dag_file: DagFileInfo) -> Any:
        """As ever; the fork makes the DAGs of edited entries only, unless it has a callback to carry, of any DAG.

        No module that makes DAGs is imported here: the forks would not see an edit of it.
        """
        edited = self._edited.pop(dag_file.presence_key, None)
        if dag_file in self._callback_to_execute or dag_file.bundle_version is not None:
            edited = None
        configuration.edited = edited
        try:
            process = super()._create_process(dag_file)
        finally:
            configuration.edited = None
        if edited is not None:
            self._in_part.add(dag_file)
        return process

    def _refresh_when_changed(self, bundle: str) -> Callable[[Watch], bool]:
        def handle(watch: Watch) -> bool:
            if watch.changed():
                self.request_bundle_refresh(bundle)
            return True  # there will be more

        return handle

    def handle_parsing_result(self, file: DagFileInfo, proc: Any, **kwargs: Any) -> None:
        """As ever; forgotten is what was parsed in part, and what carried a callback of a pinned version.

        The first is then parsed whole, and for the second nothing is to be parsed.
        """
        super().handle_parsing_result(file, proc, **kwargs)
        if file.bundle_version is not None or file in self._in_part:
            self._in_part.discard(file)
            self._file_stats.pop(file, None)


def main() -> None:
    """`airflow dag-processor` with this manager."""
    from airflow.__main__ import main as airflow

    dag_processor_command.DagFileProcessorManager = Manager
    airflow()


if __name__ == "__main__":
    main()
