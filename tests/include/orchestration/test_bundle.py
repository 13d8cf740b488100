from __future__ import annotations

import os
from pathlib import Path

import pytest

from include import storage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one DAG file, and its params.yaml beside the project."""
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    monkeypatch.setenv("MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    monkeypatch.setenv("MLOPS_DATA_URL", str(tmp_path / "data"))
    (tmp_path / "params.yaml").write_text("one: 1\n")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "train.py").write_text("first = True\n")
    return tmp_path / "dags"


def bundle(folder: Path, version: str | None = None):  # type: ignore[no-untyped-def]
    from include.orchestration.bundle import SnapshotBundle

    made = SnapshotBundle(folder=str(folder), name="dags-folder", version=version)
    made.initialize()
    return made


def test_a_run_reads_the_files_it_began_with_and_the_processor_the_newest(folder: Path) -> None:
    """Promise 50: the running run keeps its version."""
    began = bundle(folder).get_current_version().version
    (folder / "train.py").write_text("this is no python\n")
    (folder.parent / "params.yaml").write_text("one: 2\n")

    pinned = bundle(folder, began)

    assert (pinned.path / "train.py").read_text() == "first = True\n"
    assert (pinned.path / "params.yaml").read_text() == "one: 1\n"
    newest = bundle(folder)
    assert (newest.path / "train.py").read_text() == "this is no python\n"
    assert newest.get_current_version().version != began


def test_a_version_holds_what_is_parsed_though_the_folder_is_edited_meanwhile(folder: Path) -> None:
    """Else a run could be pinned to a version that does not know its DAG, and never start."""
    processor = bundle(folder)
    (folder / "new_dag.py").write_text("new = True\n")
    assert not (processor.path / "new_dag.py").exists()
    before = processor.get_current_version()
    processor.refresh()
    assert (processor.path / "new_dag.py").exists()
    assert processor.get_current_version() != before


def test_another_machine_fetches_the_version_from_storage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = bundle(folder).get_current_version().version
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(folder.parent / "elsewhere"))
    fetched = bundle(folder, version)
    assert sorted(path.name for path in fetched.path.iterdir()) == ["params.yaml", "train.py"]
    assert "elsewhere" in str(fetched.path)


def test_equal_content_is_one_version(folder: Path) -> None:
    first = bundle(folder)
    os.utime(folder / "train.py", (1, 1))
    first.refresh()
    assert first.get_current_version() == bundle(folder).get_current_version()


def test_a_dag_file_of_a_version_reads_the_params_of_that_version(folder: Path) -> None:
    from include.orchestration import dag_defaults

    pinned = bundle(folder, bundle(folder).get_current_version().version)
    assert dag_defaults.params_beside(str(pinned.path / "train.py")) == pinned.path / "params.yaml"
    assert dag_defaults.params_beside(str(folder / "train.py")) == folder.parent / "params.yaml"


def test_a_version_that_is_gone_is_said_to_be_gone(folder: Path) -> None:
    with pytest.raises(storage.StorageError, match="no such file"):
        bundle(folder, "0123456789abcdef")
