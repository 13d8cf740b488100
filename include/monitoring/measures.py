"""Every figure of every check over time, the quiet ones too: what a plot is drawn from.

kind             subject        value
psi, …           a column       that measure of drift (include/monitoring/drift_measures/); `prediction` is the
                                champion's answers
metric           a metric       the champion's metric on the newest labelled rows, in the metric's own unit
worsening        a metric       by which share it is worse than at training, negative when better
unanswered       predictions    the share of rows that the champion could not answer
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from include import database


@dataclass(frozen=True)
class Measure:
    """One figure at one time."""

    model: str
    version: int
    at: dt.datetime
    kind: str
    subject: str
    value: float
    threshold: float | None
    rows: int | None


def replace(
    connection: sa.Connection,
    result_id: int,
    model: str,
    version: int,
    at: dt.datetime,
    findings: Sequence[Mapping[str, Any]],
) -> None:
    """Store a check's figures; a check that is run again replaces its own."""
    table = database.measures
    connection.execute(sa.delete(table).where(table.c.result_id == result_id))
    rows = [
        {"result_id": result_id, "model": model, "version": version, "at": at, **figure}
        for finding in findings
        for figure in _figures(finding)
    ]
    if rows:
        connection.execute(sa.insert(table), rows)


def history(
    bind: sa.Engine | sa.Connection,
    model: str,
    *,
    kind: str | None = None,
    subject: str | None = None,
    since: dt.datetime | None = None,
) -> list[Measure]:
    """A model's figures, oldest first."""
    table = database.measures
    query = sa.select(*(table.c[name] for name in Measure.__dataclass_fields__)).where(table.c.model == model)
    for column, value in ((table.c.kind, kind), (table.c.subject, subject)):
        query = query if value is None else query.where(column == value)
    if since is not None:
        query = query.where(table.c.at >= since)
    with database.transaction(bind) as connection:
        return [Measure(*row) for row in connection.execute(query.order_by(table.c.at, table.c.kind, table.c.subject))]


def _figures(finding: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kinds = {"drift": finding["measure"], "performance": "worsening", "data": "unanswered"}
    named = {"subject": finding["subject"], "rows": finding["rows"]}
    if finding["value"] is not None and finding["kind"] in kinds:
        yield {
            **named,
            "kind": kinds[finding["kind"]],
            "value": float(finding["value"]),
            "threshold": finding["threshold"],
        }
    if finding["metric"] is not None:
        yield {**named, "kind": "metric", "value": float(finding["metric"]), "threshold": None}
