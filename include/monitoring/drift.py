"""How far the newest rows lie from the training set: a finding for each column, by the measure that params.yaml names.

The bins are pinned at training, in profile.json. A column has drifted where the measure passes its threshold and what
chance alone gives for so many rows; the measures are in include/monitoring/drift_measures/.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from include.features import profile as profiles
from include.features.feature_set import FeatureSet
from include.monitoring import drift_measures
from include.monitoring.decision import Finding, level_of

Columns = Mapping[str, np.ndarray]

_SHIFTS = ("1D", "2D", "3D", "40D", "200D", "400D")


def find(
    profile: Mapping[str, Any],
    columns: Columns,
    *,
    by: str,
    warn: float,
    critical: float,
    calendar: Collection[str] = (),
) -> list[Finding]:
    """A finding for each column that `profile` describes and the rows have.

    Args:
        profile: the training set's, by column, as `features.profile.profile` wrote it.
        columns: the newest rows: raw inputs and computed features.
        by: the measure's name.
        warn: the value above which a finding warns.
        critical: the value above which retraining is requested.
        calendar: columns that only say when a row was made; measured, never judged.
    """
    measure = drift_measures.load(by)
    findings = []
    now = profiles.shares(profile, columns)
    for name, shares in now.items():
        described, rows = profile[name], len(columns[name])
        reference = np.asarray(described["shares"])
        value = float(measure.compute(reference, np.asarray(shares)))
        level = "ok" if name in calendar else level_of(value, warn, critical)
        if level != "ok" and value <= measure.chance(reference, int(described["rows"]), rows):
            level = "ok"
        threshold = critical if level == "critical" else warn
        message = f"{name}: {measure.SHORT} {value:.2f}{_missing_or_unknown(described, shares)}"
        if name in calendar:
            message += ", not judged: it only says when a row was made"
        findings.append(Finding("drift", name, level, message, value, threshold, rows=rows, measure=by))
    return findings


def calendar_columns(features: FeatureSet, columns: Columns, time_column: str | None, rows: int = 500) -> set[str]:
    """The features that say nothing but when a row was made.

    They move with the clock: a Sunday is no drift of the weekday. Found by trying: they change when the rows' times are
    shifted, and do not when every other input is exchanged between rows.
    """
    if time_column is None or time_column not in columns or len(columns[time_column]) < 2:
        return set()
    raw = {name: values[:rows] for name, values in columns.items() if name in features.inputs}
    others = {name: values if name == time_column else np.roll(values, 1) for name, values in raw.items()}
    before, exchanged = features.compute(raw), features.compute(others)
    steady = {name for name in before if _equal(before[name], exchanged[name])}
    moved: set[str] = set()
    for shift in _SHIFTS:
        days = np.timedelta64(int(shift[:-1]) * 24 + 5, "h")
        shifted = features.compute({**raw, time_column: raw[time_column] + days})
        moved |= {name for name in steady if not _equal(before[name], shifted[name])}
    return steady & moved


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind == "O":
        return bool((a == b).all())
    return bool(np.array_equal(a, b, equal_nan=True))


def _missing_or_unknown(described: Mapping[str, Any], shares: list[float]) -> str:
    """What moved most obviously, to be added to a finding's line."""
    missing, before = shares[-1], float(described["missing"])
    if missing >= 0.999:
        return ", all values are missing"
    if missing > before + 0.05:
        return f", {missing:.0%} missing ({before:.0%} at training)"
    if described["kind"] == "category" and shares[-2] > described["shares"][-2] + 0.05:
        return f", {shares[-2]:.0%} in categories that were rare or unknown at training"
    return ""
