"""clip: a number beyond two quantiles of the training rows becomes that quantile; a missing one stays missing.

For bounds that are known, not learned, there is the formula `clip(x, low, high)` in `derived`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.columns import Values
from include.features.definition import FeatureError
from include.features.transforms import Apply, Column, FitError, Learned, Stage, Training, as_mapping, need_numbers

STAGE = Stage.BOUND
LEARNS = ("bounds",)
Declaration = dict[str, tuple[float, float]]
"""column → two quantiles of the training part, such as `[0.01, 0.99]`, beyond which its numbers are moved to them."""

chosen = as_mapping


def check(declared: Mapping[str, tuple[float, float]], columns: Mapping[str, Column]) -> None:
    """Refuse text, and what are no two quantiles."""
    need_numbers("clip", declared, columns)
    for column, (low, high) in declared.items():
        key = f"features.clip.{column}"
        if not (0 <= low <= 1 and 0 <= high <= 1):
            formula = f"`derived: {{{column}_bounded: clip({column}, {low:g}, {high:g})}}`"
            raise FeatureError(
                f"{key}: quantiles lie between 0 and 1, as in [0.01, 0.99]; known bounds are a formula: {formula}"
            )
        if low >= high:
            raise FeatureError(f"{key}: the quantiles must rise, as in [0.01, 0.99], not [{low:g}, {high:g}]")


def fit(values: Values, how: Sequence[float], column: str, training: Training) -> Learned:
    """The two quantiles of the values that are there."""
    present = values[0][~np.isnan(values[0])]
    if not len(present):
        raise FitError(f"clip.{column}: the training part has no value; exclude the column")
    return {"bounds": [float(bound) for bound in np.quantile(present, how)]}


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """Move numbers within their columns' bounds; NaN stays NaN."""
    low, high = np.array([entry["bounds"] for entry in learned]).T[:, :, None]

    def apply(values: Values, unknown: str) -> Values:
        clipped: np.ndarray = np.minimum(np.maximum(values, low), high)
        return clipped

    return apply
