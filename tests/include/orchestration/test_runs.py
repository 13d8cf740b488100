"""The edge between Airflow's context and plain values."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.orchestration import assets, runs

MIDNIGHT = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
EMPTY = {"from": None, "to": None, "replace": False}


def a_run(kind: str, start: dt.datetime | None = None, end: dt.datetime | None = None) -> Any:
    return SimpleNamespace(
        run_type=kind, run_after=dt.datetime(2026, 3, 10, 14, 5, tzinfo=dt.UTC),
        data_interval_start=start, data_interval_end=end, dag_id="ingest_trips", run_id="r", triggering_user_name="ada",
    )  # fmt: skip


def test_a_runs_page_has_its_id_quoted() -> None:
    page = runs.origin("http://127.0.0.1:8080/", "train_trips", "manual__2026-03-10T14:05:00+00:00")
    assert page == "http://127.0.0.1:8080/dags/train_trips/runs/manual__2026-03-10T14%3A05%3A00%2B00%3A00"


@pytest.mark.parametrize("kind", ["scheduled", "backfill"])
def test_a_scheduled_run_is_about_the_day_of_its_data_interval(kind: str) -> None:
    start = dt.datetime(2026, 3, 9, 2, tzinfo=dt.UTC)
    day = dt.date(2026, 3, 9)
    assert runs.days(a_run(kind, start, start + dt.timedelta(days=1)), EMPTY) == (day, day)


def test_a_weekly_interval_is_seven_days() -> None:
    start = dt.datetime(2026, 3, 2, 2, tzinfo=dt.UTC)
    found = runs.days(a_run("scheduled", start, start + dt.timedelta(days=7)), EMPTY)
    assert found == (dt.date(2026, 3, 2), dt.date(2026, 3, 8))


def test_days_are_utc_days_whatever_the_zone_of_the_interval() -> None:
    """Promise 48: a scheduler in another zone, a change to summer time."""
    zone = dt.timezone(dt.timedelta(hours=9))
    start = dt.datetime(2026, 3, 10, 9, tzinfo=zone)
    found = runs.days(a_run("scheduled", start, start + dt.timedelta(hours=23)), EMPTY)
    assert found == (dt.date(2026, 3, 10), dt.date(2026, 3, 10))


def test_a_manual_run_without_a_logical_date_reads_the_form() -> None:
    """Promise 51."""
    form = {"from": "2026-01-01", "to": "2026-01-31", "replace": False}
    assert runs.days(a_run("manual"), form) == (dt.date(2026, 1, 1), dt.date(2026, 1, 31))


def test_an_empty_form_means_yesterday() -> None:
    assert runs.days(a_run("manual"), EMPTY) == (dt.date(2026, 3, 9), dt.date(2026, 3, 9))


def test_a_reversed_range_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"`to` .2026-01-01. is before its `from` .2026-02-01."):
        runs.days(a_run("manual"), {"from": "2026-02-01", "to": "2026-01-01", "replace": False})


def test_a_form_without_days_has_none() -> None:
    assert runs.days(a_run("manual"), {"replace": True}) == (None, None)


@pytest.mark.parametrize(("kind", "replace", "expected"), [
    ("manual", False, False), ("manual", True, True), ("scheduled", False, True), ("backfill", False, True),
])  # fmt: skip
def test_only_a_manual_run_keeps_what_was_published(kind: str, replace: bool, expected: bool) -> None:
    assert runs.replaces(a_run(kind), {"replace": replace}) is expected


def test_the_newest_event_speaks() -> None:
    events = {assets.candidate("m"): [SimpleNamespace(extra={"version": 1}), SimpleNamespace(extra={"version": 2})]}
    assert runs.news(events, assets.candidate("m")) == {"version": 2}


@pytest.mark.parametrize("events", [None, {}, {assets.champion("m"): [SimpleNamespace(extra={"version": 1})]}])
def test_a_run_that_no_such_event_started_has_no_news(events: Any) -> None:
    assert runs.news(events, assets.candidate("m")) == {}


def test_the_reason_of_who_asked_stands_before_the_forms() -> None:
    events = {assets.retraining("m"): [SimpleNamespace(extra={"reason": "mae is 20 % worse"})]}
    form = {"trials": 3, "reason": "by hand"}
    assert runs.overrides(form, events, assets.retraining("m")) == {"trials": 3, "reason": "mae is 20 % worse"}
    assert runs.overrides(form, None, assets.retraining("m")) == form


@dataclass(frozen=True)
class Made:
    keys: tuple[str, ...] = ("a", "b")
    at: dt.date = dt.date(2026, 3, 1)
    by_key: dict[str, float] = field(default_factory=lambda: {"a": 0.5})


def test_an_answer_is_plain_data_with_its_line() -> None:
    assert runs.result(Made(), "two keys") == {
        "keys": ["a", "b"], "at": "2026-03-01", "by_key": {"a": 0.5}, "summary": "two keys",
    }  # fmt: skip


@dataclass(frozen=True)
class FakeValidation:
    accepted: list[str]
    rejected: dict[str, str]
    rows: int = 10
    quarantined: int = 2
    docs_url: str = "/d/docs/trips/index.html"
    types_changed: dict[str, str] = field(default_factory=dict)
    infinite: dict[str, str] = field(default_factory=dict)


def test_a_refused_partition_ends_the_task_red_and_publish_still_knows_the_good_ones() -> None:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    with pytest.raises(AirflowFailException, match=r"1 of 2 partitions refused.*\n2026-03-02: no column fare_amount"):
        runs.validated(FakeValidation(["2026-03-01"], {"2026-03-02": "no column fare_amount"}), ti, "/d")
    assert pushed["return_value"]["accepted"] == ["2026-03-01"]
    assert pushed["return_value"]["docs"] == "/ml-platform/files/docs/trips/index.html"


def test_infinite_numbers_are_in_the_line_of_validate_with_the_remedy() -> None:
    ti = SimpleNamespace(xcom_push=lambda key, value: None)
    made = FakeValidation(["2026-03-01"], {}, infinite={"fare": "2 rows, first row 7 of 2026-03-01"})
    assert "fare (2 rows, first row 7 of 2026-03-01): bound it" in runs.validated(made, ti, "/d")["summary"]


def test_a_run_ends_as_red_as_its_tasks() -> None:
    assert runs.outcome({"check": "success", "publish": "skipped", "outcome": "running"})["summary"]
    with pytest.raises(AirflowFailException, match="publish, validate failed"):
        runs.outcome({"check": "success", "validate": "failed", "publish": "upstream_failed"})


def test_a_check_that_found_nothing_to_draw_ends_well() -> None:
    quiet = {"reason": "nothing critical", "report": None, "report_problem": None}
    assert runs.drawn(quiet)["summary"] == "nothing to draw: nothing critical"
    with pytest.raises(AirflowFailException, match="compared, but not drawn: no disk"):
        runs.drawn({**quiet, "report_problem": "no disk"})


@pytest.mark.parametrize("late", [[], ["candidate"]])
def test_what_was_behind_is_announced_again(late: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    added: list[Any] = []
    found = [SimpleNamespace(asset=kind, name="m", reason="m: version 2 was not judged", extra={}) for kind in late]
    announced = SimpleNamespace(add=lambda asset, extra: added.append(asset))
    runs.caught_up(found, announced, dry_run=True)
    assert added == []
    answer = runs.caught_up(found, announced, dry_run=False)
    assert added == [getattr(assets, kind)("m") for kind in late]
    assert answer["summary"] == ("announced again: m: version 2 was not judged" if late else "nothing is behind")


@pytest.mark.parametrize("answer", [None, {"accepted": []}])
def test_without_accepted_partitions_publish_says_that_there_is_nothing_to_do(answer: Any) -> None:
    idle = runs.unpublished(answer)
    assert idle is not None
    assert "what was published before stays" in idle["summary"]


def test_after_a_task_with_nothing_to_do_the_next_says_the_same_reason_once() -> None:
    assert runs.idle_after(None, {"bento": "b"}) is None
    first = runs.idle_after({"bento": "b"}, runs.idle("HOLD version 8: as good"))
    assert runs.idle_after(first) == first == {
        "idle": "HOLD version 8: as good", "summary": "nothing to do: HOLD version 8: as good",
    }  # fmt: skip


@dataclass(frozen=True)
class FakeFinding:
    key: str

    def __str__(self) -> str:
        return f"params.yaml:3: {self.key}: wrong"


def test_a_mistake_stops_the_dags_it_is_about_and_no_other() -> None:
    findings = [FakeFinding("sources.trips.path"), FakeFinding("models.trip.target")]
    with pytest.raises(ValueError, match=r"params.yaml:3: sources.trips.path: wrong$"):
        runs.checked(findings, "sources.trips")
    assert "is right" in runs.checked(findings, "sources.trips_of_boats", "models.tri")["summary"]


def test_a_mistake_in_the_whole_file_stops_every_dag() -> None:
    with pytest.raises(ValueError, match="top"):
        runs.checked([FakeFinding("(top)")], "models.other")


def test_a_run_has_a_folder_of_its_own_whose_name_any_system_takes(tmp_path: Any) -> None:
    one = runs.folder(tmp_path, "train_m", "manual__2026-03-01T00:00:00+00:00_x")
    assert one.rsplit("/", 1)[1].replace("_", "").replace("-", "").isalnum()
    assert one != runs.folder(tmp_path, "train_m", "manual__2026-03-01T00:00:00+00/00_x")


def test_a_person_is_named_as_actor_and_a_schedule_is_not() -> None:
    assert runs.actor(a_run("manual")) == "ingest_trips r (ada)"
    assert runs.actor(a_run("asset_triggered")) == "ingest_trips r"


def test_a_files_address_is_the_pages_and_other_addresses_stay() -> None:
    assert runs.page("s3://b/data/reports/m/1.html", "s3://b/data/") == "/ml-platform/files/reports/m/1.html"
    assert runs.page("s3://other/x.html", "s3://b/data") == "s3://other/x.html"
    assert runs.page(None, "/d") is None


def test_a_button_opens_the_address_in_the_tasks_answer() -> None:
    answer = {"run_url": "http://m/#/runs/1"}
    ti = SimpleNamespace(task_id="fit", map_index=-1, state="success", xcom_pull=lambda **_: answer)
    link = runs.ResultLink("MLflow run", "run_url")
    assert link.get_link(None, ti_key=ti) == "http://m/#/runs/1"
    ti.state = "failed"
    assert link.get_link(None, ti_key=ti) == ""
    assert runs.ResultLink("Data docs", "run_url", even_when_red=True).get_link(None, ti_key=ti) == "http://m/#/runs/1"
    ti.xcom_pull = lambda **_: None
    assert runs.ResultLink("Data docs", "run_url", even_when_red=True).get_link(None, ti_key=ti) == ""


def test_today_is_the_day_of_the_sources_time_zone() -> None:
    run = a_run("manual", dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    run.run_after = dt.datetime(2026, 1, 2, 20, tzinfo=dt.UTC)
    zones = ("UTC", "Asia/Tokyo", "America/New_York")
    assert [runs.today(run, zone).day for zone in zones] == [2, 3, 2]
