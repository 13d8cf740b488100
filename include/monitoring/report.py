"""What an operator looks at: Evidently's report over a sample, a picture of the findings, and the findings as JSON.

It shows what was decided and decides nothing: the thresholds were applied to all rows with pinned statistics (`drift`).
Evidently gets the check's own figure and level of each column by name, so that both count the same columns as drifted;
its histograms are drawn from a sample.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from include import database, storage
from include.features.columns import select
from include.monitoring.decision import Finding, by_weight
from include.monitoring.drift_measures import DriftMeasure

SAMPLE = 1500
"""Rows of each side in Evidently's report, which takes seconds per 100,000."""
MAXIMUM_COLUMNS = 40
PAGE = "evidently.html"

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Files:
    """A finished report: names and contents."""

    contents: dict[str, bytes]
    left_out: list[str]
    """Columns that Evidently's report does not show, each with the reason."""


def build(
    findings: Sequence[Finding],
    *,
    title: str,
    profile: Mapping[str, Any],
    reference: Columns | None,
    current: Columns,
    measure: DriftMeasure,
    thresholds: tuple[float, float],
    facts: Mapping[str, Any],
) -> Files:
    """Draw the report.

    Args:
        findings: what was measured and judged.
        title: of the picture.
        profile: the training set's, which names the columns and pins their bins.
        reference: a sample of training rows, raw inputs and features; None when there is none to be had.
        current: the newest rows, in the same columns.
        measure: of drift, by which the findings were judged.
        thresholds: its values to warn and to request retraining.
        facts: what else to write down: model, version, window, decision.
    """
    files = {"drift.png": picture(findings, title=title, measure=measure, thresholds=thresholds)}
    left_out = ["all: no rows of the training set are at hand"]
    if reference is not None:
        page, left_out = evidently_page(profile, reference, current, findings, measure=measure, warn=thresholds[0])
        if page is not None:
            files[PAGE] = page
    summary = {
        **facts,
        "findings": [finding.as_json() for finding in by_weight(findings)],
        "evidently": {"method": method(measure), "sample": SAMPLE, "left_out": left_out},
    }
    files["findings.json"] = json.dumps(summary, indent=1, default=str).encode()
    return Files(files, left_out)


def publish(files: Files, url: str) -> str:
    """Write the report's files below `url`; returns the address of the page to open.

    Evidently's page carries a library of 4 MB with it: it is written compressed, and read so by a browser.
    """
    for name, content in files.contents.items():
        if name == PAGE:
            storage.write_bytes(storage.join(url, f"{PAGE}.gz"), gzip.compress(content, mtime=0))
        else:
            storage.write_bytes(storage.join(url, name), content)
    return storage.join(url, f"{PAGE}.gz" if PAGE in files.contents else "drift.png")


def drawn_before(engine: sa.Engine, result_id: int) -> str | None:
    """The report of an earlier check that found the same in the same partitions, against the same version, if any."""
    one, other = database.monitor_results, database.monitor_results.alias()
    same = [one.c[name] == other.c[name] for name in ("model", "version", "window", "status", "findings")]
    query = (
        sa.select(other.c.report_url)
        .join(one, sa.and_(*same))
        .where(one.c.id == result_id, other.c.id != result_id, other.c.report_url.is_not(None))
        .order_by(other.c.id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        url: str | None = connection.execute(query).scalar()
    return url if url and storage.exists(url) else None


def retain(engine: sa.Engine, days: Mapping[str, int], today: dt.date, *, default: int, dry_run: bool) -> list[str]:
    """Delete the reports that are older than their model keeps them; the newest of each model stays.

    Args:
        engine: The platform's database.
        days: Model → days that its reports are kept.
        today: The day (UTC) to count from.
        default: For models that are not in `days`.
        dry_run: Only say what would be deleted.

    Returns:
        The folders of the reports.
    """
    table = database.monitor_results
    reports = sa.select(table.c.model, table.c.report_url, sa.func.max(table.c.created_at).label("newest"))
    reports = reports.where(table.c.report_url.is_not(None)).group_by(table.c.model, table.c.report_url)
    with engine.connect() as connection:
        found = connection.execute(reports.order_by(table.c.model, sa.desc("newest"))).all()
    newest = {row.model: row.report_url for row in reversed(found)}
    old = [
        row.report_url
        for row in found
        if row.report_url != newest[row.model]
        and (today - row.newest.astimezone(dt.UTC).date()).days > days.get(row.model, default)
    ]
    for url in [] if dry_run else old:
        storage.delete(url.rpartition("/")[0])
        with engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.report_url == url).values(report_url=None))
    return [url.rpartition("/")[0] for url in old]


def method(measure: DriftMeasure) -> str:
    """What Evidently's page calls the measure."""
    return f"{measure.SHORT} over the bins pinned at training"


def evidently_page(
    profile: Mapping[str, Any],
    reference: Columns,
    current: Columns,
    findings: Sequence[Finding],
    *,
    measure: DriftMeasure,
    warn: float,
) -> tuple[bytes | None, list[str]]:
    """Evidently's drift report as HTML, and what it leaves out; None when no column is left to show.

    A column counts as drifted where its finding warns or is critical.

    An empty column makes Evidently fail as a whole, so those are left out and named.
    """
    from include.features.columns import is_missing

    shown: list[str] = []
    left_out: list[str] = []
    measured = {finding.subject for finding in findings if finding.kind == "drift"}
    for name in profile:
        if name not in reference or name not in current:
            left_out.append(f"{name}: not in both")
        elif name not in measured:
            left_out.append(f"{name}: not measured")
        elif is_missing(reference[name]).all() or is_missing(current[name]).all():
            left_out.append(f"{name}: all values are missing")
        elif len(shown) >= MAXIMUM_COLUMNS:
            left_out.append(f"{name}: more than {MAXIMUM_COLUMNS} columns")
        else:
            shown.append(name)
    if not shown:
        return None, left_out
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    drifts = {_harmless(finding.subject): finding for finding in findings if finding.kind == "drift"}
    name_of_test = _register_test(method(measure), drifts)
    frames = [
        pd.DataFrame({_harmless(name): _sampled(values) for name, values in side.items() if name in shown})
        for side in (current, reference)
    ]
    definition = DataDefinition(
        numerical_columns=[_harmless(name) for name in shown if profile[name]["kind"] == "number"],
        categorical_columns=[_harmless(name) for name in shown if profile[name]["kind"] == "category"],
    )
    report = Report([DataDriftPreset(columns=list(map(_harmless, shown)), method=name_of_test, threshold=warn)])
    result = report.run(*(Dataset.from_pandas(frame, data_definition=definition) for frame in frames))
    return str(result.get_html_str(as_iframe=False)).encode(), left_out


def _register_test(display_name: str, findings: Mapping[str, Finding]) -> str:
    """Make the check's own figures known to Evidently, which finds its tests by name and calls them with both sides."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def decided(before: Any, after: Any, kind: Any, threshold: float) -> tuple[float, bool]:
        finding = findings[before.name]
        return finding.value or 0.0, finding.level != "ok"

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest("pinned", display_name, kinds, 0.1), decided)
    return "pinned"


def sample(columns: Columns, rows: int = SAMPLE, seed: int = 7) -> dict[str, np.ndarray]:
    """At most so many rows, the same ones each time."""
    total = len(next(iter(columns.values()), ()))
    if total <= rows:
        return dict(columns)
    return select(columns, np.sort(np.random.default_rng(seed).choice(total, rows, replace=False)))


def _sampled(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "UO":
        return values
    return np.array([_harmless(value) if isinstance(value, str) else value for value in values], dtype=object)


def _harmless(text: str) -> str:
    """Text that is no markup wherever it stands: Evidently writes names and values into a script as they are."""
    return text.replace("<", "\u2039")


def picture(
    findings: Sequence[Finding], *, title: str, measure: DriftMeasure, thresholds: tuple[float, float]
) -> bytes:
    """The drift of the columns that moved most, with both thresholds, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drifts = sorted((f for f in findings if f.kind == "drift" and f.value is not None), key=lambda f: f.value or 0.0)[
        -25:
    ]
    colours = {"ok": "#7a9", "warn": "#e8a33d", "critical": "#c0392b"}
    figure = Figure(figsize=(7, 1.6 + 0.24 * len(drifts)), layout="constrained")
    axes = figure.subplots()
    axes.barh([f.subject for f in drifts], [f.value or 0.0 for f in drifts], color=[colours[f.level] for f in drifts])
    for threshold, level in zip(thresholds, ("warn", "critical"), strict=True):
        axes.axvline(threshold, color=colours[level], linewidth=1, linestyle="--", label=f"{level} > {threshold:g}")
    others = [f.message for f in findings if f.kind == "performance"]
    axes.set(title="\n".join([title, *others]), xlabel=measure.TITLE)
    axes.title.set_fontsize(9)
    axes.legend(fontsize=7, loc="lower right")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()
