"""From what a file holds to columns of the six types: strictly where a type is declared, without loss where it is not.

Text in a CSV file is only text until it is read here. Without a declared type it becomes a number, a date or a
truth value where all of its values are written as such, and nothing would be lost: 007 stays text, and a whole number
that no type of ours can hold exactly is refused. What can be read in two ways (05/01/2025) is refused with both of
them. Every refusal names the row, the value and the setting.

    column     where values come from, and the refusal of one, with its row and the setting
    typed      values of a file that has types
    text       text, of which all values show what it is; numbers, times: how they are written
"""

from __future__ import annotations

import pyarrow as pa

from include.ingestion.values.column import Column, Unreadable
from include.ingestion.values.text import MISSING, from_text
from include.ingestion.values.times import EPOCHS, epochs, refuse_outside_calendar, times
from include.ingestion.values.typed import as_declared, plain, without_nulls
from include.schemas import cast_column, type_of
from include.settings import ColumnType

__all__ = ["MISSING", "Column", "Unreadable", "read"]


def read(column: Column, values: pa.ChunkedArray, known: ColumnType | None) -> pa.ChunkedArray:
    """The values in one of the six types: the declared one, else what they are, else `known` where none is there.

    Raises:
        Unreadable: a value is not of the declared type, or can be read in more than one way.
    """
    refuse_outside_calendar(column, values, values)
    found = _read(column, values, known)
    refuse_outside_calendar(column, found, values)
    return found


def _read(column: Column, values: pa.ChunkedArray, known: ColumnType | None) -> pa.ChunkedArray:
    declared = column.source.types.get(column.name)
    values = plain(column, values, declared)
    if pa.types.is_string(values.type):
        return from_text(column, values, declared, known)
    values = without_nulls(column, values)
    if declared is None and column.name == column.source.time_column and type_of(values.type) in ("int", "float"):
        declared = "timestamp"
    if "%" in column.format and type_of(values.type) == "int" and declared in ("timestamp", "date"):
        return times(column, values.cast(pa.string()), declared)  # 20200131
    dated = declared == "timestamp" or (declared is None and isinstance(column.source.date_format, dict))
    if dated and column.format in EPOCHS and type_of(values.type) in ("int", "float"):
        return epochs(column, values)
    if values.null_count == len(values):
        return cast_column(values, declared or known or "float")
    return values if declared is None else as_declared(column, values, declared)
