"""ordinal: a category becomes its place in an order; unknown and missing are -1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.categories import Category, Lookup, categories_of
from include.features.columns import Values
from include.features.transforms import Apply, Column, FitError, Learned, Stage, Training, as_mapping

STAGE = Stage.ENCODE
LEARNS = ("categories",)
Declaration = dict[str, tuple[str, ...] | None] | tuple[str, ...]
"""column → its categories in order; null, or a list of columns: sorted, as found in the training part."""

chosen = as_mapping


def check(declared: Any, columns: Mapping[str, Column]) -> None:
    """Any column can have an order."""


def fit(values: Values, how: Sequence[str] | None, column: str, training: Training) -> Learned:
    """The categories in order, without a missing one."""
    found = _given(how, values[0], column) if how else categories_of(values[0])
    return {"categories": [category for category in found if category is not None]}


def _given(categories: Sequence[str], values: np.ndarray, column: str) -> list[Category]:
    """Declared categories, which params.yaml writes as text, as values of the column."""
    if values.dtype.kind == "O":
        return list(categories)
    try:
        return [float(category) for category in categories]
    except ValueError as error:
        raise FitError(f"ordinal.{column}: the column holds numbers, its categories must be numbers too") from error


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """The place of each value among its column's categories."""
    lookup = Lookup(learned)
    places = lookup.table([np.arange(len(entry["categories"]), dtype=np.float64) for entry in learned], absent=-1.0)

    def apply(values: Values, unknown: str) -> Values:
        found: np.ndarray = places[lookup(values, unknown)]
        return found

    return apply
