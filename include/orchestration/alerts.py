"""What Airflow's failures are told as: one alert for each that somebody should see; see include/alerting."""

from __future__ import annotations

import logging
from typing import Any

from include import alerting, settings

log = logging.getLogger("mlops")

TESTER = "dag_test"
"""Who starts a run of `airflow dags test`, in Airflow's words."""
ENDED_TEST = (
    "a run of `airflow dags test` was ended by the scheduler beside it, which takes the date that was tested for the"
    " time at which the run began; nothing timed out. Pause the DAG while you test it, or trigger a run instead"
    " (docs/airflow.md)"
)


def task_failed(context: Any) -> None:
    """Airflow's `on_failure_callback` of every task: its last try failed."""
    ti, error = context["ti"], context.get("exception")
    send(
        "task_failed",
        f"{ti.dag_id}.{ti.task_id} failed: {one_line(error)}",
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        map_index=ti.map_index,
        run_id=ti.run_id,
        try_number=ti.try_number,
        error=type(error).__name__ if error is not None else None,
        log_url=getattr(ti, "log_url", None),
    )


def run_failed(context: Any) -> None:
    """Airflow's `on_failure_callback` of every DAG.

    A failed task has told of itself already; what is left is a run that its time-out ended, such as one whose
    task died before its first heartbeat.
    """
    reason, run = context.get("reason"), context["dag_run"]
    if reason == "timed_out" and getattr(run, "triggering_user_name", None) == TESTER:
        log.warning("%s: %s", run.dag_id, ENDED_TEST)
    elif reason == "timed_out":
        text = f"{run.dag_id} ran into its time-out and was ended; look for a task that hangs in run {run.run_id}"
        send("run_timed_out", text, dag_id=run.dag_id, run_id=run.run_id)


def send(event: str, message: str, **details: Any) -> None:
    """Tell somebody: one JSON line below this machine's home."""
    alerting.send(settings.environment().home, event, message, **details)


def one_line(error: object) -> str:
    """An error's message in one line of at most 500 characters."""
    text = " ".join(str(error).split()) if error is not None else "no reason was given"
    return text if len(text) <= 500 else text[:500] + "…"
