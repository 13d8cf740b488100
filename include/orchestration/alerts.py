"""One line for each failure that somebody should see: in the log, and in <home>/logs/alerts.jsonl.

Another channel (mail, Slack: apprise) is one more call in `send`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
from pathlib import Path
from typing import Any

from include import settings

log = logging.getLogger("mlops.alerts")


def task_failed(context: Any) -> None:
    """Airflow's `on_failure_callback` of every task: its last try failed."""
    ti, error = context["ti"], context.get("exception")
    send(
        "task_failed",
        f"{ti.dag_id}.{ti.task_id} failed: {_one_line(error)}",
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
    if reason == "timed_out":
        text = f"{run.dag_id} ran into its time-out and was ended; look for a task that hangs in run {run.run_id}"
        send("run_timed_out", text, dag_id=run.dag_id, run_id=run.run_id)


def send(event: str, message: str, **details: Any) -> None:
    """Tell somebody: one JSON line."""
    line = json.dumps(
        {"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "event": event, "message": message, **details},
        default=str,
    )
    log.error(line)
    _append(settings.environment().home / "logs" / "alerts.jsonl", line)


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, f"{line}\n".encode())  # one write below PIPE_BUF: lines of several processes do not mix
    finally:
        os.close(descriptor)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()) if error is not None else "no reason was given"
    return text if len(text) <= 500 else text[:500] + "…"
