"""Who is champion, since when, and on what evidence: the one truth that the service and MLflow's aliases follow.

A promotion is one transaction: it holds the model's lock, compares the champion with the one that the verdict was
given against, checks that verdict, writes the ledger and sets the champion. A process killed at any step has either
promoted or done nothing; everything else (aliases, what the service has loaded) is a projection that converges.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database
from include.deployment import decisions
from include.deployment.decisions import Decision


@dataclass(frozen=True)
class Champion:
    """The version in force of a model, as the service finds it."""

    model: str
    version: int
    content_hash: str
    url: str
    bento: str
    ledger_id: int
    since: dt.datetime


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: a change of a champion."""

    id: int
    model: str
    action: str
    from_version: int | None
    to_version: int
    content_hash: str
    url: str
    bento: str
    verdict_id: int
    actor: str
    reason: str
    created_at: dt.datetime


class Superseded(RuntimeError):
    """Somebody else changed the champion first; the message tells who won."""

    def __init__(self, message: str, winner: Entry) -> None:
        super().__init__(message)
        self.winner = winner


class NotProven(ValueError):
    """There is no passing verdict for exactly this version and content, so it cannot become champion."""


def champion(bind: sa.Engine | sa.Connection, model: str) -> Champion | None:
    """The champion of a model; None before the first promotion."""
    with database.transaction(bind) as connection:
        return _champion(connection, model)


def history(bind: sa.Engine | sa.Connection, model: str) -> list[Entry]:
    """Every change of the model's champion, newest first."""
    table = database.ledger
    with database.transaction(bind) as connection:
        rows = connection.execute(sa.select(table).where(table.c.model == model).order_by(table.c.id.desc()))
        return [Entry(**row._mapping) for row in rows]


def promote(
    bind: sa.Engine | sa.Connection,
    *,
    model: str,
    to_version: int,
    expected_from: int | None,
    content_hash: str,
    url: str,
    bento: str,
    verdict_id: int,
    actor: str,
    reason: str,
    decision: Decision | None = None,
) -> Entry:
    """Make a version the champion, if the champion is still `expected_from`: compare-and-set in one transaction.

    Run again for what is already champion, it changes nothing and returns the entry that made it so. A verdict is
    spent once: a late retry cannot promote again what was rolled back since.

    Args:
        bind: The platform's database, or a transaction that this is to be a part of.
        model: The registered model.
        to_version: The version to promote.
        expected_from: The champion that the verdict compared it with; None for a first champion.
        content_hash: Of the served form; the verdict must be about the same one.
        url: Where that served form lies.
        bento: The tag of the Bento that holds it.
        verdict_id: The stored PROMOTE verdict.
        actor: Who promotes: a DAG run or a person.
        reason: One line, kept in the ledger.
        decision: A person's decision to promote it although a person took it back.

    Raises:
        Superseded: the champion is no longer `expected_from`, or this verdict was spent before.
        decisions.NeedsDecision: a person took the version back, and no newer decision overrules that.
        NotProven: the verdict is missing, is not PROMOTE, or is about another version, content or champion.
    """
    with database.transaction(bind) as connection:
        lock(connection, model)
        current = _champion(connection, model)
        if current and (current.version, current.content_hash) == (to_version, content_hash):
            return _entry(connection, current.ledger_id)
        refuse_stale(connection, model, to_version, expected_from, current, verdict_id)
        decisions.require(connection, model, to_version, decision)
        require_proof(connection, model, to_version, content_hash, expected_from, verdict_id)
        return _record(
            connection,
            model=model,
            action="promote",
            from_version=expected_from,
            to_version=to_version,
            content_hash=content_hash,
            url=url,
            bento=bento,
            verdict_id=verdict_id,
            actor=actor,
            reason=reason,
        )


def rollback(
    bind: sa.Engine | sa.Connection, model: str, to_version: int | None = None, *, actor: str, reason: str
) -> Entry:
    """Bring an earlier champion back, in one transaction; its files are the ones that served before.

    Without `to_version`, the champion that the present one replaced when it was promoted. What may be run again by a
    retry should name `to_version`: rolling back to what is champion already changes nothing. A model that was retired
    comes back with the version that is named.

    Raises:
        ValueError: there is no such earlier champion.
    """
    with database.transaction(bind) as connection:
        lock(connection, model)
        current = _champion(connection, model)
        if current is None and to_version is None:
            raise ValueError(f"{model} has no champion, so there is nothing to roll back; name a version that was one")
        if to_version is None and current is not None:
            to_version = before(connection, current)
            if to_version is None:
                raise ValueError(
                    f"{model} version {current.version} is its first champion: there is none before it."
                    " Name a version that was champion"
                )
        if current is not None and to_version == current.version:
            return _entry(connection, current.ledger_id)
        assert to_version is not None  # noqa: S101  the present champion's, or an error, else
        target = _newest(connection, model, to_version)
        return _record(
            connection,
            model=model,
            action="rollback",
            from_version=current.version if current else None,
            to_version=to_version,
            content_hash=target.content_hash,
            url=target.url,
            bento=target.bento,
            verdict_id=target.verdict_id,
            actor=actor,
            reason=reason,
        )


def before(connection: sa.Connection, current: Champion) -> int | None:
    """The champion that this one replaced when it was promoted; None for the first."""
    return _newest(connection, current.model, current.version, "promote").from_version


def champion_at(connection: sa.Connection, model: str, moment: dt.datetime) -> int | None:
    """The version that was champion at a moment; None: there was none."""
    table = database.ledger
    newest = database.newest(connection, table, table.c.model == model, table.c.created_at <= moment)
    return None if newest is None or newest.action == "retire" else int(newest.to_version)


def retire(connection: sa.Connection, model: str, *, actor: str, reason: str) -> Entry:
    """Let a model have no champion from now on, by a person's decision; what is known of it stays.

    Args:
        connection: A transaction that holds the model's lock.
        model: The registered model.
        actor: Who retires it.
        reason: One line, kept in the ledger.

    Raises:
        ValueError: it has no champion.
    """
    current = _champion(connection, model)
    if current is None:
        raise ValueError(f"{model} has no champion, so nothing serves it")
    last = _entry(connection, current.ledger_id)
    values = {"model": model, "from_version": current.version, "to_version": current.version, "actor": actor}
    values |= {"content_hash": last.content_hash, "url": last.url, "bento": last.bento, "verdict_id": last.verdict_id}
    row = connection.execute(
        sa.insert(database.ledger)
        .values(**values, action="retire", reason=reason, created_at=database.CLOCK)
        .returning(database.ledger)
    ).one()
    entry = Entry(**row._mapping)
    connection.execute(sa.delete(database.champions).where(database.champions.c.model == model))
    retired = {"version": current.version, "ledger_id": entry.id, "actor": actor, "reason": reason}
    retired |= {"at": entry.created_at}
    connection.execute(sa.insert(database.retired_models).values(model=model, **retired))
    return entry


def lock(connection: sa.Connection, model: str) -> None:
    """Hold, until the transaction ends, the lock under which a model's champion and its rollouts change."""
    database.lock_in_transaction(connection, f"champion:{model}")


def challenger(engine: sa.Engine, model: str) -> int | None:
    """The version that the gate judged last, if it was not rejected and never was champion: the one that waits."""
    verdicts, ledger = database.verdicts, database.ledger
    with engine.connect() as connection:
        newest = database.newest(connection, verdicts, verdicts.c.model == model)
        if newest is None or newest.verdict == "REJECT":
            return None
        was_champion = sa.exists().where(ledger.c.model == model, ledger.c.to_version == newest.version)
        return None if connection.execute(sa.select(was_champion)).scalar_one() else int(newest.version)


def project_aliases(engine: sa.Engine, model: str, *, mlflow_url: str) -> dict[str, int | None]:
    """Set MLflow's aliases `champion` and `challenger` to what the ledger says; run it again at any time.

    Alone per model, so that of two projections the one that reads the ledger later also writes later.

    Returns:
        Alias to version; None where the alias was taken away.

    Raises:
        ConnectionError: MLflow does not answer; it is given up within seconds.
    """
    from include.training import tracking

    tracking.check(mlflow_url)
    with database.advisory_lock(engine, f"aliases:{model}"):
        current = champion(engine, model)
        aliases = {"champion": current.version if current else None, "challenger": challenger(engine, model)}
        known = tracking.aliases(model, mlflow_url=mlflow_url)
        for alias, version in aliases.items():
            if known.get(alias) != version:
                tracking.set_alias(model, alias, version, mlflow_url=mlflow_url)
    return aliases


def _champion(connection: sa.Connection, model: str) -> Champion | None:
    table = database.champions
    row = connection.execute(sa.select(table).where(table.c.model == model)).one_or_none()
    return Champion(**row._mapping) if row else None


def _entry(connection: sa.Connection, entry_id: int) -> Entry:
    table = database.ledger
    return Entry(**connection.execute(sa.select(table).where(table.c.id == entry_id)).one()._mapping)


def _newest(connection: sa.Connection, model: str, version: int, action: str | None = None) -> Entry:
    table = database.ledger
    by = [table.c.action == action] if action else []
    row = database.newest(connection, table, table.c.model == model, table.c.to_version == version, *by)
    if row is None:
        were = sorted(
            connection.execute(sa.select(table.c.to_version).where(table.c.model == model).distinct()).scalars()
        )
        there = ", ".join(map(str, were)) or "none"
        raise ValueError(f"{model} version {version} never was champion; those that were: {there}")
    return Entry(**row._mapping)


def refuse_stale(
    connection: sa.Connection,
    model: str,
    to_version: int,
    expected_from: int | None,
    current: Champion | None,
    verdict_id: int,
) -> None:
    """See that the champion is still who the verdict was given against, and that the verdict was not spent.

    Raises:
        Superseded: one of them is not so; the message tells who won.
        NotProven: there is no champion at all.
    """
    table = database.ledger
    spent = connection.execute(
        sa.select(table).where(table.c.verdict_id == verdict_id, table.c.action == "promote")
    ).one_or_none()
    if current and (current.version != expected_from or spent):
        winner = _entry(connection, current.ledger_id)
        raise Superseded(
            f"{model} version {to_version} was superseded: version {winner.to_version} is champion since"
            f" {winner.created_at:%Y-%m-%d %H:%M:%S} UTC ({winner.action} by {winner.actor}: {winner.reason});"
            f" the verdict was given against {_named(expected_from)}. Judge it again to promote it",
            winner,
        )
    if current is None and expected_from is not None:
        raise NotProven(f"{model} has no champion, but the verdict was given against version {expected_from}")


def require_proof(
    connection: sa.Connection,
    model: str,
    version: int,
    content_hash: str,
    expected_from: int | None,
    verdict_id: int,
    aim: str = "promoted",
) -> None:
    """See that there is a PROMOTE verdict on this very content, compared with this very champion.

    Raises:
        NotProven: there is none; it cannot be `aim`.
    """
    verdict = require_verdict(connection, model, version, content_hash, verdict_id, aim)
    if verdict.champion_version != expected_from:
        raise NotProven(
            f"{model} version {version} ({content_hash[:12]}…) cannot be {aim}: verdict {verdict_id} compared it with"
            f" {_named(verdict.champion_version)}, not with {_named(expected_from)}; run the gate again"
        )


def require_verdict(
    connection: sa.Connection,
    model: str,
    version: int,
    content_hash: str,
    verdict_id: int,
    aim: str,
    outcomes: tuple[str, ...] = ("PROMOTE",),
) -> sa.Row[Any]:
    """The verdict on this very content, if it says one of `outcomes`.

    Raises:
        NotProven: there is none; it cannot be `aim`.
    """
    table = database.verdicts
    verdict = connection.execute(sa.select(table).where(table.c.id == verdict_id)).one_or_none()
    refused = f"{model} version {version} ({content_hash[:12]}…) cannot be {aim}"
    if verdict is None:
        raise NotProven(f"{refused}: there is no verdict {verdict_id}; run the gate first")
    if (verdict.model, verdict.version, verdict.content_hash) != (model, version, content_hash):
        raise NotProven(
            f"{refused}: verdict {verdict_id} is about {verdict.model} version {verdict.version}"
            f" ({verdict.content_hash[:12]}…); run the gate on this version"
        )
    if verdict.verdict not in outcomes:
        raise NotProven(f"{refused}: verdict {verdict_id} says {verdict.verdict}, {verdict.reasons}")
    return verdict


def _record(connection: sa.Connection, **values: object) -> Entry:
    statement = sa.insert(database.ledger).values(**values, created_at=database.CLOCK)
    entry = Entry(**connection.execute(statement.returning(database.ledger)).one()._mapping)
    fields = {
        "version": entry.to_version,
        "content_hash": entry.content_hash,
        "url": entry.url,
        "bento": entry.bento,
        "ledger_id": entry.id,
        "since": entry.created_at,
    }
    connection.execute(sa.delete(database.retired_models).where(database.retired_models.c.model == entry.model))
    upsert = postgresql.insert(database.champions).values(model=entry.model, **fields)
    connection.execute(upsert.on_conflict_do_update(index_elements=["model"], set_=fields))
    return entry


def _named(version: int | None) -> str:
    return "the baseline" if version is None else f"version {version}"
