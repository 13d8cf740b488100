"""The distribution of each column in a training set, in bins that are pinned there, so that drift can be measured.

    number    quantile bins of the training set; `edges` are the inner ones, an infinity lies at each end
    category  the most frequent categories of the training set, and one bucket for all others

The last bucket of both is the share of missing values. Shares are never 0 but at least `EPSILON`, so that measures of
drift that divide by them, as the population stability index does, are finite. A profile is plain data (JSON).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from include.features.columns import is_missing

EPSILON = 1e-4
MAXIMUM_CATEGORIES = 30

Columns = Mapping[str, np.ndarray]


def profile(columns: Columns, bins: int = 10) -> dict[str, Any]:
    """The profile of each number and text column; timestamps have none, for they always drift.

    Args:
        columns: name → values; float, int, bool, text; all of one length.
        bins: at most so many quantile bins; fewer where values repeat.

    Returns:
        column → {kind, edges | categories, shares, missing, rows, and for numbers mean, deviation, minimum, maximum}.
    """
    found: dict[str, Any] = {}
    for name, values in columns.items():
        kind = values.dtype.kind
        if kind in "fiub":
            found[name] = _profile_number(np.asarray(values, dtype=np.float64), bins)
        elif kind in "OU":
            found[name] = _profile_category(np.asarray(values, dtype=object))
    return found


def shares(profile: Mapping[str, Any], columns: Columns) -> dict[str, list[float]]:
    """The share of rows in each bucket of `profile`, for the columns that both have; at least `EPSILON` each."""
    return {
        name: _shares(described, columns[name])
        for name, described in profile.items()
        if name in columns and len(columns[name])
    }


def psi(expected: ArrayLike, actual: ArrayLike) -> np.ndarray:
    """The population stability index of shares over the same buckets, along the last axis; above 0.2 they differ."""
    e, a = np.maximum(expected, EPSILON), np.maximum(actual, EPSILON)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=-1))


def _profile_number(values: np.ndarray, bins: int) -> dict[str, Any]:
    present = values[np.isfinite(values)]
    described: dict[str, Any] = {"kind": "number", "edges": _edges(present, bins), "rows": len(values)}
    described["missing"] = float(np.isnan(values).mean()) if len(values) else 0.0
    described["shares"] = _shares(described, values)
    if len(present):
        described |= {
            "mean": float(present.mean()),
            "deviation": float(present.std()),
            "minimum": float(present.min()),
            "maximum": float(present.max()),
        }
    return described


def _edges(present: np.ndarray, bins: int) -> list[float]:
    if not len(present):
        return []
    distinct = np.unique(present[:: max(1, len(present) // 10_000)])
    if len(distinct) <= bins:
        distinct = np.unique(present)
    if len(distinct) == 1:  # below, at, and above the only value
        return [float(distinct[0]), float(np.nextafter(distinct[0], np.inf))]
    if len(distinct) <= bins:  # a bin for each value
        return [float(e) for e in (distinct[1:] + distinct[:-1]) / 2]
    return [float(e) for e in np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1]))]


def _profile_category(values: np.ndarray) -> dict[str, Any]:
    present = values[~is_missing(values)].astype(str)
    found, counts = np.unique(present, return_counts=True)
    order = np.lexsort((found, -counts))[:MAXIMUM_CATEGORIES]
    described: dict[str, Any] = {"kind": "category", "categories": [str(c) for c in found[order]], "rows": len(values)}
    described["missing"] = 1 - len(present) / len(values) if len(values) else 0.0
    described["shares"] = _shares(described, values)
    return described


def _shares(described: Mapping[str, Any], values: np.ndarray) -> list[float]:
    """Bins in order, then (categories) all others, then missing."""
    if not len(values):
        return [EPSILON] * (_buckets(described) + 1)
    if described["kind"] == "number":
        numbers = np.asarray(values, dtype=np.float64)
        places = np.searchsorted(described["edges"], numbers, side="right")
        places[np.isnan(numbers)] = _buckets(described)
    else:
        known = {category: place for place, category in enumerate(described["categories"])}
        other, missing = len(known), len(known) + 1
        found = (missing if v is None else known.get(v, other) for v in np.asarray(values, dtype=object))
        places = np.fromiter(found, dtype=np.int64, count=len(values))
    counts = np.bincount(places, minlength=_buckets(described) + 1)
    return [float(share) for share in np.maximum(counts / len(values), EPSILON)]


def _buckets(described: Mapping[str, Any]) -> int:
    """How many buckets there are before the one for missing values."""
    return len(described["edges"] if described["kind"] == "number" else described["categories"]) + 1
