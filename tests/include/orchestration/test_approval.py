"""A version that waits for a person is seen, with what the person has to know."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from include import settings
from include.orchestration import alerts, approval

PARAMS = """
sources: {cells: {type: sample, dataset: breast_cancer}}
models: {m: {source: cells, target: diagnosis, task: binary, serving: {rollout: {strategy: %s}}}}
"""
VERDICT = {"version": 8, "champion_version": 7, "summary": "PROMOTE version 8: roc_auc 0.99 against 0.97"}


def asked(strategy: str = "direct", **verdict: Any) -> str:
    entry = settings.parse_params(PARAMS % strategy).models["m"]
    return jinja2.Template(approval.question(entry)).render(verdict={**VERDICT, **verdict})


def test_a_person_is_told_the_version_its_numbers_and_what_each_answer_leads_to() -> None:
    text = asked()
    assert "roc_auc 0.99 against 0.97" in text
    assert "**Approve**: version 8 answers every request within a minute; until now version 7." in text
    assert "no answer within 2 days: nothing is promoted" in text
    assert "until now no champion" in asked(champion_version=None)
    assert "version 8 is tried (canary) beside the champion" in asked("canary")


def test_an_approval_that_waits_is_an_alert_with_the_address_to_answer_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr(alerts, "send", lambda event, message, **details: sent.append((event, message, details)))
    monkeypatch.setenv("MLOPS_AIRFLOW_URL", "http://127.0.0.1:8080/")
    ti = SimpleNamespace(dag_id="deploy_m", task_id="approve", run_id="asset_triggered__2026-03-01T00:00:00+00:00")
    approval.ApprovalWaits().notify({"task": SimpleNamespace(subject="Promote m v8?", body=asked()), "ti": ti})
    ((event, message, details),) = sent
    assert event == "approval_waits"
    assert message.startswith("Promote m v8? PROMOTE version 8: roc_auc 0.99 against 0.97. Approve: version 8 answers")
    assert details["url"] == (
        "http://127.0.0.1:8080/dags/deploy_m/runs/asset_triggered__2026-03-01T00%3A00%3A00%2B00%3A00"
        "/tasks/approve/required_actions"
    )
    assert json.dumps(details)
    assert "\n" not in message
