"""Partitions are atomic and idempotent, and read back only as they were validated."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.ingestion import partitions
from include.ingestion.sources import NothingFound, SourceUnavailable
from include.settings import ROOT, SampleSource
from tests.include.ingestion.conftest import Ingest, files, generated
from tests.s3 import S3Server, s3_server  # noqa: F401
from tests.waiting import until

Days = Callable[[int], list[str]]


def test_keys_are_days_both_ends_included() -> None:
    source = generated(start=dt.date(2018, 1, 1))
    assert partitions.keys_between(source, dt.date(2018, 2, 28), dt.date(2018, 3, 1)) == ["2018-02-28", "2018-03-01"]
    assert partitions.keys_between(source, None, dt.date(2018, 1, 2)) == ["2018-01-01", "2018-01-02"]
    assert partitions.keys_between(source, dt.date(2020, 2, 29), None) == ["2020-02-29"]


def test_a_source_without_time_has_one_partition() -> None:
    cells = SampleSource(type="sample", dataset="breast_cancer")
    assert partitions.keys_between(cells, dt.date(2018, 1, 1), dt.date(2018, 3, 1)) == ["all"]


def test_a_range_that_is_none_is_refused() -> None:
    """Promise 51: works, or is refused clearly."""
    with pytest.raises(ValueError, match="lies after"):
        partitions.keys_between(generated(), dt.date(2018, 1, 2), dt.date(2018, 1, 1))
    with pytest.raises(ValueError, match="no first day"):
        partitions.keys_between(generated(), None, None)
    with pytest.raises(ValueError, match="at most"):
        partitions.keys_between(generated(), dt.date(1900, 1, 1), dt.date(2018, 1, 1))


@pytest.mark.parametrize("key", ["2018-1-1", "../x", "2018-02-30", ""])
def test_what_is_no_key_never_becomes_a_path(key: str) -> None:
    with pytest.raises(ValueError):
        partitions.published_url("/data", "trips", key)


def test_a_run_id_becomes_a_safe_name_and_stays_unique() -> None:
    a, b = (partitions.staging_url("/d", "trips", f"manual__2018-01-01T00:00:00+00:0{n}") for n in (0, 1))
    assert a != b
    assert ":" not in a
    assert ".." not in partitions.staging_url("/d", "trips", "../../x").split("/")
    for name in (".", "..", "..."):  # run ids that Airflow allows: what is deleted there is this run's alone
        assert name not in partitions.staging_url("/d", "trips", name).split("/")


def test_a_rerun_gives_the_same_bytes_and_the_same_version(ingest: Ingest, days: Days) -> None:
    """Promise 3: idempotent by source and partition; row counts do not change."""
    source, keys = generated(), days(2)
    ingest(source, keys, "r1")
    first = {p.name: p.read_bytes() for p in ingest.path("validated", "trips").iterdir()}
    before = ingest.published()
    ingest(source, keys, "r2")
    assert {p.name: p.read_bytes() for p in ingest.path("validated", "trips").iterdir()} == first
    assert ingest.published() == before


def test_the_same_run_id_twice_converges(ingest: Ingest, days: Days) -> None:
    """Promise 51: the same run id twice."""
    source, keys = generated(), days(1)
    ingest(source, keys, "r1")
    again = ingest.publish(keys, "r1")
    assert again.keys == keys
    ingest(source, keys, "r1")
    assert [p.key for p in ingest.published()] == keys


def test_published_partitions_are_skipped_unless_replaced(ingest: Ingest, days: Days) -> None:
    source = generated()
    ingest(source, days(2))
    extracted = ingest.extract(source, days(3), "r2", replace=False)
    assert (extracted.keys, extracted.skipped) == ([days(3)[2]], days(2))


def test_a_publication_names_its_rows_and_a_version_that_follows_content(ingest: Ingest, days: Days) -> None:
    source = generated()
    ingest.extract(source, days(1))
    validated = ingest.validate(source, days(1))
    one = ingest.publish(validated.accepted)
    assert one.rows == validated.rows == partitions.read(ingest.data_url, ingest.published()[0]).num_rows
    ingest.extract(source, days(2), "r2")
    two = ingest.publish(ingest.validate(source, days(2), "r2").accepted, "r2")
    assert one.version != two.version


def test_what_was_not_accepted_is_not_published(ingest: Ingest, days: Days) -> None:
    source = generated()
    ingest.extract(source, days(1))
    with pytest.raises(partitions.NotAccepted, match="run `validate` first"):
        ingest.publish(days(1))


def test_what_another_run_validated_since_is_not_published_by_the_older(ingest: Ingest, days: Days) -> None:
    source = generated()
    for run_id in ("old", "new"):
        ingest.extract(source, days(1), run_id)
        ingest.validate(source, days(1), run_id)
    with pytest.raises(partitions.NotAccepted, match="validated since by the run 'new'"):
        ingest.publish(days(1), "old")
    ingest.publish(days(1), "new")


def test_a_file_swapped_between_validation_and_publication_is_refused(ingest: Ingest, days: Days) -> None:
    """Promise 8: and what was published before stays as it was."""
    source, (key,) = generated(), days(1)
    ingest(source, [key], "r1")
    before = ingest.published()
    ingest.extract(source, [key], "r2")
    ingest.validate(source, [key], "r2")
    staged = ingest.path("staging", "trips", "r2", f"{key}.accepted.parquet")
    pq.write_table(pa.table({"poison": [1]}), staged)
    with pytest.raises(storage.ChangedFile, match=f"{key}.accepted.parquet: changed since it was recorded"):
        ingest.publish([key], "r2")
    assert ingest.published() == before
    partitions.read(ingest.data_url, before[0])


def test_a_published_file_swapped_later_is_refused_when_read(ingest: Ingest, days: Days) -> None:
    """Promise 8."""
    ingest(generated(), days(1))
    (partition,) = ingest.published()
    path = ingest.path("validated", "trips", f"{partition.key}.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(storage.ChangedFile, match="changed since it was recorded"):
        partitions.read(ingest.data_url, partition)


@pytest.mark.slow
def test_a_source_that_is_down_is_named_and_old_data_stays(
    ingest: Ingest, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 1: red, with the source's name; what was published is untouched."""
    monkeypatch.setattr("include.ingestion.sources.files.FIRST_WAIT", 0.01)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    ingest(generated(), days(1))
    before = ingest.published()
    dead = files("s3://bucket/{yyyy}.csv", time_column="pickup_datetime", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match=r"source 'trips': s3://bucket/2018\.csv: no answer after"):
        ingest.extract(dead, days(1), "r2")
    assert ingest.published() == before
    partitions.read(ingest.data_url, before[0])


def test_no_file_for_any_day_is_an_error_that_names_source_and_pattern(ingest: Ingest, tmp_path: Path) -> None:
    source = files(tmp_path / "x_{yyyy}-{mm}.csv", time_column="at")
    with pytest.raises(
        NothingFound, match=r"source 'trips': no file matches .*x_2018-01\.csv; no file is there at all"
    ):
        ingest.extract(source, ["2018-01-01", "2018-01-02"])


def test_a_full_disk_is_found_before_writing_and_leaves_nothing(
    ingest: Ingest, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 49."""
    ingest(generated(), days(1))
    before = sorted(p for p in ingest.path().rglob("*") if p.is_file())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(storage.StorageError, match=r"disk full.*nothing was written"):
        ingest.extract(generated(), days(2), "r2")
    assert sorted(p for p in ingest.path().rglob("*") if p.is_file()) == before


_WRITER = """
import sys, datetime as dt
from include.ingestion import partitions
from include.settings import SampleSource
source = SampleSource(type="sample", dataset="taxi_trips", rows_per_day=20000)
keys = partitions.keys_between(source, dt.date(2018, 1, 1), dt.date(2018, 12, 31))
partitions.extract("trips", source, keys, data_url=sys.argv[1], run_id="r1", database_url=sys.argv[2], replace=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_no_half_file_and_the_rerun_converges(ingest: Ingest, database_url: str) -> None:
    """Promise 2: really killed with SIGKILL in the middle of writing; every file there is whole."""
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, ingest.data_url, database_url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    folder = ingest.path("staging", "trips", "r1")
    until(lambda: len(list(folder.glob("2018-*.parquet"))) >= 5, unless=lambda: writer.poll() is not None)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    written = sorted(folder.glob("2018-*.parquet"))
    assert 5 <= len(written) < 365
    for path in written:
        assert pq.read_table(path).num_rows > 10_000  # whole, each of them
    source = SampleSource(type="sample", dataset="taxi_trips", rows_per_day=20_000)
    half = {path.name: path.read_bytes() for path in written[:3]}
    ingest.extract(source, [path.stem for path in written[:3]], "r1")
    assert {path.name: path.read_bytes() for path in written[:3]} == half


_PUBLISHER = """
import sys
from include.ingestion import partitions
print("begin", flush=True)
partitions.publish("trips", sys.argv[3:], data_url=sys.argv[1], run_id="r1", database_url=sys.argv[2])
"""


@pytest.mark.slow
def test_a_publisher_killed_at_any_moment_is_finished_by_the_rerun(
    ingest: Ingest, database_url: str, days: Days
) -> None:
    """Promise 2, and invariant I5: what is published is whole at every moment, and the retry ends as one run would."""
    source, keys = generated(rows_per_day=3000), days(12)
    ingest.extract(source, keys)
    assert ingest.validate(source, keys).accepted == keys
    for pause in (0.0, 0.05, 0.15):
        publisher = subprocess.Popen(
            [sys.executable, "-c", _PUBLISHER, ingest.data_url, database_url, *keys],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        with publisher:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(pause)
            publisher.kill()
        for partition in ingest.published():
            assert partitions.read(ingest.data_url, partition).num_rows == partition.rows
        if len(ingest.published()) == len(keys):
            break
    ingest.publish(keys)
    assert [p.key for p in ingest.published()] == keys
    for partition in ingest.published():
        assert partitions.read(ingest.data_url, partition).num_rows == partition.rows
    assert not list(ingest.path("validated").rglob("*.tmp"))


@pytest.mark.slow
def test_everything_may_lie_on_an_object_store(
    database_url: str,
    days: Days,
    s3_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    ingest = Ingest(f"s3://{s3_server.bucket}/platform", database_url)
    poisoned = {"kind": "poisoned_day", "start": days(3)[2]}
    source, keys = generated(incidents=[poisoned]), days(3)
    for run_id in ("r1", "r2"):
        found = ingest(source, keys, run_id)
        assert found.accepted == keys[:2]
    before = ingest.published()
    assert [p.key for p in before] == keys[:2]
    assert partitions.read(ingest.data_url, before[0]).num_rows == before[0].rows
    assert storage.list_files(f"{ingest.data_url}/quarantine/trips") == [
        f"{keys[0]}.parquet",
        f"{keys[1]}.parquet",
        f"{keys[2]}.whole.parquet",
    ]
    assert "index.html" in storage.list_files(f"{ingest.data_url}/docs/trips")
    assert storage.list_files(f"{ingest.data_url}/staging") == []
    storage.write_bytes(partitions.published_url(ingest.data_url, "trips", keys[0]), b"swapped")
    with pytest.raises(storage.ChangedFile):
        partitions.read(ingest.data_url, before[0])
