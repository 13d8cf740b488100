"""The way back: stop what is tried, and bring an earlier champion back, or none, in one transaction."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from include import database
from include.deployment import ledger
from include.deployment.rollouts import Rollout, end, running


@dataclass(frozen=True)
class Withdrawal:
    """A way back: the rollouts that it stopped, and the change of the champion, if there was one to make."""

    model: str
    stopped: list[Rollout]
    entry: ledger.Entry | None
    version: int
    """Who answers now."""
    content_hash: str


def withdraw(
    engine: sa.Engine,
    model: str,
    to_version: int | None = None,
    *,
    actor: str,
    reason: str,
    once: bool = False,
    seen: int | None = None,
    seen_at: dt.datetime | None = None,
) -> Withdrawal:
    """Stop what is tried and bring an earlier champion back, in one transaction: the way back in an emergency.

    Without `to_version`, it is the champion before the present one; where there is none, and something was stopped, the
    present one stays. With the present champion's version, rollouts are stopped and nothing else changes.

    Who asks has seen a champion. When another one answers by now, because somebody else was quicker, nothing is
    changed: of two that go back at once one does, and not both.

    Args:
        engine: The platform's database.
        model: The registered model.
        to_version: An earlier champion.
        actor: Who asks.
        reason: One line, kept in the ledger and with each rollout.
        once: Whether `actor` names a run that goes back only once, so that its retry does not go back further.
        seen: The champion that was seen.
        seen_at: Or when it was seen; it counts only without `to_version`.

    Raises:
        ledger.Superseded: the champion is no longer the one that was seen.
        ValueError: there is no champion, or no such earlier one.
    """
    with engine.begin() as connection:
        ledger.lock(connection, model)
        current = ledger.champion(connection, model)
        entry = _gone_back(connection, model, actor) if once else None
        if entry is None:
            if to_version is None and seen is None and seen_at is not None:
                seen = ledger.champion_at(connection, model, seen_at)
            _require_seen(connection, model, current, seen)
        stopped = [end(connection, each, "stopped", "stop", actor, reason, {}) for each in running(connection, model)]
        target = to_version or (ledger.before(connection, current) if stopped and current else None)
        if entry is None and (current is None or (target != current.version if target else not stopped)):
            entry = ledger.rollback(connection, model, target, actor=actor, reason=reason)
        now = ledger.champion(connection, model)
        assert now is not None  # noqa: S101  the way back has ended in one, or raised
        return Withdrawal(model, stopped, entry, now.version, now.content_hash)


@dataclass(frozen=True)
class Retirement:
    """A model's end: the rollouts that it stopped, and the ledger's entry."""

    model: str
    stopped: list[Rollout]
    entry: ledger.Entry


def retire(engine: sa.Engine, model: str, *, actor: str, reason: str) -> Retirement:
    """Stop what is tried and let the model have no champion, in one transaction; see `ledger.retire`.

    Raises:
        ValueError: it has no champion.
    """
    with engine.begin() as connection:
        ledger.lock(connection, model)
        stopped = [end(connection, each, "stopped", "stop", actor, reason, {}) for each in running(connection, model)]
        return Retirement(model, stopped, ledger.retire(connection, model, actor=actor, reason=reason))


def _require_seen(connection: sa.Connection, model: str, current: ledger.Champion | None, seen: int | None) -> None:
    if current is None or seen is None or current.version == seen:
        return
    [newest] = ledger.history(connection, model)[:1]
    raise ledger.Superseded(
        f"nothing was changed: version {seen} of {model}, from which to go back, is no longer champion. Version"
        f" {current.version} is, since {newest.created_at:%Y-%m-%d %H:%M:%S} UTC ({newest.action} by {newest.actor}:"
        f" {newest.reason}). To go back further, do it again, now that you know",
        newest,
    )


def _gone_back(connection: sa.Connection, model: str, actor: str) -> ledger.Entry | None:
    table = database.ledger
    own = (table.c.action == "rollback", table.c.actor == actor)
    row = database.newest(connection, table, table.c.model == model, *own)
    return ledger.Entry(**row._mapping) if row else None
