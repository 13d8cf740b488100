"""When a source's days are ingested, and which days a run is about."""

from __future__ import annotations

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from pendulum import DateTime


class DayTimetable(CronDataIntervalTimetable):  # type: ignore[misc]
    """Runs at a cron expression's times, about the days before: an interval begins and ends at midnight.

    Airflow's own begins its interval at the cron's time of day. A backfill is given days, which begin at midnight: the
    interval of its last day, which begins at 02:00, would be beyond its end. Where a cron fires several times
    a day, only the first of a day stands for midnight, so that no two intervals begin together.
    """

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next run: when it begins, and the days it is about."""
        last = last_automated_data_interval
        fired = DataInterval(self._align_to_next(last.start), self._align_to_next(last.end)) if last else None
        latest = restriction.latest
        if latest is not None and self._boundary(fires := self._align_to_next(latest)) <= latest:
            latest = fires
        info = super().next_dagrun_info(
            last_automated_data_interval=fired,
            restriction=TimeRestriction(restriction.earliest, latest, restriction.catchup),
        )
        return None if info is None else self._about(info.data_interval)

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """The last interval that had ended."""
        return self._about(super().infer_manual_data_interval(run_after=run_after)).data_interval

    def _about(self, fired: DataInterval) -> DagRunInfo:
        days = DataInterval(self._boundary(fired.start), self._boundary(fired.end))
        return DagRunInfo(run_after=fired.end, data_interval=days)

    def _boundary(self, fires: DateTime) -> DateTime:
        """Midnight for the first time of a day, and any other time itself."""
        midnight = fires.in_timezone(self._timezone).start_of("day").in_timezone("UTC")
        return midnight if self._align_to_next(midnight) == fires else fires
