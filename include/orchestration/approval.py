"""A person's word before a promotion, for models whose gate asks for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier, XComArg

from include import settings
from include.orchestration import alerts, dag_defaults


class ApprovalWaits(BaseNotifier):  # type: ignore[misc]
    """An alert that a version waits for a person: which, its numbers, what follows, and where to answer."""

    def notify(self, context: Any) -> None:
        """Called by the operator once, when it begins to wait."""
        task, ti = context["task"], context["ti"]
        place = f"/dags/{ti.dag_id}/runs/{quote(ti.run_id)}/tasks/{ti.task_id}/required_actions"
        address = settings.environment().airflow_url.rstrip("/") + place
        message = " ".join(f"{task.subject} {task.body}".replace("**", "").split())
        alerts.send("approval_waits", f"{message} Answer at {address}", dag_id=ti.dag_id, run_id=ti.run_id, url=address)


def approve(model: str, entry: settings.Model, verdict: XComArg) -> Any:
    """A task that waits, without holding a worker, until somebody answers under *Required actions* in the UI.

    Rejected, or unanswered for `APPROVAL_TIMEOUT`: what follows is skipped, and nothing is promoted.
    """
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    pulled = f"ti.xcom_pull(task_ids='{verdict.operator.task_id}')"
    return ApprovalOperator(
        task_id="approve",
        task_display_name="Approval by a person",
        subject=f"Promote {model} v{{{{ {pulled}['version'] }}}}?",
        body=f"{{% set verdict = {pulled} %}}{question(entry)}",
        defaults="Reject",
        response_timeout=dag_defaults.APPROVAL_TIMEOUT,
        fail_on_reject=False,
        notifiers=ApprovalWaits(),
    )


def question(entry: settings.Model) -> str:
    """What is asked, as a template over `verdict`: the verdict in its words, and what each answer leads to."""
    strategy = entry.serving.rollout.strategy
    champion = "{{ 'version %s' % verdict['champion_version'] if verdict['champion_version'] else 'no champion' }}"
    if strategy == "direct":
        follows = f"version {{{{ verdict['version'] }}}} answers every request within a minute; until now {champion}"
    else:
        follows = (
            f"version {{{{ verdict['version'] }}}} is tried ({strategy}) beside the champion; until now {champion}"
        )
    days = dag_defaults.APPROVAL_TIMEOUT.days
    return (
        f"{{{{ verdict['summary'] }}}}.\n\n**Approve**: {follows}.\n\n"
        f"**Reject**, or no answer within {days} days: nothing is promoted, and what is served stays."
    )
