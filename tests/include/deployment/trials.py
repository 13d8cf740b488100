"""Rollouts for the tests: a champion, a version judged against it, and what the service would report of both arms."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from include import database, settings
from include.deployment import admission, ledger, rollouts
from include.deployment.decisions import Decision
from include.serving.metrics.counters import LATENCY_MS

FAST = {"bake_minutes": 0, "minimum_requests": 100, "steps": (5, 50)}


def content(version: int) -> str:
    return f"{version:064x}"


def judge(
    engine: sa.Engine, version: int, against: int | None = None, verdict: str = "PROMOTE", model: str = "m"
) -> int:
    values = {
        "model": model, "version": version, "verdict": verdict, "champion_version": against,
        "content_hash": content(version), "reasons": ["better"], "numbers": {},
    }  # fmt: skip
    with engine.begin() as connection:
        statement = sa.insert(database.verdicts).values(**values).returning(database.verdicts.c.id)
        return int(connection.execute(statement).scalar_one())


def served(version: int, model: str = "m") -> dict[str, Any]:
    return {"content_hash": content(version), "url": f"served/{model}/{version}", "bento": f"{model}:{version}"}


def crown(engine: sa.Engine, version: int, against: int | None = None, model: str = "m") -> ledger.Entry:
    """Promote a version directly."""
    return ledger.promote(
        engine, model=model, to_version=version, expected_from=against, **served(version, model),
        verdict_id=judge(engine, version, against, model=model), actor="test", reason="it is better",
    )  # fmt: skip


def start(
    engine: sa.Engine,
    version: int = 2,
    kind: str = "canary",
    *,
    model: str = "m",
    against: int = 1,
    verdict: str = "PROMOTE",
    run_key: str | None = None,
    verdict_id: int | None = None,
    decision: Decision | None = None,
    **declared: Any,
) -> rollouts.Rollout:
    """Judge a version against the champion and try it."""
    return admission.start(
        engine,
        rollouts.Candidate(
            model, version, **served(version, model),
            verdict_id=verdict_id or judge(engine, version, against, verdict, model),
        ),
        kind=kind, settings=settings.Rollout(**{**FAST, **declared}), actor="ann", reason="try it", run_key=run_key,
        decision=decision,
    )  # fmt: skip


def report(
    engine: sa.Engine,
    rollout: rollouts.Rollout,
    arm: str,
    requests: int = 200,
    *,
    errors: int = 0,
    ms: float = 3,
    slow: int = 0,
    predictions: tuple[int, ...] = (),
    worker: str = "w1",
    ago: float = 1,
) -> None:
    """A second of an arm as the service reports it: `ms` for most answers, a second for `slow` of them."""
    latencies = [0] * (len(LATENCY_MS) + 1)
    latencies[next(n for n, bound in enumerate((*LATENCY_MS, 1e9)) if ms <= bound)] += requests - errors - slow
    latencies[LATENCY_MS.index(1000)] += slow
    version = rollout.version if arm == rollout.arm else rollout.champion_version
    with engine.begin() as connection:
        now = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        connection.execute(
            sa.insert(database.arm_windows).values(
                worker=worker, rollout_id=rollout.id, arm=arm, version=version, second=now - dt.timedelta(seconds=ago),
                requests=requests, errors=errors, latencies=latencies, predictions=list(predictions),
            )
        )  # fmt: skip


def now(engine: sa.Engine, rollout: rollouts.Rollout) -> rollouts.Rollout:
    """How it stands."""
    return next(each for each in rollouts.history(engine, rollout.model) if each.id == rollout.id)
