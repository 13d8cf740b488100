"""Requests for a training: which have begun, and which were made and never ran.

A request reaches `train_<model>` as an asset's event, which Airflow drops while that DAG is paused. So each request is
written down, a training that begins takes up all that wait, and one that waits for longer than `PATIENCE` counts as
lost: it delays no other, and is made again.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from include import database

PATIENCE = dt.timedelta(hours=1)
"""How long a request may wait for its training, which begins within seconds unless another one is at work."""

_table = database.retraining_requests


def begin(model: str, database_url: str, *, run_key: str) -> int:
    """Take up every request for a training of `model` that waits; returns how many. A retry takes up none twice."""
    waiting = sa.and_(_table.c.model == model, _table.c.begun_at.is_(None))
    with database.connected(database_url) as engine, engine.begin() as connection:
        return connection.execute(
            sa.update(_table).where(waiting).values(begun_at=sa.func.now(), begun_by=run_key)
        ).rowcount


def counts(now: dt.datetime | None = None) -> sa.ColumnElement[bool]:
    """Of a request: it has begun, or may yet begin by itself."""
    moment = sa.func.now() if now is None else sa.literal(now)
    return sa.or_(_table.c.begun_at.is_not(None), _table.c.created_at > moment - PATIENCE)


def lost(connection: sa.Connection, model: str) -> sa.Row[tuple[str, dt.datetime]] | None:
    """Reason and time of the newest request that was made and never ran; none when a later one is under way."""
    newest = connection.execute(
        sa.select(_table.c.reason, _table.c.created_at, counts().label("counts"))
        .where(_table.c.model == model)
        .order_by(_table.c.id.desc())
        .limit(1)
    ).first()
    return newest if newest is not None and not newest.counts else None
