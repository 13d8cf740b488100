"""An alert, and the line of the journal that it is parsed from."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from dataclasses import dataclass
from typing import Any

_KNOWN = ("id", "time", "event", "message")
_NAMESPACE = uuid.UUID("5a3f6a0e-55f1-4c55-9d2f-0c8f1de8bb0f")


@dataclass(frozen=True)
class Alert:
    """What an operator should see."""

    id: str
    at: dt.datetime
    event: str
    """Its kind, one word: `task_failed`."""
    message: str
    """One line."""
    details: dict[str, Any]
    acknowledged_at: dt.datetime | None = None
    acknowledged_by: str | None = None


def parse(line: bytes, offset: int) -> Alert:
    """The alert of a line of the journal; a damaged line becomes an alert of its own, so that none is passed over.

    Args:
        line: The line.
        offset: Where it begins in the file: identifies a line that has no id.
    """
    text = line.decode("utf-8", "replace").strip()
    identity = str(uuid.uuid5(_NAMESPACE, f"{offset} {text}"))
    try:
        entry = _storable(json.loads(text, parse_constant=str))  # JSON has no NaN
        moment = dt.datetime.fromisoformat(entry["time"])
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        known = (str(entry["event"]), str(entry["message"]))
        identity = str(uuid.UUID(entry["id"])) if "id" in entry else identity
        details = {name: value for name, value in entry.items() if name not in _KNOWN}
        return Alert(identity, moment, *known, details)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Alert(identity, dt.datetime.now(dt.UTC), "alert_unreadable", _storable(f"damaged: {text[:500]}"), {})


def _storable(value: Any) -> Any:
    """The value without what PostgreSQL's texts have no room for: U+0000, and halves of characters."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return value
