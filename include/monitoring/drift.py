"""How far the newest rows lie from the training set: the population stability index of each column.

PSI = Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ) over the buckets of a column, e the shares in the training set and a those now (Siddiqi,
*Credit Risk Scorecards*, 2006; the thresholds 0.1 and 0.2 are his). The bins are pinned at training, in profile.json.

Two samples of one population have a PSI above 0: about (1/n + 1/m) times chi-squared, with one degree of freedom fewer
than there are buckets (Yurdakul and Naranjo, *Statistical properties of the population stability index*, Journal of
Risk Model Validation, 2020), and more where buckets stay empty. With thirty categories and 100 rows chance alone gives
0.3. So a finding must also pass what chance gives, which is drawn from the training shares themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from include.features import profile as profiles
from include.features.feature_set import FeatureSet
from include.monitoring.decision import Finding, level_of

Columns = Mapping[str, np.ndarray]

_DRAWS, _QUANTILE = 500, 0.998
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
        level = "ok" if name in calendar else level_of(value, warn, critical)
        if level != "ok" and value <= chance(described["shares"], int(described["rows"]), len(columns[name])):
            level = "ok"
        threshold = critical if level == "critical" else warn
        message = _told(name, value, described, shares)
        if name in calendar:
            message += ", not judged: it only says when a row was made"
        findings.append(Finding("drift", name, level, message, value, threshold, rows=len(columns[name])))
    return findings


def chance(shares: list[float], trained: int, newest: int) -> float:
    """The PSI that two samples of one population, of so many rows each, stay below 998 times in 1,000."""
    population = np.asarray(shares) / np.sum(shares)
    random = np.random.default_rng(0)
    e, a = (
        np.maximum(random.multinomial(rows, population, _DRAWS) / rows, profiles.EPSILON) for rows in (trained, newest)
    )
    return float(np.quantile(((a - e) * np.log(a / e)).sum(axis=1), _QUANTILE))


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
