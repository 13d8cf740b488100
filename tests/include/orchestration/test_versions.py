"""The versions that a form offers, and what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError

from include import settings
from include.home import Home
from include.orchestration import before, dag_defaults, versions

ENTRIES = [
    {"version": 9, "metric": None, "value": None, "verdict": None, "standing": None},
    {"version": 8, "metric": "mae", "value": 2.4, "verdict": "HOLD", "standing": "shadow"},
    {"version": 7, "metric": "mae", "value": 2.31, "verdict": "PROMOTE", "standing": "champion"},
    {"version": 6, "metric": "mae", "value": 2.9031, "verdict": "PROMOTE", "standing": "champion before"},
    {"version": 5, "metric": "mae", "value": None, "verdict": "REJECT", "standing": None},
]
LINES = [
    "9 · not judged", "8 · mae 2.4 · hold · shadow", "7 · mae 2.31 · pass · champion",
    "6 · mae 2.903 · pass · champion before", "5 · reject",
]  # fmt: skip
MODEL = settings.parse_params(
    "sources: {s: {type: sample, dataset: breast_cancer}}\nmodels: {m: {source: s, target: diagnosis, task: binary}}\n"
).models["m"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    Home(tmp_path).versions.parent.mkdir(parents=True)
    Home(tmp_path).versions.write_text(json.dumps({"m": ENTRIES}))
    return tmp_path


def forms() -> dict[str, Any]:
    return {
        "deploy": dag_defaults.deploy_form("m")["version"],
        "rollout": dag_defaults.rollout_form("m", MODEL)["version"],
        "rollback": dag_defaults.rollback_form("m")["version"],
    }


def test_each_version_is_offered_with_its_metric_its_verdict_and_what_it_is(home: Path) -> None:
    offered = {name: field.schema["examples"] for name, field in forms().items()}
    assert offered == {"deploy": LINES, "rollout": LINES, "rollback": LINES[2:4]}
    assert versions.offered(home, "another") == []


@pytest.mark.parametrize("text", ["", "[]", '{"m": [{}]}', '{"m": 3}', '{"m": [{"version": '])
def test_a_list_that_cannot_be_read_stops_no_dag(home: Path, text: str) -> None:
    Home(home).versions.write_text(text)
    assert versions.offered(home, "m") == []


def test_a_form_without_a_list_is_a_field_to_type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    for field in forms().values():
        assert field.schema["examples"] == []  # not absent: Airflow's form would ask for JSON then
        assert next(kind for kind in field.schema["type"] if kind != "null") == "string"


@pytest.mark.parametrize("given", [12, "12", "v12", " 12 ", "12 · mae 2.2 · pass", *LINES])
def test_what_is_chosen_or_typed_in_is_the_versions_number(home: Path, given: Any) -> None:
    for field in forms().values():
        assert field.resolve(given) == given
        context: dict[str, Any] = {
            "dag": SimpleNamespace(dag_id="d", params=ParamsDict({"version": field})),
            "dag_run": SimpleNamespace(conf={"version": given}),
            "params": {"version": given},
            "ti": SimpleNamespace(dag_id="d", task_id="gate", try_number=1, max_tries=3),
        }
        before.task(context)
        assert context["params"]["version"] == (12 if "12" in str(given) else int(str(given)[0]))


@pytest.mark.parametrize("given", [0, -1, "0", "-1", "latest", "7.5", "1e3", "", "7;8"])
def test_what_names_no_version_is_refused(home: Path, given: Any) -> None:
    for field in forms().values():
        with pytest.raises(ParamValidationError):
            field.resolve(given)


def test_a_version_must_be_named_where_there_is_no_default(home: Path) -> None:
    assert forms()["deploy"].resolve(None) is None
    with pytest.raises(ParamValidationError):
        forms()["rollout"].resolve(None)
