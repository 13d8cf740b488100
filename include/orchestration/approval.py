"""A person's word before a promotion, for models whose gate asks for it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import XComArg

from include.orchestration import dag_defaults


def approve(model: str, verdict: XComArg) -> Any:
    """A task that waits, without holding a worker, until somebody answers under *Required actions* in the UI.

    Rejected, or unanswered for `APPROVAL_TIMEOUT`: what follows is skipped, and nothing is promoted.
    """
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    task_id = verdict.operator.task_id
    return ApprovalOperator(
        task_id="approve",
        subject=f"Promote a version of {model}?",
        body=f"{{{{ ti.xcom_pull(task_ids='{task_id}')['summary'] }}}}",
        defaults="Reject",
        response_timeout=dag_defaults.APPROVAL_TIMEOUT,
        fail_on_reject=False,
    )
