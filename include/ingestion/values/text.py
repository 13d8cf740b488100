"""Text of a file without types: a number, date or truth value where all of it is written so, and nothing is lost."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.values.column import Column, Unreadable, beyond, correct, first_bad, refuse_first
from include.ingestion.values.numbers import numbers_of, padded
from include.ingestion.values.times import EPOCHS, epochs, iso_dates, iso_times, times
from include.schemas import EXACT, cast_column, type_of
from include.settings import ColumnType

MISSING = (
    "", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "NaT", "none",
)  # fmt: skip
"""What stands for a missing value in a column that is not text."""
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_LIKE_A_DATE = (
    r"^(\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{4}[/.]\d{1,2}[/.]\d{1,2})([ T]\d{1,2}:\d{2}.*)?$"
    r"|^(?i:\d{1,2}[ .-]*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]*\d{2,4})( .*)?$"
    r"|^(?i:(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* \d{1,2},? \d{4})( .*)?$"
)
_ISO_START = r"^\d{4}-\d{2}-\d{2}"


def from_text(
    column: Column, values: pa.ChunkedArray, declared: ColumnType | None, known: ColumnType | None
) -> pa.ChunkedArray:
    """Text in the declared type, else in what all of it is written as, else in `known` where nothing is there."""
    text = pc.utf8_trim_whitespace(values) if column.source.trim else values
    text = _missing(text, ("", *column.source.null_values))
    dated = column.name == column.source.time_column or (column.format and isinstance(column.source.date_format, dict))
    if declared == "string" or (declared is None and not dated and (known == "string" or not column.is_text)):
        return text
    clean = _missing(text if column.source.trim else pc.utf8_trim_whitespace(text), MISSING)
    if clean.null_count == len(clean):
        return cast_column(clean, declared or known or ("timestamp" if dated else "float"))
    if declared is None:
        found = _inferred(column, text, clean)
        if dated and type_of(found.type) not in ("timestamp", "date"):
            return times(column, clean, None)
        return found
    if declared == "bool":
        return _bools(column, clean)
    if declared in ("timestamp", "date"):
        return times(column, clean, declared)
    numbers = numbers_of(column, clean, declared)
    if numbers is None:
        row = first_bad(clean, lambda part: numbers_of(column, part, declared, strict=True))
        column.refuse(row, f"{clean[row].as_py()!r} is not a {declared}", correct(clean[row].as_py()))
    return numbers


def _missing(text: pa.ChunkedArray, stand_for: tuple[str, ...]) -> pa.ChunkedArray:
    hit = pc.is_in(text, pa.array(stand_for, pa.string()))
    return pc.if_else(hit, pa.scalar(None, pa.string()), text) if pc.any(hit).as_py() else text


def _inferred(column: Column, text: pa.ChunkedArray, clean: pa.ChunkedArray) -> pa.ChunkedArray:
    """What all values are written as; `text`, without guesses about what is missing, where that is nothing but text."""
    first = clean[pc.index(clean.is_valid(), True).as_py()].as_py()
    if first.lower() in ("true", "false"):
        lower = pc.utf8_lower(clean)
        if pc.all(pc.is_in(lower, pa.array(["true", "false", None]))).as_py():
            return pc.equal(lower, "true")
    if column.format and column.format not in EPOCHS and not re.fullmatch(r"\d+", first):
        try:
            return times(column, clean, None)
        except Unreadable:
            if isinstance(column.source.date_format, dict):
                raise
    for kind in ("int", "float"):
        numbers = numbers_of(column, clean, kind)
        if numbers is None:
            continue
        if column.format in EPOCHS and isinstance(column.source.date_format, dict):
            return epochs(column, numbers)
        if padded(clean):
            return text  # 007 is a code, or else its zeros would be lost
        if kind == "float":
            large = pc.greater_equal(pc.abs(numbers), float(EXACT))
            lost = (
                pc.and_(large, pc.match_substring_regex(clean, r"^[+-]?\d{16,}$")) if pc.any(large).as_py() else large
            )
            refuse_first(column, lost, clean, "is a whole number beyond what is held exactly", beyond(column))
        return numbers
    if re.match(_ISO_START, first):
        for parse in (iso_dates, iso_times):
            found = parse(column, clean)
            if found is not None:
                return found
    if re.match(_LIKE_A_DATE, first) and pc.all(pc.match_substring_regex(clean, _LIKE_A_DATE)).as_py():
        return times(column, clean, None)
    return text


def _bools(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray:
    lower = pc.utf8_lower(text)
    known = pc.is_in(lower, pa.array([*TRUE, *FALSE, None]))
    refuse_first(column, pc.invert(known), text, "is not a bool", correct())
    return pc.if_else(pc.is_valid(lower), pc.is_in(lower, pa.array(TRUE)), pa.scalar(None, pa.bool_()))
