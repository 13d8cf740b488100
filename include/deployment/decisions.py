"""A person's decisions are evidence: what a person took back is promoted again only by a newer decision of a person.

Taken back is a version that was rolled back and did not come back since, one whose rollout (unless it was mirrored) a
person stopped or a limit ended, and every version of a model that was retired. Every way to a champion asks here: the
gate, a promotion, the start of a rollout. A decision counts only when it is newer than what it overrules, so that an
old run that is cleared in Airflow repeats no decision.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from include import database, strategies

CONTROLLER = "the controller"
"""The actor of what the rollout controller does by itself."""
RETIRED = "was retired"


@dataclass(frozen=True)
class Decision:
    """A person's decision to promote, or try, what was taken back."""

    reason: str
    at: dt.datetime


@dataclass(frozen=True)
class TakenBack:
    """Why a version needs a person's decision, and since when."""

    what: str
    at: dt.datetime
    actor: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} on {self.at:%Y-%m-%d %H:%M:%S} UTC by {self.actor} ({self.reason})"


class NeedsDecision(ValueError):
    """The version was taken back, and no newer decision of a person says that it shall answer again."""


def of(reason: str | None, at: dt.datetime) -> Decision | None:
    """The decision that a form's field `again` is; None where it is empty."""
    return Decision(reason.strip(), at) if reason and reason.strip() else None


def require(connection: sa.Connection, model: str, version: int, decision: Decision | None) -> None:
    """See that the version was not taken back, or that a newer decision overrules it.

    Raises:
        NeedsDecision: with what was decided, when and by whom, and how to decide otherwise.
    """
    if reason := refusal(connection, model, version, decision):
        raise NeedsDecision(reason)


def refusal(connection: sa.Connection, model: str, version: int, decision: Decision | None) -> str | None:
    """Why the version may not be promoted or tried without a person's decision; None when it may."""
    found = taken_back(connection, model, version)
    if found is None or (decision is not None and decision.at > found.at):
        return None
    late = "; the decision to promote it again is older than that" if decision else ""
    trying = f", or `mlops rollout {model} start --version {version} --kind {strategies.PROPOSED} --reason …`"
    return (
        f"{model} {found}{late}. To have version {version} judged and promoted all the same, run deploy_{model} with"
        f" the version and the reason in `again`{'' if found.what == RETIRED else trying};"
        f" `mlops rollback {model} --to VERSION --reason …` brings an earlier champion back at once"
    )


def taken_back(connection: sa.Connection, model: str, version: int) -> TakenBack | None:
    """What a person decided against the version, if nothing has brought it back since."""
    retired = _retired(connection, model)
    if retired is not None:
        return retired
    entries = database.ledger
    came, went = entries.c.to_version == version, entries.c.from_version == version
    arrived = database.newest(connection, entries, entries.c.model == model, came, entries.c.action != "retire")
    left = database.newest(connection, entries, entries.c.model == model, went, entries.c.action == "rollback")
    found = [_stopped(connection, model, version)]
    if left is not None:
        found.append(TakenBack(f"version {version} was rolled back", left.created_at, left.actor, left.reason))
    since = [each for each in found if each and (arrived is None or each.at > arrived.created_at)]
    return max(since, key=lambda each: each.at, default=None)


def _retired(connection: sa.Connection, model: str) -> TakenBack | None:
    table = database.retired_models
    row = connection.execute(sa.select(table).where(table.c.model == model)).one_or_none()
    return TakenBack(RETIRED, row.at, row.actor, row.reason) if row else None


def _stopped(connection: sa.Connection, model: str, version: int) -> TakenBack | None:
    """The newest rollout of the version, if a limit or a person ended it; a mirrored one answered nothing."""
    rollouts, events = database.rollouts, database.rollout_events
    tried = (rollouts.c.model == model, rollouts.c.version == version, rollouts.c.mirrored.is_(False))
    newest = database.newest(connection, rollouts, *tried)
    if newest is None or newest.status not in ("rolled_back", "stopped"):
        return None
    ended = (events.c.rollout_id == newest.id, events.c.event.in_(("stop", "rollback")))
    event = database.newest(connection, events, *ended)
    if event is None or (newest.status == "stopped" and event.actor == CONTROLLER):
        return None
    how = "was stopped" if newest.status == "stopped" else "went beyond a limit"
    what = f"version {version}: its {strategies.title(newest.kind)} {how}"
    return TakenBack(what, event.at, event.actor, event.reason)
