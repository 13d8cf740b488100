"""A table as Great Expectations gets it: pandas frames in which no value is changed.

pandas' own conversion turns a column of integers into floats at the first null (2^53 + 1 becomes 2^53, 7 becomes
"7.0"). Here a column with nulls has one of pandas' nullable types. Where Great Expectations takes the truth of a
comparison before it drops what is missing (two columns, a histogram), such a type's NA has none: for those
expectations an integer stays an integer in a column of objects, and a null is NaN. A column's type is a fact of
the table, not of its rows: for expectations about types there is a frame of one row that holds a value of each.

A missing value is null, NaN or NaT, everywhere. Times with a zone are given as UTC without one, like the times that
a suite's parameters name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

_NULLABLE: dict[pa.DataType, pd.api.extensions.ExtensionDtype] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype("python"),
    pa.large_string(): pd.StringDtype("python"),
}


def of_values(table: pa.Table) -> pd.DataFrame:
    """For expectations about one column, or about the whole table."""
    return _frame({name: _series(_plain(table[name])) for name in table.column_names})


def of_records(table: pa.Table) -> pd.DataFrame:
    """For expectations that compare the columns of a row, or a histogram."""
    return _frame({name: _comparable(_series(_plain(table[name]))) for name in table.column_names})


def of_types(table: pa.Table) -> pd.DataFrame:
    """For expectations about columns' types: one row, whose values say nothing."""
    return _frame({name: _series(_example(_plain(table[name]))) for name in table.column_names})


def of_shape(table: pa.Table) -> pd.DataFrame:
    """For expectations about the names of the columns and the number of rows: its values say nothing."""
    nothing = np.broadcast_to(np.bool_(False), (table.num_rows, table.num_columns))
    return pd.DataFrame(nothing, columns=table.column_names, copy=False)


def _frame(columns: dict[str, pd.Series[Any]]) -> pd.DataFrame:
    return pd.DataFrame(columns)  # columns of a kind in one block, once: else pandas makes it anew at every filter


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit))
    return column


def _series(column: pa.ChunkedArray) -> pd.Series[Any]:
    exact = _NULLABLE.get if column.null_count else None
    series: pd.Series[Any] = column.to_pandas(types_mapper=exact, date_as_object=False)
    return series


def _comparable(series: pd.Series[Any]) -> pd.Series[Any]:
    if isinstance(series.dtype, tuple(map(type, _NULLABLE.values()))):
        return pd.Series(series.to_numpy(dtype=object, na_value=np.nan), index=series.index, dtype=object)
    return series


def _example(column: pa.ChunkedArray) -> pa.ChunkedArray:
    present = column.drop_null()
    if len(present):
        return present.slice(0, 1)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pa.chunked_array([pa.array([""], column.type)])
    try:
        return pa.chunked_array([pa.array([0], pa.int32()).cast(column.type)])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column.slice(0, 1)
