"""Which day a row belongs to: the source's zone, its daylight saving, and times made of several columns."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.ingestion import sources
from include.ingestion.sources import UnreadablePartitions
from tests.include.ingestion.conftest import files

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def _hours(day: str, zone: zoneinfo.ZoneInfo) -> list[dt.datetime]:
    """Every full hour of a local day, as moments: 23, 24 or 25 of them."""
    first = dt.datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(dt.UTC)
    after = (dt.datetime.fromisoformat(day) + dt.timedelta(days=1)).replace(tzinfo=zone).astimezone(dt.UTC)
    return [first + dt.timedelta(hours=n) for n in range(int((after - first).total_seconds() // 3600))]


@pytest.mark.parametrize(("day", "hours"), [("2018-03-25", 23), ("2018-06-01", 24), ("2018-10-28", 25)])
def test_files_by_local_day_with_times_that_know_their_zone_have_no_strays(
    tmp_path: Path, day: str, hours: int
) -> None:
    """The specimen: 21 % of the rows fell outside of the UTC day, into no partition."""
    moments = _hours(day, BERLIN)
    pq.write_table(pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC"))}), tmp_path / f"s_{day}.parquet")
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.parquet", time_column="at", timezone="Europe/Berlin")
    ((_, table),) = sources.read_partitions(source, [day])
    assert sources.REASON not in table.column_names
    assert table["at"].to_pylist() == [moment.replace(tzinfo=None) for moment in moments]
    assert table.num_rows == hours
    utc = files(tmp_path / "s_{yyyy}-{mm}-{dd}.parquet", time_column="at")
    ((_, table),) = sources.read_partitions(utc, [day])
    assert Counter(table[sources.REASON].to_pylist())[f"at lies outside the file's period {day}"] in (1, 2)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Pacific/Auckland", "Asia/Kolkata"]),
    st.lists(st.datetimes(dt.datetime(2018, 1, 1), dt.datetime(2018, 12, 31)), min_size=1, max_size=6),
)
def test_every_moment_lies_in_its_local_day(
    tmp_path_factory: pytest.TempPathFactory, zone: str, at: list[dt.datetime]
) -> None:
    info = zoneinfo.ZoneInfo(zone)
    path = tmp_path_factory.mktemp("zones") / "rows.csv"
    path.write_text("at,n\n" + "".join(f"{moment.isoformat()}Z,{n}\n" for n, moment in enumerate(at)))
    expected: dict[str, list[int]] = {}
    for n, moment in enumerate(at):
        day = moment.replace(tzinfo=dt.UTC).astimezone(info).date().isoformat()
        expected.setdefault(day, []).append(n)
    source = files(path, time_column="at", timezone=zone)
    found = {key: table["n"].to_pylist() for key, table in sources.read_partitions(source, sorted(expected))}
    assert found == expected


def test_times_without_a_zone_are_those_of_the_sources_zone_and_stored_in_utc(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("at,end\n2018-06-01 00:30:00,2018-06-01T00:45:00+02:00\n")
    source = files(tmp_path / "rows.csv", time_column="at", timezone="Europe/Berlin")
    ((_, table),) = sources.read_partitions(source, ["2018-06-01"])
    assert table.to_pydict() == {
        "at": [dt.datetime(2018, 5, 31, 22, 30)], "end": [dt.datetime(2018, 5, 31, 22, 45)],
    }  # fmt: skip


def test_a_time_in_several_columns_dates_the_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("y,m,d,h,n\n2018,1,1,23,0\n2018,1,2,0,1\n2018,2,30,0,2\n")
    source = files(tmp_path / "rows.csv", time_column="at", derive={"at": "timestamp(y, m, d, h)"})
    assert sources.columns_of(source)["at"] == "timestamp"
    parts = dict(sources.read_partitions(source, ["2018-01-01", "2018-01-02"]))
    assert parts["2018-01-02"].select(["at", "n"]).to_pylist() == [{"at": dt.datetime(2018, 1, 2), "n": 1}]
    assert parts["2018-01-01"][sources.REASON].to_pylist() == [None, "at is missing"]
    local = source.model_copy(update={"timezone": "America/New_York"})
    parts = dict(sources.read_partitions(local, ["2018-01-01"]))
    assert parts["2018-01-01"]["at"].to_pylist()[0] == dt.datetime(2018, 1, 2, 4)


def test_a_file_of_several_days_notes_the_share_of_its_rows_that_belong_to_none(tmp_path: Path) -> None:
    rows = "".join(f"2018-01-0{day} 10:00:00,{day}\n" for day in (1, 2, 3))
    (tmp_path / "s_2018-01.csv").write_text(f"at,n\n{rows}2017-12-31 23:00:00,9\n")
    source = files(tmp_path / "s_{yyyy}-{mm}.csv", time_column="at")
    parts = dict(sources.read_partitions(source, ["2018-01-01", "2018-01-02"]))
    assert {key: table.schema.metadata[sources.ASTRAY] for key, table in parts.items()} == {
        "2018-01-01": b"0.25", "2018-01-02": b"0.25",
    }  # fmt: skip


def test_dates_whose_order_the_file_leaves_open_are_refused_with_both_settings(tmp_path: Path) -> None:
    """The specimen: 05/01/2025 was read as 1 May while all days of the file are 12 or less."""
    (tmp_path / "rows.csv").write_text("at,n\n05/01/2025,1\n06/01/2025,2\n")
    with pytest.raises(UnreadablePartitions, match=r"row 2, column at: '05/01/2025' .*day_first.*month_first"):
        sources.columns_of(files(tmp_path / "rows.csv", time_column="at"))
    for order, day in (("day_first", "2025-01-05"), ("month_first", "2025-05-01")):
        source = files(tmp_path / "rows.csv", time_column="at", date_format=order)
        ((_, table),) = sources.read_partitions(source, [day])
        assert table["at"].to_pylist() == [dt.date.fromisoformat(day)]


def test_a_time_column_of_epochs_is_refused_with_the_setting_that_then_works(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("at,n\n1514800000,1\n")
    pq.write_table(pa.table({"at": [1514800000], "n": [1]}), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(UnreadablePartitions, match=r"column at.*1514800000.*date_format.*epoch_s"):
            sources.columns_of(files(tmp_path / name, time_column="at"))
        source = files(tmp_path / name, time_column="at", date_format="epoch_s")
        assert sources.columns_of(source)["at"] == "timestamp"
        ((_, table),) = sources.read_partitions(source, ["2018-01-01"])
        assert table["at"].to_pylist() == [dt.datetime(2018, 1, 1, 9, 46, 40)]
