"""One type for each column: what fits, what becomes wider, what is refused; and no value ever changes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include import schemas
from include.schemas import SchemaError, cast_column, concat, unite
from include.settings import ColumnType

BIG = 2**53 + 1


def _unite(values: Any, known: dict[str, Any], *, fixed: tuple[str, ...] = (), largest: int = 0) -> schemas.United:
    return unite(pa.table({"x": values}), known, fixed=fixed, largest=lambda _: largest)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([1.0, None, 3.0]), "int", [1, None, 3]),
        (pa.array([1, None]), "float", [1.0, None]),
        (pa.array([1], pa.int8()), "int", [1]),
        (pa.array([dt.date(2020, 1, 2)]), "timestamp", [dt.datetime(2020, 1, 2)]),
        (pa.array([dt.datetime(2020, 1, 2)]), "date", [dt.date(2020, 1, 2)]),
        (pa.array([None, None], pa.float64()), "string", [None, None]),
        (pa.nulls(1), "bool", [None]),
    ],
)
def test_what_a_type_holds_exactly_is_stored_in_it(values: pa.Array, kind: Any, expected: list[Any]) -> None:
    found = cast_column(values, kind)
    assert found.type == schemas.arrow_type(kind)
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (pa.array([1.0, 1.5]), "int", "1.5 cannot be held exactly as int"),
        (pa.array([1, BIG]), "float", f"{BIG} cannot be held exactly as float"),
        (pa.array([1, -BIG]), "float", "cannot be held exactly as float"),
        (pa.array([-(2**63)]), "float", "cannot be held exactly as float"),
        (pa.array([1e300]), "int", "cannot be held exactly as int"),
        (pa.array([float("inf")]), "int", "inf cannot be held exactly as int"),
        (pa.array([dt.datetime(2020, 1, 2, 3)]), "date", "cannot be held exactly as date"),
        (pa.array([None, "a"]), "float", "'a' is string, not float"),
        (pa.array([7]), "string", "7 is int, not string"),
        (pa.array([True]), "int", "True is bool, not int"),
        (pa.array([1]), "bool", "1 is int, not bool"),
    ],
)
def test_what_a_type_cannot_hold_is_refused_with_the_value(values: pa.Array, kind: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        cast_column(values, kind)


def test_a_column_is_learned_then_widened_and_the_change_is_noted() -> None:
    assert _unite([1, 2], {}).types == {"x": "int"}
    found = _unite([1.0, 1.5], {"x": "int"})
    assert (found.types, found.changes, found.conflicts) == ({"x": "float"}, {"x": "int → float"}, {})
    found = _unite([dt.datetime(2020, 1, 1, 5)], {"x": "date"})
    assert (found.types, found.changes) == ({"x": "timestamp"}, {"x": "date → timestamp"})


def test_whole_floats_stay_in_a_column_of_whole_numbers() -> None:
    found = _unite([1.0, None], {"x": "int"})
    assert (found.table["x"].type, found.changes) == (pa.int64(), {})


def test_an_empty_column_decides_nothing_and_takes_the_known_type() -> None:
    assert _unite(pa.nulls(2, pa.float64()), {}).types == {}
    found = _unite(pa.nulls(2, pa.float64()), {"x": "string"})
    assert (found.table["x"].type, found.types, found.conflicts) == (pa.string(), {}, {})


@pytest.mark.parametrize(
    ("values", "known", "largest", "reason"),
    [
        ([1.5], "int", BIG, "earlier partitions hold whole numbers up to"),
        ([BIG, 2], "float", 0, f"{BIG} cannot be held exactly as float"),
        (["a"], "int", 0, "'a' is string, not int"),
        ([1], "string", 0, "1 is int, not string"),
        ([True], "float", 0, "True is bool, not float"),
        ([dt.date(2020, 1, 1)], "int", 0, "is date, not int"),
    ],
)
def test_what_cannot_be_united_is_named_and_left_as_it_is(values: Any, known: str, largest: int, reason: str) -> None:
    found = _unite(values, {"x": known}, largest=largest)
    assert reason in found.conflicts["x"]
    assert found.table["x"].to_pylist() == values


def test_a_declared_type_is_not_widened() -> None:
    assert "1.5 cannot be held exactly as int" in _unite([1.5], {"x": "int"}, fixed=("x",)).conflicts["x"]


def test_tables_are_joined_in_one_type_and_a_column_that_one_lacks_is_missing_in_its_rows() -> None:
    joined = concat([
        ("a", pa.table({"x": [1, 2], "at": [dt.date(2020, 1, 1)] * 2})),
        ("b", pa.table({"x": [None, 1.5], "at": [dt.datetime(2020, 1, 2, 3)] * 2, "new": ["n", None]})),
        ("c", pa.table({"x": pa.nulls(1), "at": pa.nulls(1, pa.string())})),
    ])  # fmt: skip
    assert joined["x"].to_pylist() == [1.0, 2.0, None, 1.5, None]
    assert joined["at"].type == pa.timestamp("us")
    assert joined["new"].to_pylist() == [None, None, "n", None, None]


def test_tables_that_do_not_go_together_are_named() -> None:
    with pytest.raises(SchemaError, match="column x is int in january and string in march"):
        concat([("january", pa.table({"x": [1]})), ("march", pa.table({"x": ["1"]}))])
    with pytest.raises(SchemaError, match=f"january: column x: {BIG} cannot be held exactly as float.*march"):
        concat([("january", pa.table({"x": [BIG]})), ("march", pa.table({"x": [1.5]}))])


_VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5),
    "float": st.floats(allow_nan=False) | st.integers(-5, 5).map(float),
    "string": st.text(max_size=3),
    "bool": st.booleans(),
    "date": st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)),
    "timestamp": st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)),
}
_PARTITION = st.sampled_from(sorted(_VALUES)).flatmap(
    lambda kind: st.lists(st.none() | _VALUES[kind], min_size=1, max_size=4).map(
        lambda values: pa.table({"x": pa.array(values, schemas.arrow_type(kind))})
    )
)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dt.date) and not isinstance(a, dt.datetime):
        a = dt.datetime.combine(a, dt.time())
    if isinstance(b, dt.date) and not isinstance(b, dt.datetime):
        b = dt.datetime.combine(b, dt.time())
    return type(a) is type(b) and a == b if isinstance(a, bool) or isinstance(b, bool) else a == b


def test_a_column_whose_name_has_a_colon_is_named_as_any_other() -> None:
    parts = [("a", pa.table({"x: y": [2**53 + 1]})), ("b", pa.table({"x: y": [0.5]}))]
    with pytest.raises(SchemaError, match=r"^a: column x: y: 9007199254740993 cannot be held.*, which b needs$"):
        concat(parts)


@settings(max_examples=150, deadline=None)
@given(st.lists(_PARTITION, min_size=1, max_size=4))
def test_partitions_of_any_types_are_read_in_one_type_with_their_very_values_or_refused(parts: list[pa.Table]) -> None:
    """What a run does: unite one after the other; what was accepted is read in the types of the end."""
    known: dict[str, Any] = {}
    stored: list[tuple[pa.Table, list[Any]]] = []

    def largest(name: str) -> int:
        return max((schemas.largest(t[name]) for t, _ in stored if t[name].type == pa.int64()), default=0)

    for part in parts:
        united = unite(part, known, fixed=(), largest=largest)
        if not united.conflicts:
            known |= united.types
            stored.append((united.table, part["x"].to_pylist()))
    read = [(schemas.cast_table(table, known)["x"], original) for table, original in stored]
    assert len({values.type for values, original in read if known}) <= 1
    for values, original in read:
        assert all(map(_same, values.to_pylist(), original)), (values, original)
