"""Text and numbers as dates and times: ISO 8601, a declared format, an epoch, or an order that the values show."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.values.column import Column, correct, declare_format, first_bad, or_text, refuse_first
from include.ingestion.values.numbers import numbers_of
from include.settings import ColumnType

EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds in one unit of each."""
_ZONED = r":\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)$"
_YEAR_LAST = (
    r"^(?P<a>\d{1,2})(?P<s>[/.-])(?P<b>\d{1,2})[/.-](?P<year>\d{4})"
    r"(?:[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:\.\d{1,6})?))?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?)?$"
)
_YEAR_FIRST = _YEAR_LAST.replace(
    r"(?P<a>\d{1,2})(?P<s>[/.-])(?P<b>\d{1,2})[/.-](?P<year>\d{4})",
    r"(?P<year>\d{4})(?P<s>[/.-])(?P<b>\d{1,2})[/.-](?P<c>\d{1,2})",
)


def times(column: Column, text: pa.ChunkedArray, kind: ColumnType | None) -> pa.ChunkedArray:
    """Text as timestamps in UTC, or as dates, as declared or as ISO 8601 has it; without a kind, as what is there."""
    form = column.format
    if form in EPOCHS:
        numbers = numbers_of(column, text, "float")
        if numbers is None:
            row = first_bad(text, lambda part: part.cast(pa.float64()))
            column.refuse(row, f"{text[row].as_py()!r} is no number of an epoch", correct())
        return epochs(column, text.cast(pa.int64()) if numbers_of(column, text, "int") is not None else numbers)
    if "%" in form:
        found = _by_format(column, text, form)
    elif form in ("day_first", "month_first"):
        found = _numeric_dates(column, text, form)
    else:
        found = iso_dates(column, text)
        if found is None:
            found = iso_times(column, text)
        if found is None and form != "iso":
            found = _numeric_dates(column, text, form)
        if found is None:
            row = _first_not_iso(column, text)
            target = kind or "timestamp"
            column.refuse(row, f"{text[row].as_py()!r} is not a {target}", declare_format(column, text[row].as_py()))
    if kind == "date" and found.type != pa.date32():
        refuse_first(column, pc.not_equal(found.cast(pa.date32(), safe=False).cast(pa.timestamp("us")), found), text,
                     "has a time, and is declared a date", correct())  # fmt: skip
        return found.cast(pa.date32(), safe=False)
    if kind == "timestamp" and found.type == pa.date32():
        return to_utc(column, found.cast(pa.timestamp("us")))
    return found


def iso_dates(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """ISO 8601 days; None where a value is something else."""
    try:
        return text.cast(pa.date32())
    except pa.ArrowInvalid:
        return None


def iso_times(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """ISO 8601 with or without a zone, in UTC; None where a value is something else."""
    with contextlib.suppress(pa.ArrowInvalid):
        return to_utc(column, text.cast(pa.timestamp("us")))  # none has a zone: the usual case, and the fast one
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    text = pc.replace_substring_regex(text, r"(:\d\d(?:\.\d+)?) ?(?:UTC|GMT|z)$", r"\1Z")
    text = pc.replace_substring_regex(text, r"(:\d\d(?:\.\d+)?) ([+-]\d\d)", r"\1\2")
    zoned = pc.fill_null(pc.match_substring_regex(text, _ZONED), False)
    nothing = pa.scalar(None, pa.string())
    try:
        aware = pc.if_else(zoned, text, nothing).cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))
        naive = pc.if_else(zoned, nothing, text).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None
    return pc.coalesce(aware, to_utc(column, naive))


def _first_not_iso(column: Column, text: pa.ChunkedArray) -> int:
    def parse(part: pa.ChunkedArray) -> None:
        if iso_times(column, part) is None:
            raise pa.ArrowInvalid("not ISO")

    return first_bad(text, parse)


def _numeric_dates(column: Column, text: pa.ChunkedArray, form: str) -> pa.ChunkedArray | None:
    """01/31/2020 and 2020/1/31, with or without a time; the order of day and month as declared, or as a value shows."""
    parts = pc.extract_regex(text, _YEAR_LAST)
    wrong = pc.and_(text.is_valid(), pc.invert(parts.is_valid()))
    if pc.any(wrong).as_py():
        parts = pc.extract_regex(text, _YEAR_FIRST)
        if pc.any(pc.and_(text.is_valid(), pc.invert(parts.is_valid()))).as_py():
            if form:
                row = pc.index(wrong, True).as_py()
                column.refuse(row, f"{text[row].as_py()!r} is not a date in the order {form}", correct())
            return None
        month, day = _part(parts, "b"), _part(parts, "c")
    else:
        one, two = _part(parts, "a").cast(pa.int64()), _part(parts, "b").cast(pa.int64())
        day_first = form == "day_first" or (not form and _day_first(column, text, one, two))
        day, month = (_part(parts, "a"), _part(parts, "b")) if day_first else (_part(parts, "b"), _part(parts, "a"))
    return _composed(column, text, parts, month, day)


def _part(parts: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    found = pc.struct_field(parts, name)
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


def _day_first(column: Column, text: pa.ChunkedArray, one: pa.ChunkedArray, two: pa.ChunkedArray) -> bool:
    days_first, months_first = pc.any(pc.greater(one, 12)).as_py(), pc.any(pc.greater(two, 12)).as_py()
    if not days_first and not months_first:
        open_order = pc.index(pc.not_equal(one, two), True).as_py()
        if open_order >= 0:
            value = text[open_order].as_py()
            column.refuse(
                open_order, f"{value!r} is a day and a month in either order, and no value of the file tells which",
                f"declare `date_format: day_first` or `date_format: month_first`{or_text(column)}",
            )  # fmt: skip
    return bool(days_first)


def _composed(
    column: Column, text: pa.ChunkedArray, parts: pa.ChunkedArray, month: pa.ChunkedArray, day: pa.ChunkedArray
) -> pa.ChunkedArray:
    hour, half = _part(parts, "hour").cast(pa.int64()), pc.utf8_lower(_part(parts, "half"))
    twelve = pc.if_else(pc.equal(hour, 12), 0, hour)
    hour = pc.if_else(pc.is_null(half), hour, pc.add(twelve, pc.if_else(pc.equal(half, "p"), 12, 0)))
    iso_day = pc.binary_join_element_wise(
        _part(parts, "year"), pc.utf8_lpad(month, 2, "0"), pc.utf8_lpad(day, 2, "0"), "-"
    )
    clock = pc.binary_join_element_wise(
        pc.utf8_lpad(pc.fill_null(hour, 0).cast(pa.string()), 2, "0"),
        pc.fill_null(_part(parts, "minute"), "00"), pc.fill_null(_part(parts, "second"), "00"), ":",
    )  # fmt: skip
    iso = pc.binary_join_element_wise(iso_day, clock, "T")
    try:
        moments = iso.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        row = first_bad(iso, lambda part: part.cast(pa.timestamp("us")))
        column.refuse(row, f"{text[row].as_py()!r} is not a day of the calendar", declare_format(column, "31/01/2020"))
    if pc.all(pc.is_null(hour)).as_py():
        return moments.cast(pa.date32())
    return to_utc(column, moments)


def _by_format(column: Column, text: pa.ChunkedArray, form: str) -> pa.ChunkedArray:
    """By a declared format, as Python's strptime has it; each text once."""
    encoded = text.combine_chunks().dictionary_encode()
    moments = []
    for value in encoded.dictionary.to_pylist():
        try:
            moment = dt.datetime.strptime(value, form)
        except ValueError:
            row = pc.index(text, value).as_py()
            column.refuse(row, f"{value!r} is not written as {form!r}", correct())
        moments.append(moment)
    if all(moment.tzinfo for moment in moments) and moments:
        utc = [moment.astimezone(dt.UTC).replace(tzinfo=None) for moment in moments]
        return pa.chunked_array([pa.array(utc, pa.timestamp("us")).take(encoded.indices)])
    found = pa.chunked_array([pa.array(moments, pa.timestamp("us")).take(encoded.indices)])
    return to_utc(column, found) if re.search(r"%[HIMSfTXcRr]", form) else found.cast(pa.date32())


def epochs(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers of seconds, milliseconds or microseconds since 1970 as timestamps in UTC."""
    factor = EPOCHS[column.format]
    far = pc.greater(pc.abs(values.cast(pa.float64(), safe=False)), 253_402_300_800 * 1e6 / factor)
    refuse_first(column, far, values, f"lies beyond the year 9999 as {column.format}",
                 "declare another of epoch_s, epoch_ms and epoch_us")  # fmt: skip
    if pa.types.is_integer(values.type):
        return pc.multiply(values, factor).cast(pa.timestamp("us"))
    return pc.round(pc.multiply(values, float(factor))).cast(pa.int64()).cast(pa.timestamp("us"))


def to_utc(column: Column, naive: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times without a zone, which are those of the source's zone."""
    zone = column.source.timezone
    if zone == "UTC":
        return naive

    def convert(part: Any) -> Any:
        return pc.assume_timezone(part, zone, ambiguous="earliest", nonexistent="raise")

    try:
        return convert(naive).cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))
    except (pa.ArrowInvalid, ValueError):
        row = first_bad(naive, convert)
        column.refuse(
            row, f"{naive[row].as_py()} is a time that the clocks of {zone} skipped",
            "are the times of another zone? Correct the source's `timezone`, or write times with their offset",
        )  # fmt: skip


_CALENDAR = (-62_135_596_800, 253_402_300_800)
"""Seconds since 1970 at which the year 1 begins and the year 9999 ends."""


def refuse_outside_calendar(column: Column, values: pa.ChunkedArray, shown: pa.ChunkedArray) -> None:
    """Refuse times that neither Python nor JSON can write; `shown` are the values as the file has them."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        unit, ticks = kind.unit, values.cast(pa.int64())
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        if unit == "ns":
            return  # 64 bits of them end in 2262
        low, high = (bound * per_second for bound in _CALENDAR)
    elif pa.types.is_date32(kind):
        unit, ticks = "days", values.cast(pa.int32())
        low, high = (bound // 86_400 for bound in _CALENDAR)
    elif pa.types.is_date64(kind):
        unit, ticks = "ms", values.cast(pa.int64())
        low, high = (bound * 1000 for bound in _CALENDAR)
    else:
        return
    wrong = pc.or_(pc.less(ticks, low), pc.greater_equal(ticks, high))
    row = pc.index(wrong, True).as_py()
    if row >= 0:
        text = pa.types.is_string(shown.type) or pa.types.is_large_string(shown.type)
        what = repr(shown[row].as_py()) if text else f"{ticks[row].as_py()} {unit} since 1970"
        column.refuse(
            row, f"{what} lies outside of the years 1 to 9999 (in UTC)",
            f"does it stand for a missing value? Then declare `null_values: [{what}]`" if text
            else f"correct the file, or leave the column out with `exclude: [{column.name}]`",
        )  # fmt: skip
