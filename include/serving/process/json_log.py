"""The service's log: one JSON object a line on standard error, without anything of a request's inputs."""

from __future__ import annotations

import datetime as dt
import json
import logging


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, event, and what the caller gave as `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Let the service's own records, and only those, go to standard error as JSON."""
    logger = logging.getLogger("mlops.serving")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
