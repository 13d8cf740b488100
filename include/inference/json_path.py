"""What a version's manifest says of each field of a request: its type, and the policies for unusual values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Estimators compute in 32 or 64 bits: what the smaller cannot hold is refused instead of becoming infinite."""
LONGEST_ENTITY = 512
"""Characters of an entity: the prediction log finds a subject's rows by it, and PostgreSQL indexes no long texts."""

NAT = int(np.iinfo(np.int64).min)
"""How NumPy writes a missing time."""
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999 in microseconds since 1970, as far as Python's times reach."""

EXPECTED = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
    "timestamp": 'an ISO 8601 timestamp such as "2018-01-31T08:30:00"',
    "date": 'an ISO 8601 date such as "2018-01-31"',
    "entity": "a string or a whole number",
}
DECODED: dict[str, Any] = {
    "float": int | float,
    "int": int | float,  # 3 and 3.0 are the same number in JSON; that it is whole is checked on the column
    "bool": bool,
    "string": str,
    "timestamp": dt.datetime,
    "date": dt.date,
}
"""How a value of JSON is held before it becomes part of a column."""
ORDER = ("int", "float", "bool", "string", "timestamp", "date")
"""How columns are laid out: the numbers first, and first among them those that must be whole."""
NUMERIC = ("int", "float", "bool")


@dataclass(frozen=True, slots=True)
class Field:
    """One field and what is done with it; a manifest that names no policy gets the defaults of `settings.Serving`."""

    name: str
    kind: str
    required: bool
    minimum: float | None = None
    """What training saw, where numbers beyond it are told apart; None: any number will do."""
    maximum: float | None = None
    out_of_range: str = "warn"
    categories: frozenset[Any] | None = None
    """What training saw, where anything else is an error; None: any category will do."""
    known: frozenset[Any] | None = None
    """What training saw of a text, and missing, where anything else is answered with a warning."""
    trimmed: bool = False
    """Whether white space around a text is dropped, as it was at the source; older manifests do not say so."""
    unit: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Field:
        """The field that one entry of `manifest["inputs"]` describes."""
        kind, missing = str(entry["type"]), entry.get("missing", "auto")
        if kind not in ORDER:
            raise ValueError(f"inputs: no column is of type {kind!r}; there are {', '.join(ORDER)}")
        seen = entry.get("categories")
        categories = seen if entry.get("unknown_category") == "error" else None
        minimum: Any = entry.get("minimum")
        maximum: Any = entry.get("maximum")
        ranged = kind in ("int", "float") and None not in (minimum, maximum) and categories is None
        return cls(
            name=str(entry["name"]),
            kind=kind,
            required=bool(entry.get("required", True)) if missing == "auto" else missing == "error",
            minimum=float(minimum) if ranged else None,
            maximum=float(maximum) if ranged else None,
            out_of_range=entry.get("out_of_range") or "warn",
            categories=None if categories is None else frozenset(categories),
            known=frozenset([*seen, None]) if kind == "string" and seen and categories is None else None,
            trimmed=kind == "string" and bool(entry.get("trimmed", False)),
            unit=entry.get("unit"),
        )


@dataclass(frozen=True, slots=True)
class Fields:
    """All fields of a row, and what else it may hold."""

    inputs: Mapping[str, Field]
    entity: str | None
    """A field that names what the row is about; accepted although it may be no input."""
    extra: bool
    """Whether fields that the model does not know are passed over."""

    def knows(self, name: str) -> bool:
        """Whether a row may hold this field."""
        return name in self.inputs or name == self.entity


def path(form: str, name: str, row: int) -> str:
    """Where a value stands in a request of the form `row`, `rows`, `columns` or `inputs`."""
    if form == "row":
        return name
    return f"rows[{row}].{name}" if form == "rows" else f"{form}.{name}[{row}]"
