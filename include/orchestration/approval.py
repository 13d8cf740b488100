"""A person's word before a promotion, for models whose gate asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseNotifier, XComArg

from include import settings, strategies
from include.orchestration import alerts, dag_defaults, runs


class ApprovalWaits(BaseNotifier):  # type: ignore[misc]
    """An alert that a version waits for a person: which, its numbers, what follows, and where to answer."""

    def notify(self, context: Any) -> None:
        """Called by the operator once, when it begins to wait."""
        task, ti = context["task"], context["ti"]
        place = f"/dags/{ti.dag_id}/runs/{quote(ti.run_id)}/tasks/{ti.task_id}/required_actions"
        address = settings.environment().airflow_url.rstrip("/") + place
        message = " ".join(f"{task.subject} {task.body}".replace("**", "").split())
        alerts.send("approval_waits", f"{message} Answer at {address}", dag_id=ti.dag_id, run_id=ti.run_id, url=address)


class Approval(ApprovalOperator):  # type: ignore[misc]
    """Waits for a person where there is something to decide, and answers as every task of ours does.

    Airflow's own skips what follows a "Reject". Here a version that was rejected is one for which nothing is to do.

    Args:
        packaged: The answer of `package`.
        **kwargs: As ApprovalOperator takes them.
    """

    template_fields = (*ApprovalOperator.template_fields, "packaged")

    def __init__(self, *, packaged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.packaged = packaged

    def execute(self, context: Any) -> Any:
        """Ask, and leave the worker until there is an answer."""
        return runs.idle_after(self.packaged) or super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """The person's answer, or that nobody gave one in time."""
        answer = super(ApprovalOperator, self).execute_complete(context, event)  # which skips nothing
        return decided(answer["chosen_options"], answer["responded_by_user"], timed_out=bool(event.get("timedout")))


def decided(chosen: Sequence[str], person: Mapping[str, Any] | None, *, timed_out: bool) -> dict[str, Any]:
    """The answer of `approve`."""
    name = (person or {}).get("name") or "a person"
    if list(chosen) == [Approval.APPROVE]:
        return runs.result({"approved_by": name}, f"approved by {name}")
    if timed_out:
        return runs.idle(f"nobody answered within {dag_defaults.APPROVAL_TIMEOUT.days} days, which counts as no")
    return runs.idle(f"rejected by {name}")


def approve(model: str, entry: settings.Model, verdict: XComArg, packaged: XComArg) -> XComArg:
    """A task that waits, without holding a worker, until somebody answers under *Required actions* in the UI.

    Rejected, or unanswered for `APPROVAL_TIMEOUT`: nothing is promoted.
    """
    pulled = f"ti.xcom_pull(task_ids='{verdict.operator.task_id}')"
    task = Approval(
        packaged=packaged,
        task_id="approve",
        task_display_name="Approval by a person",
        subject=f"Promote {model} v{{{{ {pulled}['version'] }}}}?",
        body=f"{{% set verdict = {pulled} %}}{question(entry)}",
        defaults="Reject",
        response_timeout=dag_defaults.APPROVAL_TIMEOUT,
        fail_on_reject=False,
        notifiers=ApprovalWaits(),
    )
    return task.output


def question(entry: settings.Model) -> str:
    """What is asked, as a template over `verdict`: the verdict in its words, and what each answer leads to."""
    strategy = entry.serving.rollout.strategy
    champion = "{{ 'version %s' % verdict['champion_version'] if verdict['champion_version'] else 'no champion' }}"
    if strategy == strategies.DIRECT:
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
