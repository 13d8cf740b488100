"""What the reconciler's state is called: pure text from a snapshot, for /health, /readyz and /models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from include.serving.control.ledger_reader import DesiredState
from include.serving.routing.rollout import Rollout
from include.serving.routing.route import Route
from include.serving.versions.cache import Refusal

_OF_MANIFEST = ("task", "target", "estimator", "metric", "metrics", "created_at")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The reconciler's state at one moment."""

    routes: Mapping[str, Route]
    desired: DesiredState
    refused: Mapping[tuple[str, str], Refusal]
    """By model and arm."""
    taken_out: Mapping[int, tuple[Rollout, str]]
    """By the rollout's id, with the reason."""
    over_budget: str | None
    follows_ledger: bool
    ledger_error: str | None
    """Why the ledger cannot be read; None: it was read."""


def word(snapshot: Snapshot) -> str:
    """`ok`, `degraded` (answering, but see `problems`) or `unavailable`."""
    if not snapshot.routes:
        return "unavailable"
    return "degraded" if problems(snapshot) else "ok"


def problems(snapshot: Snapshot) -> list[str]:
    """Why the service is degraded or unavailable: one sentence each, none when all is well."""
    found = []
    if snapshot.follows_ledger:
        if error := snapshot.ledger_error:
            found.append(f"the ledger in PostgreSQL cannot be read ({error}); no new champion is noticed")
        for (model, arm), refusal in sorted(snapshot.refused.items()):
            route = snapshot.routes.get(model)
            found.append(refusal.describe(arm, route.champion.loaded if route else None))
        found += [taken_out(rollout, reason) for rollout, reason in snapshot.taken_out.values()]
    if snapshot.over_budget:
        found.append(snapshot.over_budget)
    if reason := not_ready(snapshot):
        found.append(reason)
    return found


def not_ready(snapshot: Snapshot) -> str | None:
    """Why nothing can be answered, without details of what stands behind the service; None when something can."""
    if snapshot.routes:
        return None
    if not snapshot.follows_ledger:
        return "no model is packed into this Bento, and no ledger is configured (MLOPS_DATABASE_URL)"
    if snapshot.ledger_error:
        return "the ledger in PostgreSQL cannot be read, and there is no last good copy of a model"
    if snapshot.desired.champions:
        return "no champion could be loaded, and there is no last good copy of a model; /health says why"
    if snapshot.desired.retired:
        return "every model was retired; `mlops rollback` brings one back"
    return "no champion was promoted yet; run the train and deploy DAGs of a model"


def taken_out(rollout: Rollout, reason: str) -> str:
    """That an arm was taken out, and why."""
    named = f"{rollout.served.model} version {rollout.served.version}"
    return f"{named} was taken out as {rollout.arm} in this worker: {reason}; the champion answers alone"


def describe(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Each model, with the version that answers, the one that was refused, and its arms."""
    routes, refused = snapshot.routes, snapshot.refused
    models = sorted({*routes, *(model for model, arm in refused if arm == "champion")})
    return [
        _model(model, routes.get(model), refused.get((model, "champion"))) | {"arms": list(_arms(model, snapshot))}
        for model in models
    ]


def _arms(model: str, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """What answers, and what a rollout desires that does not answer here, with the reason."""
    rollouts = {rollout.id: rollout for rollout in snapshot.desired.active_rollouts if rollout.served.model == model}
    if route := snapshot.routes.get(model):
        for arm in route.arms:
            rollout = rollouts.pop(arm.rollout_id or 0, None)
            since = rollout.changed_at if rollout else arm.loaded.loaded_at
            described = {"name": arm.name, "version": arm.loaded.version, "rollout_id": arm.rollout_id}
            yield {**described, "share": route.share_of(arm), "since": since, **arm.tally.brief, "out": None}
    for rollout in rollouts.values():
        refusal = snapshot.refused.get((model, rollout.arm))
        _, reason = snapshot.taken_out.get(rollout.id, (None, refusal.reason if refusal else "it is being loaded"))
        described = {"name": rollout.arm, "version": rollout.served.version, "rollout_id": rollout.id}
        yield {**described, "share": 0.0, "since": rollout.changed_at, "out": reason}


def _model(model: str, route: Route | None, refusal: Refusal | None) -> dict[str, Any]:
    described: dict[str, Any] = {"model": model, "version": None, "refused": None}
    if route:
        loaded = route.champion.loaded
        described |= asdict(loaded.served) | {"origin": loaded.origin, "loaded_at": loaded.loaded_at}
        del described["url"]
        described |= {name: loaded.predictor.manifest.get(name) for name in _OF_MANIFEST}
    if refusal:
        times = {"reason": refusal.reason, "at": refusal.at, "attempts": refusal.attempts}
        described["refused"] = asdict(refusal.served) | times
        for name in ("model", "url", "bento"):
            del described["refused"][name]
    return described
