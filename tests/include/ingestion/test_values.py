"""From text to the six types: strict where declared, without loss where not, and never a guess in silence."""

from __future__ import annotations

import csv
import datetime as dt
import io
import zoneinfo
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.ingestion import formats, values
from include.ingestion.values import Column, Unreadable
from include.schemas import arrow_type
from include.settings import ColumnType, FilesSource


def _read(cells: list[str | None], *, known: Any = None, is_text: bool = True, time: bool = False, **given: Any) -> Any:
    source = FilesSource(type="files", path="x.csv", time_column="x" if time else None, **given)
    return values.read(Column(source, "x.csv", "x", 2, is_text), pa.chunked_array([cells], pa.string()), known)


def _found(cells: list[str | None], **given: Any) -> tuple[pa.DataType, list[Any]]:
    column = _read(cells, **given)
    return column.type, column.to_pylist()


def _typed(cells: pa.Array, **given: Any) -> pa.ChunkedArray:
    """As from a parquet file."""
    source = FilesSource(type="files", path="x.parquet", **given)
    return values.read(Column(source, "x.parquet", "x", 1, False), pa.chunked_array([cells]), None)


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(60, 0), pa.decimal128(9, 0)])
def test_whole_numbers_of_a_database_that_knows_decimals_only_are_whole_numbers(kind: pa.DataType) -> None:
    cells = pa.array([7, 10**9 - 1, None] if kind.precision == 9 else [7, 2**53 + 1, None]).cast(pa.int64())
    found = _typed(cells.cast(pa.string()).cast(kind))
    assert (found.type, found.to_pylist()) == (pa.int64(), cells.to_pylist())


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.uint64()])
def test_a_whole_number_beyond_64_bits_is_refused_and_the_remedy_is_one(kind: pa.DataType) -> None:
    cells = pa.array(["5", str(2**64 - 1)]).cast(kind)
    with pytest.raises(Unreadable, match=r"row 2, column x: 18446744073709551615 is beyond 64 bits.*{x: string}"):
        _typed(cells)
    assert _typed(cells, types={"x": "string"}).to_pylist() == ["5", "18446744073709551615"]
    assert _typed(cells, types={"x": "float"}).to_pylist() == [5.0, 2.0**64]


def test_a_decimal_that_is_declared_text_is_as_it_is_written() -> None:
    cells = pa.array(["1.10", "12345678901234567.89"]).cast(pa.decimal128(21, 2))
    assert _typed(cells, types={"x": "string"}).to_pylist() == ["1.10", "12345678901234567.89"]


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([0, 10**13], pa.timestamp("s")),  # in microseconds it would wrap around
        pa.array([0, 2**62], pa.timestamp("ms", "UTC")),
        pa.array([0, -(2**62)], pa.timestamp("us")),
        pa.array([0, 2**31 - 1], pa.date32()),
        pa.array([0, 86_400_000 * 2**31], pa.date64()),
    ],
)
def test_a_time_that_no_calendar_has_is_refused_with_its_row(cells: pa.Array) -> None:
    with pytest.raises(Unreadable, match=r"row 2, column x: .* since 1970 lies outside of the years.*exclude"):
        _typed(cells)
    assert _typed(cells.slice(0, 1)).null_count == 0


def test_the_smallest_date_of_a_program_that_a_zone_puts_before_year_1_is_refused_and_can_be_declared_missing() -> None:
    cells = ["2020-02-29 00:00:00", "0001-01-01 00:00:00"]
    with pytest.raises(Unreadable, match=r"row 3, column x: '0001-01-01 00:00:00' lies outside.*null_values"):
        _read(cells, timezone="Europe/Berlin")
    assert _read(cells).to_pylist() == [dt.datetime(2020, 2, 29), dt.datetime(1, 1, 1)]
    found = _read(cells, timezone="Europe/Berlin", null_values=["0001-01-01 00:00:00"])
    assert found.to_pylist() == [dt.datetime(2020, 2, 28, 23), None]


def test_an_extension_type_is_what_it_is_stored_as() -> None:
    assert _typed(pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}']))).to_pylist() == ['{"a": 1}']


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["1", "-2", None], "int", [1, -2, None]),
        (["1", "2.5", "NA"], "float", [1.0, 2.5, None]),
        ([" 1 ", "+2", "N/A"], "int", [1, 2, None]),
        (["true", "False", ""], "bool", [True, False, None]),
        (["007", "12", ""], "string", ["007", "12", None]),
        (["007", "1.5"], "string", ["007", "1.5"]),
        (["0x1F", "12"], "string", ["0x1F", "12"]),
        (["0", "-0.5"], "float", [0.0, -0.5]),
        (["NA", "DE", ""], "string", ["NA", "DE", None]),
        (["  a b ", "\u00a0c\t"], "string", ["a b", "c"]),
        (["2020-01-31", "2020-02-01"], "date", [dt.date(2020, 1, 31), dt.date(2020, 2, 1)]),
        (["2020-01-31 10:00", "2020-01-31T11:00:00.5Z"], "timestamp",
         [dt.datetime(2020, 1, 31, 10), dt.datetime(2020, 1, 31, 11, 0, 0, 500000)]),
        (["2020-01-31 10:00:00 +02:00", "2020-01-31T10:00:00 UTC"], "timestamp",
         [dt.datetime(2020, 1, 31, 8), dt.datetime(2020, 1, 31, 10)]),
        (["2020-01-31T10:00:00.123456789"], "timestamp", [dt.datetime(2020, 1, 31, 10, 0, 0, 123456)]),
        (["31/01/2020", "01/02/2020"], "date", [dt.date(2020, 1, 31), dt.date(2020, 2, 1)]),
        (["01/31/2020 2:05 PM", "02/01/2020 12:00 am"], "timestamp",
         [dt.datetime(2020, 1, 31, 14, 5), dt.datetime(2020, 2, 1)]),
        (["05/05/2020"], "date", [dt.date(2020, 5, 5)]),
        (["2020/1/2"], "date", [dt.date(2020, 1, 2)]),
        (["", None], "float", [None, None]),
    ],
)  # fmt: skip
def test_undeclared_text_is_what_all_of_it_is_written_as(cells: Any, kind: Any, expected: list[Any]) -> None:
    assert _found(cells) == (arrow_type(kind), expected)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["05/01/2025", "06/02/2025"],
            r"row 2, column x: '05/01/2025' is a day and a month in either order.*day_first",
        ),
        (["01.02.2025"], "date_format: month_first"),
        (["31/01/2020", "01/31/2020"], "row 3, column x: '01/31/2020' is not a day of the calendar"),
        (["20 Jan 2020"], "row 2, column x: '20 Jan 2020' is not a timestamp; .*'%d %b %Y'"),
        (["Jan 20, 2020"], "date_format"),
        (["9007199254740993", "1.5"], "row 2, column x: '9007199254740993' is a whole number beyond"),
        (["1", "12345678901234567890123"], "row 3, column x: .*beyond.*types: {x: string}"),
    ],
)
def test_what_can_be_read_in_two_ways_or_would_lose_something_is_refused_with_the_setting(
    cells: list[str], message: str
) -> None:
    with pytest.raises(Unreadable, match=message):
        _read(cells)


@pytest.mark.parametrize(
    ("cells", "given", "expected"),
    [
        (["00007", "7"], {"types": {"x": "string"}}, ["00007", "7"]),
        (["NA", "null", "NaN", ""], {"types": {"x": "string"}}, ["NA", "null", "NaN", None]),
        (["NA", "a"], {"types": {"x": "string"}, "null_values": ["NA"]}, [None, "a"]),
        (["00007"], {"known": "string"}, ["00007"]),
        ([" a"], {"trim": False}, [" a"]),
        (["5.0", "6"], {"types": {"x": "int"}}, [5, 6]),
        (["yes", "N", "1", "F"], {"types": {"x": "bool"}}, [True, False, True, False]),
        (["12,50", "1.020,5"], {"decimal": ",", "thousands": "."}, [12.5, 1020.5]),
        (["1,020.50", "3"], {"thousands": ","}, [1020.5, 3.0]),
        (["1 020", "1\u00a0000\u00a0000"], {"thousands": " "}, [1020, 1000000]),
        (["$12.50", "-$3", "4 %"], {"affixes": ["$", "%"]}, [12.5, -3.0, 4.0]),
        (["1", "?", "-999"], {"null_values": ["?", -999]}, [1, None, None]),
        (["05/01/2025"], {"date_format": "day_first"}, [dt.date(2025, 1, 5)]),
        (["05/01/2025"], {"date_format": "month_first"}, [dt.date(2025, 5, 1)]),
        (["05.01.2025 06:07"], {"date_format": {"x": "day_first"}}, [dt.datetime(2025, 1, 5, 6, 7)]),
        (["20 Jan 2020"], {"date_format": "%d %b %Y"}, [dt.date(2020, 1, 20)]),
        (["20200131"], {"date_format": {"x": "%Y%m%d"}, "types": {"x": "date"}}, [dt.date(2020, 1, 31)]),
        (["20200131"], {"date_format": "%Y%m%d", "time": True}, [dt.date(2020, 1, 31)]),
        (["1577836800", "1577836801.5"], {"date_format": "epoch_s", "time": True},
         [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, 0, 0, 1, 500000)]),
        (["1577836800000"], {"date_format": {"x": "epoch_ms"}}, [dt.datetime(2020, 1, 1)]),
        (["2020-01-01"], {"types": {"x": "timestamp"}, "timezone": "Europe/Berlin"}, [dt.datetime(2019, 12, 31, 23)]),
        (["2020-07-01 10:00", "2020-07-01T10:00:00Z"], {"timezone": "Europe/Berlin"},
         [dt.datetime(2020, 7, 1, 8), dt.datetime(2020, 7, 1, 10)]),
        (["01/07/2020 10:00:00 +0200"], {"date_format": "%d/%m/%Y %H:%M:%S %z"}, [dt.datetime(2020, 7, 1, 8)]),
    ],
)  # fmt: skip
def test_a_declaration_is_followed(cells: Any, given: dict[str, Any], expected: list[Any]) -> None:
    assert _found(cells, **given)[1] == expected


@pytest.mark.parametrize(
    ("cells", "given", "message"),
    [
        (["1", "cheap"], {"types": {"x": "float"}}, "x.csv: row 3, column x: 'cheap' is not a float; correct the file"),
        (["1", "-"], {"types": {"x": "float"}}, r"'-' is not a float; .*`null_values: \['-'\]`"),
        (["12,50"], {"types": {"x": "float"}}, "declare the source's `decimal` and `thousands`"),
        (["$5"], {"types": {"x": "float"}}, "`affixes`"),
        (["1.5"], {"types": {"x": "int"}}, "'1.5' is not a int"),
        (["1,02"], {"types": {"x": "float"}, "thousands": ","}, "'1,02' is not a float"),
        (["1.5"], {"types": {"x": "float"}, "decimal": ","}, "'1.5' is not a float"),
        (["99999999999999999999"], {"types": {"x": "int"}}, "'99999999999999999999' is not a int"),
        (["maybe"], {"types": {"x": "bool"}}, "'maybe' is not a bool"),
        (
            ["20200131"],
            {"types": {"x": "timestamp"}},
            "'20200131' is not a timestamp; declare `date_format`: '%Y%m%d' for days",
        ),
        (["1577836800"], {"time": True}, "date_format"),
        (["soon"], {"time": True}, "'soon' is not a timestamp"),
        (["2020-01-31 10:00"], {"types": {"x": "date"}}, "has a time, and is declared a date"),
        (["32.01.2020"], {"date_format": "day_first"}, "'32.01.2020' is not a day of the calendar"),
        (["31.02.2020"], {"date_format": "%d.%m.%Y", "time": True}, "'31.02.2020' is not written as"),
        (["2020-03-29 02:30"], {"timezone": "Europe/Berlin", "time": True}, "the clocks of Europe/Berlin skipped"),
        (["1577836800000000"], {"date_format": "epoch_s", "time": True}, "beyond the year 9999 as epoch_s"),
    ],
)
def test_what_does_not_fit_a_declaration_is_refused_with_row_value_and_remedy(
    cells: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unreadable, match=message):
        _read(cells, **given)


@pytest.mark.parametrize(
    ("array", "types", "expected"),
    [
        (pa.array([90], pa.duration("s")), {"x": "float"}, [90.0]),
        (pa.array([dt.time(1, 0)], pa.time64("us")), {"x": "float"}, [3600.0]),
        (pa.array([b"caf\xc3\xa9"]), {}, ["caf\u00e9"]),
        (pa.array([1.5, float("nan")]), {}, [1.5, None]),
        (pa.array([1], pa.uint64()), {}, [1]),
        (pa.array(["a"]).dictionary_encode(), {}, ["a"]),
        (pa.array([7]), {"x": "string"}, ["7"]),
        (pa.array([20200131]), {"x": "date"}, [dt.date(2020, 1, 31)]),
        (pa.array(["00007"]), {}, ["00007"]),
        (pa.array([dt.datetime(2020, 1, 1, 12)], pa.timestamp("ms", "Asia/Tokyo")), {}, [dt.datetime(2020, 1, 1, 12)]),
    ],
)
def test_the_types_of_other_formats_become_the_six(array: Any, types: dict[str, Any], expected: list[Any]) -> None:
    source = FilesSource(type="files", path="x.parquet", types=types, date_format="%Y%m%d")
    found = values.read(Column(source, "x.parquet", "x", 1, False), pa.chunked_array([array]), None)
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("array", "types", "message"),
    [
        (pa.array([90], pa.duration("s")), {}, r"column x: duration\[s\] is a duration.*types: {x: float}"),
        (pa.array([dt.time(1)], pa.time64("us")), {}, "is a time of day"),
        (pa.array([None, b"\xff\xfe"]), {}, r"row 2, column x: byte 0xff is not UTF-8 text.*exclude: \[x\]"),
        (pa.array([1, 2**63], pa.uint64()), {}, f"row 2, column x: {2**63} is beyond 64 bits"),
        (pa.array([20200131]), {"x": "timestamp"}, "20200131 is a number, not a timestamp; .*%Y%m%d"),
        (pa.array([2]), {"x": "bool"}, "2 is not a bool"),
        (pa.array([0.5]), {"x": "int"}, "0.5 is not a int"),
    ],
)
def test_what_other_formats_hold_and_no_type_of_ours_can_is_refused(array: Any, types: Any, message: str) -> None:
    source = FilesSource(type="files", path="x.parquet", types=types)
    with pytest.raises(Unreadable, match=message):
        values.read(Column(source, "x.parquet", "x", 1, False), pa.chunked_array([array]), None)


# ------------------------------------------------------------------------------------------- CSV there and back

_MOMENTS = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1))
_CELLS: dict[str, Any] = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "date": _MOMENTS.map(dt.datetime.date),
    "timestamp": _MOMENTS,
    "string": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6).filter(
        lambda text: text == text.strip() and text != ""
    ),
}


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_csv_of_declared_types_gives_the_values_that_were_written(data: st.DataObject) -> None:
    kinds: list[ColumnType] = data.draw(st.lists(st.sampled_from(sorted(_CELLS)), min_size=1, max_size=4))
    names = [f"name{place}" for place in range(len(kinds))]
    row = st.tuples(*(st.none() | _CELLS[kind] for kind in kinds)).filter(
        lambda cells: any(c is not None for c in cells)
    )
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=data.draw(st.sampled_from(",;\t|")))
    writer.writerows([names, *(["" if c is None else str(c) for c in cells] for cells in rows)])
    source = FilesSource(
        type="files", path="x.csv", types=dict(zip(names, kinds, strict=True)), delimiter=writer.dialect.delimiter
    )
    raw = formats.parse(source, "x.csv", text.getvalue().encode(), {})
    for place, name in enumerate(names):
        column = values.read(Column(source, "x.csv", name, raw.first_row, raw.is_text), raw.table[name], None)
        assert column.type == arrow_type(kinds[place])
        assert column.to_pylist() == [cells[place] for cells in rows]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.text("0123456789.,-+eE aN/:TZ", max_size=8), min_size=1, max_size=4))
def test_undeclared_text_keeps_its_very_characters_or_a_number_that_is_written_so(cells: list[str]) -> None:
    """Nothing that was inferred has lost anything: a number gives its text back, up to how numbers are written."""
    try:
        column = _read(list(cells))
    except Unreadable:
        return
    for cell, value in zip(cells, column.to_pylist(), strict=True):
        trimmed = cell.strip()
        if value is None:
            assert trimmed in values.MISSING
        elif isinstance(value, str):
            assert value == trimmed
        elif isinstance(value, int) and not isinstance(value, bool):
            assert str(value) == trimmed.removeprefix("+") or (value == 0 and trimmed == "-0")
        elif isinstance(value, float):
            assert value == float(trimmed)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo"]
    ),
    st.lists(st.datetimes(dt.datetime(2018, 1, 1), dt.datetime(2018, 12, 31)), min_size=1, max_size=5),
)
def test_local_times_are_the_moments_that_the_zones_own_rules_give(zone: str, walls: list[dt.datetime]) -> None:
    """Times that the clocks skipped are refused; of those that are there twice it is the first."""
    info = zoneinfo.ZoneInfo(zone)
    expected = [wall.replace(tzinfo=info, fold=0).astimezone(dt.UTC) for wall in walls]
    skipped = any(e.astimezone(info).replace(tzinfo=None) != wall for e, wall in zip(expected, walls, strict=True))
    cells = [wall.isoformat() for wall in walls]
    if skipped:
        with pytest.raises(Unreadable, match="skipped"):
            _read(cells, timezone=zone, types={"x": "timestamp"})
    else:
        found = _read(cells, timezone=zone, types={"x": "timestamp"}).to_pylist()
        assert found == [moment.replace(tzinfo=None) for moment in expected]
