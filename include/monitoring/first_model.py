"""The first training of a model: asked for once, when it has features and no champion."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from include import database

REASON = "first model: there are features, and no champion"


@dataclass(frozen=True)
class Asked:
    """Whether a training is to be asked for, and why, or why not."""

    wanted: bool
    reason: str


def ask(model: str, database_url: str, *, run_key: str, patience: dt.timedelta) -> Asked:
    """Record a request for the first training, unless there is a champion or a training is under way.

    A request that led to no champion within `patience` counts as failed, and the next features ask again. A retried
    task finds the request that it made.

    Args:
        model: The model.
        database_url: The platform's database.
        run_key: The Airflow run that asks.
        patience: How long a training and its deployment may take.
    """
    engine = database.connect(database_url)
    requests, champions = database.retraining_requests, database.champions
    try:
        with engine.begin() as connection:
            database.lock_in_transaction(connection, f"retraining:{model}")
            champion = connection.execute(sa.select(champions.c.version).where(champions.c.model == model)).scalar()
            if champion is not None:
                return Asked(False, f"version {champion} is champion; from here on the nightly check asks for training")
            recent = connection.execute(
                sa.select(requests.c.run_key, requests.c.created_at)
                .where(requests.c.model == model, requests.c.created_at > sa.func.now() - patience)
                .order_by(requests.c.id.desc())
            ).all()
            if any(request.run_key == run_key for request in recent):
                return Asked(True, REASON)
            if recent:
                since = recent[0].created_at
                return Asked(False, f"a first training was asked for at {since:%Y-%m-%d %H:%M} UTC and is under way")
            connection.execute(sa.insert(requests).values(model=model, reason=REASON, evidence={}, run_key=run_key))
            return Asked(True, REASON)
    finally:
        engine.dispose()
