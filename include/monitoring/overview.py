"""What an operator wants to see first: each model's champion and its standing, each source's newest partitions.

Read from the platform's own tables and from the champions' manifests alone, so that it answers while MLflow
or the service is down.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from include import database, settings, storage
from include.deployment import rollouts
from include.deployment.gate import improvement
from include.deployment.rollouts import Rollout
from include.served_form import MANIFEST


@dataclass(frozen=True)
class Champion:
    """Who answers for a model, and how good it was on the held-out rows."""

    version: int
    since: dt.datetime
    content_hash: str
    bento: str
    actor: str
    reason: str
    run_id: str | None
    estimator: str | None
    feature_version: str | None
    metrics: dict[str, float]
    value: float | None
    baseline: float | None
    better_by: float | None
    """By which share it is better than the baseline, as the gate reckons; negative: worse."""
    problem: str | None
    """Why the manifest could not be read, if it could not."""


@dataclass(frozen=True)
class Verdict:
    """What the gate said about a version."""

    version: int
    verdict: str
    against: str
    reasons: list[str]
    at: dt.datetime


@dataclass(frozen=True)
class Check:
    """The newest nightly check."""

    status: str
    version: int
    window: list[str]
    findings: list[str]
    report_url: str | None
    at: dt.datetime


@dataclass(frozen=True)
class Decision:
    """What was decided about a version that is or was tried beside the champion."""

    what: str
    """`canary v8: step`."""
    reason: str
    actor: str
    at: dt.datetime


@dataclass(frozen=True)
class ModelStanding:
    """All that the page tells of one model."""

    name: str
    entry: settings.Model
    champion: Champion | None
    verdicts: list[Verdict]
    check: Check | None
    features: tuple[str, int, dt.datetime] | None
    """The newest feature version, its rows, since when."""
    request: tuple[str, dt.datetime] | None
    """The newest request for retraining: its reason, when."""
    tried: list[Rollout]
    """What runs beside the champion."""
    decisions: list[Decision]
    """The newest about rollouts, newest first."""
    is_default: bool


@dataclass(frozen=True)
class PartitionMark:
    """One partition's last validation."""

    key: str
    status: str
    quality: float
    rows: int
    quarantined: int


@dataclass(frozen=True)
class SourceStanding:
    """All that the page tells of one source."""

    name: str
    entry: settings.SourceBase
    published: int
    refused: int
    rows: int
    last_ingest: dt.datetime | None
    recent: list[PartitionMark]
    """The newest partitions, oldest first."""

    @property
    def newest(self) -> PartitionMark | None:
        """The newest partition."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True)
class Overview:
    """The page."""

    models: list[ModelStanding]
    sources: list[SourceStanding]


def overview(params: settings.Params, database_url: str, *, recent: int = 30, verdicts: int = 5) -> Overview:
    """Everything at once, from one connection and in one snapshot."""
    engine = database.connect(database_url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            return Overview(
                [_model(connection, params, name, verdicts) for name in params.models],
                [_source(connection, name, entry, recent) for name, entry in params.sources.items()],
            )
    finally:
        engine.dispose()


def _model(connection: sa.Connection, params: settings.Params, name: str, limit: int) -> ModelStanding:
    entry = params.models[name]
    check = _newest(connection, database.monitor_results, name)
    request = _newest(connection, database.retraining_requests, name)
    version = _newest(connection, database.feature_versions, name, "sequence")
    table = database.verdicts
    rows = connection.execute(
        sa.select(table).where(table.c.model == name).order_by(table.c.id.desc()).limit(limit)
    ).all()
    return ModelStanding(
        name=name,
        entry=entry,
        champion=_champion(connection, name, entry.metric_name),
        verdicts=[
            Verdict(
                row.version,
                row.verdict,
                f"v{row.champion_version}" if row.champion_version is not None else "baseline",
                _texts(row.reasons),
                row.created_at,
            )
            for row in rows
        ],
        check=check
        and Check(
            check.status,
            check.version,
            _texts(check.window),
            _texts(check.findings),
            check.report_url,
            check.created_at,
        ),
        features=version and (version.version, version.rows, version.created_at),
        request=request and (request.reason, request.created_at),
        tried=rollouts.running(connection, name),
        decisions=_decisions(connection, name, limit),
        is_default=params.default_model == name,
    )


def _decisions(connection: sa.Connection, model: str, limit: int) -> list[Decision]:
    known = {each.id: f"{each.kind} v{each.version}" for each in rollouts.history(connection, model)[:limit]}
    return [
        Decision(f"{known[event.rollout_id]}: {event.event}", event.reason, event.actor, event.at)
        for event in rollouts.events(connection, list(known))[:limit]
    ]


def _newest(connection: sa.Connection, table: sa.Table, model: str, order: str = "id") -> Any:
    query = sa.select(table).where(table.c.model == model).order_by(table.c[order].desc()).limit(1)
    return connection.execute(query).one_or_none()


def _champion(connection: sa.Connection, model: str, metric: str) -> Champion | None:
    champions, ledger = database.champions, database.ledger
    row = connection.execute(
        sa.select(champions, ledger.c.actor, ledger.c.reason)
        .join(ledger, champions.c.ledger_id == ledger.c.id)
        .where(champions.c.model == model)
    ).one_or_none()
    if row is None:
        return None
    manifest, problem = _manifest(row.url)
    figures = {name: _number(value) for name, value in (manifest.get("metrics") or {}).items()}
    metrics = {name: value for name, value in figures.items() if value is not None}
    value, baseline = metrics.get(metric), _number((manifest.get("baseline") or {}).get(metric))
    better = improvement(metric, value, baseline) if value is not None and baseline is not None else math.nan
    return Champion(
        version=row.version,
        since=row.since,
        content_hash=row.content_hash,
        bento=row.bento,
        actor=row.actor,
        reason=row.reason,
        run_id=manifest.get("run_id"),
        estimator=manifest.get("estimator"),
        feature_version=manifest.get("feature_version"),
        metrics=metrics,
        value=value,
        baseline=baseline,
        better_by=better if math.isfinite(better) else None,
        problem=problem,
    )


def _manifest(url: str) -> tuple[dict[str, Any], str | None]:
    """The champion's manifest; a page that shows all else is better than none, so what went wrong is told instead."""
    try:
        return json.loads(storage.read_bytes(storage.join(url, MANIFEST))), None
    except (OSError, ValueError) as error:
        return {}, f"the served form could not be read: {error}"


def _source(connection: sa.Connection, name: str, entry: settings.SourceBase, limit: int) -> SourceStanding:
    table = database.partitions
    published = sa.func.count().filter(table.c.status == "published")
    totals = connection.execute(
        sa.select(
            published.label("published"),
            (sa.func.count() - published).label("refused"),
            sa.func.coalesce(sa.func.sum(table.c.rows).filter(table.c.status == "published"), 0).label("rows"),
            sa.func.max(table.c.validated_at).label("last"),
        ).where(table.c.source == name)
    ).one()
    rows = connection.execute(
        sa.select(table).where(table.c.source == name).order_by(table.c.key.desc()).limit(limit)
    ).all()
    return SourceStanding(
        name=name,
        entry=entry,
        published=totals.published,
        refused=totals.refused,
        rows=int(totals.rows),
        last_ingest=totals.last,
        recent=[
            PartitionMark(row.key, row.status, row.quality, row.rows, row.quarantined_rows) for row in reversed(rows)
        ],
    )


def _texts(value: Any) -> list[str]:
    """JSON of any shape as lines to read."""
    if isinstance(value, dict):
        return [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list):
        return [str(item.get("message") or item) if isinstance(item, dict) else str(item) for item in value]
    return [] if value is None else [str(value)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
