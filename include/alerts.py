"""What an operator should see: lines of JSON in <home>/logs/alerts.jsonl, which are copied to PostgreSQL.

The file comes first, so that an alert needs no database and no waiting; the rollout controller copies it within
seconds (include/alert_table.py), and `mlops alerts` lists what is there. Another channel (mail, Slack: apprise) is one
more call in `send`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from include.home import Home

log = logging.getLogger("mlops.alerts")


def send(home: Path, event: str, message: str, **details: Any) -> None:
    """Tell somebody: one JSON line in the file and in the log.

    Args:
        home: the platform's folder.
        event: what kind of thing it is, one word: `task_failed`, `rollout_rolled_back`.
        message: one line for an operator.
        details: whatever helps to look further; what JSON does not know is written as text.
    """
    known = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "event": event, "message": message}
    line = json.dumps({**known, **details, "id": uuid.uuid4().hex}, default=str)
    log.error(line)
    _append(Home(home).alerts, line)


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, f"{line}\n".encode())  # one write below PIPE_BUF: lines of several processes do not mix
    finally:
        os.close(descriptor)
