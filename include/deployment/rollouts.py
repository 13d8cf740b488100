"""Versions that are tried beside the champion before they may replace it, as include/strategies/ has the ways to.

Every change is one transaction under the same lock as the model's champion, and is written down with its reason and
its evidence. A process killed at any step has either made the change or done nothing. The service follows the rows that
are `running`, as it follows the champions.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from include import database, strategies
from include.deployment import ledger
from include.deployment.decisions import Decision
from include.settings import Rollout as Settings
from include.strategies import Move, Strategy

Status = Literal["running", "promoted", "rolled_back", "stopped"]


@dataclass(frozen=True)
class Candidate:
    """A judged version, as it would be served."""

    model: str
    version: int
    content_hash: str
    """Of the served form; the verdict must be about the same one."""
    url: str
    """Where that served form lies."""
    bento: str
    """The tag of the Bento that holds it."""
    verdict_id: int
    """The stored verdict on it."""


@dataclass(frozen=True)
class Rollout:
    """A version tried beside a champion, as it stands."""

    id: int
    model: str
    kind: str
    """The strategy's name."""
    arm: str
    """The name under which the tried version's answers are counted and logged."""
    control: str
    """The name of the champion's arm beside it."""
    mirrored: bool
    """Whether it scores every request and answers none."""
    version: int
    content_hash: str
    url: str
    bento: str
    verdict_id: int
    champion_version: int
    share: float
    step: int
    settings: dict[str, Any]
    salt: str
    status: Status
    actor: str
    reason: str
    run_key: str | None
    started_at: dt.datetime
    changed_at: dt.datetime
    ended_at: dt.datetime | None

    @property
    def declared(self) -> Settings:
        """What params.yaml said when it was started."""
        return Settings.model_validate(self.settings)

    @property
    def strategy(self) -> Strategy[Any]:
        """What decides about it."""
        return strategies.load(self.kind)

    @property
    def title(self) -> str:
        """The strategy's, in words."""
        return strategies.title(self.kind)

    @property
    def traffic(self) -> str:
        """What the tried version does now, as in `version 2 answers 5% of the requests`."""
        return self.strategy.traffic(self.share)

    @property
    def is_waiting(self) -> bool:
        """Whether a person gives it its next share."""
        return self.strategy.manual and self.step + 1 < len(self.strategy.shares(self.declared))

    @property
    def hint(self) -> str:
        """What a person has to do next; empty: nothing."""
        return self.strategy.hint(self.model, self.step)

    def tries(self, candidate: Candidate, kind: str) -> bool:
        """Whether this is what would be started."""
        return (self.kind, self.version, self.content_hash) == (kind, candidate.version, candidate.content_hash)

    def __str__(self) -> str:
        return f"the {self.title} of {self.model} version {self.version}"


@dataclass(frozen=True)
class Event:
    """What was decided about a rollout, with its reason and the numbers."""

    id: int
    rollout_id: int
    at: dt.datetime
    event: str
    share: float
    actor: str
    reason: str
    evidence: dict[str, Any]


class Change(Protocol):
    """A function of this module that changes a rollout."""

    def __call__(
        self, bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
    ) -> object:
        """Make the change."""


class Ended(RuntimeError):
    """The rollout runs no more, or has moved on; the message says how it stands."""


# ------------------------------------------------------------------------------------------------ reading


def running(bind: sa.Engine | sa.Connection, model: str | None = None) -> list[Rollout]:
    """The rollouts that run, of one model or of all, oldest first."""
    table = database.rollouts
    query = sa.select(table).where(table.c.status == "running").order_by(table.c.id)
    return _read(bind, query.where(table.c.model == model) if model else query)


def history(bind: sa.Engine | sa.Connection, model: str) -> list[Rollout]:
    """Every rollout of the model, newest first."""
    table = database.rollouts
    return _read(bind, sa.select(table).where(table.c.model == model).order_by(table.c.id.desc()))


def of_run(connection: sa.Connection, model: str, run_key: str) -> Rollout | None:
    """What an Airflow run has started, ended or not."""
    table = database.rollouts
    found = _read(connection, sa.select(table).where(table.c.model == model, table.c.run_key == run_key))
    return found[0] if found else None


def events(bind: sa.Engine | sa.Connection, rollout_ids: Sequence[int]) -> list[Event]:
    """What was decided about these rollouts, newest first."""
    table = database.rollout_events
    query = sa.select(table).where(table.c.rollout_id.in_(rollout_ids)).order_by(table.c.id.desc())
    with database.transaction(bind) as connection:
        return [Event(**row._mapping) for row in connection.execute(query)]


def _read(bind: sa.Engine | sa.Connection, query: sa.Select[Any]) -> list[Rollout]:
    with database.transaction(bind) as connection:
        return [Rollout(**row._mapping) for row in connection.execute(query)]


# ------------------------------------------------------------------------------------------------ changing


def step(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> Rollout:
    """Give the tried version its next share.

    Raises:
        Ended: it ended, or somebody else took the step.
        ValueError: this was its last.
    """
    with _locked(bind, rollout) as connection:
        shares, following = rollout.strategy.shares(rollout.declared), rollout.step + 1
        if following >= len(shares):
            raise ValueError(f"{rollout} has no step after the one at {rollout.share:.0%}")
        table = database.rollouts
        row = connection.execute(
            sa.update(table)
            .where(table.c.id == rollout.id)
            .values(step=following, share=shares[following], changed_at=database.CLOCK)
            .returning(table)
        ).one()
        taken = Rollout(**row._mapping)
        record(connection, taken, "step", actor, reason, evidence)
        return taken


def promote(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> ledger.Entry:
    """Make the tried version champion, and end its rollout, in one transaction.

    Raises:
        Ended: it ended, or moved on.
        ledger.Superseded: somebody else changed the champion meanwhile.
        ledger.NotProven: it was started with a verdict that makes no champion.
    """
    with _locked(bind, rollout) as connection:
        entry = ledger.promote(
            connection,
            model=rollout.model,
            to_version=rollout.version,
            expected_from=rollout.champion_version,
            content_hash=rollout.content_hash,
            url=rollout.url,
            bento=rollout.bento,
            verdict_id=rollout.verdict_id,
            actor=actor,
            reason=reason,
            decision=Decision(rollout.reason, rollout.started_at),  # what was decided later has ended the rollout
        )
        end(connection, rollout, "promoted", "promote", actor, reason, evidence)
        return entry


def roll_back(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> Rollout:
    """Take the tried version out, because it went beyond a limit; the champion answers everything again.

    Raises:
        Ended: it ended, or moved on.
    """
    with _locked(bind, rollout) as connection:
        record(connection, rollout, "breach", actor, reason, evidence)
        return end(connection, rollout, "rolled_back", "rollback", actor, reason, evidence)


def stop(
    bind: sa.Engine | sa.Connection,
    rollout: Rollout,
    *,
    actor: str,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
) -> Rollout:
    """End it without another champion.

    Raises:
        Ended: it ended, or moved on.
    """
    with _locked(bind, rollout) as connection:
        return end(connection, rollout, "stopped", "stop", actor, reason, evidence or {})


def apply(
    bind: sa.Engine | sa.Connection, rollout: Rollout, move: Move, *, actor: str, evidence: Mapping[str, Any]
) -> None:
    """Carry out what the rollout's strategy decided; nothing where it waits.

    Raises:
        Ended: it ended, or moved on.
        ledger.Superseded: it would be champion, and somebody else changed the champion meanwhile.
    """
    changes: dict[str, Change] = {"advance": step, "promote": promote, "roll_back": roll_back, "stop": stop}
    if move.action != "wait":
        changes[move.action](bind, rollout, actor=actor, reason=move.reason, evidence=evidence)


def note(
    bind: sa.Engine | sa.Connection,
    rollout: Rollout,
    event: Literal["plan", "verdict"],
    *,
    actor: str,
    reason: str,
    evidence: Mapping[str, Any],
) -> None:
    """Write down what was found about a rollout that runs.

    Raises:
        Ended: it ended, or moved on.
    """
    with _locked(bind, rollout) as connection:
        record(connection, rollout, event, actor, reason, evidence)


# ------------------------------------------------------------------------------------------------ inside


@contextlib.contextmanager
def _locked(bind: sa.Engine | sa.Connection, rollout: Rollout) -> Iterator[sa.Connection]:
    """The transaction in which a rollout that runs, and is as its caller has seen it, may be changed."""
    with database.transaction(bind) as connection:
        ledger.lock(connection, rollout.model)
        now = _read(connection, sa.select(database.rollouts).where(database.rollouts.c.id == rollout.id))[0]
        if (now.status, now.step) != (rollout.status, rollout.step):
            raise Ended(f"nothing was changed: {described(now)}")
        yield connection


def end(
    connection: sa.Connection,
    rollout: Rollout,
    status: Status,
    event: str,
    actor: str,
    reason: str,
    evidence: Mapping[str, Any],
) -> Rollout:
    """End a rollout in the transaction that holds its model's lock."""
    table = database.rollouts
    changes = sa.update(table).where(table.c.id == rollout.id).values(status=status, ended_at=database.CLOCK)
    ended = Rollout(**connection.execute(changes.returning(table)).one()._mapping)
    record(connection, ended, event, actor, reason, evidence)
    return ended


def record(
    connection: sa.Connection, rollout: Rollout, event: str, actor: str, reason: str, evidence: Mapping[str, Any]
) -> None:
    """Write down what was decided, in the transaction that changes the rollout."""
    share = rollout.share if rollout.status == "running" else 1.0 if rollout.status == "promoted" else 0.0
    values = {"event": event, "share": share, "actor": actor, "reason": reason, "evidence": dict(evidence)}
    connection.execute(sa.insert(database.rollout_events).values(rollout_id=rollout.id, at=database.CLOCK, **values))


def described(rollout: Rollout) -> str:
    """How a rollout stands, since when, and by whom."""
    since = f"{rollout.started_at:%Y-%m-%d %H:%M:%S} UTC"
    if rollout.status == "running":
        return f"{rollout} {rollout.traffic}, since {since} (by {rollout.actor}: {rollout.reason})"
    return f"{rollout}, of {since}, has ended: {rollout.status.replace('_', ' ')}"
