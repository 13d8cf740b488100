"""What the DAG processor parses after it has carried a callback."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager, DagFileStat

from include.orchestration.dag_processor import Manager


def queued_after_a_callback(kind: type[DagFileProcessorManager], folder: Path) -> list[str]:
    """The files that would be parsed in the next round, of one that was parsed a moment ago and then had a callback."""
    (folder / "train.py").write_text("")
    manager: Any = kind(max_runs=-1)
    manager._file_process_interval = 600
    file = DagFileInfo(rel_path=Path("train.py"), bundle_name="dags-folder", bundle_path=folder)
    manager._file_stats[file] = DagFileStat(last_finish_time=dt.datetime.now(dt.UTC), run_count=1)
    pinned = DagFileInfo(rel_path=Path("train.py"), bundle_name="dags-folder", bundle_path=folder, bundle_version="abc")
    done = SimpleNamespace(had_callbacks=True, parsing_result=None, start_time=time.monotonic())
    manager.handle_parsing_result(pinned, done, session=None)
    manager.prepare_file_queue(known_files={"dags-folder": {file}})
    return [str(one.rel_path) for one in manager._file_queue]


@pytest.mark.parametrize(("kind", "expected"), [(Manager, []), (DagFileProcessorManager, ["train.py"])])
def test_a_callback_lets_no_file_be_parsed_again(
    kind: type[DagFileProcessorManager], expected: list[str], tmp_path: Path
) -> None:
    """The second row is Airflow's own: when it ends red, the class above has become needless."""
    assert queued_after_a_callback(kind, tmp_path) == expected
