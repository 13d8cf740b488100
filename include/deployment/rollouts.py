"""Versions that are tried beside the champion before they may replace it: as shadow, canary, or in an A/B test.

    shadow  scores every request and answers none
    canary  answers a share that grows by steps; when the last has gone well, the version becomes champion
    ab      answers a share, by entity, until the labels that come back tell which of the two is better

Every change is one transaction under the same lock as the model's champion, and is written down with its reason and
its evidence. A process killed at any step has either made the change or done nothing. The service follows the rows that
are `running`, as it follows the champions.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from include import database
from include.deployment import decisions, ledger
from include.deployment.decisions import Decision
from include.settings import Rollout as Settings

Kind = Literal["shadow", "canary", "ab"]
Status = Literal["running", "promoted", "rolled_back", "stopped"]

NAMES: dict[Kind, str] = {"shadow": "shadow", "canary": "canary", "ab": "A/B test"}
_ARMS: dict[Kind, tuple[str, str]] = {
    "shadow": ("shadow", "champion"),
    "canary": ("canary", "champion"),
    "ab": ("b", "a"),
}


@dataclass(frozen=True)
class Rollout:
    """A version tried beside a champion, as it stands."""

    id: int
    model: str
    kind: Kind
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
    def arm(self) -> str:
        """The name under which the tried version's answers are counted and logged."""
        return _ARMS[self.kind][0]

    @property
    def control(self) -> str:
        """The name of the champion's arm beside it."""
        return _ARMS[self.kind][1]

    def __str__(self) -> str:
        return f"the {NAMES[self.kind]} of {self.model} version {self.version}"


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


@dataclass(frozen=True)
class Withdrawal:
    """A way back: the rollouts that it stopped, and the change of the champion, if there was one to make."""

    model: str
    stopped: list[Rollout]
    entry: ledger.Entry | None
    version: int
    """Who answers now."""
    content_hash: str


class Underway(RuntimeError):
    """Another canary or A/B test of the model runs; the message says which."""


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


def start(
    bind: sa.Engine | sa.Connection,
    *,
    kind: Kind,
    model: str,
    version: int,
    content_hash: str,
    url: str,
    bento: str,
    verdict_id: int,
    settings: Settings,
    actor: str,
    reason: str,
    run_key: str | None = None,
    decision: Decision | None = None,
) -> Rollout:
    """Try a version beside the champion from now on.

    A new shadow takes the place of the one that runs: nobody's answer hangs on it. What runs already is found, not
    started twice, and so is what the same Airflow run has started before, even when it has ended since.

    Args:
        bind: The platform's database, or a transaction that this is to be a part of.
        kind: `shadow`, `canary` or `ab`.
        model: The registered model.
        version: The version to try.
        content_hash: Of the served form; the verdict must be about the same one.
        url: Where that served form lies.
        bento: The tag of the Bento that holds it.
        verdict_id: The stored verdict on it: PROMOTE, given against the champion in force; a shadow may run with HOLD.
        settings: Steps, limits, share and duration; kept with the rollout, whatever params.yaml says later.
        actor: Who starts it: a DAG run or a person.
        reason: One line, kept with it.
        run_key: The Airflow run, if one starts it.
        decision: A person's decision to try it although a person took it back.

    Raises:
        decisions.NeedsDecision: a person took the version back, and no newer decision overrules that.
        Underway: a canary or an A/B test of the model runs; one at a time.
        ledger.Superseded: the champion is no longer the one that the verdict was given against.
        ledger.NotProven: the verdict is missing, says otherwise, or is about another version, content or champion.
        ValueError: the version is champion, or there is no champion to try it beside.
    """
    with database.transaction(bind) as connection:
        ledger.lock(connection, model)
        table = database.rollouts
        known = sa.select(table).where(table.c.model == model, table.c.run_key == run_key)
        if run_key and (before := _read(connection, known)):
            return before[0]
        champion = ledger.champion(connection, model)
        if champion is None:
            raise ValueError(
                f"{model} has no champion to try version {version} beside; the first one is promoted directly"
            )
        if champion.version == version:
            raise ValueError(f"{model} version {version} is champion already; there is nothing to try")
        _require_verdict(connection, kind, model, version, content_hash, verdict_id, champion)
        decisions.require(connection, model, version, decision)
        beside = [r for r in running(connection, model) if (r.kind == "shadow") == (kind == "shadow")]
        if beside and (beside[0].kind, beside[0].version, beside[0].content_hash) == (kind, version, content_hash):
            return beside[0]
        if beside and kind != "shadow":
            raise Underway(
                f"{model} version {version} cannot be tried now: {_told(beside[0])}; stop it first, or wait for its end"
            )
        for old in beside:
            _end(connection, old, "stopped", "stop", actor, f"version {version} is the shadow from now on", {})
        row = connection.execute(
            sa.insert(table).values(
                model=model, kind=kind, version=version, content_hash=content_hash, url=url, bento=bento,
                verdict_id=verdict_id, champion_version=champion.version, share=_first_share(kind, settings),
                settings=settings.model_dump(mode="json"), salt=secrets.token_hex(8), status="running", actor=actor,
                reason=reason, run_key=run_key, started_at=database.CLOCK, changed_at=database.CLOCK,
            ).returning(table)
        ).one()  # fmt: skip
        rollout = Rollout(**row._mapping)
        _note(connection, rollout, "start", actor, reason, {"champion": champion.version, "verdict": verdict_id})
        return rollout


def step(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> Rollout:
    """Give a canary its next share.

    Raises:
        Ended: it ended, or somebody else took the step.
        ValueError: this was its last.
    """
    with _held(bind, rollout) as connection:
        steps = rollout.declared.steps
        if rollout.kind != "canary" or rollout.step + 1 >= len(steps):
            raise ValueError(f"{rollout} has no step after the one at {rollout.share:.0%}")
        table, following = database.rollouts, rollout.step + 1
        row = connection.execute(
            sa.update(table)
            .where(table.c.id == rollout.id)
            .values(step=following, share=steps[following] / 100, changed_at=database.CLOCK)
            .returning(table)
        ).one()
        taken = Rollout(**row._mapping)
        _note(connection, taken, "step", actor, reason, evidence)
        return taken


def promote(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> ledger.Entry:
    """Make the tried version champion, and end its rollout, in one transaction.

    Raises:
        Ended: it ended, or moved on.
        ledger.Superseded: somebody else changed the champion meanwhile.
        ledger.NotProven: it is a shadow whose verdict was HOLD.
    """
    with _held(bind, rollout) as connection:
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
        _end(connection, rollout, "promoted", "promote", actor, reason, evidence)
        return entry


def roll_back(
    bind: sa.Engine | sa.Connection, rollout: Rollout, *, actor: str, reason: str, evidence: Mapping[str, Any]
) -> Rollout:
    """Take the tried version out, because it went beyond a limit; the champion answers everything again.

    Raises:
        Ended: it ended, or moved on.
    """
    with _held(bind, rollout) as connection:
        _note(connection, rollout, "breach", actor, reason, evidence)
        return _end(connection, rollout, "rolled_back", "rollback", actor, reason, evidence)


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
    with _held(bind, rollout) as connection:
        return _end(connection, rollout, "stopped", "stop", actor, reason, evidence or {})


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
    with _held(bind, rollout) as connection:
        _note(connection, rollout, event, actor, reason, evidence)


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
        stopped = [_end(connection, each, "stopped", "stop", actor, reason, {}) for each in running(connection, model)]
        wanted = to_version or (ledger.before(connection, current) if stopped and current else None)
        if entry is None and (current is None or (wanted != current.version if wanted else not stopped)):
            entry = ledger.rollback(connection, model, wanted, actor=actor, reason=reason)
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
        stopped = [_end(connection, each, "stopped", "stop", actor, reason, {}) for each in running(connection, model)]
        return Retirement(model, stopped, ledger.retire(connection, model, actor=actor, reason=reason))


# ------------------------------------------------------------------------------------------------ inside


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


@contextlib.contextmanager
def _held(bind: sa.Engine | sa.Connection, rollout: Rollout) -> Iterator[sa.Connection]:
    """The transaction in which a rollout that runs, and is as its caller has seen it, may be changed."""
    with database.transaction(bind) as connection:
        ledger.lock(connection, rollout.model)
        now = _read(connection, sa.select(database.rollouts).where(database.rollouts.c.id == rollout.id))[0]
        if (now.status, now.step) != (rollout.status, rollout.step):
            raise Ended(f"nothing was changed: {_told(now)}")
        yield connection


def _require_verdict(
    connection: sa.Connection,
    kind: Kind,
    model: str,
    version: int,
    content_hash: str,
    verdict_id: int,
    champion: ledger.Champion,
) -> None:
    if kind == "shadow":
        ledger.require_verdict(
            connection, model, version, content_hash, verdict_id, "tried", outcomes=("PROMOTE", "HOLD")
        )
        return
    verdict = ledger.require_verdict(connection, model, version, content_hash, verdict_id, "tried")
    ledger.refuse_stale(connection, model, version, verdict.champion_version, champion, verdict_id)


def _first_share(kind: Kind, settings: Settings) -> float:
    return {"shadow": 0.0, "canary": settings.steps[0] / 100, "ab": settings.share / 100}[kind]


def _end(
    connection: sa.Connection,
    rollout: Rollout,
    status: Status,
    event: str,
    actor: str,
    reason: str,
    evidence: Mapping[str, Any],
) -> Rollout:
    table = database.rollouts
    changes = sa.update(table).where(table.c.id == rollout.id).values(status=status, ended_at=database.CLOCK)
    ended = Rollout(**connection.execute(changes.returning(table)).one()._mapping)
    _note(connection, ended, event, actor, reason, evidence)
    return ended


def _note(
    connection: sa.Connection, rollout: Rollout, event: str, actor: str, reason: str, evidence: Mapping[str, Any]
) -> None:
    share = rollout.share if rollout.status == "running" else 1.0 if rollout.status == "promoted" else 0.0
    values = {"event": event, "share": share, "actor": actor, "reason": reason, "evidence": dict(evidence)}
    connection.execute(sa.insert(database.rollout_events).values(rollout_id=rollout.id, at=database.CLOCK, **values))


def _gone_back(connection: sa.Connection, model: str, actor: str) -> ledger.Entry | None:
    table = database.ledger
    own = (table.c.action == "rollback", table.c.actor == actor)
    row = database.newest(connection, table, table.c.model == model, *own)
    return ledger.Entry(**row._mapping) if row else None


def _told(rollout: Rollout) -> str:
    since = f"{rollout.started_at:%Y-%m-%d %H:%M:%S} UTC"
    if rollout.status == "running":
        share = "" if rollout.kind == "shadow" else f" on {rollout.share:.0%} of the requests"
        return f"{rollout} runs{share}, since {since} (by {rollout.actor}: {rollout.reason})"
    return f"{rollout}, of {since}, has ended: {rollout.status.replace('_', ' ')}"
