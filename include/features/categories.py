"""Categories of a column, text or numbers: found in training, then looked up.

A missing value is a category of its own where training had one, else it has no place.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.columns import Values

Category = float | str | None
"""A number, a text, or None for a missing value."""

UNKNOWN, MISSING = -1, -2
"""The places of a category that training did not see, and of a missing value where it saw none."""


class UnknownCategory(ValueError):
    """A category that training did not see, where params.yaml says `unknown_category: error`.

    Attributes:
        column: the feature column.
        row: the first row that has one.
        value: what stands there.
    """

    def __init__(self, column: str, row: int, value: object) -> None:
        super().__init__(f"row {row}, column {column!r}: training did not see the category {value!r}")
        self.column, self.row, self.value = column, row, value


class _Places(dict[Any, int]):
    """Category → place, of a missing value also where it is NaN; any other value has the place `unknown`."""

    def __init__(self, known: Mapping[Any, int], *, unknown: int, missing: int) -> None:
        super().__init__({None: missing, **known})
        self._unknown, self._missing = unknown, self[None]

    def __missing__(self, value: Any) -> int:
        return self._missing if value != value else self._unknown  # only NaN differs from itself


class Categories:
    """The places of values in a list of categories; `UNKNOWN` or `MISSING` where they have none."""

    def __init__(self, values: Sequence[Category]) -> None:
        known = {value: place for place, value in enumerate(values)}
        self._find = _Places(known, unknown=UNKNOWN, missing=MISSING).__getitem__

    def places(self, values: np.ndarray) -> np.ndarray:
        """The place of each value, as int64."""
        return np.fromiter(map(self._find, values.tolist()), dtype=np.int64, count=len(values))


class Lookup:
    """The rows of a table for the values of several columns of categories at once.

    The table has a row for each category of the first column, then of the second and so on, and after these one for
    each column, for values that are unknown, or missing where training had none missing.

    Args:
        learned: the columns' entries: `column`, `categories`, and `unknown` where they have a policy of their own.

    Attributes:
        known: how many rows of the table belong to categories.
        width: how many rows it has.
    """

    def __init__(self, learned: Sequence[Mapping[str, Any]]) -> None:
        starts = [0, *itertools.accumulate(len(entry["categories"]) for entry in learned)]
        self.known = starts.pop()
        self.width = self.known + len(learned)
        self._columns: list[str] = [entry["column"] for entry in learned]
        self._policies: list[str | None] = [entry.get("unknown") for entry in learned]
        self._strict = "error" in self._policies
        self._find = []
        for absent, (start, entry) in enumerate(zip(starts, learned, strict=True), start=self.known):
            known = {category: place for place, category in enumerate(entry["categories"], start=start)}
            self._find.append(_Places(known, unknown=absent, missing=absent).__getitem__)

    def table(self, rows: Sequence[np.ndarray], absent: float | Sequence[float]) -> np.ndarray:
        """A table of one number for each row.

        Args:
            rows: for each column the numbers of its categories.
            absent: those for values without a place, for each column or for all.
        """
        last = np.broadcast_to(np.asarray(absent, dtype=np.float64), (self.width - self.known,))
        return np.concatenate([*rows, last])

    def __call__(self, values: Values, unknown: str) -> np.ndarray:
        """The table's row for each value, (columns, rows).

        Args:
            values: the columns.
            unknown: `other`, or `error`: an unknown value of a column without a policy of its own is refused.

        Raises:
            UnknownCategory: there is one.
        """
        found: list[int] = []
        listed = values.tolist() if isinstance(values, np.ndarray) else [column.tolist() for column in values]
        for find, column in zip(self._find, listed):  # noqa: B905  (equally long; the check costs as much as what it checks)
            found += map(find, column)
        rows = np.fromiter(found, np.intp, len(found)).reshape(len(values), -1)
        if self._strict or unknown == "error":
            self._refuse_unknown(values, rows, unknown)
        return rows

    def _refuse_unknown(self, values: Values, rows: np.ndarray, unknown: str) -> None:
        for index, policy in enumerate(self._policies):
            if (policy or unknown) != "error":
                continue
            for row in np.flatnonzero(rows[index] == self.known + index):
                value = values[index][row]
                if value is not None and value == value:  # neither None nor NaN: a missing value is not unknown
                    raise UnknownCategory(self._columns[index], int(row), value)


def categories_of(values: np.ndarray) -> list[Category]:
    """The distinct values in order, a missing one last."""
    if values.dtype.kind == "O":
        found = set(values.tolist())
        return [*sorted(v for v in found if v is not None), *([None] if None in found else [])]
    missing = np.isnan(values)
    present: list[Category] = np.unique(values[~missing]).tolist()
    return [*present, *([None] if missing.any() else [])]


_UNNAMEABLE = str.maketrans({"[": "(", "]": ")", "<": "lt "})  # XGBoost refuses these in a feature's name


def label(value: Category) -> str:
    """A category as part of a column's name."""
    if value is None:
        return "missing"
    return value.translate(_UNNAMEABLE) if isinstance(value, str) else f"{value:.15g}"
