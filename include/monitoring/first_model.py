"""The first training of a model: requested once, when it has features and no champion."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from include import database
from include.monitoring.requests import counts

REASON = "first model: there are features, and no champion"


@dataclass(frozen=True)
class FirstTraining:
    """Whether the first training is requested, and why, or why not."""

    requested: bool
    reason: str


STARTS_WITHIN = dt.timedelta(minutes=1)
"""A request's training is a run in Airflow after so long, or came to nothing."""


def request(
    model: str, database_url: str, *, run_key: str, patience: dt.timedelta, at_work: bool | None = None
) -> FirstTraining:
    """Record a request for the first training, unless there is a champion or a training is at work.

    A request is not a training: one that the gate has answered since (HOLD, REJECT), whose run has ended without an
    answer, or that is older than `patience`, led to no champion, and is made again. A retried task finds the request
    that it made.

    Args:
        model: The model.
        database_url: The platform's database.
        run_key: The Airflow run that makes the request.
        patience: How long a training and its deployment may take.
        at_work: Whether a training or deployment of the model is queued or running; None where that is not known.
    """
    requests, champions = database.retraining_requests, database.champions
    with database.connected(database_url) as engine, engine.begin() as connection:
        database.lock_in_transaction(connection, f"retraining:{model}")
        champion = connection.execute(sa.select(champions.c.version).where(champions.c.model == model)).scalar()
        if champion is not None:
            reason = f"version {champion} is champion; from here on the nightly check requests training"
            return FirstTraining(False, reason)
        recent = connection.execute(
            sa.select(requests.c.run_key, requests.c.created_at, counts().label("counts"))
            .where(requests.c.model == model, requests.c.created_at > sa.func.now() - patience)
            .order_by(requests.c.id.desc())
        ).all()
        if any(each.run_key == run_key for each in recent):
            return FirstTraining(True, REASON)
        counting = [each.created_at for each in recent if each.counts]  # the others never ran
        if counting and (reason := _still_open(connection, model, counting[0], at_work)):
            return FirstTraining(False, reason)
        connection.execute(sa.insert(requests).values(model=model, reason=REASON, evidence={}, run_key=run_key))
        return FirstTraining(True, REASON)


def _still_open(connection: sa.Connection, model: str, since: dt.datetime, at_work: bool | None) -> str:
    """Why a request that was made then is not made again; empty when it is."""
    verdicts = database.verdicts
    judged = sa.select(verdicts.c.id).where(verdicts.c.model == model, verdicts.c.created_at > since).limit(1)
    words = f"a first training was requested at {since:%Y-%m-%d %H:%M} UTC"
    if at_work:
        return f"{words} and is at work"
    if connection.execute(judged).scalar() is not None:
        return ""
    if at_work is None:
        return f"{words} and was not judged yet"
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    return f"{words} and is about to start" if now - since < STARTS_WITHIN else ""
