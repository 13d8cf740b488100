"""bin: a number becomes the index of its bin, from 0; a missing one stays missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.columns import Values
from include.features.transforms import Apply, Column, FitError, Learned, Stage, Training, as_mapping, need_numbers

STAGE = Stage.DISCRETIZE
LEARNS = ("edges",)
Declaration = dict[str, int | tuple[float, ...]]
"""column → a number of quantile bins learned from the training part, or the edges themselves."""

chosen = as_mapping


def check(declared: Mapping[str, int | tuple[float, ...]], columns: Mapping[str, Column]) -> None:
    """Refuse text."""
    need_numbers("bin", declared, columns)


def fit(values: Values, how: int | Sequence[float], column: str, training: Training) -> Learned:
    """The inner edges of the bins: given, or quantiles of the training rows."""
    if not isinstance(how, int):
        edges = [float(edge) for edge in how]
        if edges != sorted(set(edges)) or not edges:
            raise FitError(f"bin.{column}: edges must rise, not {edges}")
        return {"edges": edges}
    if how < 2:
        raise FitError(f"bin.{column}: at least 2 bins, not {how}")
    present = values[0][~np.isnan(values[0])]
    if not len(present):
        raise FitError(f"bin.{column}: the training part has no value; exclude the column, or give the edges")
    return {"edges": [float(e) for e in np.unique(np.quantile(present, np.linspace(0, 1, how + 1)[1:-1]))]}


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """How many edges each number has reached."""
    edges = [np.array(entry["edges"]) for entry in learned]

    def apply(values: Values, unknown: str) -> Values:
        found = [own.searchsorted(column, side="right") for own, column in zip(edges, values, strict=True)]
        return np.where(np.isnan(values), np.nan, np.array(found, dtype=np.float64))

    return apply
