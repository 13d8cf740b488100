from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from include import configuration, settings, storage
from include.home import Home


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


def bundle(folder: Path, version: str | None = None):
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
    assert dag_defaults.params_of(str(pinned.path / "train.py")) == pinned.path / "params.yaml"
    assert dag_defaults.params_of(str(folder / "train.py")) == folder.parent / "params.yaml"


def test_a_version_that_is_gone_is_said_to_be_gone(folder: Path) -> None:
    with pytest.raises(storage.StorageError, match="no such file"):
        bundle(folder, "0123456789abcdef")


# ---------------------------------------------------------------------------------------------- what does not load

DAG_FILE = """from airflow.sdk import DAG

from include.orchestration import dag_defaults

for name, entry in dag_defaults.read_params(dag_defaults.params_of(__file__)).models.items():
    with DAG(f"{STEP}_{name}", schedule=entry.monitoring.schedule, tags={str(entry.tuning.trials)}):
        pass
"""
PARAMS = """sources:
  cells: {type: sample, dataset: breast_cancer}
models:
  one: {source: cells, target: diagnosis, task: binary, tuning: {trials: 1}}
  two: {source: cells, target: diagnosis, task: binary, tuning: {trials: 1}}
"""


@pytest.fixture
def real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two DAG files and two models, which are in force."""
    monkeypatch.setenv("MLOPS_HOME", str(folder.parent / "home"))
    monkeypatch.setattr("include.orchestration.bundle.SETTLE_SECONDS", 0.0)
    for step in ("train", "monitor"):
        (folder / f"{step}.py").write_text(f"STEP = {step!r}\n{DAG_FILE}")
    (folder.parent / "params.yaml").write_text(PARAMS)
    bundle(folder)
    return folder


def parsed(folder: Path) -> tuple[dict[str, str], list[str]]:
    """DAG → its trials, and the import errors, as Airflow sees the newest version."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(bundle(folder).path))
    return {name: next(iter(dag.tags)) for name, dag in bag.dags.items()}, [
        f"{Path(name).name}: {error.strip().splitlines()[-1]}" for name, error in bag.import_errors.items()
    ]


def alerts(folder: Path) -> list[dict]:
    path = folder.parent / "home" / "logs" / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


ALL = {"train_one", "train_two", "monitor_one", "monitor_two"}


def test_a_models_mistake_is_an_import_error_an_alert_and_concerns_that_model_only(real: Path) -> None:
    params = real.parent / "params.yaml"
    params.write_text(PARAMS.replace("trials: 1}}\n  two", "trails: 2}}\n  two").replace("trials: 1}}", "trials: 2}}"))
    dags, errors = parsed(real)
    assert dags == {"train_one": "1", "monitor_one": "1", "train_two": "2", "monitor_two": "2"}
    assert len(errors) == 1
    assert errors[0].startswith(
        "refused.py: params.yaml:4: models.one.tuning.trails: unknown key; did you mean 'trials'?"
    )
    parsed(real)  # a restart, another process
    (alert,) = alerts(real)
    assert alert["event"] == "configuration_refused"
    assert "models.one.tuning.trails" in alert["message"]
    params.write_text(PARAMS.replace("trials: 1", "trials: 3"))
    assert parsed(real) == (dict.fromkeys(ALL, "3"), [])


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda path: path.write_text(""), "expected a mapping"),
        (lambda path: path.write_text("models: [\n"), "not valid YAML"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: path.write_text(PARAMS.replace("models", "modles")), "did you mean 'models'"),
    ],
)
def test_a_params_yaml_that_cannot_be_read_changes_no_dag(real: Path, break_it: Any, reason: str) -> None:
    break_it(real.parent / "params.yaml")
    dags, (error,) = parsed(real)
    assert dags == dict.fromkeys(ALL, "1")
    assert reason in error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("this is no python for airflow and its dags\n", "SyntaxError"),
        ("from airflow.sdk import DAG\nDAG(undefined)\n", "NameError"),
        ("from airflow.sdk import DAG\nfrom include import nothing_of_this_name\n", "ImportError"),
        ("from airflow.sdk import DAG\nraise SystemExit(3)\n", "3"),
    ],
)
def test_a_dag_file_that_cannot_be_imported_stays_as_it_was(real: Path, text: str, reason: str) -> None:
    (real / "train.py").write_text(text)
    (real / "new.py").write_text(text)
    (real / ".#train.py").symlink_to("nowhere")  # an editor's lock
    dags, (error,) = parsed(real)
    assert set(dags) == ALL
    assert reason in "\n".join(configuration.record(str(real.parent / "data")).mistakes)
    assert "dags/train.py" in "\n".join(configuration.record(str(real.parent / "data")).mistakes)
    assert error.startswith("refused.py")


def test_an_entry_that_is_right_and_that_a_dag_file_cannot_bear_is_found_and_stays_as_it_was(real: Path) -> None:
    """Nothing checks a cron expression before Airflow does; one model's must not take the others' DAGs away."""
    text = PARAMS.replace("trials: 1}}\n  two", "trials: 2}}\n  two").replace(
        "trials: 1}}", "trials: 2}, monitoring: {schedule: often}}"
    )
    (real.parent / "params.yaml").write_text(text)
    dags, (error,) = parsed(real)
    assert dags == {"train_one": "2", "monitor_one": "2", "train_two": "1", "monitor_two": "1"}
    assert "models.two" in error


def test_a_folder_without_dag_files_changes_nothing_and_one_that_is_taken_out_goes(real: Path) -> None:
    (real / "monitor.py").unlink()
    assert set(parsed(real)[0]) == {"train_one", "train_two"}
    (real / "train.py").unlink()
    dags, (error,) = parsed(real)
    assert set(dags) == {"train_one", "train_two"}
    assert "there is no DAG file" in error


def test_a_broken_model_among_fifty_takes_no_dag_away_and_no_run_is_pinned_to_it(real: Path) -> None:
    models = "".join(
        f"  m{n}: {{source: cells, target: diagnosis, task: binary, tuning: {{trials: 1}}}}\n" for n in range(50)
    )
    (real.parent / "params.yaml").write_text(PARAMS + models)
    before = bundle(real).get_current_version().version
    (real.parent / "params.yaml").write_text(PARAMS + models.replace("m7: {source", "m7: {sorce"))
    made = bundle(real)
    assert made.get_current_version().version != before
    assert len(parsed(real)[0]) == 2 * 52
    text = (made.path / "params.yaml").read_text()
    assert settings.parse_params(text).models["m7"].source == "cells"


def test_a_file_that_is_being_written_is_read_when_it_is_whole(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor truncates, then writes; both halves may be valid."""
    from include.orchestration import bundle as module

    params, parts = real.parent / "params.yaml", [PARAMS.replace("trials: 1", "trials: 9")]
    params.write_text(PARAMS.splitlines(keepends=True)[0] + PARAMS.splitlines(keepends=True)[1])
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(time, "sleep", lambda seconds: parts and params.write_text(parts.pop()))
    assert parsed(real) == (dict.fromkeys(ALL, "9"), [])


# ------------------------------------------------------------------------------------------------ what is parsed again


def changed_since(processor, moment: float) -> list[str]:
    """The files that the DAG processor would parse again, as it decides it: by their time of modification."""
    return [path.name for path in sorted(processor.path.glob("*.py")) if path.stat().st_mtime > moment]


@pytest.fixture
def yesterday() -> float:
    return time.time() - 86400


def age(processor, moment: float) -> None:
    for path in processor.path.glob("*.py"):
        os.utime(path, (moment, moment))


def test_without_an_edit_nothing_is_parsed_again(folder: Path, yesterday: float) -> None:
    processor = bundle(folder)
    age(processor, yesterday)
    for _ in range(3):
        processor.refresh()
    bundle(folder)  # somebody else sees the same content for the first time
    assert changed_since(processor, yesterday) == []


def test_an_edit_of_params_is_parsed_and_one_that_goes_back_to_an_earlier_content_too(
    folder: Path, yesterday: float
) -> None:
    """The earlier content's copy is on the disk since then: its files are old, and yet they have changed."""
    params, processor = folder.parent / "params.yaml", bundle(folder)
    age(processor, yesterday)
    params.write_text("one: 2\n")
    processor.refresh()
    assert changed_since(processor, yesterday) == ["train.py"]
    params.write_text("one: 1\n")
    processor.refresh()
    assert (processor.path / "params.yaml").read_text() == "one: 1\n"
    assert changed_since(processor, yesterday) == ["train.py"]


def test_an_edit_of_the_program_is_parsed_though_the_dag_files_are_the_same(
    folder: Path, yesterday: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.orchestration import bundle as module

    processor = bundle(folder)
    age(processor, yesterday)
    monkeypatch.setattr(module, "PROGRAM", folder)  # another program
    processor.refresh()
    assert changed_since(processor, yesterday) == ["train.py"]


def test_another_list_of_versions_lets_the_files_be_parsed_that_offer_them_and_no_other(
    folder: Path, yesterday: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(folder.parent / "var")
    monkeypatch.setenv("MLOPS_HOME", str(home.path))
    (folder / "deploy.py").write_text("one = True\n")
    processor = bundle(folder)
    for text in ("{}", '{"m": []}'):
        age(processor, yesterday)
        home.versions.parent.mkdir(parents=True, exist_ok=True)
        home.versions.write_text(text)
        processor.refresh()
        assert changed_since(processor, yesterday) == ["deploy.py"]
    age(processor, yesterday)
    processor.refresh()
    assert changed_since(processor, yesterday) == []


def test_a_parse_that_ran_during_the_edit_is_followed_by_another(
    folder: Path, yesterday: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.orchestration import bundle as module

    monkeypatch.setattr(module, "TOUCHED_AGAIN", (0.0, 3600.0))
    processor = bundle(folder)
    (folder / "train.py").write_text("second = True\n")
    processor.refresh()
    for expected in (["train.py"], []):  # once more when it is time, and then not before the hour is over
        age(processor, yesterday)
        processor.refresh()
        assert changed_since(processor, yesterday) == expected


def test_the_entries_that_an_edit_changed_are_known_where_nothing_else_did(folder: Path) -> None:
    file = folder.parent / "params.yaml"
    text = "sources: {trips: {rows: 1}}\nmodels: {a: {owner: x}, b: {owner: y}}\nservice: {workers: 1}\n"
    file.write_text(text)
    processor = bundle(folder)
    for edit, expected in (
        (text.replace("owner: y", "owner: z"), {("models", "b")}),
        (text.replace("rows: 1", "rows: 2"), {("sources", "trips"), ("models", "b")}),
        (text.replace("workers: 1", "workers: 2"), None),  # concerns all
        (text.replace("workers: 1", "workers: 2") + "# a comment", None),
    ):
        file.write_text(edit)
        processor.refresh()
        assert processor.edited == expected
    (folder / "train.py").write_text("second = True\n")
    file.write_text(text)
    processor.refresh()
    assert processor.edited is None


def test_an_edit_anywhere_in_the_program_or_beside_params_yaml_is_watched(folder: Path) -> None:
    program = settings.ROOT / "include"
    rooms = {path.parent for path in program.rglob("*.py")}
    assert {folder, settings.environment().params.parent, program, *rooms} <= set(bundle(folder).watched_folders())
