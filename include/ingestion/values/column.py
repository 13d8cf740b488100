"""A column of a file: where its values come from, and how a value that cannot be read is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from include.schemas import SchemaError
from include.settings import FilesSource


class Unreadable(ValueError):
    """A file's bytes are not the data that was declared; the message names file, place and remedy."""


@dataclass(frozen=True)
class Column:
    """Where some values come from, for their reading and for messages.

    Attributes:
        source: its settings.
        file: the file's name.
        name: the column's.
        first_row: the number of the first value's row, as a person counts them in the file.
        is_text: whether the file format knows no types, so that text may be numbers.
    """

    source: FilesSource
    file: str
    name: str
    first_row: int
    is_text: bool

    def refuse(self, row: int | None, what: str, remedy: str) -> NoReturn:
        """Raise `Unreadable`; `row` counts from 0."""
        where = f"row {row + self.first_row}, " if row is not None else ""
        raise Unreadable(f"{self.file}: {where}column {self.name}: {what}; {remedy}")

    @property
    def format(self) -> str:
        """How its dates are declared to be written; empty where nothing is."""
        return self.source.date_format_of(self.name)


def refuse_first(column: Column, wrong: Any, values: Any, what: str, remedy: str) -> None:
    """Refuse the first of the values that is marked as wrong, if any."""
    row = pc.index(wrong, True).as_py()
    if row >= 0:
        column.refuse(row, f"{values[row].as_py()!r} {what}", remedy)


def first_bad(values: pa.ChunkedArray, convert: Callable[[Any], Any]) -> int:
    """The index of the first value that does not convert, by halving."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values.slice(low, middle - low))
            low = middle
        except (pa.ArrowInvalid, SchemaError, ValueError):
            high = middle
    return low


def beyond(column: Column) -> str:
    """The remedy for a whole number that no type of ours can represent exactly."""
    return f"declare `types: {{{column.name}: string}}` for a code, or `float` for a rounded number"


def correct(value: Any = "") -> str:
    """The remedy for a value that is not of its type, by what it resembles."""
    text = str(value)
    if re.fullmatch(r"[-?.*#/]+|(?i:n\.?a\.?|none|missing|unknown|tbd)", text):
        return f"does it stand for a missing value? Then declare `null_values: [{text!r}]`"
    if re.fullmatch(r"[+-]?\d{1,3}([ .,'\u00a0]\d{3})*[.,]\d+|[+-]?\d{1,3}([ .,'\u00a0]\d{3})+", text):
        return "declare the source's `decimal` and `thousands`"
    if re.fullmatch(r"[^\d\s.,+-]+ ?[+-]?[\d.,]+|[+-]?[\d.,]+ ?[^\d\s.,]+", text):
        return "declare what stands beside the number in the source's `affixes`"
    return "correct the file, or the source's `types`"


def declare_format(column: Column, value: str) -> str:
    """The remedy for a value that is no date in a form that is recognised."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", value):
        day = "'%Y%m%d' for days, or " if re.fullmatch(r"\d{8}", value) else ""
        return f"declare `date_format`: {day}epoch_s, epoch_ms or epoch_us for a time since 1970{or_text(column)}"
    return f"declare how it is written in the source's `date_format`, such as '%d %b %Y' or day_first{or_text(column)}"


def or_text(column: Column) -> str:
    """What may be added to a remedy, where the column may as well be text."""
    return "" if column.name == column.source.time_column else f", or `types: {{{column.name}: string}}`"
