"""Retries by cause, and the fields of the forms."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import ParamValidationError

from include import settings
from include.deployment.ledger import Superseded
from include.ingestion.sources import NothingFound, SourceUnavailable
from include.orchestration import dag_defaults
from include.storage import ChangedFile
from include.training.tracking import MLflowDown

PARAMS = settings.parse_params("""
sources:
  trips: {type: sample, dataset: taxi_trips, start: 2026-01-01}
  cells: {type: sample, dataset: breast_cancer}
models:
  m: {source: cells, target: diagnosis, task: binary, tuning: {trials: 7, time_budget: 40}}
""")


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (ConnectionResetError("peer"), RetryAction.RETRY),
        (TimeoutError("slow"), RetryAction.RETRY),
        (MLflowDown("no answer"), RetryAction.RETRY),
        (SourceUnavailable("trips: no answer"), RetryAction.DEFAULT),
        (RuntimeError("nobody foresaw it"), RetryAction.DEFAULT),
        (OSError(28, "No space left"), RetryAction.DEFAULT),
        (ValueError("a column is missing"), RetryAction.FAIL),
        (settings.ParamsError("params.yaml:3: …"), RetryAction.FAIL),
        (KeyError("column"), RetryAction.FAIL),
        (EOFError("truncated"), RetryAction.FAIL),
        (gzip.BadGzipFile("not gzip"), RetryAction.DEFAULT),
        (FileNotFoundError("suite"), RetryAction.FAIL),
        (ChangedFile("changed"), RetryAction.FAIL),
        (NothingFound("no file", ["2026-01-01"]), RetryAction.FAIL),
        (Superseded("v3 is champion", None), RetryAction.FAIL),
    ],
)
def test_what_a_retry_can_help_is_tried_again_and_nothing_else(error: Exception, action: RetryAction) -> None:
    """Promises 1 and 17: the network gets its retries; bad data is red at once."""
    decision = dag_defaults.RETRY_BY_CAUSE.evaluate(error, 1, 3)
    assert decision.action == action
    assert decision.action == RetryAction.DEFAULT or decision.reason


def test_every_named_exception_exists() -> None:
    """A rule about a name that nothing has would never match, in silence."""
    for rule in dag_defaults.RETRY_BY_CAUSE.rules:
        assert len(rule._resolve_exception_classes()) == len(rule._specs), rule


def test_retries_are_bounded_and_come_later_each_time() -> None:
    """Promise 1."""
    retries = dag_defaults.RETRIES
    assert retries["retries"] == 3
    assert retries["retry_exponential_backoff"] > 1
    assert retries["max_retry_delay"] > retries["retry_delay"]


@pytest.mark.parametrize(
    ("form", "field", "good", "bad"),
    [
        ("train", "trials", 1, 0),
        ("train", "trials", 1000, 1001),
        ("train", "trials", 5, "5"),
        ("train", "time_budget", 5, 4),
        ("train", "window", None, 0),
        ("train", "reason", "because", ""),
        ("deploy", "version", None, 0),
        ("deploy", "version", 3, "three"),
        ("monitor", "window", 1, 0),
        ("ingest", "from", "2026-02-28", "2026-02-30"),
        ("ingest", "to", None, "yesterday"),
        ("ingest", "replace", True, "yes"),
    ],
)
def test_a_forms_fields_are_typed_and_bounded(form: str, field: str, good: Any, bad: Any) -> None:
    fields = {
        "train": dag_defaults.train_form(PARAMS.models["m"]),
        "deploy": dag_defaults.deploy_form("m"),
        "monitor": dag_defaults.monitor_form(PARAMS.models["m"]),
        "ingest": dag_defaults.ingest_form(PARAMS.sources["trips"]),
    }[form]
    assert fields[field].schema["title"]
    assert fields[field].description
    assert fields[field].resolve(good) == good
    with pytest.raises(ParamValidationError):
        fields[field].resolve(bad)


def test_a_field_says_its_bounds_where_a_person_reads_it() -> None:
    train, monitor = dag_defaults.train_form(PARAMS.models["m"]), dag_defaults.monitor_form(PARAMS.models["m"])
    assert train["trials"].description == "How many trials the study ends with. From 1 to 1000."
    assert train["time_budget"].description.endswith("From 5 to 3600.")
    assert train["reason"].description.endswith("At most 200 characters.")
    assert monitor["window"].description.endswith("From 1 to 366.")
    rollout = dag_defaults.rollout_form("m", PARAMS.models["m"])
    assert rollout["share"].description.endswith("Above 0 below 100.")
    assert rollout["steps"].description.endswith("Above 0 to 100.")


def test_a_forms_defaults_are_params_yamls() -> None:
    train = dag_defaults.train_form(PARAMS.models["m"])
    assert (train["trials"].value, train["time_budget"].value) == (7, 40)
    assert dag_defaults.ingest_form(PARAMS.sources["trips"])["from"].value == "2026-01-01"


def test_a_source_without_time_has_no_days_in_its_form() -> None:
    assert list(dag_defaults.ingest_form(PARAMS.sources["cells"])) == ["replace"]


def test_the_longest_study_of_the_form_fits_into_the_runs_time_out() -> None:
    model = PARAMS.models["m"]
    longest = dag_defaults.train_form(model)["time_budget"].schema["maximum"]
    assert dag_defaults.train_timeout(model).total_seconds() > longest


def test_a_broken_params_yaml_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("sources:\n  t: {type: sample, dataset: taxi_trips, ows_per_day: 3}\n")
    monkeypatch.setenv("MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    with pytest.raises(
        settings.ParamsError, match=r"params.yaml:2: sources.t.ows_per_day: unknown key; did you mean"
    ) as found:
        dag_defaults.read_params(tmp_path / "params.yaml")
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__


def test_a_file_makes_all_dags_a_task_loads_its_own_and_an_edit_those_it_concerns_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from include import configuration, settings

    params = settings.load_params(settings.ROOT / "params.yaml")

    def made() -> tuple[list[str], list[str]]:
        return [name for name, _ in dag_defaults.models(params)], [name for name, _ in dag_defaults.sources(params)]

    assert made() == (list(params.models), list(params.sources))
    monkeypatch.setattr(configuration, "edited", frozenset({("models", "tumour")}))
    assert made() == (["tumour"], [])
    monkeypatch.setattr(configuration, "edited", frozenset({("sources", "cells")}))
    assert made() == (["tumour"], ["cells"])
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "train_trip_duration")
    monkeypatch.setattr(configuration, "edited", None)
    assert made() == (["trip_duration"], [])
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "ingest_trips")
    assert made() == ([], ["trips"])
