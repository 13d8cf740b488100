"""All partitions of a source are read in one type for each column, whatever a single file of it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from include import database
from include.ingestion import partitions
from include.schemas import SchemaError
from include.settings import FilesSource
from tests.include.ingestion.conftest import Ingest, files


class Days:
    """Daily parquet files of one source, whose only rule is that `shop` is there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.suite = folder, folder / "suite.json"
        rule = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "shop"}, "severity": "warning"}
        self.suite.write_text(json.dumps({"name": "suite", "expectations": [rule]}))

    def write(self, day: int, **columns: Any) -> str:
        key = f"2018-01-{day:02}"
        rows = len(next(iter(columns.values())))
        at = pa.array([f"{key}T10:00:00"] * rows).cast(pa.timestamp("us"))
        pq.write_table(pa.table({"at": at, "shop": ["a"] * rows, **columns}), self.folder / f"s_{key}.parquet")
        return key

    def source(self, **given: Any) -> FilesSource:
        return files(self.folder / "s_{yyyy}-{mm}-{dd}.parquet", time_column="at", **given)


@pytest.fixture
def days(tmp_path: Path) -> Days:
    return Days(tmp_path)


def _rows(ingest: Ingest, column: str) -> tuple[set[pa.DataType], list[Any]]:
    tables = [partitions.read(ingest.data_url, partition) for partition in ingest.published()]
    return {t[column].type for t in tables}, [value for t in tables for value in t[column].to_pylist()]


def test_days_of_whole_and_of_broken_numbers_become_one_type_and_the_change_is_shown(
    ingest: Ingest, days: Days
) -> None:
    first = ingest(days.source(), [days.write(1, n=[1, 2])], "r1", suite=days.suite)
    assert first.types_changed == {}
    found = ingest(days.source(), [days.write(2, n=[1.5, None])], "r2", suite=days.suite)
    assert found.types_changed == {"n": "int → float"}
    assert _rows(ingest, "n") == ({pa.float64()}, [1.0, 2.0, 1.5, None])
    assert "column n is int → float" in Path(found.docs_url).read_text()
    with database.connect(ingest.database_url).connect() as connection:
        table = database.source_schemas
        history = connection.execute(sa.select(table.c.history).where(table.c.column == "n")).scalar_one()
    assert [(entry["from"], entry["type"], entry["partition"]) for entry in history] == [
        (None, "int", "2018-01-01"), ("int", "float", "2018-01-02"),
    ]  # fmt: skip


def test_days_of_several_types_in_one_run_are_united_in_order(ingest: Ingest, days: Days) -> None:
    keys = [days.write(1, n=pa.nulls(1)), days.write(2, n=[3]), days.write(3, n=[4.0]), days.write(4, n=[0.5])]
    found = ingest(days.source(), keys, suite=days.suite)
    assert (found.rejected, found.types_changed) == ({}, {"n": "int → float"})
    assert _rows(ingest, "n") == ({pa.float64()}, [None, 3.0, 4.0, 0.5])


def test_what_cannot_be_united_is_refused_by_name_and_nothing_else_is(ingest: Ingest, days: Days) -> None:
    keys = [days.write(1, n=[2**53 + 1], s=["x"]), days.write(2, n=[0.5], s=["x"]), days.write(3, n=[3], s=[7])]
    found = ingest(days.source(), [*keys, days.write(4, n=[4], s=["y"])], suite=days.suite)
    assert found.accepted == ["2018-01-01", "2018-01-04"]
    assert found.rejected["2018-01-02"].startswith(
        "column n: earlier partitions hold whole numbers up to 9007199254740993, which float cannot hold exactly"
    )
    assert found.rejected["2018-01-03"].startswith("column s: 7 is int, not string. Correct the data; or declare")
    assert ingest.path("quarantine", "trips", "2018-01-03.whole.parquet").exists()
    again = ingest(days.source(), ["2018-01-02"], "r2", suite=days.suite)
    assert "earlier partitions hold whole numbers" in again.rejected["2018-01-02"]


def test_a_refused_day_leaves_the_schema_as_it_was(ingest: Ingest, days: Days) -> None:
    ingest(days.source(), [days.write(1, n=[1])], "r1", suite=days.suite)
    days.write(2, n=[0.5])
    pq.write_table(pq.read_table(days.folder / "s_2018-01-02.parquet").drop_columns(["shop"]),
                   days.folder / "s_2018-01-02.parquet")  # fmt: skip
    found = ingest(days.source(), ["2018-01-02"], "r2", suite=days.suite)
    assert "column shop is missing" in found.rejected["2018-01-02"]
    assert found.types_changed == {}
    assert _rows(ingest, "n") == ({pa.int64()}, [1])


def test_a_replaced_partition_does_not_bind_its_replacement(ingest: Ingest, days: Days) -> None:
    """Blanks made the column text; the corrected file has numbers, and nothing else stands for text."""
    key = days.write(1, n=["12.5", "-"])
    ingest(days.source(), [key], "r1", suite=days.suite)
    found = ingest(days.source(), [days.write(1, n=[12.5, None])], "r2", suite=days.suite)
    assert found.rejected == {}
    assert _rows(ingest, "n") == ({pa.float64()}, [12.5, None])


def test_a_declared_type_wins_and_what_was_published_otherwise_is_named_until_it_is_replaced(
    ingest: Ingest, days: Days
) -> None:
    keys = [days.write(1, n=["1", "2"]), days.write(2, n=["3"])]
    ingest(days.source(), keys, "r1", suite=days.suite)
    typed = days.source(types={"n": "float"})
    ingest(typed, keys[:1], "r2", suite=days.suite)
    with pytest.raises(
        SchemaError, match=r"source trips, partition 2018-01-02: column n: '3' is string, not float.*replace"
    ):
        _rows(ingest, "n")
    ingest(typed, keys[1:], "r3", suite=days.suite)
    assert _rows(ingest, "n") == ({pa.float64()}, [1.0, 2.0, 3.0])


def test_partitions_from_before_there_was_a_record_are_learned_from_their_files(ingest: Ingest, days: Days) -> None:
    ingest(days.source(), [days.write(1, n=[1]), days.write(2, n=[2])], "r1", suite=days.suite)
    engine = database.connect(ingest.database_url)
    with engine.begin() as connection:
        connection.execute(sa.delete(database.source_schemas))
        connection.execute(sa.update(database.partitions).values(report={}))
    found = ingest(days.source(), [days.write(3, n=[0.5])], "r2", suite=days.suite)
    assert found.types_changed == {"n": "int → float"}
    assert _rows(ingest, "n") == ({pa.float64()}, [1.0, 2.0, 0.5])


def test_codes_stay_text_on_a_day_on_which_all_are_digits(ingest: Ingest, days: Days, tmp_path: Path) -> None:
    for day, code in ((1, "A7"), (2, "00007")):
        (tmp_path / f"c_2018-01-{day:02}.csv").write_text(f"at,shop,code\n2018-01-{day:02} 10:00:00,a,{code}\n")
    source = files(tmp_path / "c_{yyyy}-{mm}-{dd}.csv", time_column="at")
    ingest(source, ["2018-01-01"], "r1", suite=days.suite)
    (tmp_path / "c_2018-01-01.csv").unlink()
    found = ingest(source, ["2018-01-02"], "r2", suite=days.suite)
    assert found.rejected == {}
    assert _rows(ingest, "code") == ({pa.string()}, ["A7", "00007"])
