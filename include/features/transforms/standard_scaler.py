"""standard_scaler: (x - mean) / standard deviation of the training rows, in float64; a missing number stays missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from include.features.columns import Values
from include.features.definition import FeatureError
from include.features.transforms import Apply, Column, Learned, Stage, Training

STAGE = Stage.SCALE
LEARNS = ("scale",)
Declaration = tuple[str, ...] | Literal["all"]
"""Features that are scaled to mean 0 and standard deviation 1 of the training part; `all`: every numeric one."""


def chosen(declared: Sequence[str] | Literal["all"], columns: Mapping[str, Column]) -> dict[str, None]:
    """Those that are listed, or all that are still numbers as they were: neither bins nor categories."""
    if declared != "all":
        return dict.fromkeys(declared)
    plain = (name for name, column in columns.items() if not column.encoding and not column.discretized)
    return dict.fromkeys(name for name in plain if columns[name].kind == "number")


def check(declared: Sequence[str] | Literal["all"], columns: Mapping[str, Column]) -> None:
    """Refuse text that stays text, and indicators."""
    for name in () if declared == "all" else declared:
        column = columns[name]
        if column.encoding == "one_hot":
            raise FeatureError(f"features.standard_scaler: {name!r} is one_hot, which is 0 or 1; take it out")
        if column.kind == "string" and column.encoding is None:
            raise FeatureError(
                f"features.standard_scaler: {name!r} is text; declare it under one_hot, ordinal or target_encoding"
            )


def fit(values: Values, how: None, column: str, training: Training) -> Learned:
    """Mean and standard deviation of each column, missing values left out; of a constant one the deviation is 1."""
    return {"scale": [list(_scale(each[~np.isnan(each)])) for each in values]}


def _scale(present: np.ndarray) -> tuple[float, float]:
    if not len(present):
        return 0.0, 1.0
    deviation = float(np.std(present))
    return float(np.mean(present)), deviation if deviation > 0 and np.isfinite(deviation) else 1.0


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """Subtract the mean, divide by the deviation."""
    mean, deviation = np.array([scale for entry in learned for scale in entry["scale"]]).T[:, :, None]

    def apply(values: Values, unknown: str) -> Values:
        scaled: np.ndarray = values - mean
        scaled /= deviation
        return scaled

    return apply
