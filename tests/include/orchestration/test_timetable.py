"""Which days a run of a source is about, on schedule and in a backfill."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pendulum
import pytest
import time_machine

from include.orchestration import runs


def timetable(cron: str = "0 2 * * *", zone: str = "UTC") -> Any:
    from include.orchestration.timetable import DayTimetable

    return DayTimetable(cron, timezone=zone)


def infos(table: Any, first: str, last: str) -> list[Any]:
    """As `airflow backfill` iterates."""
    from airflow.timetables.base import TimeRestriction

    restriction = TimeRestriction(pendulum.parse(first), pendulum.parse(last), catchup=True)
    found: list[Any] = []
    while info := table.next_dagrun_info(
        last_automated_data_interval=found[-1].data_interval if found else None, restriction=restriction
    ):
        found.append(info)
    return found


def days(info: Any) -> tuple[dt.date, dt.date]:
    from types import SimpleNamespace

    start, end = info.data_interval
    run = SimpleNamespace(
        run_type="backfill", data_interval_start=start, data_interval_end=end, run_after=info.run_after
    )
    found = runs.days(run, {"from": None, "to": None})
    return found[0], found[1]


@pytest.mark.parametrize("cron", ["0 2 * * *", "0 0 * * *", "59 23 * * *", "@daily", "30 3 * * *"])
def test_a_backfill_includes_its_first_and_its_last_day(cron: str) -> None:
    month = infos(timetable(cron), "2018-01-01", "2018-01-31")
    assert [days(info) for info in month] == [(dt.date(2018, 1, day),) * 2 for day in range(1, 32)]
    assert [days(info) for info in infos(timetable(cron), "2018-01-31", "2018-01-31")] == [(dt.date(2018, 1, 31),) * 2]


def test_the_last_day_may_be_named_with_a_time() -> None:
    for last in ("2018-01-02T00:00:00", "2018-01-02T01:00:00", "2018-01-02T23:59:59"):
        assert len(infos(timetable(), "2018-01-01", last)) == 2


def test_a_run_begins_at_the_crons_time_after_its_day_has_ended() -> None:
    (info,) = infos(timetable(), "2018-01-31", "2018-01-31")
    assert info.run_after == pendulum.datetime(2018, 2, 1, 2)
    assert info.logical_date == pendulum.datetime(2018, 1, 31)


def test_a_week_is_seven_days_and_no_day_is_twice_or_never_in_a_run() -> None:
    found = [days(info) for info in infos(timetable("0 2 * * 1"), "2018-01-01", "2018-01-28")]
    assert found[0] == (dt.date(2018, 1, 1), dt.date(2018, 1, 7))
    assert found[1] == (dt.date(2018, 1, 8), dt.date(2018, 1, 14))


@pytest.mark.parametrize("cron", ["0 2,14 * * *", "0 * * * *", "*/20 * * * *"])
def test_several_runs_a_day_have_intervals_of_their_own_that_leave_nothing_out(cron: str) -> None:
    found = infos(timetable(cron), "2018-01-01", "2018-01-02T12:00:00")
    starts = [info.data_interval.start for info in found]
    assert len(set(starts)) == len(starts)
    assert starts[0] == pendulum.datetime(2018, 1, 1)
    assert all(one.data_interval.end == two.data_interval.start for one, two in itertools.pairwise(found))
    assert infos(timetable(cron), "2018-01-02", "2018-01-02")


def test_the_zones_midnight_counts_also_when_the_clocks_change() -> None:
    found = infos(timetable(zone="Europe/Berlin"), "2026-03-27T23:00:00", "2026-03-29T22:00:00")
    assert [info.data_interval.start.isoformat() for info in found] == [
        "2026-03-27T23:00:00+00:00", "2026-03-28T23:00:00+00:00", "2026-03-29T22:00:00+00:00",
    ]  # fmt: skip


def test_the_scheduler_goes_on_from_a_run_whose_interval_began_at_the_crons_time() -> None:
    """Runs of before this timetable."""
    from airflow.timetables.base import DataInterval, TimeRestriction

    old = DataInterval(pendulum.datetime(2026, 3, 8, 2), pendulum.datetime(2026, 3, 9, 2))
    with time_machine.travel("2026-03-09T12:00:00Z", tick=False):
        restriction = TimeRestriction(pendulum.datetime(2009, 1, 1), None, catchup=False)
        info = timetable().next_dagrun_info(last_automated_data_interval=old, restriction=restriction)
    assert info.run_after == pendulum.datetime(2026, 3, 10, 2)
    assert days(info) == (dt.date(2026, 3, 9),) * 2
