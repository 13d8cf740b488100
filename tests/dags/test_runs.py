"""Whole runs of the DAGs, with `dag.test()`, on small generated data."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from include import database
from include.serving.process.command import serve_command, serve_environment
from tests.conftest import ROOT, free_port
from tests.dags.conftest import PARAMS, Night
from tests.waiting import until

pytestmark = pytest.mark.slow

HISTORY = {"from": "2026-03-01", "to": "2026-03-12"}


@pytest.fixture
def complete(night: Night, mlflow_url: str) -> Iterator[Night]:
    """With MLflow and the prediction service."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    night.environment.update(MLOPS_MLFLOW_URL=mlflow_url, MLOPS_SERVING_URL=address, MLOPS_SERVING_KEY="k")
    environment = {**night.environment, **serve_environment(night.folder / "bentoml", key="k", root=ROOT)}
    with (night.folder / "service.log").open("wb") as log:
        service = subprocess.Popen(
            serve_command(port, ROOT), env=environment, cwd=night.folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(
            lambda: httpx.get(f"{address}/livez", timeout=1),
            "the service lives",
            seconds=90,
            pause=0.3,
            unless=lambda: service.poll() is not None,
            show=lambda: (night.folder / "service.log").read_text()[-3000:],
            ignore=httpx.HTTPError,
        )
        yield night
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        try:
            service.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(service.pid, signal.SIGKILL)


def test_a_source_becomes_a_served_and_watched_model(complete: Night) -> None:
    """Ingest, features, train, deploy, monitor, without a logical date (promise 51); once more, it changes nothing."""
    ingest, features, train, deploy, monitor, again, deploy_again, quiet = complete.run(
        {"dag": "ingest_trips", "conf": HISTORY},
        {"dag": "features_trip_duration"},
        {"dag": "train_trip_duration", "conf": {"trials": 3, "reason": "a test"}},
        {"dag": "deploy_trip_duration"},
        {"dag": "monitor_trip_duration", "conf": {"window": 2}},
        {"dag": "features_trip_duration"},
        {"dag": "deploy_trip_duration"},
        {"dag": "ingest_trips", "conf": HISTORY},
    )
    for run in (ingest, features, train, deploy, monitor, again, deploy_again, quiet):
        assert run["state"] == "success", run

    assert len(ingest["events"]["validated.trips"]["keys"]) == 12
    assert ingest["tasks"]["outcome"] == "success"
    assert ingest["answers"]["validate"]["_link_docs"].startswith("/ml-platform/files/docs/trips/")

    assert (
        features["events"]["features.trip_duration"]["version"]
        == features["answers"]["build"]["return_value"]["version"]
    )
    assert "first model" in features["events"]["retraining.trip_duration"]["reason"]

    candidate = train["events"]["candidate.trip_duration"]
    assert candidate["version"] == 1
    assert candidate["value"] < candidate["baseline"]
    assert train["tasks"]["tune[0]"] == train["tasks"]["tune[1]"] == "success"
    assert train["answers"]["fit"]["_link_run_url"].startswith(complete.environment["MLOPS_MLFLOW_URL"])

    assert deploy["answers"]["gate"]["return_value"]["verdict"] == "PROMOTE"
    assert deploy["events"]["champion.trip_duration"]["version"] == 1
    assert deploy["answers"]["verify"]["_link_service"].endswith("/docs")

    assert monitor["answers"]["compare"]["return_value"]["version"] == 1
    assert monitor["tasks"]["report"] == "success"

    assert again["answers"]["first_training"]["return_value"]["summary"].startswith("nothing to do: no training")
    assert "retraining.trip_duration" not in again["events"]
    assert (
        deploy_again["answers"]["promote"]["return_value"]["id"] == deploy["answers"]["promote"]["return_value"]["id"]
    )
    assert quiet["answers"]["publish"]["return_value"]["idle"]
    assert quiet["events"] == {}
    for run in (ingest, features, train, deploy, monitor, again, deploy_again, quiet):
        assert set(run["tasks"].values()) == {"success"}, run
        said = {task: answer["return_value"]["summary"] for task, answer in run["answers"].items()}
        assert set(said) == set(run["tasks"])
        assert all(text and "\n" not in text for text in said.values())
        assert sorted(run["endings"]) == sorted(["INFO", text] for text in said.values())


def test_a_version_is_tried_before_it_may_be_champion_and_taken_back_by_a_form(complete: Night) -> None:
    """As params.yaml declares it, by a deployment; once more, as a shadow, by a form; the way back stops both."""
    both = "{linear: {}, xgboost: {n_estimators: 60, max_depth: [3, 6, int], learning_rate: [0.1, 0.3, log]}}"
    complete.params(PARAMS.replace(both, "{linear: {}}"))
    *_, first = complete.run(
        {"dag": "ingest_trips", "conf": HISTORY},
        {"dag": "features_trip_duration"},
        {"dag": "train_trip_duration"},
        {"dag": "deploy_trip_duration"},
    )
    champion = first["answers"]["promote"]["return_value"]["to_version"]  # MLflow is shared, and has counted on
    complete.params(PARAMS + "    serving: {rollout: {strategy: canary, steps: [10, 100]}}\n")
    train, deploy, shadow, back, held = complete.run(
        {"dag": "train_trip_duration"},
        {"dag": "deploy_trip_duration"},
        {"dag": "rollout_trip_duration", "conf": {"version": champion + 1, "kind": "shadow", "reason": "look"}},
        {"dag": "rollback_trip_duration", "conf": {"reason": "seen enough"}},
        {"dag": "deploy_trip_duration", "conf": {"version": f"{champion + 1} · mae 2.9 · pass"}},
    )
    assert held["answers"]["gate"]["return_value"]["verdict"] == "HOLD"
    assert held["answers"]["gate"]["return_value"]["version"] == champion + 1
    assert set(held["tasks"].values()) == {"success"}
    assert held["events"] == {}
    assert held["answers"]["verify"]["return_value"]["summary"].startswith(
        f"nothing to do: HOLD version {champion + 1}"
    )
    for run in (train, deploy, shadow, back):
        assert run["state"] == "success", run
    tried = deploy["answers"]["promote"]["return_value"]
    assert tried["summary"] == (
        f"version {champion + 1} answers 10% of the requests as canary beside version {champion},"
        " which stays champion for now"
    )
    assert deploy["tasks"]["verify"] == "success"
    assert deploy["answers"]["verify"]["return_value"]["summary"].startswith("no new champion: version")
    assert "champion.trip_duration" not in deploy["events"]
    watched = shadow["answers"]["start"]["return_value"]
    assert watched["summary"].startswith(
        f"version {champion + 1} scores all requests as shadow beside version {champion}"
    )
    assert shadow["tasks"]["verify"] == "success"
    told = back["answers"]["roll_back"]["return_value"]
    assert told["stopped"] == [tried["id"], watched["id"]]
    assert f"trip_duration: version {champion} stays; every worker answers so after" in told["summary"]
    print(f"rollback_trip_duration took {back['seconds']} s")


def test_a_refused_day_is_red_and_the_good_days_are_published(night: Night) -> None:
    """Promises 4 to 6 as an operator sees them: red at once, nothing downstream sees the day, the others go on."""
    (run,) = night.run({"dag": "ingest_trips", "conf": {"from": "2026-03-19", "to": "2026-03-21"}})
    assert run["state"] == "failed"
    expected = {
        "check": "success",
        "extract": "success",
        "validate": "failed",
        "publish": "success",
        "outcome": "failed",
    }
    assert run["tasks"] == expected
    assert run["tries"]["validate"] == 1
    assert run["events"]["validated.trips"]["keys"] == ["2026-03-19", "2026-03-21"]
    assert run["answers"]["validate"]["_link_docs"]
    alerts = (night.folder / "var" / "logs" / "alerts.jsonl").read_text()
    assert "2026-03-20" in alerts
    assert "task_failed" in alerts


def test_the_prediction_log_has_partitions_ahead_and_no_days_that_nobody_keeps(night: Night) -> None:
    """As often as it runs; by hand, it can be asked what it would delete."""
    engine = database.connect(night.environment["MLOPS_DATABASE_URL"])
    row = "gen_random_uuid(), 'trip_duration', 1, 'champion', now() - '{} days'::interval, '{{}}', '{{}}'"
    with engine.begin() as connection:
        for age in (1, 89, 91):
            connection.execute(sa.text(f"select make_prediction_partition((now() at time zone 'UTC')::date - {age})"))
            connection.execute(sa.text(f"insert into predictions values ({row.format(age)})"))
    misspelt, asked, done, again = night.run(
        {"dag": "maintenance", "conf": {"dry-run": True}},
        {"dag": "maintenance", "conf": {"dry_run": True}},
        {"dag": "maintenance"},
        {"dag": "maintenance"},
    )
    assert set(misspelt["tasks"].values()) == {"failed", "upstream_failed"}
    assert set(misspelt["tries"].values()) <= {0, 1}
    for run in (asked, done, again):
        assert run["state"] == "success", run
    said = [run["answers"]["delete_old"]["return_value"] for run in (asked, done, again)]
    assert [len(answer["dropped"]) for answer in said] == [1, 1, 0]
    assert said[0]["summary"].startswith("would delete, older than is kept: 1 days")
    assert len(asked["answers"]["make_partitions"]["return_value"]["made"]) == 8
    assert done["answers"]["settle"]["return_value"]["summary"].endswith("vacuumed")
    with engine.connect() as connection:
        assert connection.execute(sa.text("select count(*) from predictions")).scalar_one() == 2
    engine.dispose()


def test_a_backfilled_day_is_its_data_interval_and_a_second_run_writes_the_same_bytes(night: Night) -> None:
    """Promises 3 and 51."""
    first, second = night.run(
        *[{"dag": "ingest_trips", "conf": {"from": "2026-03-05", "to": "2026-03-05", "replace": True}}] * 2
    )
    assert first["state"] == second["state"] == "success"
    assert first["events"]["validated.trips"]["version"] == second["events"]["validated.trips"]["version"]


def test_mlflow_down_is_told_before_anything_expensive_begins(night: Night) -> None:
    """Promise 17: red after one try where there are no retries, with what to do; nothing was prepared."""
    *_, train = night.run(
        {"dag": "ingest_trips", "conf": HISTORY},
        {"dag": "features_trip_duration"},
        {"dag": "train_trip_duration", "retries": 0},
    )
    assert train["state"] == "failed"
    assert train["tasks"]["prepare"] == "failed"
    assert {state for name, state in train["tasks"].items() if name.startswith(("tune", "fit", "register"))} == {
        "upstream_failed"
    }
    assert train["tries"]["prepare"] == 1
    alerts = (night.folder / "var" / "logs" / "alerts.jsonl").read_text()
    assert "MLflow" in alerts
    assert train["events"] == {}


def test_a_backfill_is_one_run_of_what_comes_after_it(night: Night) -> None:
    """Promise 51: its events wait together; the scheduler makes one run of them, and no second beside it."""
    night.environment["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "False"
    days = [f"2026-03-{day:02}" for day in range(1, 5)]
    _, _, *ingested, scheduled = night.run(
        {"dag": "ingest_trips", "conf": {"from": "2026-02-28", "to": "2026-02-28"}},  # so Airflow knows the DAGs
        {"unpause": "features_trip_duration"},
        *[{"dag": "ingest_trips", "conf": {"from": day, "to": day}} for day in days],
        {"schedule": True},
    )
    assert [run["state"] for run in ingested] == ["success"] * len(days)
    assert set(scheduled["started"]) == {"features_trip_duration"}
    assert scheduled["count"] == 1


def test_a_task_that_died_before_its_first_heartbeat_is_red_in_bounded_time(night: Night) -> None:
    """Promise 16: the run's time-out ends it, and its callback (alerts.run_failed) tells."""
    _, found = night.run({"airflow": ["dags", "reserialize"]}, {"dag": "train_trip_duration", "dies": "prepare"})
    assert found["state"] == "failed"
    assert found["tasks"]["prepare"] == "skipped"
    assert found["callback"] == "timed_out"


def test_a_model_without_a_champion_is_not_compared_and_says_so(night: Night) -> None:
    (run,) = night.run({"dag": "monitor_trip_duration"})
    assert run["state"] == "success"
    assert set(run["tasks"].values()) == {"success"}
    assert run["events"] == {}


def test_a_mistake_in_params_yaml_stops_the_run_before_it_begins(night: Night) -> None:
    night.params(PARAMS.replace("target: duration_minutes", "target: duration_minute"))
    (run,) = night.run({"dag": "features_trip_duration"})
    assert run["tasks"]["check"] == "failed"
    assert run["tries"]["check"] == 1
    assert run["tasks"]["build"] == "upstream_failed"
    assert "duration_minute" in (night.folder / "var" / "logs" / "alerts.jsonl").read_text()
