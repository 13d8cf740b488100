"""A verdict carried out, in steps that can be killed and run again: package, promote or try, verify, and the way back.

Each takes plain values, as a task of `deploy_<model>` or `rollback_<model>` has them.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include import database, storage, strategies
from include.deployment import admission, ledger, packaging, rollouts, verification, withdrawal
from include.deployment.decisions import Decision
from include.inference.predictor import GOLDEN
from include.settings import Rollout as Settings
from include.settings import Task


def package(
    model: str, version: int, *, mlflow_url: str, database_url: str, data_url: str, bento_home: Path, root: Path
) -> packaging.Packaged:
    """Publish a registered version's served form and build its Bento; see `packaging.package`."""
    from include.training import tracking

    with tempfile.TemporaryDirectory(prefix="mlops-package-") as folder:
        form = tracking.download(model, version, Path(folder), mlflow_url=mlflow_url, database_url=database_url)
        return packaging.package(
            form, model=model, version=version, data_url=data_url, bento_home=bento_home, root=root
        )


def promote(
    verdict: Mapping[str, Any],
    packaged: Mapping[str, Any],
    *,
    database_url: str,
    actor: str,
    decision: Decision | None = None,
) -> ledger.Entry:
    """Make the judged version champion, if the champion is still who it was judged against; see `ledger.promote`."""
    if packaged["content_hash"] != verdict["content_hash"]:
        raise ledger.NotProven(
            f"{verdict['model']} version {verdict['version']} was packed with other content"
            f" ({packaged['content_hash'][:12]}…) than was judged ({verdict['content_hash'][:12]}…);"
            " run the deployment again from the gate on"
        )
    with database.connected(database_url) as engine:
        return ledger.promote(
            engine,
            model=verdict["model"],
            to_version=verdict["version"],
            expected_from=verdict["champion_version"],
            content_hash=verdict["content_hash"],
            url=packaged["url"],
            bento=packaged["bento"],
            verdict_id=verdict["id"],
            actor=actor,
            reason="; ".join([*([f"decided again: {decision.reason}"] if decision else []), *verdict["reasons"]]),
            decision=decision,
        )


@dataclass(frozen=True)
class Waiting:
    """A version that passed the gate, and is not tried because something else is."""

    version: int
    reason: str


def carry_out(
    verdict: Mapping[str, Any],
    packaged: Mapping[str, Any],
    *,
    settings: Settings,
    task: Task,
    database_url: str,
    actor: str,
    run_key: str,
    decision: Decision | None = None,
) -> ledger.Entry | rollouts.Rollout | Waiting:
    """Make the judged version champion, or try it beside the champion, as `settings.strategy` says.

    A first champion is promoted directly: there is nothing to try it beside. A retry of the same run finds what it did.

    Raises:
        ledger.Superseded: the champion is no longer who it was judged against.
        decisions.NeedsDecision: a person took the version back, and no newer decision overrules that.
    """
    if settings.strategy == strategies.DIRECT or verdict["champion_version"] is None:
        return promote(verdict, packaged, database_url=database_url, actor=actor, decision=decision)
    try:
        return begin(
            verdict, packaged, kind=settings.strategy, settings=settings, task=task, database_url=database_url,
            actor=actor, reason="; ".join(verdict["reasons"]), run_key=run_key, decision=decision,
        )  # fmt: skip
    except admission.Underway as underway:
        return Waiting(verdict["version"], str(underway))


def begin(
    verdict: Mapping[str, Any],
    packaged: Mapping[str, Any],
    *,
    kind: str,
    settings: Settings,
    task: Task,
    database_url: str,
    actor: str,
    reason: str,
    run_key: str | None = None,
    decision: Decision | None = None,
) -> rollouts.Rollout:
    """Try the judged version beside the champion, with what the task decides of the settings; see `admission.start`."""
    candidate = rollouts.Candidate(
        verdict["model"],
        verdict["version"],
        packaged["content_hash"],
        packaged["url"],
        packaged["bento"],
        verdict["id"],
    )
    with database.connected(database_url) as engine:
        return admission.start(
            engine,
            candidate,
            kind=kind,
            settings=strategies.load(kind).completed(settings, task),
            actor=actor,
            reason=reason,
            run_key=run_key,
            decision=decision,
        )


def withdraw(
    model: str,
    to_version: int | None,
    *,
    database_url: str,
    actor: str,
    reason: str,
    once: bool = False,
    seen_at: dt.datetime | None = None,
) -> withdrawal.Withdrawal:
    """Stop what is tried, and bring an earlier champion back; see `withdrawal.withdraw`."""
    with database.connected(database_url) as engine:
        return withdrawal.withdraw(engine, model, to_version, actor=actor, reason=reason, once=once, seen_at=seen_at)


def follow(model: str, *, database_url: str, mlflow_url: str) -> dict[str, int | None]:
    """Let MLflow's aliases say what the ledger says; see `ledger.project_aliases`."""
    with database.connected(database_url) as engine:
        return ledger.project_aliases(engine, model, mlflow_url=mlflow_url)


def verify(promoted: Mapping[str, Any], *, serving_url: str, serving_key: str, timeout: float) -> verification.Verified:
    """Have the running service answer the golden rows with the promoted version; see `verification.verify`."""
    golden = json.loads(storage.read_bytes(storage.join(promoted["url"], GOLDEN)))
    return verification.verify(
        promoted["model"],
        promoted["to_version"],
        serving_url=serving_url,
        serving_key=serving_key,
        golden=golden,
        timeout=timeout,
    )


def see_tried(
    rollout: Mapping[str, Any], *, serving_url: str, serving_key: str, workers: int, timeout: float
) -> verification.Seen:
    """Have every worker of the service load what a rollout tries; see `verification.tried`."""
    return verification.tried(
        rollout["model"],
        rollout["arm"],
        rollout["version"],
        serving_url=serving_url,
        serving_key=serving_key,
        workers=workers,
        timeout=timeout,
    )


def see_withdrawn(
    back: Mapping[str, Any], *, serving_url: str, serving_key: str, workers: int, timeout: float
) -> verification.Seen:
    """Have every worker answer with the champion, and without what was stopped; see `verification.withdrawn`."""
    where = {"serving_url": serving_url, "serving_key": serving_key}
    return verification.withdrawn(
        back["model"], back["version"], back["stopped"], **where, workers=workers, timeout=timeout
    )
