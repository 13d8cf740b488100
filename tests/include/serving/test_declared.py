"""What the service goes by when it starts, whatever somebody is writing into params.yaml just then."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include import configuration, storage
from include.serving.process import declared, supervisor
from tests.conftest import ROOT

TEXT = """sources:
  cells: {type: sample, dataset: breast_cancer}
models:
  one: {source: cells, target: diagnosis, task: binary}
  two: {source: cells, target: diagnosis, task: binary, serving: {default: true}}
service: {max_concurrency: 7, workers: 3}
"""
WRONG = {
    "a value that is none": TEXT.replace("workers: 3", "workers: three"),
    "a value out of its range": TEXT.replace("workers: 3", "workers: 0"),
    "a misspelt setting": TEXT.replace("workers: 3", "worker: 3"),
    "another setting's value": TEXT.replace("max_concurrency: 7", "max_concurrency: -7"),
    "a misspelt section": TEXT.replace("service:", "servise:"),
    "half a file": TEXT[:200],
    "an empty file": "",
    "no YAML": "service: {workers: [",
    "no file": None,
}


def put_in_force(home: Path, text: str) -> None:
    """As the DAG processor does when a params.yaml has loaded."""
    data = str(home / "data")
    storage.write_bytes(storage.join(configuration.version_url(data, "1"), configuration.PARAMS), text.encode())
    configuration.write_record(data, configuration.Record("1", "seen"))


def test_a_mistake_in_one_models_entry_changes_neither_the_limits_nor_the_default_model(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(TEXT.replace("one: {source", "one: {sorce"))
    found = declared.read({"MLOPS_HOME": str(tmp_path / "home")}, tmp_path)
    assert (found.service.max_concurrency, found.service.workers, found.default_model) == (7, 3, "two")
    assert "models.one" in found.mistakes[0]


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_was_in_force_stays_and_the_mistake_is_said(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(tmp_path / "home", TEXT)
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    found = declared.read({"MLOPS_HOME": str(tmp_path / "home")}, tmp_path)
    assert (found.service.max_concurrency, found.service.workers, found.default_model) == (7, 3, "two")
    monkeypatch.setattr(logging.getLogger("mlops.serving"), "propagate", True)
    declared.log_mistakes(found.mistakes)
    assert [record.message for record in caplog.records] == ["params.yaml has a mistake"] * len(found.mistakes)
    assert all("in force" in line for line in found.mistakes)
    assert found.mistakes


def test_what_was_never_right_leaves_the_defaults_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(WRONG["a misspelt section"] or "")
    found = declared.read({"MLOPS_HOME": str(tmp_path)}, tmp_path)
    assert found.service.workers == 1
    assert "servise" in found.mistakes[0]
    assert found.mistakes[0].endswith("the service has its defaults")


def test_a_bento_of_one_model_has_no_params_yaml_and_needs_none(tmp_path: Path) -> None:
    assert declared.read({"MLOPS_HOME": str(tmp_path)}, tmp_path).mistakes == ()


@pytest.mark.parametrize("text", [TEXT, WRONG["a value that is none"], WRONG["an empty file"], None])
def test_the_launcher_starts_as_many_workers_as_are_in_force(tmp_path: Path, text: str | None) -> None:
    put_in_force(tmp_path / "home", TEXT)
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    environment = {**os.environ, "MLOPS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in environment.items() if name not in ("MLOPS_PARAMS", "MLOPS_DATA_URL")}
    asked = supervisor._start_reading_params(environment, tmp_path, environment)
    assert asked is not None
    assert supervisor._printed_number(asked) == 3


def test_a_launcher_that_cannot_learn_how_many_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mlops.serving"), "propagate", True)
    asked = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdout=subprocess.PIPE)
    assert supervisor._printed_number(asked) == 1
    assert "how many workers" in caplog.text
