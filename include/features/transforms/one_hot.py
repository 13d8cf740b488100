"""one_hot: a category becomes one 0/1 column for each category seen; unknown ones are all zero.

A missing value is a category of its own where the training part had one, else it counts as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.categories import Lookup, categories_of, label
from include.features.columns import Values
from include.features.transforms import Apply, Column, FitError, Learned, Stage, Training, as_mapping

STAGE = Stage.ENCODE
LEARNS = ("categories",)
Declaration = tuple[str, ...]
"""Columns that become one 0/1 feature for each category."""

MAXIMUM = 500
"""Categories above which it is refused: each is a column."""

chosen = as_mapping


def check(declared: Sequence[str], columns: Mapping[str, Column]) -> None:
    """Any column can be taken for categories."""


def fit(values: Values, how: None, column: str, training: Training) -> Learned:
    """The categories seen, a missing one last."""
    categories = categories_of(values[0])
    if len(categories) > MAXIMUM:
        raise FitError(
            f"one_hot: {column!r} has {len(categories)} categories in the training part,"
            f" each a column; declare `target_encoding: [{column}]` instead"
        )
    return {"categories": categories, "names": [f"{column}={label(category)}" for category in categories]}


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """Mark the column of each value's category."""
    lookup = Lookup(learned)

    def apply(values: Values, unknown: str) -> Values:
        found = lookup(values, unknown)
        rows = found.shape[1]
        marks = np.zeros((lookup.width, rows))
        marks.put(found if rows == 1 else found * rows + np.arange(rows), 1.0)
        return marks[: lookup.known]

    return apply
