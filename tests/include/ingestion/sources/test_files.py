"""Files: periods and patterns, types, and one clear error for each kind of damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from include.ingestion import sources
from include.ingestion.sources import NothingFound, SourceError, SourceUnavailable, UnreadablePartitions
from include.ingestion.sources import files as files_module
from include.settings import Source
from tests.include.ingestion.conftest import DURATION, files
from tests.s3 import S3Server, s3_server  # noqa: F401

HEADER = "at,price,shop\n"


def _read(source: Source, *keys: str) -> dict[str, pa.Table]:
    return dict(sources.read_partitions(source, list(keys)))


def _month(folder: Path, name: str, rows: str) -> None:
    (folder / name).write_text(HEADER + rows)


def test_a_monthly_file_gives_its_days_and_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _month(tmp_path, "s_2018-01.csv", "2018-01-01 10:00:00,1.5,a\n2018-01-03 10:00:00,2.5,b\n")
    opened: list[str] = []
    read_file = files_module._read_file
    monkeypatch.setattr(files_module, "_read_file", lambda *given: opened.append(given[1]) or read_file(*given))
    source = files(tmp_path / "s_{yyyy}-{mm}.csv", time_column="at")
    parts = _read(source, "2018-01-01", "2018-01-02", "2018-01-03")
    assert {key: table.num_rows for key, table in parts.items()} == {"2018-01-01": 1, "2018-01-02": 0, "2018-01-03": 1}
    assert len(opened) == 1


def test_rows_outside_the_files_period_come_with_a_reason_on_its_first_day(tmp_path: Path) -> None:
    _month(
        tmp_path, "s_2018-01.csv", "2018-01-01 10:00:00,1,a\n2008-12-31 23:00:00,2,b\n,3,c\n2018-02-01 00:00:00,4,d\n"
    )
    source = files(tmp_path / "s_{yyyy}-{mm}.csv", time_column="at")
    parts = _read(source, "2018-01-01", "2018-01-02")
    reasons = parts["2018-01-01"][sources.REASON].to_pylist()
    outside = "at lies outside the file's period 2018-01"
    assert reasons == [None, outside, "at is missing", outside]
    assert sources.REASON not in parts["2018-01-02"].column_names


def test_only_a_star_is_a_pattern_and_what_is_no_data_file_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "new [1]?"
    (folder / "old.csv").mkdir(parents=True)
    for name in ("a.csv", "._a.csv"):
        (folder / name).write_bytes(b"x\n1\n" if name == "a.csv" else b"\0\5\x16\7")
    for path in (folder / "a.csv", folder / "*.csv"):
        assert sources.columns_of(files(path)) == {"x": "int"}
        ((_, table),) = sources.read_partitions(files(path), ["all"])
        assert table["x"].to_pylist() == [1]
    with pytest.raises(SourceError, match=r"is a folder; name the files in it, as in .*/\*\.csv"):
        sources.columns_of(files(folder))


def test_daily_files_in_folders_by_date_and_globs_are_joined_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "2018" / "01" / "05"
    folder.mkdir(parents=True)
    _month(folder, "b.csv", "2018-01-05 11:00:00,2,b\n")
    _month(folder, "a.csv", "2018-01-05 12:00:00,1,a\n")
    source = files(tmp_path / "{yyyy}/{mm}/{dd}/*.csv", time_column="at")
    assert _read(source, "2018-01-05")["2018-01-05"]["shop"].to_pylist() == ["a", "b"]


def test_a_file_without_time_is_one_partition_with_empty_fields_missing(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("name;age\nann;31\n;\n")
    source = files(tmp_path / "c.csv", delimiter=";", rename={"name": "customer"})
    table = _read(source, "all")["all"]
    assert table.to_pydict() == {"customer": ["ann", None], "age": [31, None]}


def test_a_column_keeps_its_type_when_a_day_is_empty_or_round(tmp_path: Path) -> None:
    _month(tmp_path, "s_2018-01-01.csv", "2018-01-01 10:00:00,1.5,a\n")
    _month(tmp_path, "s_2018-01-02.csv", "2018-01-02 10:00:00,2,\n")
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at")
    table = _read(source, "2018-01-02")["2018-01-02"]
    assert (table.schema.field("price").type, table.schema.field("shop").type) == (pa.float64(), pa.string())


def test_american_times_and_times_with_a_zone_are_understood(tmp_path: Path) -> None:
    _month(tmp_path, "a.csv", "01/31/2018 10:00,1,a\n")
    (tmp_path / "b.jsonl").write_text('{"at": "2018-01-31T12:00:00+02:00", "price": 1, "shop": "a"}\n')
    for name in ("a.csv", "b.jsonl"):
        table = _read(files(tmp_path / name, time_column="at"), "2018-01-31")["2018-01-31"]
        assert str(table["at"][0].as_py()) == "2018-01-31 10:00:00", name


def test_another_encoding_is_read_when_declared_and_named_when_not(tmp_path: Path) -> None:
    """Promise 4: wrong encoding."""
    (tmp_path / "c.csv").write_bytes("at,shop\n2018-01-01 10:00:00,x\n2018-01-01 11:00:00,café\n".encode("latin-1"))
    declared = files(tmp_path / "c.csv", time_column="at", encoding="latin-1")
    assert _read(declared, "2018-01-01")["2018-01-01"]["shop"].to_pylist() == ["x", "café"]
    with pytest.raises(UnreadablePartitions, match=r"c\.csv: row 3: byte 0xe9 is not utf-8.*encoding"):
        _read(files(tmp_path / "c.csv", time_column="at"), "2018-01-01")


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    """Promise 4: truncated gzip."""
    whole = gzip.compress((HEADER + "2018-01-01 10:00:00,1.5,a\n" * 5000).encode())
    (tmp_path / "s.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadablePartitions, match=r"s\.csv\.gz: the gzip is truncated") as caught:
        _read(files(tmp_path / "s.csv.gz", time_column="at"), "2018-01-01")
    assert caught.value.keys == ("2018-01-01",)


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    """Promise 4."""
    (tmp_path / "s.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UnreadablePartitions, match=r"s\.parquet: .*parquet"):
        _read(files(tmp_path / "s.parquet", time_column="at"), "2018-01-01")


def test_a_value_that_is_not_of_the_declared_type_is_named_with_row_and_column(tmp_path: Path) -> None:
    _month(tmp_path, "s.csv", "2018-01-01 10:00:00,1.5,a\n2018-01-01 10:00:00,cheap,a\n")
    with pytest.raises(UnreadablePartitions, match=r"s\.csv: row 3, column price: 'cheap' is not a float"):
        _read(files(tmp_path / "s.csv", time_column="at", types={"price": "float"}), "2018-01-01")


def test_a_row_with_too_few_fields_is_named(tmp_path: Path) -> None:
    _month(tmp_path, "s.csv", "2018-01-01 10:00:00,1.5,a\n2018-01-01 10:00:00,2\n")
    with pytest.raises(UnreadablePartitions, match=r"s\.csv: row 3 has 2 fields, the header 3"):
        _read(files(tmp_path / "s.csv", time_column="at"), "2018-01-01")


def test_a_missing_file_is_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    _month(tmp_path, "s_2018-01.csv", "2018-01-01 10:00:00,1.5,a\n")
    with pytest.raises(NothingFound, match=r"no file matches .*s_2018-02\.csv; the nearest of 1 files.*s_2018-01\.csv"):
        _read(files(tmp_path / "s_{yyyy}-{mm}.csv", time_column="at"), "2018-02-01")


def test_a_renamed_time_column_is_named(tmp_path: Path) -> None:
    """Promise 5."""
    (tmp_path / "s.csv").write_text("att,price\n2018-01-01 10:00:00,1\n")
    with pytest.raises(UnreadablePartitions, match="time column 'at' is missing; did 'att' take its place"):
        _read(files(tmp_path / "s.csv", time_column="at"), "2018-01-01")


def test_a_declared_type_of_an_unknown_column_is_refused_with_a_hint(tmp_path: Path) -> None:
    _month(tmp_path, "s.csv", "2018-01-01 10:00:00,1.5,a\n")
    with pytest.raises(SourceError, match=r"types: .*no column 'prise'; did you mean 'price'"):
        sources.columns_of(files(tmp_path / "s.csv", time_column="at", types={"prise": "float"}))


def test_a_network_that_fails_twice_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: bounded retries."""
    monkeypatch.setattr(files_module, "FIRST_WAIT", 0.01)
    asked: list[int] = []

    def answer() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise TimeoutError("slow")
        return "here"

    assert files_module._reach(answer, "s3://bucket/x") == "here"
    assert len(asked) == 3


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_given_up_after_bounded_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: nobody listens; a few attempts with growing pauses, then an error that names the place."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    source = files("s3://bucket/x.csv", time_column="at", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match=r"s3://bucket/x\.csv: no answer after 4 attempts"):
        _read(source, "2018-01-01")


@pytest.mark.slow
def test_files_on_s3_are_read_by_pattern_with_credentials_only(
    s3_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import s3fs

    store = s3fs.S3FileSystem(key=s3_server.key, secret=s3_server.secret, endpoint_url=s3_server.endpoint_url)
    text = HEADER + "2018-01-01 10:00:00,1.5,a\n2018-01-02 10:00:00,2.5,b\n"
    store.pipe_file(f"{s3_server.bucket}/in/s_2018-01.csv.gz", gzip.compress(text.encode()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    path = f"s3://{s3_server.bucket}/in/s_{{yyyy}}-{{mm}}.csv.gz"
    source = files(path, time_column="at", endpoint_url=s3_server.endpoint_url)
    assert sources.columns_of(source) == {"at": "timestamp", "price": "float", "shop": "string"}
    parts = _read(source, "2018-01-01", "2018-01-02")
    assert [part["price"].to_pylist() for part in parts.values()] == [[1.5], [2.5]]
    with pytest.raises(NothingFound, match=r"nearest of 1 files.*s_2018-01\.csv\.gz"):
        _read(source, "2018-03-01")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(SourceError, match=r"access was refused.*credentials"):
        _read(source, "2018-01-01")


@pytest.mark.data
def test_the_real_trips_are_read_with_strays_named(taxi_data: Path) -> None:
    source = files(
        taxi_data / "yellow_tripdata_sample_{yyyy}-{mm}.csv.gz", time_column="pickup_datetime", derive=DURATION
    )
    keys = [f"2018-11-{day:02}" for day in range(1, 31)]
    parts = _read(source, *keys)
    assert sum(part.num_rows for part in parts.values()) == 10_000
    strays = [reason for reason in parts["2018-11-01"][sources.REASON].to_pylist() if reason]
    assert strays == ["pickup_datetime lies outside the file's period 2018-11"] * 3
    assert sources.columns_of(source)["congestion_surcharge"] == "float"
