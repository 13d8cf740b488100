"""Arrow IPC streams and parquet become the same columns as JSON does, or a refusal; whatever their bytes promise."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.inference import columnar
from include.inference.errors import Refused
from include.inference.schema import ARROW, JSON, PARQUET, Checked, Schema

INPUTS = [
    {"name": "mean radius", "type": "float", "required": True, "minimum": -1e6, "maximum": 1e6},
    {"name": "count", "type": "int", "required": True},
    {"name": "flag", "type": "bool", "required": False},
    {"name": "vendor", "type": "string", "required": True},
    {"name": "note.text", "type": "string", "required": False},
    {"name": "at", "type": "timestamp", "required": True},
    {"name": "day", "type": "date", "required": False},
]
SCHEMA = Schema(INPUTS, max_batch=5000, entity="rider")
NOON = dt.datetime(2018, 1, 31, 12, 0, 0, 1)
TABLE = pa.table(
    {
        "mean radius": [1.5, 2.0, -3.25],
        "count": [1, 2, 3],
        "flag": pa.array([True, None, False]),
        "vendor": ["a", "b", "a"],
        "note.text": pa.array(["ü", None, ""]),
        "at": [NOON, NOON, NOON],
        "day": pa.array([dt.date(2018, 2, 1), None, dt.date(1969, 1, 1)]),
        "rider": pa.array(["x", None, "y"]),
    }
)
ROWS = [
    {
        name: value.isoformat() if isinstance(value, dt.date) else value
        for name, value in row.items()
        if value is not None
    }
    for row in TABLE.to_pylist()
]


def stream(table: pa.Table, rows: int | None = None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


WRITERS: dict[str, tuple[str, Callable[[pa.Table], bytes]]] = {
    "stream": (ARROW, stream),
    "stream in pieces": (ARROW, lambda table: stream(table, rows=2)),
    "stream, zstd": (ARROW, lambda table: stream(table, compression="zstd")),
    "stream, lz4, in pieces": (ARROW, lambda table: stream(table, rows=1, compression="lz4")),
    "parquet": (PARQUET, parquet),
    "parquet, zstd, in pieces": (PARQUET, lambda t: parquet(t, compression="zstd", row_group_size=2, data_page_size=1)),
    "parquet, pages of version 2": (PARQUET, lambda t: parquet(t, data_page_version="2.0", use_dictionary=False)),
    "parquet, old": (PARQUET, lambda t: parquet(t, version="1.0", compression="gzip", store_schema=False)),
}
FORMS = pytest.mark.parametrize(("content_type", "write"), WRITERS.values(), ids=list(WRITERS))


def refused(body: bytes, content_type: str, schema: Schema = SCHEMA) -> Refused:
    with pytest.raises(Refused) as caught:
        schema.many(body, content_type)
    return caught.value


def same(one: Checked, two: Checked) -> bool:
    return (
        one.columns.keys() == two.columns.keys()
        and one.entities == two.entities
        and all(
            values.dtype == two.columns[name].dtype
            and np.array_equal(values, two.columns[name], equal_nan=values.dtype.kind != "O")
            for name, values in one.columns.items()
        )
    )


def changed(name: str, values: Any) -> pa.Table:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return TABLE.set_column(TABLE.column_names.index(name), name, array)


@FORMS
def test_a_table_becomes_the_columns_that_its_rows_in_json_become(content_type: str, write: Any) -> None:
    body = json.dumps({"rows": ROWS}).encode()
    checked, told = SCHEMA.many(write(TABLE), content_type), SCHEMA.many(body, JSON)
    assert same(checked, told)
    assert checked.entities == ["x", None, "y"]
    lines = SCHEMA.inputs_json(checked, "all")
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in SCHEMA.inputs_json(told, "all")]


@FORMS
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "mean radius": st.floats(-2e6, 2e6, allow_subnormal=False),
                "count": st.integers(-(2**31), 2**31),
                "flag": st.none() | st.booleans(),
                "vendor": st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9),
                "note.text": st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40),
                "at": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),
                "day": st.none() | st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)),
                "rider": st.none() | st.text("abc", max_size=3),
            }
        ),
        min_size=1,
        max_size=7,
    )
)
def test_whatever_a_table_holds_is_held_as_from_json(content_type: str, write: Any, rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"rows": rows}, default=lambda moment: moment.isoformat()).encode()
    checked, told = SCHEMA.many(write(pa.Table.from_pylist(rows, TABLE.schema)), content_type), SCHEMA.many(body, JSON)
    assert same(checked, told)
    assert (checked.warnings is None) == (told.warnings is None)
    for mine, theirs in zip(checked.warnings or [], told.warnings or [], strict=True):
        assert [w.code for w in mine] == [w.code for w in theirs]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mean radius", pa.array([1, 2, 3], pa.int8())),
        ("mean radius", pa.array([1.5, 2, 3], pa.float32())),
        ("mean radius", pa.array([1.5, 2, 3], pa.float16())),
        ("mean radius", pa.array(["1.5", "2", "3"]).cast(pa.decimal128(9, 2))),
        ("count", pa.array([1, 2, 2**64 - 1], pa.uint64())),
        ("count", pa.array([1.0, 2.0, 3.0])),
        ("count", pa.array([1, 2, 1]).dictionary_encode()),
        ("flag", pa.nulls(3)),
        ("vendor", pa.array(["a", "b", "a"], pa.large_string())),
        ("vendor", pa.array(["a", "b", "a"]).dictionary_encode()),
        ("vendor", pa.array(["a", "b", "more than twelve bytes"], pa.string_view())),
        ("note.text", pa.array([None, None, "ü"]).dictionary_encode()),
        ("note.text", pa.nulls(3)),
        ("at", pa.array([NOON] * 3, pa.timestamp("ns"))),
        ("at", pa.array([NOON] * 3, pa.timestamp("us", tz="America/New_York"))),
        ("at", pa.array([NOON.replace(microsecond=0)] * 3, pa.timestamp("s"))),
        ("at", pa.array([NOON.date()] * 3)),
        ("day", pa.array([None, dt.date(1600, 1, 1), dt.date(2018, 1, 1)], pa.date64())),
        ("day", pa.array([None, dt.datetime(2018, 1, 1), dt.datetime(1969, 1, 1)])),
        ("rider", pa.array([7, None, 2**60])),
        ("rider", pa.array([7, None, 7]).dictionary_encode()),
    ],
)
@pytest.mark.parametrize("content_type", [ARROW, PARQUET])
def test_types_that_hold_the_same_values_are_cast(name: str, values: pa.Array, content_type: str) -> None:
    table = changed(name, values)
    checked = SCHEMA.many(stream(table) if content_type == ARROW else parquet(table), content_type)
    if name == "rider":
        assert checked.entities == [None if v is None else str(v) for v in values.to_pylist()]
        return
    held = checked.columns[name]
    for value, sent in zip(held.tolist(), values.to_pylist(), strict=True):
        if isinstance(sent, dt.datetime):
            assert value == (sent.astimezone(dt.UTC).replace(tzinfo=None) if sent.tzinfo else sent)
        elif isinstance(sent, dt.date):
            assert value == dt.datetime.combine(sent, dt.time())
        elif sent is None:
            assert value is None or value != value
        else:
            assert value == (sent if isinstance(sent, str) else float(sent))


@pytest.mark.parametrize(
    ("name", "values", "code", "field"),
    [
        ("mean radius", ["1.5", "2", "3"], "wrong_type", "columns.mean radius"),
        ("mean radius", [True, False, True], "wrong_type", "columns.mean radius"),
        ("mean radius", [[1.5], [2.0], []], "wrong_type", "columns.mean radius"),
        ("mean radius", [1.0, 2.0, None], "missing", "columns.mean radius[2]"),
        ("mean radius", [1.0, float("nan"), 2.0], "missing", "columns.mean radius[1]"),
        ("mean radius", [1.0, float("-inf"), 2.0], "not_finite", "columns.mean radius[1]"),
        ("mean radius", [1.0, 1e308, 2.0], "out_of_range", "columns.mean radius[1]"),
        ("count", [1.0, 2.5, 3.0], "wrong_type", "columns.count[1]"),
        ("flag", [1, 0, 1], "wrong_type", "columns.flag"),
        ("vendor", [1, 2, 3], "wrong_type", "columns.vendor"),
        ("vendor", [b"a", b"b", b"c"], "wrong_type", "columns.vendor"),
        ("vendor", ["a", None, "b"], "missing", "columns.vendor[1]"),
        ("vendor", ["a", "b\0", "b"], "wrong_type", "columns.vendor[1]"),
        ("at", ["2018-01-01T00:00:00"] * 3, "wrong_type", "columns.at"),
        ("at", [1, 2, 3], "wrong_type", "columns.at"),
        ("at", [NOON, None, NOON], "missing", "columns.at[1]"),
        ("at", pa.array([0, 2**52, 0], pa.timestamp("s")), "out_of_range", "columns.at[1]"),
        ("at", pa.array([0, 0, -(2**62)], pa.timestamp("us")), "out_of_range", "columns.at[2]"),
        ("day", [NOON, NOON, NOON], "wrong_type", "columns.day[0]"),
        ("rider", [1.5, 2.5, 3.5], "wrong_type", "columns.rider"),
        ("rider", ["a", "b", "x" * 513], "too_long", "columns.rider[2]"),
        ("rider", ["a", "b\0", None], "wrong_type", "columns.rider[1]"),
    ],
)
@pytest.mark.parametrize("content_type", [ARROW, PARQUET])
def test_a_wrong_column_is_named(name: str, values: Any, code: str, field: str, content_type: str) -> None:
    table = changed(name, values)
    found = refused(stream(table, rows=2) if content_type == ARROW else parquet(table, row_group_size=2), content_type)
    assert (found.status, found.code, found.field) == (422, code, field)


@pytest.mark.parametrize(("content_type", "write"), [(ARROW, stream), (PARQUET, parquet)])
def test_the_names_of_a_table_are_checked_as_those_of_a_row(content_type: str, write: Any) -> None:
    extra = TABLE.append_column("notes.text", pa.array([[1]] * 3))
    found = refused(write(extra), content_type)
    assert (found.status, found.code, found.field) == (422, "unknown_field", "columns.notes.text")
    assert str(found).endswith("did you mean 'note.text'?")
    lenient = Schema(INPUTS, max_batch=5000, extra_field="ignore", entity="rider")
    assert same(lenient.many(write(extra), content_type), SCHEMA.many(write(TABLE), content_type))
    found = refused(write(TABLE.rename_columns({"vendor": "vendro"})), content_type, lenient)
    assert (found.code, found.field) == ("missing", "columns.vendor")
    assert "you sent 'vendro'" in str(found)
    found = refused(write(TABLE.append_column("vendor", TABLE.column("vendor"))), content_type)
    assert (found.status, found.code, found.field) == (422, "duplicate_column", "columns.vendor")
    optional = Schema([{**entry, "required": False} for entry in INPUTS], max_batch=9, extra_field="ignore")
    assert optional.many(write(pa.table({"other": [1, 2]})), content_type).count == 2


@FORMS
def test_policies_hold_for_tables_too(content_type: str, write: Any) -> None:
    bounds = {"minimum": 0, "maximum": 1}
    inputs = [
        {**INPUTS[0], **bounds, "out_of_range": "clip"},
        {**INPUTS[1], **bounds},
        {**INPUTS[3], "categories": ["a"], "unknown_category": "error"},
    ]
    found = refused(write(TABLE), content_type, Schema(inputs, max_batch=9, extra_field="ignore"))
    assert (found.code, found.field) == ("unknown_category", "columns.vendor[1]")
    schema = Schema(inputs[:2], max_batch=9, extra_field="ignore")
    checked = schema.many(write(TABLE), content_type)
    assert checked.columns["mean radius"].tolist() == [1, 1, 0]
    assert checked.warnings is not None
    assert [[w.field for w in found] for found in checked.warnings] == [[], ["columns.count[1]"], ["columns.count[2]"]]
    assert json.loads(schema.inputs_json(checked, "all")[0]) == {"mean radius": 1.5, "count": 1}


@pytest.mark.parametrize(("content_type", "write"), [(ARROW, stream), (PARQUET, parquet)])
def test_a_table_without_rows_or_with_too_many_is_refused(content_type: str, write: Any) -> None:
    """Promise 38."""
    assert refused(write(TABLE.slice(0, 0)), content_type).code == "empty_batch"
    many = pa.concat_tables([TABLE] * 2000).combine_chunks()
    found = refused(write(many), content_type)
    assert (found.status, found.code) == (413, "too_many_rows")


WHOLE = {"stream": stream(TABLE), "zstd": stream(TABLE, compression="zstd"), "parquet": parquet(TABLE)}


@pytest.mark.parametrize("content_type", [ARROW, PARQUET])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"PAR1", b"PAR1" * 9, b"\xff" * 100, b"\0" * 100, json.dumps(ROWS).encode()]
)
def test_what_is_no_table_is_refused(body: bytes, content_type: str) -> None:
    found = refused(body, content_type)
    assert (found.status, found.code) == (400, "malformed_arrow" if content_type == ARROW else "malformed_parquet")


@pytest.mark.parametrize("form", WHOLE)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_table_with_wrong_bytes_is_columns_or_a_refusal(form: str, data: st.DataObject) -> None:
    """Promise 37, by hypothesis: cut off, or with any bytes changed."""
    body = bytearray(WHOLE[form])
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(body)) | st.integers(0, len(body)))
    with contextlib.suppress(Refused):
        SCHEMA.many(bytes(body[:cut]), PARQUET if form == "parquet" else ARROW)


CORRUPTED = """
import sys
from include.inference.schema import PARQUET, Schema; from include.inference.errors import Refused
schema = Schema([{"name": "note.text", "type": "string", "required": False}], max_batch=5000)
body = open(sys.argv[1], "rb").read()
read = 0
for place in range(len(body)):
    for byte in (0, 1, body[place] ^ 2, 127, 255):
        try:
            schema.many(body[:place] + bytes([byte]) + body[place + 1:], PARQUET)
        except Refused as refused:
            assert refused.status in (400, 413, 415, 422), refused
        read += 1
print(read)
"""


@pytest.mark.slow
def test_no_single_byte_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    """pyarrow's Python objects of a footer end it, by a C++ exception that nobody catches."""
    body = parquet(pa.table({"note.text": ["a", None, "b"]}), compression="none")
    (tmp_path / "body").write_bytes(body)
    command = [sys.executable, "-c", CORRUPTED, str(tmp_path / "body")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(5 * len(body))), done.stderr


# ------------------------------------------------------------------------------------------------ bombs

LONG = "x" * (900 * 1024)


def one_text_many_views() -> pa.Table:
    """5,000 rows that all show the same long text."""
    views = np.tile(np.array([len(LONG), 0x78787878, 0, 0], dtype="<i4"), 5000)
    buffers = [None, pa.py_buffer(views), pa.py_buffer(LONG.encode())]
    return pa.table({"note.text": pa.Array.from_buffers(pa.string_view(), 5000, buffers)})


def column(values: Any) -> pa.Table:
    return pa.table({"note.text": values})


def repeated() -> pa.Array:
    """5,000 rows, and one long text in a dictionary."""
    return pa.array([LONG]).dictionary_encode().take(pa.array([0] * 5000))


SHARED = {"use_dictionary": False, "column_encoding": {"note.text": "DELTA_BYTE_ARRAY"}}
BOMBS: dict[str, tuple[str, int, Callable[[], bytes]]] = {
    "compressed stream": (ARROW, 413, lambda: stream(column([LONG * 200]), compression="zstd")),
    "compressed dictionary": (
        ARROW,
        413,
        lambda: stream(column(pa.array([LONG * 200]).dictionary_encode()), compression="lz4"),
    ),
    "one text in a stream's dictionary": (ARROW, 413, lambda: stream(column(repeated()))),
    "one text that many views show": (ARROW, 413, lambda: stream(one_text_many_views())),
    "rows of nothing": (ARROW, 413, lambda: stream(column(pa.nulls(2_000_000_000)))),
    "many messages": (ARROW, 413, lambda: stream(column(pa.nulls(5000)), rows=1)),
    "compressed pages": (PARQUET, 413, lambda: parquet(column([LONG * 200]), compression="zstd")),
    "one text in a page's dictionary": (PARQUET, 413, lambda: parquet(column(repeated()))),
    "texts that share their beginnings": (PARQUET, 415, lambda: parquet(column([LONG] * 100), **SHARED)),
    "a million rows": (PARQUET, 413, lambda: parquet(column(pa.nulls(1_000_000, pa.string())))),
    "a large footer": (PARQUET, 413, lambda: parquet(TABLE.replace_schema_metadata({"x": LONG}))),
}

SCRIPT = """
import resource, sys
from include.inference.schema import ARROW, PARQUET, Schema; from include.inference.errors import Refused
schema = Schema([{"name": "note.text", "type": "string", "required": False}], max_batch=5000)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for content_type, file in zip((ARROW, PARQUET), sys.argv[1:3]):
    assert schema.many(open(file, "rb").read(), content_type).count == 1
body, before = open(sys.argv[4], "rb").read(), peak()
try:
    schema.many(body, sys.argv[3])
except Refused as refused:
    print(refused.status, peak() - before, "pandas" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_body_that_decodes_to_gigabytes_is_refused_before_memory_grows(bomb: str, tmp_path: Path) -> None:
    """Promise 38, in a process of its own: its memory is measured. pandas is not imported either."""
    content_type, status, write = BOMBS[bomb]
    one = pa.table({"note.text": ["x"]})
    for name, body in (("stream", stream(one)), ("parquet", parquet(one)), ("bomb", write())):
        (tmp_path / name).write_bytes(body)
    assert (tmp_path / "bomb").stat().st_size < 100 * len(LONG)
    files = [str(tmp_path / "stream"), str(tmp_path / "parquet"), content_type, str(tmp_path / "bomb")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, check=True)
    said, grown, pandas = done.stdout.split()
    assert int(said) == status
    assert int(grown) < 60 + 2 * (tmp_path / "bomb").stat().st_size // 1024**2
    assert pandas == "False"


def test_a_page_that_lies_about_its_size_is_not_believed() -> None:
    """The footer says little, the page's own header much: pyarrow would allocate what the page says."""
    body = bytearray(parquet(pa.table({"note.text": ["x" * 1000]}), compression="zstd", use_dictionary=False))
    header, _ = columnar._struct(bytes(body), 4)
    assert header[2, 5] > 1000
    old, new = _varint(header[2, 5]), _varint(2**31 - 1)
    place = bytes(body).index(old, 4)
    with_lie = bytes(body[:place]) + new + bytes(body[place + len(old) :])
    optional = Schema([{"name": "note.text", "type": "string", "required": False}], max_batch=9)
    assert refused(with_lie, PARQUET, optional).code == "body_too_large"


def claiming(kind: int, count: int, entries: bytes = b"") -> bytes:
    """A parquet file whose footer is a list that claims so many elements of a type of Thrift."""
    footer = bytes([0x19, 0xF0 | kind]) + _unsigned(count) + entries
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


@pytest.mark.parametrize("kind", range(16))
@pytest.mark.parametrize("count", [15, 10**7, 2**31 - 1, 2**62])
def test_a_claimed_count_is_held_against_the_bytes_that_are_there(kind: int, count: int) -> None:
    """19 bytes that claim n elements were looped over n times: seconds for ten million, and no end for 2^62."""
    body = claiming(kind, count)
    assert len(body) < 30
    assert refused(body, PARQUET).code == "malformed_parquet"


@pytest.mark.parametrize("kind", [1, 3, 5, 7, 8, 9, 12])
def test_no_claim_takes_more_steps_than_it_has_bytes(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within lists too: whatever a claim says, the values that are read have bytes."""
    steps = 0
    read = columnar._value

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return read(*arguments)

    monkeypatch.setattr(columnar, "_value", counted)
    entries = bytes([0xF0 | kind]) + _unsigned(2**40) + b"\0" * 200
    refused(claiming(9, 3, entries * 3), PARQUET)
    assert steps <= 2 * len(entries) * 3


def test_headers_with_more_values_than_any_file_has_are_refused() -> None:
    body = claiming(3, 250_000, b"\1" * 250_000)
    assert refused(body, PARQUET).code == "too_many_parts"


def test_a_dictionary_that_claims_values_without_bytes_for_them_is_refused() -> None:
    table = pa.table({"note.text": pa.array(["a", "b"]).dictionary_encode()})
    body = stream(table)
    length = struct.pack("<q", 2)
    optional = Schema([{"name": "note.text", "type": "string", "required": False}], max_batch=9)
    places = [n for n in range(len(body) - 8) if body[n : n + 8] == length]
    assert len(places) >= 3  # the dictionary's, its node's, the batch's and its node's
    for place in places:
        for claimed in (2**31, 2**40, 2**62, -1):
            lying = body[:place] + struct.pack("<q", claimed) + body[place + 8 :]
            assert refused(lying, ARROW, optional).status in (400, 413)


def _unsigned(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _varint(value: int) -> bytes:
    value, found = value << 1, b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def test_a_table_written_by_polars_is_read() -> None:
    """Its texts are views, its parquet is compressed by zstd."""
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(TABLE.drop_columns(["day"]))
    told = SCHEMA.many(stream(TABLE.drop_columns(["day"])), ARROW)
    for content_type, write in ((ARROW, frame.write_ipc_stream), (PARQUET, frame.write_parquet)):
        sink = io.BytesIO()
        write(sink)
        assert same(SCHEMA.many(sink.getvalue(), content_type), told)


def test_a_content_type_that_is_no_batch_is_refused_with_those_that_are() -> None:
    with pytest.raises(Refused, match=r"application/json, application/vnd\.apache\.arrow\.stream") as caught:
        SCHEMA.many(b"", "text/csv")
    assert caught.value.status == 415
