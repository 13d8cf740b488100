"""From what a file holds to columns of the six types: strictly where a type is declared, without loss where it is not.

Text in a CSV file is only text until this module has read it. Without a declared type it becomes a number, a date or a
truth value where all of its values are written as such, and nothing would be lost: 007 stays text, and a whole number
that no type of ours can hold exactly is refused. What can be read in two ways (05/01/2025) is refused with both of
them. Every refusal names the row, the value and the setting.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from include.schemas import EXACT, SchemaError, arrow_type, cast_column, type_of
from include.settings import ColumnType, FilesSource

MISSING = (
    "", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "NaT", "none",
)  # fmt: skip
"""What stands for a missing value in a column that is not text."""
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}

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
_LIKE_A_DATE = (
    r"^(\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{4}[/.]\d{1,2}[/.]\d{1,2})([ T]\d{1,2}:\d{2}.*)?$"
    r"|^(?i:\d{1,2}[ .-]*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,-]*\d{2,4})( .*)?$"
    r"|^(?i:(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* \d{1,2},? \d{4})( .*)?$"
)


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


def read(column: Column, values: pa.ChunkedArray, known: ColumnType | None) -> pa.ChunkedArray:
    """The values in one of the six types: the declared one, else what they are, else `known` where none is there.

    Raises:
        Unreadable: a value is not of the declared type, or can be read in more than one way.
    """
    _refuse_outside_calendar(column, values, values)
    found = _read(column, values, known)
    _refuse_outside_calendar(column, found, values)
    return found


def _read(column: Column, values: pa.ChunkedArray, known: ColumnType | None) -> pa.ChunkedArray:
    declared = column.source.types.get(column.name)
    values = _plain(column, values, declared)
    if pa.types.is_string(values.type):
        return _from_text(column, values, declared, known)
    values = _without_nulls(column, values)
    if declared is None and column.name == column.source.time_column and type_of(values.type) in ("int", "float"):
        declared = "timestamp"
    if "%" in column.format and type_of(values.type) == "int" and declared in ("timestamp", "date"):
        return _times(column, values.cast(pa.string()), declared)  # 20200131
    dated = declared == "timestamp" or (declared is None and isinstance(column.source.date_format, dict))
    if dated and column.format in EPOCHS and type_of(values.type) in ("int", "float"):
        return _epochs(column, values)
    if values.null_count == len(values):
        return cast_column(values, declared or known or "float")
    return values if declared is None else _as_declared(column, values, declared)


# ------------------------------------------------------------------------------------- what files with types hold


def _plain(column: Column, values: pa.ChunkedArray, declared: ColumnType | None) -> pa.ChunkedArray:
    """Arrow's many types, as one of the six."""
    if isinstance(values.type, pa.BaseExtensionType):
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if declared == "string" and (pa.types.is_decimal(kind) or pa.types.is_integer(kind)):
        return values.cast(pa.string())  # as it is written, whatever its size
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            return _to_utc(column, values.cast(pa.timestamp("us"), safe=False))
        return values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.timestamp("us", tz="UTC")).cast(
            pa.timestamp("us"))  # fmt: skip
    if declared == "float" and (pa.types.is_decimal(kind) or pa.types.is_integer(kind)):
        return values.cast(pa.float64(), safe=False)
    if pa.types.is_uint64(kind):
        _refuse_first(column, pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())), values,
                      "is beyond 64 bits with a sign", _beyond(column))  # fmt: skip
    if pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64()) if kind.scale > 0 else _whole_decimals(column, values)
    if pa.types.is_floating(kind):
        plain = values.cast(pa.float64())
        return pc.if_else(pc.is_nan(plain), pa.scalar(None, pa.float64()), plain)
    if pa.types.is_date(kind):
        return values.cast(pa.date32())
    if pa.types.is_duration(kind) or pa.types.is_time(kind):
        return _clock(column, values, declared)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_nested(kind):
        texts = [None if v is None else json.dumps(v, default=str) for v in values.to_pylist()]
        return pa.chunked_array([texts], pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _from_bytes(column, values)
    if not (pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        column.refuse(None, f"{kind} is a type that cannot be read", f"leave it out with `exclude: [{column.name}]`")
    return values


def _whole_decimals(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers, as databases write them that know no other number: `NUMBER(38, 0)`."""
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        row = _first_bad(values, lambda part: part.cast(pa.int64()))
        column.refuse(row, f"{values[row].as_py()} is beyond 64 bits", _beyond(column))


_CALENDAR = (-62_135_596_800, 253_402_300_800)
"""Seconds since 1970 at which the year 1 begins and the year 9999 ends."""


def _refuse_outside_calendar(column: Column, values: pa.ChunkedArray, shown: pa.ChunkedArray) -> None:
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


def _clock(column: Column, values: pa.ChunkedArray, declared: ColumnType | None) -> pa.ChunkedArray:
    """Durations and times of day: as seconds, or text, where that is declared."""
    kind = "duration" if pa.types.is_duration(values.type) else "time of day"
    if declared == "float":
        unit = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[values.type.unit]
        whole = pa.int32() if pa.types.is_time32(values.type) else pa.int64()
        return pc.divide(values.cast(whole).cast(pa.float64()), unit)
    if declared != "string":
        column.refuse(
            None, f"{values.type} is a {kind}, which is no column type",
            f"declare `types: {{{column.name}: float}}` to have its seconds, or `exclude: [{column.name}]`",
        )  # fmt: skip
    return pa.chunked_array([[None if v is None else str(v) for v in values.to_pylist()]], pa.string())


def _from_bytes(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return values.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(values.to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                column.refuse(
                    row, f"byte 0x{value[error.start]:02x} is not UTF-8 text",
                    f"write text into the column, or leave it out with `exclude: [{column.name}]`",
                )  # fmt: skip
        raise


def _without_nulls(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that `null_values` declares to stand for a missing value, as missing."""
    if not column.source.null_values or type_of(values.type) not in ("int", "float"):
        return values
    numbers = [float(text) for text in column.source.null_values if re.fullmatch(r"[+-]?(\d+(\.\d+)?|(?i:inf))", text)]
    stand_for = pc.is_in(values.cast(pa.float64(), safe=False), pa.array(numbers, pa.float64()))
    return pc.if_else(stand_for, pa.scalar(None, values.type), values)


def _as_declared(column: Column, values: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    have = type_of(values.type)
    if kind == "string" and have != "string":
        return values.cast(pa.string())
    if kind in ("timestamp", "date") and have in ("int", "float"):
        row = pc.index(values.is_valid(), True).as_py()
        column.refuse(
            row, f"{values[row].as_py()} is a number, not a {kind}", _declare_format(column, str(values[row].as_py()))
        )
    if kind == "bool" and have == "int":
        _refuse_first(column, pc.invert(pc.is_in(values, pa.array([0, 1, None]))), values, "is not a bool", _correct())
        return values.cast(pa.bool_())
    if have == "bool" and kind in ("int", "float"):
        return values.cast(pa.int64()).cast(arrow_type(kind))
    try:
        return cast_column(values, kind)
    except SchemaError:
        row = _first_bad(values, lambda part: cast_column(part, kind))
        column.refuse(row, f"{values[row].as_py()!r} is not a {kind}", _correct())


# ------------------------------------------------------------------------------------------------------- text


def _from_text(
    column: Column, values: pa.ChunkedArray, declared: ColumnType | None, known: ColumnType | None
) -> pa.ChunkedArray:
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
            return _times(column, clean, None)
        return found
    if declared == "bool":
        return _bools(column, clean)
    if declared in ("timestamp", "date"):
        return _times(column, clean, declared)
    numbers = _numbers(column, clean, declared)
    if numbers is None:
        row = _first_bad(clean, lambda part: _numbers(column, part, declared, strict=True))
        column.refuse(row, f"{clean[row].as_py()!r} is not a {declared}", _correct(clean[row].as_py()))
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
            return _times(column, clean, None)
        except Unreadable:
            if isinstance(column.source.date_format, dict):
                raise
    for kind in ("int", "float"):
        numbers = _numbers(column, clean, kind)
        if numbers is None:
            continue
        if column.format in EPOCHS and isinstance(column.source.date_format, dict):
            return _epochs(column, numbers)
        if _padded(clean):
            return text  # 007 is a code, or else its zeros would be lost
        if kind == "float":
            large = pc.greater_equal(pc.abs(numbers), float(EXACT))
            lost = (
                pc.and_(large, pc.match_substring_regex(clean, r"^[+-]?\d{16,}$")) if pc.any(large).as_py() else large
            )
            _refuse_first(column, lost, clean, "is a whole number beyond what is held exactly", _beyond(column))
        return numbers
    if re.match(_ISO_START, first):
        for parse in (_iso_dates, _iso_times):
            found = parse(column, clean)
            if found is not None:
                return found
    if re.match(_LIKE_A_DATE, first) and pc.all(pc.match_substring_regex(clean, _LIKE_A_DATE)).as_py():
        return _times(column, clean, None)
    return text


_ISO_START = r"^\d{4}-\d{2}-\d{2}"


def _bools(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray:
    lower = pc.utf8_lower(text)
    known = pc.is_in(lower, pa.array([*TRUE, *FALSE, None]))
    _refuse_first(column, pc.invert(known), text, "is not a bool", _correct())
    return pc.if_else(pc.is_valid(lower), pc.is_in(lower, pa.array(TRUE)), pa.scalar(None, pa.bool_()))


def _numbers(
    column: Column, text: pa.ChunkedArray, kind: ColumnType, *, strict: bool = False
) -> pa.ChunkedArray | None:
    """Text as numbers; None where a value is none (an error, if `strict`)."""
    try:
        text = _digits(column.source, text)
        if kind == "float":
            return text.cast(pa.float64())
        try:
            return _whole(text)
        except pa.ArrowInvalid:
            if column.source.types.get(column.name) != "int":
                raise
            return cast_column(text.cast(pa.float64()), "int")  # 5.0, as pandas writes it
    except (pa.ArrowInvalid, SchemaError):
        if strict:
            raise
        return None


def _whole(text: pa.ChunkedArray) -> pa.ChunkedArray:
    if pc.any(pc.starts_with(text, "+")).as_py():
        text = pc.replace_substring_regex(text, r"^\+", "")
    numbers = text.cast(pa.int64())
    if any(pc.any(pc.match_substring(text, x)).as_py() for x in "xX"):
        raise pa.ArrowInvalid("hexadecimal")  # which Arrow reads
    return numbers


def _padded(text: pa.ChunkedArray) -> bool:
    """Whether a number begins with a zero that is not its value, as codes do."""
    begins = pc.starts_with(text, "0")
    for sign in ("-0", "+0"):
        begins = pc.or_(begins, pc.starts_with(text, sign))
    return bool(pc.any(pc.match_substring_regex(text.filter(begins), r"^[+-]?0\d")).as_py())


def _digits(source: FilesSource, text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as the program writes them.

    Raises:
        ArrowInvalid: a group of digits is not of three, or the wrong separator is there.
    """
    for affix in source.affixes:
        escaped = re.escape(affix)
        text = pc.replace_substring_regex(text, rf"^([+-]?)\s*{escaped}\s*|\s*{escaped}$", r"\1")
    if source.thousands:
        group, point = re.escape(source.thousands), re.escape(source.decimal)
        if source.thousands == " ":
            group = "[ \u00a0\u202f]"
        plain = rf"^[+-]?\d*({point}\d*)?([eE][+-]?\d+)?$"
        grouped = rf"^[+-]?\d{{1,3}}({group}\d{{3}})+({point}\d*)?$"
        if not pc.all(pc.match_substring_regex(text, f"{plain}|{grouped}")).as_py():
            raise pa.ArrowInvalid("groups of digits")
        text = pc.replace_substring_regex(text, group, "")
    if source.decimal == ",":
        if pc.any(pc.match_substring(text, ".")).as_py():
            raise pa.ArrowInvalid("a point where the decimal separator is a comma")
        text = pc.replace_substring(text, ",", ".")
    return text


# ------------------------------------------------------------------------------------------------ dates and times


def _times(column: Column, text: pa.ChunkedArray, kind: ColumnType | None) -> pa.ChunkedArray:
    """Text as timestamps in UTC, or as dates, as declared or as ISO 8601 has it; without a kind, as what is there."""
    form = column.format
    if form in EPOCHS:
        numbers = _numbers(column, text, "float")
        if numbers is None:
            row = _first_bad(text, lambda part: part.cast(pa.float64()))
            column.refuse(row, f"{text[row].as_py()!r} is no number of an epoch", _correct())
        return _epochs(column, text.cast(pa.int64()) if _numbers(column, text, "int") is not None else numbers)
    if "%" in form:
        found = _by_format(column, text, form)
    elif form in ("day_first", "month_first"):
        found = _numeric_dates(column, text, form)
    else:
        found = _iso_dates(column, text)
        if found is None:
            found = _iso_times(column, text)
        if found is None and form != "iso":
            found = _numeric_dates(column, text, form)
        if found is None:
            row = _first_not_iso(column, text)
            wanted = kind or "timestamp"
            column.refuse(row, f"{text[row].as_py()!r} is not a {wanted}", _declare_format(column, text[row].as_py()))
    if kind == "date" and found.type != pa.date32():
        _refuse_first(column, pc.not_equal(found.cast(pa.date32(), safe=False).cast(pa.timestamp("us")), found), text,
                      "has a time, and is declared a date", _correct())  # fmt: skip
        return found.cast(pa.date32(), safe=False)
    if kind == "timestamp" and found.type == pa.date32():
        return _to_utc(column, found.cast(pa.timestamp("us")))
    return found


def _iso_dates(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    try:
        return text.cast(pa.date32())
    except pa.ArrowInvalid:
        return None


def _iso_times(column: Column, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """ISO 8601 with or without a zone, in UTC; None where a value is something else."""
    with contextlib.suppress(pa.ArrowInvalid):
        return _to_utc(column, text.cast(pa.timestamp("us")))  # none has a zone: the usual case, and the fast one
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
    return pc.coalesce(aware, _to_utc(column, naive))


def _first_not_iso(column: Column, text: pa.ChunkedArray) -> int:
    def parse(part: pa.ChunkedArray) -> None:
        if _iso_times(column, part) is None:
            raise pa.ArrowInvalid("not ISO")

    return _first_bad(text, parse)


def _numeric_dates(column: Column, text: pa.ChunkedArray, form: str) -> pa.ChunkedArray | None:
    """01/31/2020 and 2020/1/31, with or without a time; the order of day and month as declared, or as a value shows."""
    parts = pc.extract_regex(text, _YEAR_LAST)
    wrong = pc.and_(text.is_valid(), pc.invert(parts.is_valid()))
    if pc.any(wrong).as_py():
        parts = pc.extract_regex(text, _YEAR_FIRST)
        if pc.any(pc.and_(text.is_valid(), pc.invert(parts.is_valid()))).as_py():
            if form:
                row = pc.index(wrong, True).as_py()
                column.refuse(row, f"{text[row].as_py()!r} is not a date in the order {form}", _correct())
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
                f"declare `date_format: day_first` or `date_format: month_first`{_or_text(column)}",
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
        row = _first_bad(iso, lambda part: part.cast(pa.timestamp("us")))
        column.refuse(row, f"{text[row].as_py()!r} is not a day of the calendar", _declare_format(column, "31/01/2020"))
    if pc.all(pc.is_null(hour)).as_py():
        return moments.cast(pa.date32())
    return _to_utc(column, moments)


def _by_format(column: Column, text: pa.ChunkedArray, form: str) -> pa.ChunkedArray:
    """By a declared format, as Python's strptime has it; each text once."""
    encoded = text.combine_chunks().dictionary_encode()
    moments = []
    for value in encoded.dictionary.to_pylist():
        try:
            moment = dt.datetime.strptime(value, form)
        except ValueError:
            row = pc.index(text, value).as_py()
            column.refuse(row, f"{value!r} is not written as {form!r}", _correct())
        moments.append(moment)
    if all(moment.tzinfo for moment in moments) and moments:
        utc = [moment.astimezone(dt.UTC).replace(tzinfo=None) for moment in moments]
        return pa.chunked_array([pa.array(utc, pa.timestamp("us")).take(encoded.indices)])
    found = pa.chunked_array([pa.array(moments, pa.timestamp("us")).take(encoded.indices)])
    return _to_utc(column, found) if re.search(r"%[HIMSfTXcRr]", form) else found.cast(pa.date32())


def _epochs(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers of seconds, milliseconds or microseconds since 1970 as timestamps in UTC."""
    factor = EPOCHS[column.format]
    far = pc.greater(pc.abs(values.cast(pa.float64(), safe=False)), 253_402_300_800 * 1e6 / factor)
    _refuse_first(column, far, values, f"lies beyond the year 9999 as {column.format}",
                  "declare another of epoch_s, epoch_ms and epoch_us")  # fmt: skip
    if pa.types.is_integer(values.type):
        return pc.multiply(values, factor).cast(pa.timestamp("us"))
    return pc.round(pc.multiply(values, float(factor))).cast(pa.int64()).cast(pa.timestamp("us"))


def _to_utc(column: Column, naive: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times without a zone, which are those of the source's zone."""
    zone = column.source.timezone
    if zone == "UTC":
        return naive

    def convert(part: Any) -> Any:
        return pc.assume_timezone(part, zone, ambiguous="earliest", nonexistent="raise")

    try:
        return convert(naive).cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))
    except (pa.ArrowInvalid, ValueError):
        row = _first_bad(naive, convert)
        column.refuse(
            row, f"{naive[row].as_py()} is a time that the clocks of {zone} skipped",
            "are the times of another zone? Correct the source's `timezone`, or write times with their offset",
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- refusals


def _refuse_first(column: Column, wrong: Any, values: Any, what: str, remedy: str) -> None:
    row = pc.index(wrong, True).as_py()
    if row >= 0:
        column.refuse(row, f"{values[row].as_py()!r} {what}", remedy)


def _first_bad(values: pa.ChunkedArray, convert: Callable[[Any], Any]) -> int:
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


def _beyond(column: Column) -> str:
    return f"declare `types: {{{column.name}: string}}` for a code, or `float` for a rounded number"


def _correct(value: Any = "") -> str:
    text = str(value)
    if re.fullmatch(r"[-?.*#/]+|(?i:n\.?a\.?|none|missing|unknown|tbd)", text):
        return f"does it stand for a missing value? Then declare `null_values: [{text!r}]`"
    if re.fullmatch(r"[+-]?\d{1,3}([ .,'\u00a0]\d{3})*[.,]\d+|[+-]?\d{1,3}([ .,'\u00a0]\d{3})+", text):
        return "declare the source's `decimal` and `thousands`"
    if re.fullmatch(r"[^\d\s.,+-]+ ?[+-]?[\d.,]+|[+-]?[\d.,]+ ?[^\d\s.,]+", text):
        return "declare what stands beside the number in the source's `affixes`"
    return "correct the file, or the source's `types`"


def _declare_format(column: Column, value: str) -> str:
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", value):
        day = "'%Y%m%d' for days, or " if re.fullmatch(r"\d{8}", value) else ""
        return f"declare `date_format`: {day}epoch_s, epoch_ms or epoch_us for a time since 1970{_or_text(column)}"
    return f"declare how it is written in the source's `date_format`, such as '%d %b %Y' or day_first{_or_text(column)}"


def _or_text(column: Column) -> str:
    return "" if column.name == column.source.time_column else f", or `types: {{{column.name}: string}}`"
