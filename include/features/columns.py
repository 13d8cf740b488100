"""Columns: a mapping of name → one-dimensional NumPy array, the same offline from parquet and online from a request.

float, int, bool   float64, missing NaN
string             object array of str, missing None
timestamp, date    datetime64[us], UTC without a zone, missing NaT
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["float", "int", "string", "bool", "timestamp", "date"]
Columns = Mapping[str, np.ndarray]
Values = np.ndarray | list[np.ndarray]
"""Some columns of one kind without names: numbers as one float64 array (columns, rows), text as a list of (rows,)."""

NUMERIC: frozenset[str] = frozenset({"float", "int", "bool"})
TEMPORAL: frozenset[str] = frozenset({"timestamp", "date"})


class ColumnError(ValueError):
    """A column is missing, or a value is not of its type; the message names column, row and what was expected."""


def family(kind: str) -> Literal["number", "string", "time"]:
    """How values of a type are held: as `number`, `string` or `time`."""
    if kind in NUMERIC:
        return "number"
    return "time" if kind in TEMPORAL else "string"


def unusable_name(name: str) -> str | None:
    """Why a column cannot be a field of a request, and so no input; None: it can.

    JSON can spell any name, but the service matches a field's bytes as they stand, without resolving escapes, and
    PostgreSQL keeps no NUL in a text.
    """
    if not name.strip():
        return "has no name" if not name else "has a name of blanks only"
    bad = next((c for c in name if c in '"\\' or ord(c) < 0x20 or ord(c) == 0x7F or 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is None:
        return None
    what = {'"': "a quotation mark", "\\": "a backslash", "\n": "a line break", "\r": "a line break", "\t": "a tab"}
    return f"has {what.get(bad, f'the control character U+{ord(bad):04X}')} in its name"


def types_of(schema: pa.Schema) -> dict[str, ColumnType]:
    """The column types of an Arrow schema; columns that cannot be features (lists, structs, bytes) are left out."""
    import pyarrow.types as at

    found: dict[str, ColumnType] = {}
    for field in schema:
        kind = field.type.value_type if at.is_dictionary(field.type) else field.type
        if at.is_boolean(kind):
            found[field.name] = "bool"
        elif at.is_integer(kind):
            found[field.name] = "int"
        elif at.is_floating(kind) or at.is_decimal(kind) or at.is_null(kind):
            found[field.name] = "float"
        elif at.is_string(kind) or at.is_large_string(kind):
            found[field.name] = "string"
        elif at.is_timestamp(kind):
            found[field.name] = "timestamp"
        elif at.is_date(kind):
            found[field.name] = "date"
    return found


def from_arrow(table: pa.Table | pa.RecordBatch, types: Mapping[str, ColumnType]) -> dict[str, np.ndarray]:
    """The columns of an Arrow table that `types` names.

    Raises:
        ColumnError: the table lacks one, or its values are not of that type.
    """
    names = table.schema.names
    columns: dict[str, np.ndarray] = {}
    for name, kind in types.items():
        if name not in names:
            raise ColumnError(f"column {name!r} is not in the data; it has {', '.join(names)}")
        columns[name] = _from_array(table.column(name), kind, name)
    return columns


def _from_array(array: Any, kind: ColumnType, name: str) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.types as at

    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    of_family = family(kind)
    plain = _PLAIN[of_family].get(str(array.type))
    if plain and len(array) and not array.null_count:
        values = _values(array, plain)
        return values.astype(np.float64, copy=False) if of_family == "number" else values
    import pyarrow.compute as pc

    try:
        if of_family == "number":
            if at.is_string(array.type) or at.is_temporal(array.type):
                raise ColumnError(f"column {name!r} holds {array.type}, expected {kind}")
            wide = array if at.is_float64(array.type) else pc.cast(array, pa.float64(), safe=False)
            return _values(wide.fill_null(np.nan) if wide.null_count else wide, "f8")
        if of_family == "time":
            if not (at.is_timestamp(array.type) or at.is_date(array.type) or at.is_null(array.type)):
                raise ColumnError(f"column {name!r} holds {array.type}, expected {kind}")
            micros = pc.cast(array, pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False)
            ticks = micros.view(pa.int64())
            return _values(ticks.fill_null(_NAT) if ticks.null_count else ticks, "M8[us]")
        if not (at.is_string(array.type) or at.is_large_string(array.type) or at.is_dictionary(array.type)):
            array = pc.cast(array, pa.string())
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"column {name!r} holds {array.type}, which cannot be read as {kind}: {error}") from error


_PLAIN: dict[str, dict[str, str]] = {
    "number": {"double": "f8", "float": "f4", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1"},
    "time": {"timestamp[us]": "M8[us]"},
    "string": {},
}
"""Arrow types whose buffers NumPy reads as they are: without pyarrow.compute, which takes 40 ms to import."""
_NAT = int(np.iinfo(np.int64).min)


def _values(array: pa.Array, dtype: str) -> np.ndarray:
    """The values of an array without nulls, not copied. (`to_numpy` would import pandas, 0.25 s.)"""
    return np.frombuffer(array.buffers()[1], dtype=dtype, count=array.offset + len(array))[array.offset :]


def from_rows(rows: Sequence[Mapping[str, Any]], types: Mapping[str, ColumnType]) -> dict[str, np.ndarray]:
    """The columns of JSON rows; a field that a row lacks, or null, is missing.

    Raises:
        ColumnError: a value is not of its column's type.
    """
    count = len(rows)
    columns: dict[str, np.ndarray] = {}
    for name, kind in types.items():
        values = [row.get(name) for row in rows]
        of_family = family(kind)
        try:
            if of_family == "number":
                columns[name] = np.array([np.nan if v is None else _number(v) for v in values], dtype=np.float64)
            elif of_family == "time":
                columns[name] = np.array([None if v is None else _time(v) for v in values], dtype="datetime64[us]")
            else:
                text = np.empty(count, dtype=object)
                text[:] = [None if v is None else _text(v) for v in values]
                columns[name] = text
        except (TypeError, ValueError, OverflowError) as error:
            raise ColumnError(_bad_value(name, kind, values, of_family)) from error
    return columns


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(value)
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _time(value: Any) -> dt.datetime:
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise TypeError(value)
    return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value


def _bad_value(name: str, kind: str, values: list[Any], of_family: str) -> str:
    read = {"number": _number, "time": _time, "string": _text}[of_family]
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            read(value)
        except (TypeError, ValueError, OverflowError):
            return f"row {row}, column {name!r}: {value!r} is not a {kind}"
    return f"column {name!r}: values are not of type {kind}"


def to_arrow(columns: Columns) -> pa.Table:
    """An Arrow table of the columns: NaN, None and NaT become null."""
    import pyarrow as pa

    arrays = []
    for values in columns.values():
        if values.dtype.kind == "O":
            arrays.append(pa.array(values, type=pa.string(), from_pandas=True))
        elif values.dtype.kind == "M":
            arrays.append(pa.array(values.astype("datetime64[us]", copy=False), type=pa.timestamp("us")))
        else:
            arrays.append(number_array(values.astype(np.float64, copy=False)))
    return pa.Table.from_arrays(arrays, names=list(columns))


def number_array(values: np.ndarray) -> pa.Array:
    """float64 values as an Arrow array, NaN null; the values are not copied, and pandas is not imported for it."""
    import pyarrow as pa

    missing = np.isnan(values)
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pa.Array.from_buffers(pa.float64(), len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def is_missing(values: np.ndarray) -> np.ndarray:
    """Which values are missing: None in text, NaN in numbers."""
    if values.dtype.kind == "O":
        return np.asarray(values == None, dtype=bool)  # noqa: E711  (elementwise)
    return np.asarray(np.isnan(values))


def select(columns: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The same columns with some rows: a boolean mask, or indices."""
    return {name: values[rows] for name, values in columns.items()}
