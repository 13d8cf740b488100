"""Alerts in PostgreSQL: listed, acknowledged, deleted after their time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import sqlalchemy as sa

from include import database, storage
from include.alerting import journal, place
from include.alerting.alert import Alert, parse
from include.alerting.channels.postgresql import Table
from include.alerting.delivery import Delivery
from include.home import Home


class NoSuchAlert(LookupError):
    """There is no alert, or more than one, whose id begins so."""


def copy(engine: sa.Engine, home: Path) -> int:
    """Copy the alerts of this home's journal that PostgreSQL does not have yet; returns how many it read.

    An alert is there once, however often it is copied. The journal stays; see `retain`.
    """
    return Delivery(home, Table(engine)).drain()


def read_file(home: Path, limit: int) -> list[Alert]:
    """The newest alerts of the journal, newest first: for when PostgreSQL is away."""
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

    One that was never acknowledged stays in PostgreSQL for as long as it takes. The journal loses its lines of that age
    once every channel has them, acknowledged or not.
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
    """Cut the oldest lines off the journal, as far as every channel has them and they are older; a kill loses none."""
    path = Home(home).alerts
    if not path.exists():
        return
    with journal.locked(path):
        content = path.read_bytes()
        cut = 0
        for line in content[: place.accepted_by_all(home, content)].splitlines(keepends=True):
            if line.strip() and parse(line, cut).at >= before:
                break
            cut += len(line)
        if cut:
            storage.write_bytes(str(path), content[cut:], reserve=0)


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
