"""impute: a missing value becomes the mean, the median or the most frequent of the training rows, or a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.columns import Values, is_missing
from include.features.transforms import Apply, Column, FitError, Learned, Stage, Training, as_mapping

STAGE = Stage.FILL
LEARNS = ("fill",)
Declaration = dict[str, float | str]
"""column → `mean`, `median`, `most_frequent`, or a constant."""

chosen = as_mapping


def check(declared: Mapping[str, float | str], columns: Mapping[str, Column]) -> None:
    """Any column can have missing values."""


def fit(values: Values, how: float | str, column: str, training: Training) -> Learned:
    """What replaces a missing value of the column."""
    text = values[0].dtype.kind == "O"
    if text and (how in ("mean", "median") or not isinstance(how, str)):
        raise FitError(f"impute.{column}: {how!r} needs numbers, the column is text; use most_frequent or a text")
    if how in ("mean", "median", "most_frequent"):
        return {"fill": _statistic(values[0], str(how), column)}
    if isinstance(how, str) and not text:
        raise FitError(f"impute.{column}: expected mean, median, most_frequent or a number, not {how!r}")
    return {"fill": how if text else float(how)}


def _statistic(values: np.ndarray, how: str, column: str) -> float | str:
    present = values[~is_missing(values)]
    if not len(present):
        raise FitError(f"impute.{column}: the training part has no value; exclude the column, or give a constant")
    if how == "mean":
        return float(np.mean(present))
    if how == "median":
        return float(np.median(present))
    text = values.dtype.kind == "O"
    found, counts = np.unique(present.astype(str) if text else present, return_counts=True)
    best = found[int(np.argmax(counts))]
    return str(best) if text else float(best)


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """Replace what is missing: NaN in numbers, None in text."""
    fills = [entry["fill"] for entry in learned]
    numbers = None if any(isinstance(fill, str) for fill in fills) else np.array(fills, dtype=np.float64).reshape(-1, 1)

    def apply(values: Values, unknown: str) -> Values:
        if numbers is not None:
            return np.where(np.isnan(values), numbers, values)
        return [np.where(is_missing(column), fill, column) for column, fill in zip(values, fills, strict=True)]

    return apply
