"""What a request's body became: columns for a model, with what is unusual in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from include.inference.json_path import path
from include.inference.schema.layout import Columns, Row

MOST_WARNINGS = 1_000
"""Warnings that one answer holds: a batch in other units than the model's would be answered with nothing else."""


class Warning(msgspec.Struct, frozen=True, gc=False):
    """Something unusual in a row that was predicted nevertheless."""

    code: str
    field: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """As the answer holds it."""
        return {"code": self.code, "field": self.field, "message": self.message}


@dataclass(slots=True)
class Checked:
    """What a body became: columns that the model can be asked about, one entry a row."""

    columns: Columns
    count: int
    warnings: list[Sequence[Warning]] | None
    """For each row; None when there is none at all."""
    entities: list[str | None] | None
    """What each row is about; None where the model declares no entity."""
    form: str
    """`row`, `rows`, `columns` or `inputs`: how the body was written."""
    rows: Sequence[Row] | None
    """The decoded rows, where the body had rows."""
    received: Columns
    """The columns before numbers were clipped."""
    unusual: dict[tuple[str, str], int] | None = None
    """(A warning's code, the field) → how many values; None when there is none at all."""
    trimmed: Sequence[str] = ()
    """Fields of which texts were trimmed."""

    def path(self, row: int, column: str | None = None) -> str | None:
        """Where a row, or its value in a column, stands in the body: `rows[3].vendor`; None: it is the body."""
        if column is None:
            return None if self.form == "row" else f"{self.form}[{row}]"
        return path(self.form, column, row)


class Notes:
    """What is unusual in a body, for each row and in numbers."""

    def __init__(self, form: str, rows: int) -> None:
        self.form, self._rows = form, rows
        self.unusual: dict[tuple[str, str], int] = {}
        self.trimmed: list[str] = []
        """Fields of which texts were trimmed."""
        self._warnings: dict[int, list[Warning]] = {}
        self._last: list[Warning] = []
        self._shown = 0

    def count(self, code: str, field: str, values: int) -> None:
        """So many values of a field are unusual in this way."""
        self.unusual[code, field] = values

    @property
    def is_full(self) -> bool:
        """Whether the answer holds no more warnings."""
        return self._shown > MOST_WARNINGS

    def add(self, row: int, warning: Warning) -> None:
        """Tell of one; of those that the answer does not hold the first stands for all of them."""
        if not self.is_full:
            self._shown += 1
            self._last = self._warnings.setdefault(row, [])
            self._last.append(warning)

    def by_row(self) -> list[Sequence[Warning]] | None:
        """The warnings of each row; None when there is none at all."""
        if not self._warnings:
            return None
        if self.is_full:
            last, more = self._last[-1], sum(self.unusual.values()) - MOST_WARNINGS
            message = f"from {last.field} on {more} more values are outside of what training saw"
            self._last[-1] = Warning(last.code, last.field, message)
        return [self._warnings.get(row, ()) for row in range(self._rows)]
