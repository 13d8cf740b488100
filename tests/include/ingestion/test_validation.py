"""Great Expectations on every partition: what is accepted, what goes to quarantine, what is refused, and why."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from include.ingestion import judgement, partitions, runner, sources, suites
from include.ingestion.runner import NotValidated
from include.ingestion.sources import REASON
from include.settings import SampleSource
from tests.include.ingestion.conftest import DURATION, SUITES, Ingest, files, generated

Days = Callable[[int], list[str]]
DAY = "2018-01-05"


def _suite(folder: Path, *expectations: Mapping[str, object]) -> Path:
    path = folder / "trips.json"
    path.write_text(json.dumps({"name": "trips", "expectations": expectations}))
    return path


def _between(column: str, low: float, high: float, **more: object) -> dict[str, object]:
    kwargs = {"column": column, "min_value": low, "max_value": high}
    return {"type": "expect_column_values_to_be_between", "kwargs": kwargs, "severity": "warning", **more}


def _csv(folder: Path, rows: str) -> Path:
    (folder / "s_2018-01-05.csv").write_text("at,price,shop\n" + rows)
    return folder / "s_{yyyy}-{mm}-{dd}.csv"


# ------------------------------------------------------------------------------------------- accepted and not


@pytest.mark.slow
def test_infinite_numbers_that_no_rule_bounds_are_named_with_their_row(ingest: Ingest, tmp_path: Path) -> None:
    rows = "".join(f"2018-01-05 10:00:00,{price},a\n" for price in ("1.5", "999", "inf", "2.5", "-inf"))
    source = files(_csv(tmp_path, rows), time_column="at", quarantine_share=0.5)
    suite = _suite(tmp_path, {**_between("price", 0, 100), "kwargs": {"column": "price", "max_value": 100}})
    found = ingest(source, [DAY], suite=suite)
    assert found.quarantined == 2
    assert found.infinite == {"price": "1 of the rows, the first is row 3 of 2018-01-05"}
    page = ingest.path("docs", "trips", f"{DAY}.html").read_text()
    assert "column price is infinite in 1 row, first in row 3" in page


def test_a_large_table_is_judged_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule on a frame of its own columns, so that Great Expectations does not filter all of them for each."""
    table = pa.table({"n": [1, None, 2**53 + 1, 4], "x": [0.5, 2.0, None, float("inf")], "s": ["a", "b", None, "a"],
                      "at": pa.array([dt.datetime(2018, 1, 5, hour) for hour in range(4)])})  # fmt: skip
    kinds = [
        ("column_values_to_be_between", {"column": "x", "max_value": 1}),
        ("column_values_to_be_between", {"column": "x", "max_value": 0, "row_condition": 's=="b"',
                                         "condition_parser": "pandas"}),
        ("column_values_to_not_be_null", {"column": "n"}),
        ("column_values_to_be_unique", {"column": "s"}),
        ("column_pair_values_to_be_equal", {"column_A": "n", "column_B": "x"}),
        ("compound_columns_to_be_unique", {"column_list": ["n", "s"]}),
        ("column_values_to_be_of_type", {"column": "n", "type_": "int64"}),
        ("column_max_to_be_between", {"column": "at", "min_value": {"$PARAMETER": "day_start"}}),
        ("table_columns_to_match_set", {"column_set": ["n", "x", "s", "at"]}),
        ("table_row_count_to_be_between", {"min_value": 5}),
    ]  # fmt: skip
    rules = [{"type": f"expect_{kind}", "kwargs": given, "severity": "warning"} for kind, given in kinds]
    suite = suites.load(_suite(tmp_path, *rules))
    given = judgement.parameters(DAY, 4, dt.date(2018, 2, 1))
    small = judgement.judge(table, suite, quarantine_share=1, given=given)
    monkeypatch.setattr(judgement, "LARGE", 1)
    large = judgement.judge(table, suite, quarantine_share=1, given=given)
    assert large.row_reasons.to_pylist() == small.row_reasons.to_pylist()
    assert (large.refused, large.quality, large.report) == (small.refused, small.quality, small.report)


def test_generated_trips_are_accepted_without_their_dirt(ingest: Ingest, days: Days) -> None:
    found = ingest(generated(rows_per_day=2000), days(3))
    assert found.accepted == days(3)
    assert 0 < found.quarantined < 0.05 * found.rows
    assert found.reasons["the trip did not take 1 to 120 minutes"] > 0
    for key, quality in found.quality.items():
        (row,) = (report for report in partitions.reports(ingest.database_url, "trips") if report["key"] == key)
        assert quality <= 1 - row["quarantined_rows"] / (row["rows"] + row["quarantined_rows"]) + 1e-6
        assert 0.9 < quality < 1
    for partition in ingest.published():
        table = partitions.read(ingest.data_url, partition)
        assert pc.min(table["duration_minutes"]).as_py() >= 1
        assert pc.max(table["duration_minutes"]).as_py() <= 120
        rejected = pq.read_table(ingest.path("quarantine", "trips", f"{partition.key}.parquet"))
        assert all(rejected[REASON].to_pylist())
        staged = table.num_rows + rejected.num_rows
        assert staged == len([r for _, t in _read_again(partition.key) for r in range(t.num_rows)])


def _read_again(key: str) -> list[tuple[str, pa.Table]]:

    return list(sources.read_partitions(generated(rows_per_day=2000), [key]))


def test_cells_are_accepted_whole(ingest: Ingest) -> None:
    cells = SampleSource(type="sample", dataset="breast_cancer")
    found = ingest(cells, ["all"], suite=SUITES / "cells.json")
    assert (found.accepted, found.rows, found.quarantined) == (["all"], 569, 0)
    assert found.quality == {"all": 1.0}


def test_a_row_that_breaks_several_expectations_carries_every_reason(ingest: Ingest, tmp_path: Path) -> None:
    suite = _suite(
        tmp_path,
        _between("price", 0, 10, description="the price is absurd"),
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "shop"}, "severity": "warning"},
    )
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n{DAY} 10:00:00,99,\n{DAY} 10:00:00,2,b\n")
    source = files(path, time_column="at", quarantine_share=0.5)
    found = ingest(source, [DAY], suite=suite)
    assert found.accepted == [DAY]
    assert found.reasons == {"the price is absurd": 1, "shop: must not be null": 1}
    quarantined = pq.read_table(ingest.path("quarantine", "trips", f"{DAY}.parquet"))
    assert quarantined[REASON].to_pylist() == ["the price is absurd; shop: must not be null"]
    assert partitions.read(ingest.data_url, ingest.published()[0])["price"].to_pylist() == [1, 2]


def test_a_clean_rerun_removes_the_quarantine_of_before(ingest: Ingest, tmp_path: Path) -> None:
    suite = _suite(tmp_path, _between("price", 0, 10))
    source = files(_csv(tmp_path, f"{DAY} 10:00:00,1,a\n{DAY} 10:00:00,99,a\n"), time_column="at", quarantine_share=0.5)
    ingest(source, [DAY], suite=suite)
    assert ingest.path("quarantine", "trips", f"{DAY}.parquet").exists()
    _csv(tmp_path, f"{DAY} 10:00:00,1,a\n{DAY} 10:00:00,9,a\n")
    ingest(source, [DAY], "r2", suite=suite)
    assert not ingest.path("quarantine", "trips", f"{DAY}.parquet").exists()
    assert ingest.published()[0].quality == 1.0


def test_more_bad_rows_than_the_declared_share_refuse_the_whole_partition(ingest: Ingest, tmp_path: Path) -> None:
    """Promise 6."""
    suite = _suite(tmp_path, _between("price", 0, 10, description="the price is absurd"))
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n" * 8 + f"{DAY} 10:00:00,99,a\n" * 2)
    accepted = ingest(files(path, time_column="at", quarantine_share=0.2), [DAY], suite=suite)
    assert accepted.accepted == [DAY]
    refused = ingest(files(path, time_column="at", quarantine_share=0.19), [DAY], "r2", suite=suite)
    assert refused.accepted == []
    assert refused.rejected[DAY] == "20.0% of the rows break row-level expectations, 19.0% may: the price is absurd (2)"
    whole = pq.read_table(ingest.path("quarantine", "trips", f"{DAY}.whole.parquet"))
    assert whole.num_rows == 10
    assert whole[REASON][9].as_py().endswith("| the price is absurd")


@pytest.mark.parametrize(("severity", "accepted"), [("critical", False), ("warning", True), ("info", True)])
def test_severity_decides_what_a_failed_partition_level_expectation_does(
    severity: str, accepted: bool, ingest: Ingest, tmp_path: Path
) -> None:
    expectation = {
        "type": "expect_column_mean_to_be_between",
        "kwargs": {"column": "price", "min_value": 100},
        "severity": severity,
        "description": "prices are too low",
    }
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n")
    found = ingest(files(path, time_column="at"), [DAY], suite=_suite(tmp_path, expectation, _between("price", 0, 10)))
    assert (found.accepted == [DAY]) is accepted
    assert found.quality[DAY] == pytest.approx(2 / ({"critical": 3, "warning": 2, "info": 1}[severity] + 2), abs=1e-6)
    if not accepted:
        assert found.rejected[DAY] == "prices are too low (found 1.0)"


def test_an_expectation_of_severity_info_leaves_its_rows(ingest: Ingest, tmp_path: Path) -> None:
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n{DAY} 10:00:00,99,a\n")
    suite = _suite(tmp_path, {**_between("price", 0, 10), "severity": "info"})
    found = ingest(files(path, time_column="at"), [DAY], suite=suite)
    assert (found.rows, found.quarantined, found.quality[DAY]) == (2, 0, 0.5)


# ---------------------------------------------------------------------------------------------- refused whole


def test_a_changed_column_is_refused_and_the_difference_shown(ingest: Ingest) -> None:
    """Promise 5: missing, renamed, of another type; what was published before goes on."""
    source = generated(incidents=[{"kind": "changed_column", "start": DAY, "end": DAY}])
    found = ingest(source, ["2018-01-04", DAY])
    assert found.accepted == ["2018-01-04"]
    assert found.rejected[DAY] == (
        "column mta_tax is missing; column trip_distance is missing (renamed to trip_miles?);"
        " column fare_amount is string, expected float64"
    )
    (report,) = (r["report"] for r in partitions.reports(ingest.database_url, "trips") if r["key"] == DAY)
    assert report["schema"] == {
        "missing": ["mta_tax", "trip_distance"],
        "unknown": ["trip_miles"],
        "renamed": {"trip_distance": "trip_miles"},
        "retyped": {"fare_amount": {"expected": "float64", "found": "string"}},
    }
    assert [p.key for p in ingest.published()] == ["2018-01-04"]


def test_a_column_that_a_derived_one_needs_may_be_missing_or_of_another_type(ingest: Ingest, tmp_path: Path) -> None:
    """Promise 5: the formula does not hide the difference behind an error of its own."""
    for run_id, change in (("r1", ("dropoff_datetime", "end_datetime")), ("r2", None)):
        ((_, table),) = _read_again(DAY)
        if change:
            table = table.rename_columns([change[1] if n == change[0] else n for n in table.column_names])
        else:
            index = table.column_names.index("dropoff_datetime")
            table = table.set_column(index, "dropoff_datetime", pa.array(["soon"] * table.num_rows))
        table = table.drop_columns(["duration_minutes"])
        pq.write_table(table, tmp_path / "t.parquet")
        source = files(tmp_path / "t.parquet", time_column="pickup_datetime", derive=DURATION)
        found = ingest(source, [DAY], run_id)
        assert "dropoff_datetime is" in found.rejected[DAY]
        assert "column duration_minutes is missing" in found.rejected[DAY]


def test_a_poisoned_day_is_refused(ingest: Ingest) -> None:
    """Promise 6: outliers, an all-null column."""
    source = generated(incidents=[{"kind": "poisoned_day", "start": DAY, "end": DAY}])
    found = ingest(source, [DAY])
    assert "of the rows break row-level expectations" in found.rejected[DAY]
    assert "do not tell their passengers" in found.rejected[DAY]
    assert ingest.published() == []


def test_shifted_days_are_clean_data(ingest: Ingest) -> None:
    source = generated(rows_per_day=2000, incidents=[{"kind": "shift", "start": "2018-01-04"}])
    keys = ["2018-01-03", "2018-01-04", "2018-01-05", "2018-01-06", "2018-01-07"]
    assert ingest(source, keys).accepted == keys


def test_no_rows_are_refused(ingest: Ingest, tmp_path: Path) -> None:
    """Promise 4: 0 rows."""
    path = _csv(tmp_path, "")
    found = ingest(files(path, time_column="at"), [DAY], suite=_suite(tmp_path, _between("price", 0, 10)))
    assert found.rejected == {DAY: "0 rows"}
    assert found.quality == {DAY: 0.0}


def test_ten_times_the_rows_are_refused(ingest: Ingest, days: Days) -> None:
    """Promise 4: against what is usual for the source; one day at a time and within a range."""
    ingest(generated(rows_per_day=200), days(4))
    found = ingest(generated(rows_per_day=2000), [DAY], "r2")
    assert "an unusual number of rows" in found.rejected[DAY]
    found = ingest(generated(rows_per_day=10), [DAY], "r3")
    assert "an unusual number of rows" in found.rejected[DAY]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: gzip.compress(raw)[: len(gzip.compress(raw)) // 2], "the gzip is truncated"),
        (lambda raw: raw.replace(b"Y", "é".encode("latin-1")), "is not utf-8"),
        (lambda _: b"", "the file is empty"),
    ],
    ids=["truncated gzip", "wrong encoding", "empty"],
)
def test_a_damaged_file_is_quarantined_with_its_reason_and_the_other_days_go_on(
    damage: Callable[[bytes], bytes], reason: str, ingest: Ingest, tmp_path: Path
) -> None:
    """Promise 4."""
    rows = b"at,price,shop\n" + b"".join(f"2018-01-0{{}} 10:00:00,{n % 7},Y\n".encode() for n in range(2000))
    good, bad = rows.replace(b"{}", b"4"), rows.replace(b"{}", b"5")
    (tmp_path / "s_2018-01-04.csv").write_bytes(good)
    (tmp_path / "s_2018-01-05.csv").write_bytes(damage(bad))
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at")
    found = ingest(source, ["2018-01-04", DAY], suite=_suite(tmp_path, _between("price", 0, 10)))
    assert found.accepted == ["2018-01-04"]
    assert reason in found.rejected[DAY]
    assert "s_2018-01-05.csv" in found.rejected[DAY]
    state = {r["key"]: r["status"] for r in partitions.reports(ingest.database_url, "trips")}
    assert state == {"2018-01-04": "published", DAY: "quarantined"}


def test_a_day_without_a_file_is_refused_among_days_that_have_one(ingest: Ingest, tmp_path: Path) -> None:
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n")
    suite = _suite(tmp_path, _between("price", 0, 10))
    found = ingest(files(path, time_column="at"), [DAY, "2018-01-06"], suite=suite)
    assert found.accepted == [DAY]
    assert "no file matches" in found.rejected["2018-01-06"]


def test_a_feed_that_stopped_at_noon_is_stale_unless_the_day_is_not_over(ingest: Ingest, tmp_path: Path) -> None:
    ((_, table),) = _read_again(DAY)
    noon = pa.scalar(dt.datetime(2018, 1, 5, 12), pa.timestamp("us"))
    pq.write_table(table.filter(pc.less(table["pickup_datetime"], noon)), tmp_path / "t.parquet")
    source = files(tmp_path / "t.parquet", time_column="pickup_datetime", derive=DURATION)
    assert "the feed is stale" in ingest(source, [DAY]).rejected[DAY]
    assert ingest(source, [DAY], "r2", today=dt.date(2018, 1, 5)).accepted == [DAY]


def test_a_day_after_today_is_refused(ingest: Ingest) -> None:
    found = ingest(generated(), [DAY], today=dt.date(2018, 1, 4))
    assert found.rejected == {DAY: "the day lies after today (2018-01-04)"}


def test_a_refused_replacement_leaves_the_published_partition(ingest: Ingest) -> None:
    """Nothing downstream sees the refused delivery; what was good stays."""
    ingest(generated(), [DAY])
    before = ingest.published()
    found = ingest(generated(incidents=[{"kind": "poisoned_day", "start": DAY}]), [DAY], "r2")
    assert found.accepted == []
    assert ingest.published() == before
    partitions.read(ingest.data_url, before[0])
    (report,) = partitions.reports(ingest.database_url, "trips")
    assert "row-level" in report["report"]["refused_replacement"]["message"]


# ----------------------------------------------------------------------------------- Great Expectations itself


def test_an_expectation_that_cannot_be_evaluated_is_not_validated_never_passed(ingest: Ingest, tmp_path: Path) -> None:
    """Promise 7: a real failure inside Great Expectations: numbers are asked of text."""
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n")
    suite = _suite(tmp_path, {**_between("shop", 0, 10), "severity": "info"})
    with pytest.raises(NotValidated, match=f"trips {DAY}: not validated: expect_column_values_to_be_between"):
        ingest(files(path, time_column="at"), [DAY], suite=suite)
    assert partitions.reports(ingest.database_url, "trips") == []


def test_great_expectations_falling_over_is_not_validated(
    ingest: Ingest, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 7: whatever it raises."""
    from great_expectations.validator.validator import Validator

    def fall_over(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(Validator, "graph_validate", fall_over)
    ingest.extract(generated(), days(1))
    with pytest.raises(NotValidated, match="MemoryError: no more"):
        ingest.validate(generated(), days(1))
    with pytest.raises(partitions.NotAccepted):
        ingest.publish(days(1))


def test_what_was_not_extracted_is_named(ingest: Ingest, days: Days) -> None:
    with pytest.raises(partitions.NotExtracted, match="run `extract` first"):
        ingest.validate(generated(), days(1))


def test_keeping_configurations_changes_no_result() -> None:
    suite = suites.load(SUITES / "trips.json")
    ((_, table),) = _read_again(DAY)
    given = judgement.parameters(DAY, 2000, dt.date(2018, 2, 1))
    quick = judgement.judge(table, suite, quarantine_share=0.1, given=given)
    plain = runner.Runner()(table.to_pandas(), suite, suite.rules, given, "BOOLEAN_ONLY")
    assert [result.success for result in quick.results] == [plain[rule.id].success for rule in suite.rules]


# ------------------------------------------------------------------------------------------ ranges and real data


@pytest.mark.slow
def test_every_day_of_a_range_has_its_page_and_its_state_of_now(ingest: Ingest, days: Days) -> None:
    """The specimen: a page for 9 of 61 days, and 60 of 61 published days shown as "accepted"."""
    keys = days(30)
    found = ingest(generated(rows_per_day=100), keys)
    assert found.accepted == keys
    assert sorted(path.stem for path in ingest.path("docs", "trips").glob("2018-*.html")) == keys
    index = ingest.path("docs", "trips", "index.html").read_text()
    assert index.count('<td class="published">published</td>') == 30
    page = ingest.path("docs", "trips", f"{keys[0]}.html").read_text()
    assert "expect_column_max_to_be_between" in page
    assert "2018-01-01 23:" in page  # what a rule that passed has found


@pytest.mark.slow
@pytest.mark.data
def test_a_month_of_real_trips_passes_the_suite_of_the_generated_ones(ingest: Ingest, taxi_data: Path) -> None:
    source = files(
        taxi_data / "yellow_tripdata_sample_{yyyy}-{mm}.csv.gz",
        time_column="pickup_datetime",
        derive=DURATION,
        quarantine_share=0.1,
    )
    keys = partitions.keys_between(source, dt.date(2018, 11, 1), dt.date(2018, 11, 30))
    found = ingest(source, keys)
    assert found.accepted == keys
    assert found.rows + found.quarantined == 10_000
    print("\nquarantined of 10,000 real trips of 2018-11:", json.dumps(found.reasons, indent=1))
    assert found.reasons["pickup_datetime lies outside the file's period 2018-11"] == 3
    assert 100 < found.reasons["the trip did not take 1 to 120 minutes"] < 250
    assert 0.9 < min(found.quality.values()) < max(found.quality.values()) <= 1


# ------------------------------------------------------------------------------------------------- rows astray

TIMED = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "at"}}


def test_a_critical_rule_about_the_time_column_sees_the_rows_without_a_time(ingest: Ingest, tmp_path: Path) -> None:
    """The specimen: half of a day's rows have no time, and a critical not-null rule on that very column passed."""
    suite = _suite(tmp_path, {**TIMED, "severity": "critical"}, _between("price", 0, 10))
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n,2,b\n")
    found = ingest(files(path, time_column="at", quarantine_share=1), [DAY], suite=suite)
    assert found.rejected[DAY] == "at: must not be null (1 rows)"
    mostly = _suite(tmp_path, {**TIMED, "kwargs": {"column": "at", "mostly": 0.5}, "severity": "critical"})
    found = ingest(files(path, time_column="at", quarantine_share=1), [DAY], "r2", suite=mostly)
    assert found.accepted == [DAY]
    assert (found.rows, found.quarantined) == (1, 1)


def test_rows_astray_count_in_the_share_and_in_quality(ingest: Ingest, tmp_path: Path) -> None:
    suite = _suite(tmp_path, _between("price", 0, 10))
    path = _csv(tmp_path, f"{DAY} 10:00:00,1,a\n" * 7 + f"{DAY} 10:00:00,99,a\n" + "2018-01-06 01:00:00,2,b\n,3,c\n")
    accepted = ingest(files(path, time_column="at", quarantine_share=0.3), [DAY], suite=suite)
    assert (accepted.accepted, accepted.rows, accepted.quarantined) == ([DAY], 7, 3)
    assert accepted.quality[DAY] == 0.7
    refused = ingest(files(path, time_column="at", quarantine_share=0.29), [DAY], "r2", suite=suite)
    assert refused.rejected[DAY].startswith("30.0% of the rows break row-level expectations or are astray, 29.0% may: ")
    assert "at lies outside the file's period 2018-01-05 (1)" in refused.rejected[DAY]
    assert "at is missing (1)" in refused.rejected[DAY]


def test_rows_astray_of_a_monthly_file_count_for_each_of_its_days_and_not_all_for_the_first(
    ingest: Ingest, tmp_path: Path
) -> None:
    rows = "".join(f"2018-01-{day:02} 10:00:00,1,a\n" for day in range(1, 11)) + ",1,a\n" * 2
    (tmp_path / "s_2018-01.csv").write_text("at,price,shop\n" + rows)
    suite, keys = _suite(tmp_path, _between("price", 0, 10)), ["2018-01-01", "2018-01-02"]
    source = files(tmp_path / "s_{yyyy}-{mm}.csv", time_column="at", quarantine_share=0.2)
    found = ingest(source, keys, suite=suite)
    assert (found.accepted, found.quarantined) == (keys, 2)
    assert found.quality == {key: pytest.approx(10 / 12) for key in keys}
    strict = source.model_copy(update={"quarantine_share": 0.1})
    found = ingest(strict, keys, "r2", suite=suite)
    assert [reason[:5] for reason in found.rejected.values()] == ["16.7%", "16.7%"]


def test_a_day_of_nothing_but_rows_astray_is_refused_with_why(ingest: Ingest, tmp_path: Path) -> None:
    path = _csv(tmp_path, ",1,a\n,2,b\n")
    found = ingest(files(path, time_column="at", types={"at": "timestamp"}), [DAY], suite=_suite(tmp_path, TIMED))
    assert found.rejected[DAY] == "0 rows; at is missing (2)"


@pytest.mark.parametrize(
    ("key", "start", "end"),
    [
        ("2018-03-25", "2018-03-24T23:00", "2018-03-25T22:00"),
        ("2018-06-01", "2018-05-31T22:00", "2018-06-01T22:00"),
        ("2018-10-28", "2018-10-27T22:00", "2018-10-28T23:00"),
    ],
)
def test_a_local_day_begins_and_ends_in_utc_as_its_clocks_say(key: str, start: str, end: str) -> None:
    given = judgement.parameters(key, 1, dt.date(2026, 1, 1), "Europe/Berlin")
    moments = (dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end))
    assert (given["day_start"], given["day_end"]) == moments
    assert given["due"] == given["day_end"]
