"""What the DAG processor parses, and when."""

from __future__ import annotations

import datetime as dt
import selectors
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager, DagFileStat

from include import configuration
from include.orchestration.bundle import SnapshotBundle
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


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_an_edit_wakes_the_loop_and_the_bundle_is_refreshed_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "dags").mkdir()
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    bundle = SnapshotBundle(folder=str(tmp_path / "dags"), name="dags-folder", refresh_interval=600)
    manager: Any = Manager(max_runs=-1)
    manager.selector = selectors.DefaultSelector()
    manager.get_all_bundles = lambda: [bundle]
    manager.load_dag_bundles()
    manager._service_processor_sockets(timeout=0)
    assert manager._force_refresh_bundles == set()
    for file in (tmp_path / "params.yaml", tmp_path / "dags" / "train.py"):
        manager._force_refresh_bundles.clear()
        file.write_text("edited")
        manager._service_processor_sockets(timeout=600)  # returns at once
        assert manager._force_refresh_bundles == {"dags-folder"}


def test_after_an_edit_each_file_is_parsed_for_what_it_concerns_and_then_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(DagFileProcessorManager, "_create_process", lambda *_: seen.append(configuration.edited))
    monkeypatch.setattr(DagFileProcessorManager, "_refresh_dag_bundles", lambda *_: None)
    edited = frozenset({("models", "m07")})
    manager: Any = Manager(max_runs=-1)
    bundle = SimpleNamespace(name="dags-folder", edited=edited)
    manager._dag_bundles = [bundle]
    train, deploy = (DagFileInfo(Path(name), "dags-folder", bundle_path=tmp_path) for name in ("train.py", "deploy.py"))
    manager._refresh_dag_bundles({"dags-folder": {train, deploy}})
    manager._callback_to_execute[deploy].append("of any DAG")
    for file in (train, deploy, train):
        manager._create_process(file)
    assert seen == [edited, None, None]
    assert (bundle.edited, configuration.edited) == (None, None)

    (tmp_path / "train.py").write_text("")
    manager._file_process_interval = 600
    manager._in_part = {train}
    done = SimpleNamespace(had_callbacks=False, parsing_result=None, start_time=time.monotonic())
    manager.handle_parsing_result(train, done, session=None)
    manager.prepare_file_queue(known_files={"dags-folder": {train}})
    assert list(manager._file_queue) == [train]
