"""Columns: the same arrays from parquet and from a request."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.features.columns import ColumnError, ColumnType, from_arrow, from_rows, to_arrow, types_of

TYPES: dict[str, ColumnType] = {
    "number": "float", "count": "int", "flag": "bool", "word": "string", "time": "timestamp", "day": "date",
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"number": 1.5, "count": 3, "flag": True, "word": "a", "time": "2024-02-29T10:30:00", "day": "2024-02-29"},
    {"number": None, "count": None, "flag": None, "word": None, "time": None, "day": None},
    {"number": 2, "count": 0, "flag": False, "word": "", "time": "2024-02-29T10:30:00+02:00", "day": "2024-01-01"},
]


def table() -> pa.Table:
    utc = dt.UTC
    return pa.table(
        {
            "number": pa.array([1.5, None, 2.0], pa.float32()),
            "count": pa.array([3, None, 0], pa.int32()),
            "flag": pa.array([True, None, False]),
            "word": pa.array(["a", None, ""]).dictionary_encode(),
            "time": pa.array(
                [dt.datetime(2024, 2, 29, 10, 30, tzinfo=utc), None, dt.datetime(2024, 2, 29, 8, 30, tzinfo=utc)],
                pa.timestamp("ms", "UTC"),
            ),
            "day": pa.array([dt.date(2024, 2, 29), None, dt.date(2024, 1, 1)]),
        }
    )


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        if a[name].dtype.kind == "O":
            assert a[name].tolist() == b[name].tolist()
        else:
            np.testing.assert_array_equal(a[name], b[name])


def test_arrow_and_json_give_the_same_columns() -> None:
    columns = from_arrow(table(), TYPES)
    assert_same(columns, from_rows(ROWS, TYPES))
    assert [columns[name].dtype.str for name in TYPES] == ["<f8", "<f8", "<f8", "|O", "<M8[us]", "<M8[us]"]


def test_columns_survive_parquets_arrow_and_come_back() -> None:
    columns = from_rows(ROWS, TYPES)
    assert to_arrow(columns).column("number").null_count == 1
    assert_same(from_arrow(to_arrow(columns), TYPES), columns)


def test_the_types_of_a_schema() -> None:
    assert types_of(table().schema) == TYPES
    assert types_of(pa.schema([("l", pa.list_(pa.int8())), ("n", pa.null()), ("d", pa.decimal128(9, 2))])) == {
        "n": "float",
        "d": "float",
    }


def test_a_column_of_nothing_but_nulls_is_missing_in_every_type() -> None:
    empty = pa.table({name: pa.nulls(2) for name in TYPES})
    assert_same(from_arrow(empty, TYPES), from_rows([{}, {}], TYPES))


@pytest.mark.parametrize(
    ("name", "value"),
    [("number", "1.5"), ("count", [1]), ("word", 3), ("time", "yesterday"), ("time", 5), ("day", "2024-13-01")],
)
def test_a_value_of_another_type_is_named_with_its_row(name: str, value: object) -> None:
    with pytest.raises(ColumnError, match=f"row 1, column {name!r}"):
        from_rows([ROWS[0], {name: value}], TYPES)


def test_a_missing_or_mistyped_arrow_column_is_named() -> None:
    with pytest.raises(ColumnError, match="'number' is not in the data"):
        from_arrow(table().drop_columns(["number"]), TYPES)
    with pytest.raises(ColumnError, match=r"'word' holds .*, expected float"):
        from_arrow(pa.table({"word": ["a"]}), {"word": "float"})
    with pytest.raises(ColumnError, match=r"'number' holds .*, expected timestamp"):
        from_arrow(table(), {"number": "timestamp"})


def test_an_empty_table_has_empty_columns() -> None:
    assert {name: len(values) for name, values in from_arrow(table().slice(0, 0), TYPES).items()} == dict.fromkeys(
        TYPES, 0
    )
