"""How far the newest rows lie from the training set: the population stability index of each column.

PSI = Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ) over the buckets of a column, e the shares in the training set and a those now (Siddiqi,
*Credit Risk Scorecards*, 2006; the thresholds 0.1 and 0.2 are his). The bins are pinned at training, in profile.json.

Two samples of the very same population have a PSI above 0: about (1/n + 1/m) times chi-squared, with one degree of
freedom fewer than there are buckets (Yurdakul and Naranjo, *Statistical properties of the population stability index*,
Journal of Risk Model Validation, 2020). With many categories and few rows that alone passes 0.1, so a finding must
pass it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from include.features import profile as profiles
from include.features.feature_set import FeatureSet
from include.monitoring.decision import Finding, level_of

Columns = Mapping[str, np.ndarray]

_NORMAL_QUANTILE = 3.0902
"""Of 0.999: chance alone passes the noise of a column once in a thousand checks."""
_SHIFTS = ("1D", "2D", "3D", "40D", "200D", "400D")


def measure(
    profile: Mapping[str, Any], columns: Columns, *, warn: float, critical: float, calendar: Collection[str] = ()
) -> list[Finding]:
    """A finding for each column that `profile` describes and the rows have.

    Args:
        profile: the training set's, by column, as `features.profile.profile` wrote it.
        columns: the newest rows: raw inputs and computed features.
        warn: the PSI above which a finding warns.
        critical: the PSI above which it asks.
        calendar: columns that only say when a row was made; measured, never judged.
    """
    findings = []
    now = profiles.shares(profile, columns)
    for name, shares in now.items():
        described = profile[name]
        value = profiles.psi(described["shares"], shares)
        floor = noise(len(shares), int(described["rows"]), len(columns[name]))
        level = "ok" if name in calendar or value <= floor else level_of(value, warn, critical)
        threshold = critical if level == "critical" else warn
        findings.append(Finding("drift", name, level, _told(name, value, described, shares), value, threshold))
    return findings


def noise(buckets: int, trained: int, newest: int) -> float:
    """The PSI that two samples of one population stay below, 999 times in 1,000 (by Wilson and Hilferty's formula)."""
    degrees = max(buckets - 1, 1)
    spread = 2 / (9 * degrees)
    quantile = degrees * (1 - spread + _NORMAL_QUANTILE * spread**0.5) ** 3
    return float(quantile * (1 / max(trained, 1) + 1 / max(newest, 1)))


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


def _told(name: str, value: float, described: Mapping[str, Any], shares: list[float]) -> str:
    text = f"{name}: PSI {value:.2f}"
    missing, before = shares[-1], float(described["missing"])
    if missing >= 0.999:
        return f"{text}, all values are missing"
    if missing > before + 0.05:
        return f"{text}, {missing:.0%} missing ({before:.0%} at training)"
    if described["kind"] == "category" and shares[-2] > described["shares"][-2] + 0.05:
        return f"{text}, {shares[-2]:.0%} in categories that were rare or unknown at training"
    return text
