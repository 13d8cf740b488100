"""Every failure is seen, once, as a line of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.orchestration import alerts


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    path = tmp_path / "logs" / "alerts.jsonl"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_failed_task_is_one_line_that_says_which_and_why(told: Any) -> None:
    ti = SimpleNamespace(dag_id="ingest_trips", task_id="extract", map_index=-1, run_id="r", try_number=4)
    alerts.task_failed({"ti": ti, "exception": RuntimeError("trips: no answer\nfrom s3://b")})
    alerts.task_failed({"ti": ti, "exception": None})
    first, second = told()
    assert first["message"] == "ingest_trips.extract failed: trips: no answer from s3://b"
    assert (first["event"], first["error"], first["try_number"]) == ("task_failed", "RuntimeError", 4)
    assert "no reason was given" in second["message"]


def test_a_run_that_timed_out_is_told_and_other_red_runs_were_told_by_their_tasks(told: Any) -> None:
    """Promise 16."""
    run = SimpleNamespace(dag_id="train_m", run_id="r")
    alerts.run_failed({"dag_run": run, "reason": "task_failure"})
    assert told() == []
    alerts.run_failed({"dag_run": run, "reason": "timed_out"})
    assert [line["event"] for line in told()] == ["run_timed_out"]


def test_a_run_of_dags_test_that_the_scheduler_ended_is_no_alert_and_says_what_to_do(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`airflow dags test` notes the tested date as the run's beginning."""
    run = SimpleNamespace(dag_id="train_m", run_id="r", triggering_user_name="dag_test")
    alerts.run_failed({"dag_run": run, "reason": "timed_out"})
    assert told() == []
    assert "Pause the DAG while you test it" in caplog.text
