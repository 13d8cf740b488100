"""What an operator wants to see first: each model's champion and its standing, each source's newest partitions.

Read from the platform's own tables and from the champions' manifests alone, so that it answers while MLflow
or the service is down.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from include import database, settings, storage
from include.alerting import table as alert_table
from include.alerting.alert import Alert
from include.deployment import rollouts
from include.deployment.gate import improvement
from include.deployment.rollouts import Rollout
from include.features import known_columns
from include.inference.served_form import MANIFEST
from include.monitoring import measures
from include.settings import METRICS


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
    metric: str
    """Which of the metrics `value` and `baseline` are."""
    problem: str | None
    """Why the manifest could not be read, if it could not."""

    @property
    def gain(self) -> str | None:
        """How much better than the baseline, in the words that say what was measured; None: it cannot be said."""
        if self.value is None or self.baseline is None:
            return None
        share = improvement(self.metric, self.value, self.baseline)
        if not math.isfinite(share):
            return None
        if METRICS[self.metric] == "minimize":
            return f"{abs(share):.0%} {'less' if share >= 0 else 'more'} {self.metric} than the baseline"
        difference = self.value - self.baseline
        return f"{difference:+.4g} {self.metric} against the baseline"


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
    words: list[tuple[str, str]]
    """What it found, each with its level; drift and performance apart."""
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
    left_out: dict[str, str]
    """The source's columns that are no inputs although the model takes all, each with the reason."""
    request: tuple[str, dt.datetime] | None
    """The newest request for retraining: its reason, when."""
    tried: list[Rollout]
    """What runs beside the champion."""
    decisions: list[Decision]
    """The newest about rollouts, newest first."""
    over_time: list[measures.Measure]
    """The champion's metric on the newest rows at each of the last checks, oldest first."""
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
class TypeChange:
    """A column that is of another type than it was first: in all partitions, those of before among them."""

    column: str
    types: list[str]
    """Every type that it had, in order; the last is the present one."""
    partition: str
    """Whose values made it so."""
    at: dt.datetime


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
    type_changes: list[TypeChange]
    """The newest change of each column that changed, newest first."""

    @property
    def newest(self) -> PartitionMark | None:
        """The newest partition."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True)
class Overview:
    """The page."""

    models: list[ModelStanding]
    sources: list[SourceStanding]
    alerts: list[Alert]
    """The newest that no person has acknowledged, newest first."""


def overview(params: settings.Params, database_url: str, *, recent: int = 30, verdicts: int = 5) -> Overview:
    """Everything at once, in one snapshot and a handful of queries, however many models and sources there are."""
    with (
        database.connected(database_url) as engine,
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
    ):
        return Overview(
            _models(connection, params, list(params.models), limit=verdicts, recent=recent),
            _sources(connection, params, list(params.sources), recent),
            alert_table.listed(connection, limit=8),
        )


def _models(
    connection: sa.Connection, params: settings.Params, names: list[str], *, limit: int, recent: int
) -> list[ModelStanding]:
    newest = {row.name: row for row in _newest(connection, names)}
    verdicts, figures = _verdicts(connection, names, limit), _figures(connection, names, recent)
    tried, decisions = _rollouts(connection, names, limit)
    return [
        ModelStanding(
            name=name,
            entry=params.models[name],
            champion=_champion(newest[name], params.models[name].metric_name),
            verdicts=verdicts.get(name, []),
            check=_check(newest[name]),
            features=_present(newest[name], "features_version", "features_rows", "features_created_at"),
            left_out=_left_out(newest[name], params, name),
            request=_present(newest[name], "request_reason", "request_created_at"),
            tried=tried.get(name, []),
            decisions=decisions.get(name, []),
            over_time=figures.get(name, []),
            is_default=params.default_model == name,
        )
        for name in names
    ]


def _newest(connection: sa.Connection, names: list[str]) -> Sequence[Any]:
    """For each model its champion with the ledger's entry, and the newest check, request and features; null: none."""
    of = _named(names)
    champions, ledger = database.champions, database.ledger
    columns: list[Any] = [
        of.c.name,
        *(c.label(f"champion_{c.name}") for c in champions.c),
        ledger.c.actor,
        ledger.c.reason,
    ]
    joined: Any = of.outerjoin(champions, champions.c.model == of.c.name).outerjoin(
        ledger, ledger.c.id == champions.c.ledger_id
    )
    for prefix, table, order in (
        ("check", database.monitor_results, "id"),
        ("request", database.retraining_requests, "id"),
        ("features", database.feature_versions, "sequence"),
    ):
        newest = _latest(table, of, order=order).lateral(prefix)
        joined = joined.outerjoin(newest, sa.true())
        columns += [column.label(f"{prefix}_{column.name}") for column in newest.c]
    taken, types = database.model_columns, database.source_schemas
    joined = joined.outerjoin(taken, taken.c.model == of.c.name)
    found = sa.select(sa.func.json_object_agg(types.c.column, types.c.type)).where(types.c.source == taken.c.source)
    columns += [taken.c.source.label("taken_source"), taken.c.columns.label("taken_columns")]
    columns.append(found.scalar_subquery().label("found_types"))
    return connection.execute(sa.select(*columns).select_from(joined)).all()


def _left_out(row: Any, params: settings.Params, model: str) -> dict[str, str]:
    if row.taken_source != params.models[model].source or row.found_types is None:
        return {}
    return known_columns.left_out(params, model, row.taken_columns, row.found_types, settings.ROOT)


def _newest_of_each(
    connection: sa.Connection, table: sa.Table, names: list[str], *, order: str, limit: int, owner: str = "model"
) -> Sequence[Any]:
    """The newest rows of each model (or source), newest first: an index scan for each name, one query for all."""
    of = _named(names)
    newest = _latest(table, of, order=order, owner=owner, limit=limit).lateral("newest")
    return connection.execute(sa.select(newest).select_from(of.join(newest, sa.true()))).all()


def _named(names: list[str]) -> Any:
    return (
        sa.func.unnest(sa.bindparam("names", names, sa.ARRAY(sa.Text))).table_valued("name", name="of").render_derived()
    )


def _latest(table: sa.Table, of: Any, *, order: str, owner: str = "model", limit: int = 1) -> sa.Select[Any]:
    return sa.select(table).where(table.c[owner] == of.c.name).order_by(table.c[order].desc()).limit(limit)


def _present(row: Any, *columns: str) -> Any:
    values = tuple(getattr(row, column) for column in columns)
    return None if values[-1] is None else values


def _check(row: Any) -> Check | None:
    if row.check_id is None:
        return None
    found = [finding for finding in row.check_findings or [] if isinstance(finding, dict)]
    kinds = {str(finding.get("kind")): str(finding.get("level")) for finding in reversed(found)}  # the worst is first
    return Check(
        status=row.check_status,
        words=_words(row.check_status, kinds),
        version=row.check_version,
        window=_texts(row.check_window),
        findings=_texts(row.check_findings),
        report_url=row.check_report_url,
        at=row.check_created_at,
    )


def _words(status: str, kinds: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a check found, in words, each with its level: what moved and what got worse are different things."""
    if status == "insufficient_data":
        return [("drift unknown: too few rows", "insufficient_data")]
    words = [
        (word, kinds[kind])
        for kind, level, word in (
            ("performance", "critical", "performance lost"),
            ("performance", "warn", "performance falling"),
            ("drift", "critical", "critical drift"),
            ("drift", "warn", "some drift"),
            ("data", "warn", "rows without an answer"),
        )
        if kinds.get(kind) == level
    ]
    if not words and status != "ok":  # a check of before findings had a kind
        return [({"warn": "some drift", "critical": "critical drift"}.get(status, status), status)]
    return words if any(kind in ("critical drift", "some drift") for kind, _ in words) else [*words, ("no drift", "ok")]


def _verdicts(connection: sa.Connection, names: list[str], limit: int) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for row in _newest_of_each(connection, database.verdicts, names, order="id", limit=limit):
        against = f"v{row.champion_version}" if row.champion_version is not None else "baseline"
        verdict = Verdict(row.version, row.verdict, against, _texts(row.reasons), row.created_at)
        found.setdefault(row.model, []).append(verdict)
    return found


def _figures(connection: sa.Connection, names: list[str], limit: int) -> dict[str, list[measures.Measure]]:
    """The champion's metric at each of the newest checks, oldest first."""
    of, table = _named(names), database.measures
    newest = _latest(table, of, order="at", limit=limit).where(table.c.kind == "metric").lateral("newest")
    columns = [newest.c[name] for name in measures.Measure.__dataclass_fields__]
    found: dict[str, list[measures.Measure]] = {}
    for row in connection.execute(sa.select(*columns).select_from(of.join(newest, sa.true())).order_by(newest.c.at)):
        found.setdefault(row.model, []).append(measures.Measure(*row))
    return found


def _rollouts(
    connection: sa.Connection, names: list[str], limit: int
) -> tuple[dict[str, list[Rollout]], dict[str, list[Decision]]]:
    """What runs beside each champion, oldest first, and what was decided lately, newest first."""
    rows = _newest_of_each(connection, database.rollouts, names, order="id", limit=limit)
    known = {row.id: Rollout(**row._mapping) for row in rows}
    tried: dict[str, list[Rollout]] = {}
    for each in sorted(known.values(), key=lambda rollout: rollout.id):
        if each.status == "running":
            tried.setdefault(each.model, []).append(each)
    decisions: dict[str, list[Decision]] = {}
    for event in rollouts.events(connection, list(known)):
        of = known[event.rollout_id]
        made = decisions.setdefault(of.model, [])
        if len(made) < limit:
            made.append(Decision(f"{of.title} v{of.version}: {event.event}", event.reason, event.actor, event.at))
    return tried, decisions


def _champion(row: Any, metric: str) -> Champion | None:
    if row.champion_version is None:
        return None
    manifest, problem = _manifest(row.champion_url, row.champion_content_hash)
    figures = {name: _number(value) for name, value in (manifest.get("metrics") or {}).items()}
    metrics = {name: value for name, value in figures.items() if value is not None}
    return Champion(
        version=row.champion_version,
        since=row.champion_since,
        content_hash=row.champion_content_hash,
        bento=row.champion_bento,
        actor=row.actor,
        reason=row.reason,
        run_id=manifest.get("run_id"),
        estimator=manifest.get("estimator"),
        feature_version=manifest.get("feature_version"),
        metrics=metrics,
        value=metrics.get(metric),
        baseline=_number((manifest.get("baseline") or {}).get(metric)),
        metric=metric,
        problem=problem,
    )


def _manifest(url: str, content_hash: str) -> tuple[dict[str, Any], str | None]:
    """The champion's manifest; a page that shows all else is better than none, so a failure is shown instead."""
    try:
        return _read_manifest(url, content_hash), None
    except (OSError, ValueError) as error:
        return {}, f"the served form could not be read: {error}"


@functools.lru_cache(maxsize=512)
def _read_manifest(url: str, _content_hash: str) -> dict[str, Any]:
    """Read once for each content, which never changes: fifty champions would be fifty reads of a page."""
    return dict(json.loads(storage.read_bytes(storage.join(url, MANIFEST))))


def _sources(connection: sa.Connection, params: settings.Params, names: list[str], limit: int) -> list[SourceStanding]:
    table = database.partitions
    published = sa.func.count().filter(table.c.status == "published")
    query = sa.select(
        table.c.source,
        published.label("published"),
        (sa.func.count() - published).label("refused"),
        sa.func.coalesce(sa.func.sum(table.c.rows).filter(table.c.status == "published"), 0).label("rows"),
        sa.func.max(table.c.validated_at).label("last"),
        _changed_types(table.c.source).label("types"),
    ).group_by(table.c.source)
    totals = {row.source: row for row in connection.execute(query)}
    recent: dict[str, list[PartitionMark]] = {}
    for row in _newest_of_each(connection, table, names, order="key", owner="source", limit=limit):
        mark = PartitionMark(row.key, row.status, row.quality, row.rows, row.quarantined_rows)
        recent.setdefault(row.source, []).insert(0, mark)
    return [
        SourceStanding(
            name=name,
            entry=params.sources[name],
            published=totals[name].published if name in totals else 0,
            refused=totals[name].refused if name in totals else 0,
            rows=int(totals[name].rows) if name in totals else 0,
            last_ingest=totals[name].last if name in totals else None,
            recent=recent.get(name, []),
            type_changes=[_type_change(found) for found in (totals[name].types or [])] if name in totals else [],
        )
        for name in names
    ]


def _changed_types(source: sa.ColumnElement[str]) -> sa.ScalarSelect[Any]:
    """The columns of a source whose type is another one than the first, as JSON, the newest change first."""
    types = database.source_schemas
    found = sa.func.json_build_object("column", types.c.column, "since", types.c.since, "history", types.c.history)
    return (
        sa.select(sa.func.json_agg(aggregate_order_by(found, types.c.since.desc(), types.c.column)))
        .where(types.c.source == source, sa.func.jsonb_array_length(types.c.history) > 1)
        .scalar_subquery()
    )


def _type_change(found: Mapping[str, Any]) -> TypeChange:
    history = found["history"]
    at = dt.datetime.fromisoformat(found["since"])
    return TypeChange(found["column"], [entry["type"] for entry in history], history[-1]["partition"], at)


def _texts(value: Any) -> list[str]:
    """JSON of any shape as lines to read."""
    if isinstance(value, dict):
        return [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list):
        return [str(item.get("message") or item) if isinstance(item, dict) else str(item) for item in value]
    return [] if value is None else [str(value)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
