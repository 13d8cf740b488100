"""Alerts in PostgreSQL: copied from the file that each was written to first, listed, acknowledged."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import alerts, database, storage
from include.home import Home

_KNOWN = ("id", "time", "event", "message")
_NAMESPACE = uuid.UUID("5a3f6a0e-55f1-4c55-9d2f-0c8f1de8bb0f")
_PIECE = 4 * 1024 * 1024
"""Bytes of the file that are copied in one transaction."""


log = logging.getLogger("mlops.alerts")


@dataclass(frozen=True)
class Alert:
    """What an operator should see."""

    id: str
    at: dt.datetime
    event: str
    message: str
    details: dict[str, Any]
    acknowledged_at: dt.datetime | None = None
    acknowledged_by: str | None = None


class NoSuchAlert(LookupError):
    """There is no alert, or more than one, whose id begins so."""


def copy(engine: sa.Engine, home: Path) -> int:
    """Copy the alerts of this home's file that PostgreSQL does not have yet; returns how many lines it read.

    A line is there once, however often it is copied. The file stays; see `retain`.
    """
    count = 0
    with _alone(home):
        while lines := _next_lines(home):
            found = [parse(line, at) for at, line in lines if line.strip()]
            if found:
                with engine.begin() as connection:
                    _insert(connection, found)
            count += len(found)
            try:
                _remember(home, lines[-1][0] + len(lines[-1][1]))
            except OSError as error:  # a full disk; they are copied again, once
                log.warning("%s: cannot be written (%s)", Home(home).alerts_position, error)
                break
    return count


def _insert(connection: sa.Connection, found: list[Alert]) -> None:
    rows = [{name: getattr(each, name) for name in ("id", "at", "event", "message", "details")} for each in found]
    connection.execute(postgresql.insert(database.alerts).on_conflict_do_nothing(), rows)


def read_file(home: Path, limit: int) -> list[Alert]:
    """The newest alerts of the file, newest first: for when PostgreSQL is away."""
    try:
        lines = Home(home).alerts.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [parse(line, 0) for line in lines[-limit:][::-1] if line.strip()]


def listed(
    bind: sa.Engine | sa.Connection, *, event: str | None = None, acknowledged: bool = False, limit: int = 50
) -> list[Alert]:
    """The newest alerts, newest first.

    Args:
        bind: The platform's database.
        event: Only of this kind.
        acknowledged: Those that were acknowledged too.
        limit: How many at most.
    """
    table = database.alerts
    query = sa.select(table).order_by(table.c.at.desc(), table.c.id).limit(limit)
    query = query if event is None else query.where(table.c.event == event)
    query = query if acknowledged else query.where(table.c.acknowledged_at.is_(None))
    with database.transaction(bind) as connection:
        return [Alert(**row._mapping) for row in connection.execute(query)]


def retain(engine: sa.Engine, home: Path, days: int, now: dt.datetime, *, dry_run: bool = False) -> int:
    """Delete the alerts that were acknowledged and are older than `days`; returns how many.

    One that nobody has acknowledged stays in PostgreSQL for as long as it takes. The file loses its lines of that age
    once PostgreSQL has them, acknowledged or not.
    """
    table, before = database.alerts, now - dt.timedelta(days)
    old = sa.and_(table.c.at < before, table.c.acknowledged_at.is_not(None))
    if dry_run:
        with engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).where(old)).scalar_one())
    copy(engine, home)
    _shorten(home, before)  # first: a line that is copied again must find its alert
    with engine.begin() as connection:
        return int(connection.execute(sa.delete(table).where(old)).rowcount)


def _shorten(home: Path, before: dt.datetime) -> None:
    """Take the oldest lines out of the file, as far as they were copied and are older; a kill loses none."""
    path = Home(home).alerts
    if not path.exists():
        return
    with _alone(home), alerts.locked(path):
        content = path.read_bytes()
        position, cut = _position(home, len(content)), 0
        for line in content[:position].splitlines(keepends=True):
            if line.strip() and parse(line, cut).at >= before:
                break
            cut += len(line)
        if cut:
            _remember(home, 0)  # what is copied again is there already
            storage.write_bytes(str(path), content[cut:], reserve=0)
            _remember(home, position - cut)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Nobody else copies, or shortens, the file meanwhile; those who write alerts do not wait."""
    path = Home(home).alerts_lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        yield


def events(engine: sa.Engine) -> list[str]:
    """The kinds of alerts that there are."""
    with engine.connect() as connection:
        return list(connection.execute(sa.select(database.alerts.c.event).distinct()).scalars())


def acknowledge(engine: sa.Engine, begins: str, *, actor: str) -> int:
    """Note that a person has seen an alert, or all (`all`); returns how many were new to everybody.

    Args:
        engine: The platform's database.
        begins: The beginning of its id, or `all`.
        actor: Who has seen it.

    Raises:
        NoSuchAlert: no alert's id begins so, or several do.
    """
    table = database.alerts
    changes = sa.update(table).values(acknowledged_at=sa.func.now(), acknowledged_by=actor)
    changes = changes.where(table.c.acknowledged_at.is_(None))
    with engine.begin() as connection:
        if begins != "all":
            changes = changes.where(table.c.id == _one(connection, begins))
        return int(connection.execute(changes).rowcount)


def _one(connection: sa.Connection, begins: str) -> str:
    table = database.alerts
    plain = begins.replace("-", "").lower()
    text = sa.func.replace(sa.cast(table.c.id, sa.Text), "-", "")
    query = sa.select(table.c.id).where(text.startswith(plain, autoescape=True)).limit(2)
    found = connection.execute(query).scalars().all() if plain else []
    if len(found) != 1:
        how = "more than one alert's id begins" if found else "no alert's id begins"
        raise NoSuchAlert(f"{how} with {begins!r}; `mlops alerts --all` lists them")
    return str(found[0])


def parse(line: bytes, at: int) -> Alert:
    """An alert of a line of the file; what is none becomes one that says so, since no line may be passed over.

    Args:
        line: The line.
        at: Where it begins in the file: names a line that has no id.
    """
    text = line.decode("utf-8", "replace").strip()
    identity = str(uuid.uuid5(_NAMESPACE, f"{at} {text}"))
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


# ------------------------------------------------------------------------------------------------ the file


def _next_lines(home: Path) -> list[tuple[int, bytes]]:
    """Whole lines that were not copied yet, each with where it begins."""
    try:
        with Home(home).alerts.open("rb") as file:
            start = _position(home, file.seek(0, 2))
            file.seek(start)
            content = file.read(_PIECE)
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1] if len(content) < _PIECE or b"\n" in content else content
    found = []
    for line in whole.splitlines(keepends=True):
        found.append((start, line))
        start += len(line)
    return found


def _position(home: Path, size: int) -> int:
    """How far the file was copied; a file that is shorter than that is another one."""
    try:
        position = int(Home(home).alerts_position.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0
    return position if position <= size else 0


def _remember(home: Path, position: int) -> None:
    storage.write_bytes(str(Home(home).alerts_position), str(position).encode(), reserve=0)
