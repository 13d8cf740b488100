"""Airflow's DAG processor, which does not parse a file without end once it has carried a run's callback.

    python -m include.orchestration.dag_processor

The callback of a run that is pinned to a version is noted under the file's name without a time of its last parse; the
manager takes that note for the file's own (in Airflow 3.3), and parses it again in each round of its loop, from the
first failed run on until the next restart.
"""

from __future__ import annotations

from typing import Any

from airflow.cli.commands import dag_processor_command
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager


class Manager(DagFileProcessorManager):  # type: ignore[misc]
    """The manager, without notes on versions that it does not parse."""

    def handle_parsing_result(self, file: DagFileInfo, proc: Any, **kwargs: Any) -> None:
        """As ever; what carried a callback of a pinned version is forgotten, since nothing is to be parsed for it."""
        super().handle_parsing_result(file, proc, **kwargs)
        if file.bundle_version is not None:
            self._file_stats.pop(file, None)


def main() -> None:
    """`airflow dag-processor` with this manager."""
    from airflow.__main__ import main as airflow

    dag_processor_command.DagFileProcessorManager = Manager
    airflow()


if __name__ == "__main__":
    main()
