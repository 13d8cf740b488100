"""Values of a file that has types: Arrow's many, as one of the six."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.values.column import Column, beyond, correct, declare_format, first_bad, refuse_first
from include.ingestion.values.times import to_utc
from include.schemas import SchemaError, arrow_type, cast_column, type_of
from include.settings import ColumnType


def plain(column: Column, values: pa.ChunkedArray, declared: ColumnType | None) -> pa.ChunkedArray:
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
            return to_utc(column, values.cast(pa.timestamp("us"), safe=False))
        return values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.timestamp("us", tz="UTC")).cast(
            pa.timestamp("us"))  # fmt: skip
    if declared == "float" and (pa.types.is_decimal(kind) or pa.types.is_integer(kind)):
        return values.cast(pa.float64(), safe=False)
    if pa.types.is_uint64(kind):
        refuse_first(column, pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())), values,
                     "is beyond 64 bits with a sign", beyond(column))  # fmt: skip
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
        row = first_bad(values, lambda part: part.cast(pa.int64()))
        column.refuse(row, f"{values[row].as_py()} is beyond 64 bits", beyond(column))


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


def without_nulls(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that `null_values` declares to stand for a missing value, as missing."""
    if not column.source.null_values or type_of(values.type) not in ("int", "float"):
        return values
    numbers = [float(text) for text in column.source.null_values if re.fullmatch(r"[+-]?(\d+(\.\d+)?|(?i:inf))", text)]
    stand_for = pc.is_in(values.cast(pa.float64(), safe=False), pa.array(numbers, pa.float64()))
    return pc.if_else(stand_for, pa.scalar(None, values.type), values)


def as_declared(column: Column, values: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    """Values of a file with types in the declared one, without loss.

    Raises:
        Unreadable: a value does not fit, with the row of the first.
    """
    have = type_of(values.type)
    if kind == "string" and have != "string":
        return values.cast(pa.string())
    if kind in ("timestamp", "date") and have in ("int", "float"):
        row = pc.index(values.is_valid(), True).as_py()
        column.refuse(
            row, f"{values[row].as_py()} is a number, not a {kind}", declare_format(column, str(values[row].as_py()))
        )
    if kind == "bool" and have == "int":
        refuse_first(column, pc.invert(pc.is_in(values, pa.array([0, 1, None]))), values, "is not a bool", correct())
        return values.cast(pa.bool_())
    if have == "bool" and kind in ("int", "float"):
        return values.cast(pa.int64()).cast(arrow_type(kind))
    try:
        return cast_column(values, kind)
    except SchemaError:
        row = first_bad(values, lambda part: cast_column(part, kind))
        column.refuse(row, f"{values[row].as_py()!r} is not a {kind}", correct())
