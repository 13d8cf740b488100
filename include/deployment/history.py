"""Everything that was decided about a model, in the order of time: the ledger, the gate's verdicts, rollouts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from include import database
from include.deployment import ledger, rollouts


@dataclass(frozen=True, order=True)
class Event:
    """One decision.

    Attributes:
        at: when it was recorded.
        what: in a few words, as `promote 3 → 4`.
        actor: the person or the DAG.
        reason: as it was given.
    """

    at: dt.datetime
    what: str
    actor: str
    reason: str


def events(engine: sa.Engine, model: str) -> list[Event]:
    """A model's events, newest first; none where no version was judged yet."""
    return sorted(
        [*_of_ledger(engine, model), *_verdicts(engine, model), *_of_rollouts(engine, model)],
        reverse=True,
    )


def _of_ledger(engine: sa.Engine, model: str) -> list[Event]:
    found = []
    for entry in ledger.history(engine, model):
        before = "" if entry.action == "retire" else f"{entry.from_version or 'nothing'} → "
        what = f"{entry.action} {before}{entry.to_version}"
        found.append(Event(entry.created_at, what, entry.actor, entry.reason))
    return found


def _verdicts(engine: sa.Engine, model: str) -> list[Event]:
    table = database.verdicts
    query = sa.select(table.c.created_at, table.c.verdict, table.c.version, table.c.reasons)
    with engine.connect() as connection:
        rows = connection.execute(query.where(table.c.model == model)).all()
    return [
        Event(at, f"verdict {verdict} on {version}", "gate", "; ".join(map(str, reasons)))
        for at, verdict, version, reasons in rows
    ]


def _of_rollouts(engine: sa.Engine, model: str) -> list[Event]:
    tried = {rollout.id: f"{rollout.kind} {rollout.version}" for rollout in rollouts.history(engine, model)}
    return [
        Event(event.at, f"{tried[event.rollout_id]}: {event.event}", event.actor, event.reason)
        for event in rollouts.events(engine, list(tried))
    ]
