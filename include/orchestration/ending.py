"""How every task ends: with one line in its log, nothing behind it, and the events of what it has made.

The line says what the task did, or why it failed.

Airflow's own last lines are in a group that its UI shows closed ("Post Execute"): the group is ended here, before the
line. The marker that ends it is not shown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow.sdk import AssetAlias

from include.orchestration import alerts

log = logging.getLogger("mlops")

SUMMARY = "mlops_summary"
"""Where the context keeps the line, from the end of the task's function until its state is settled."""


def summarised(context: Any, answer: Any = None) -> None:
    """Airflow's `post_execute`: keep the answer's line, and emit only the events that the task spoke of (`runs.emit`).

    Airflow emits an event for each asset in `outlets` as it finds them when the task has succeeded.

    Raises:
        TypeError: the answer has none.
    """
    summary = answer.get("summary") if isinstance(answer, Mapping) else None
    if not isinstance(summary, str):
        ti = context["ti"]
        raise TypeError(f"{ti.dag_id}.{ti.task_id} answered without a summary; make its answer with runs.result")
    context[SUMMARY] = summary
    task, events = context["ti"].task, context["outlet_events"]
    task.outlets = [outlet for outlet in task.outlets if isinstance(outlet, AssetAlias) or events[outlet].extra]


def succeeded(context: Any) -> None:
    """Airflow's `on_success_callback`: the line of the answer."""
    _last(logging.INFO, context[SUMMARY])


def failed(context: Any) -> None:
    """Airflow's `on_failure_callback`: an alert, and why the task failed."""
    alerts.task_failed(context)
    _last(logging.ERROR, f"failed: {alerts.one_line(context.get('exception'))}")


def failed_again(context: Any) -> None:
    """Airflow's `on_failure_callback` of a task that only repeats another one's failure, which is alerted already."""
    _last(logging.ERROR, f"failed: {alerts.one_line(context.get('exception'))}")


def tried_again(context: Any) -> None:
    """Airflow's `on_retry_callback`: why this try failed, and that another one follows."""
    ti, reason = context["ti"], alerts.one_line(context.get("exception"))
    _last(logging.WARNING, f"try {ti.try_number} of {ti.max_tries + 1} failed, another one follows: {reason}")


def _last(level: int, line: str) -> None:
    log.info("::endgroup::")
    log.log(level, line)
