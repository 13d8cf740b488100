"""Admits a version to a rollout: who may be tried beside the champion, on what evidence, and the first row of it."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from include import database, strategies
from include.deployment import decisions, ledger
from include.deployment.decisions import Decision
from include.deployment.rollouts import Candidate, Rollout, described, end, of_run, record, running
from include.settings import Rollout as Settings
from include.strategies import Strategy


class Underway(RuntimeError):
    """Another rollout of the model answers requests; the message says which."""


def start(
    bind: sa.Engine | sa.Connection,
    candidate: Candidate,
    *,
    kind: str,
    settings: Settings,
    actor: str,
    reason: str,
    run_key: str | None = None,
    decision: Decision | None = None,
) -> Rollout:
    """Try a version beside the champion from now on.

    A new mirrored version takes the place of the one that runs: no answer depends on it. What runs already is found,
    not started twice, and so is what the same Airflow run has started before, even when it has ended since.

    Args:
        bind: The platform's database, or a transaction that this is to be a part of.
        candidate: The version to try. Its verdict is one that the strategy starts with; unless it is mirrored, it was
            given against the champion in force.
        kind: The strategy: a file of include/strategies/.
        settings: Steps, limits, share and duration; kept with the rollout, whatever params.yaml says later.
        actor: Who starts it: a DAG run or a person.
        reason: One line, kept with it.
        run_key: The Airflow run, if one starts it.
        decision: A person's decision to try it although a person took it back.

    Raises:
        decisions.NeedsDecision: a person took the version back, and no newer decision overrules that.
        Underway: a rollout of the model that answers requests runs; one at a time.
        ledger.Superseded: the champion is no longer the one that the verdict was given against.
        ledger.NotProven: the verdict is missing, says otherwise, or is about another version, content or champion.
        ValueError: the version is champion, or there is no champion to try it beside.
    """
    strategy = strategies.load(kind)
    with database.transaction(bind) as connection:
        ledger.lock(connection, candidate.model)
        if run_key and (before := of_run(connection, candidate.model, run_key)):
            return before
        champion = _current_champion(connection, candidate)
        _require_verdict(connection, strategy, candidate, champion)
        decisions.require(connection, candidate.model, candidate.version, decision)
        running_ones = [each for each in running(connection, candidate.model) if each.mirrored == strategy.mirrored]
        if running_ones and running_ones[0].tries(candidate, kind):
            return running_ones[0]
        _make_room(connection, strategy, candidate, running_ones, actor)
        rollout = _insert(
            connection, strategy, candidate, champion, settings, actor=actor, reason=reason, run_key=run_key
        )
        evidence = {"champion": champion.version, "verdict": candidate.verdict_id}
        record(connection, rollout, "start", actor, reason, evidence)
        return rollout


def _current_champion(connection: sa.Connection, candidate: Candidate) -> ledger.Champion:
    model, version = candidate.model, candidate.version
    champion = ledger.champion(connection, model)
    if champion is None:
        raise ValueError(f"{model} has no champion to try version {version} beside; the first one is promoted directly")
    if champion.version == version:
        raise ValueError(f"{model} version {version} is champion already; there is nothing to try")
    return champion


def _require_verdict(
    connection: sa.Connection, strategy: Strategy[Any], candidate: Candidate, champion: ledger.Champion
) -> None:
    model, version, number = candidate.model, candidate.version, candidate.verdict_id
    verdict = ledger.require_verdict(
        connection, model, version, candidate.content_hash, number, "tried", outcomes=strategy.verdicts
    )
    if not strategy.mirrored:
        ledger.refuse_stale(connection, model, version, verdict.champion_version, champion, number)


def _make_room(
    connection: sa.Connection, strategy: Strategy[Any], candidate: Candidate, running_ones: list[Rollout], actor: str
) -> None:
    """End what is mirrored for another; what answers requests stays, and the candidate waits."""
    if running_ones and not strategy.mirrored:
        raise Underway(
            f"{candidate.model} version {candidate.version} cannot be tried now: {described(running_ones[0])};"
            " stop it first, or wait for its end"
        )
    for old in running_ones:
        reason = f"version {candidate.version} is the {strategy.title} from now on"
        end(connection, old, "stopped", "stop", actor, reason, {})


def _insert(
    connection: sa.Connection,
    strategy: Strategy[Any],
    candidate: Candidate,
    champion: ledger.Champion,
    settings: Settings,
    **started: str | None,
) -> Rollout:
    values = {
        **asdict(candidate),
        "kind": strategy.name,
        "arm": strategy.arm,
        "control": strategy.control,
        "mirrored": strategy.mirrored,
        "champion_version": champion.version,
        "share": strategy.shares(settings)[0],
        "settings": settings.model_dump(mode="json"),
        "salt": secrets.token_hex(8),
        "status": "running",
        "started_at": database.CLOCK,
        "changed_at": database.CLOCK,
    }
    table = database.rollouts
    row = connection.execute(sa.insert(table).values(**values, **started).returning(table)).one()
    return Rollout(**row._mapping)
