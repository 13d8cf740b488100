"""What every type of source keeps to, whatever it reads."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.ingestion import sources
from include.settings import FilesSource, SampleSource, Source

ROWS = [
    {"at": "2018-01-01 08:00:00", "n": 1, "x": 0.5, "s": "a"},
    {"at": "2018-01-01 09:00:00", "n": 2, "x": 1.5, "s": None},
    {"at": "2018-01-02 10:00:00", "n": 3, "x": 2.0, "s": "c"},
]
CSV = "at,n,x,s\n" + "".join(f"{r['at']},{r['n']},{r['x']},{r['s'] or ''}\n" for r in ROWS)
DERIVE = {"double": "x * 2"}


def _files(folder: Path, name: str, content: bytes, **given: Any) -> FilesSource:
    (folder / name).write_bytes(content)
    return FilesSource(type="files", path=str(folder / name), time_column="at", derive=DERIVE, **given)


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    types = pa.schema({"at": pa.string(), "n": pa.int32(), "x": pa.float32(), "s": pa.large_string()})
    pq.write_table(pa.Table.from_pylist(ROWS, types), sink)
    return sink.getvalue().to_pybytes()


def _make(kind: str, folder: Path) -> Source:
    jsonl = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if kind == "trips":
        return SampleSource(
            type="sample", dataset="taxi_trips", rows_per_day=50, derive={"double": "trip_distance * 2"}
        )
    if kind == "cells":
        return SampleSource(type="sample", dataset="breast_cancer", derive={"double": "mean_area * 2"})
    content = {
        "rows.csv": CSV.encode(),
        "rows.csv.gz": gzip.compress(CSV.encode()),
        "rows.jsonl": jsonl,
        "rows.jsonl.gz": gzip.compress(jsonl),
        "rows.parquet": _parquet(),
    }
    return _files(folder, kind, content[kind])


@pytest.fixture(params=["trips", "cells", "rows.csv", "rows.csv.gz", "rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return _make(request.param, tmp_path)


def _keys(source: Source) -> list[str]:
    return ["2018-01-01", "2018-01-02"] if source.time_column else ["all"]


def test_columns_are_those_of_the_partitions_with_their_types(source: Source) -> None:
    columns = sources.columns_of(source)
    for _, table in sources.read_partitions(source, _keys(source)):
        assert table.column_names == list(columns)
        for name, kind in columns.items():
            if table[name].null_count < table.num_rows:
                assert sources.column_type(table.schema.field(name).type) == kind, name


def test_columns_come_in_half_a_second(source: Source) -> None:
    sources.columns_of(source)  # imports
    begin = time.perf_counter()
    sources.columns_of(source)
    assert time.perf_counter() - begin < 0.5


def test_every_key_comes_once_and_the_same_rows_come_again(source: Source) -> None:
    first, second = ([*sources.read_partitions(source, _keys(source))] for _ in range(2))
    assert [key for key, _ in first] == _keys(source)
    assert all(a.equals(b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_rows_lie_in_the_day_of_their_partition(source: Source) -> None:
    if source.time_column is None:
        pytest.skip("a source without time has one partition")
    for key, table in sources.read_partitions(source, _keys(source)):
        assert table.num_rows > 0
        assert {str(at.date()) for at in table[source.time_column].to_pylist()} == {key}


def test_a_derived_column_is_computed(source: Source) -> None:
    for _, table in sources.read_partitions(source, _keys(source)):
        base = next(name for name in ("x", "trip_distance", "mean_area") if name in table.column_names)
        assert table["double"].to_pylist() == pytest.approx([2 * value for value in table[base].to_pylist()])


def test_a_derived_column_of_a_column_that_is_not_there_is_refused_with_a_hint(source: Source) -> None:
    base = next(name for name in ("x", "trip_distance", "mean_area") if name in sources.columns_of(source))
    wrong = source.model_copy(update={"derive": {"double": f"{base}_ * 2"}})
    with pytest.raises(ValueError, match=f"{base}_.*did you mean '{base}'"):
        sources.columns_of(wrong)


def test_health_says_that_it_is_there(source: Source) -> None:
    assert sources.health_of(source).ok
