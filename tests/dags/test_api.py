"""Airflow's REST API on our DAGs, as a user's script calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import new_database
from tests.dags import airflow_home
from tests.dags.conftest import PARAMS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    postgres_url: str,
    template_database: str,
    airflow_template: str,
    driver: airflow_home.Driver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[airflow_home.Server]:
    folder: Path = tmp_path_factory.mktemp("api")
    (folder / "params.yaml").write_text(PARAMS)
    platform, airflow = new_database(postgres_url, template_database), new_database(postgres_url, airflow_template)
    with airflow_home.api_server(folder, airflow, platform) as found:
        driver.run(found.environment, folder, {"airflow": ["dags", "reserialize"]})
        yield found


@pytest.fixture(scope="module")
def token(server: airflow_home.Server) -> str:
    return server.token()


def trigger(server: airflow_home.Server, token: str, dag: str, **body: Any) -> Any:
    return server.request("POST", f"/api/v2/dags/{dag}/dagRuns", token, json={"logical_date": None, **body})


def test_a_manual_run_needs_no_logical_date_and_a_run_id_is_given_once(server: airflow_home.Server, token: str) -> None:
    """Promise 51."""
    conf = {"from": "2026-03-01", "to": "2026-03-02"}
    first = trigger(server, token, "ingest_trips", dag_run_id="march", conf=conf)
    assert first.status_code == 200, first.text
    assert first.json()["logical_date"] is None
    again = trigger(server, token, "ingest_trips", dag_run_id="march", conf=conf)
    assert again.status_code == 409, again.text
    assert "march" in again.text or "already exists" in again.text.lower() or "unique" in again.text.lower()


@pytest.mark.parametrize(
    ("dag", "conf"),
    [
        ("train_trip_duration", {"trials": 0}),
        ("train_trip_duration", {"time_budget": "long"}),
        ("ingest_trips", {"from": "the first of March"}),
        ("deploy_trip_duration", {"version": -1}),
        ("maintenance", {"dry_run": "true"}),
        ("maintenance", {"dry-run": True}),
        ("monitor_trip_duration", {"windw": 1}),
        ("features_trip_duration", {"replace": True}),
        ("rollback_trip_duration", {"reasn": "seen enough"}),
    ],
)
def test_a_form_is_checked_before_a_run_begins(
    server: airflow_home.Server, token: str, dag: str, conf: dict[str, Any]
) -> None:
    answer = trigger(server, token, dag, conf=conf)
    assert 400 <= answer.status_code < 500, answer.text
    assert next(iter(conf)) in answer.text or "param" in answer.text.lower()


def test_a_misspelt_name_begins_nothing_and_the_nearest_is_named(server: airflow_home.Server, token: str) -> None:
    before = server.get("/api/v2/dags/ingest_trips/dagRuns", token).json()["total_entries"]
    answer = trigger(server, token, "ingest_trips", conf={"form": "2031-01-01"})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "nothing was run: 'form' is no field of ingest_trips; did you mean 'from'?"
    assert server.get("/api/v2/dags/ingest_trips/dagRuns", token).json()["total_entries"] == before
    assert trigger(server, "", "ingest_trips", conf={"form": "2031-01-01"}).status_code == 401  # not a word of the form


@pytest.mark.parametrize(("first", "last", "days"), [("02-01", "03-02", 30), ("02-01", "02-01", 1)])
def test_a_backfill_has_one_run_a_day_and_includes_the_last(
    server: airflow_home.Server, token: str, first: str, last: str, days: int
) -> None:
    """Promise 51: `airflow backfill` knows the days of a dated source."""
    body = {"dag_id": "ingest_trips", "from_date": f"2026-{first}T00:00:00Z", "to_date": f"2026-{last}T00:00:00Z"}
    answer = server.request("POST", "/api/v2/backfills/dry_run", token, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total_entries"] == days
    form = {"dag_run_conf": {"replce": True}}
    misspelt = server.request("POST", "/api/v2/backfills/dry_run", token, json=body | form)
    assert misspelt.status_code == 400
    assert "did you mean 'replace'?" in misspelt.text


def test_an_event_that_came_during_a_pause_starts_a_run_when_the_pause_ends_and_once_only(
    server: airflow_home.Server, token: str
) -> None:
    """Airflow queues an event for DAGs that are not paused, and forgets the others."""

    def patch(dag: str, paused: bool) -> None:
        answer = server.request("PATCH", f"/api/v2/dags/{dag}", token, json={"is_paused": paused})
        assert answer.status_code == 200, answer.text

    def queued(dag: str) -> int:
        answer = server.get(f"/api/v2/dags/{dag}/assets/queuedEvents", token)
        return answer.json()["total_entries"] if answer.status_code == 200 else 0

    assets = server.get("/api/v2/assets?limit=100", token).json()["assets"]
    ids = {asset["name"]: asset["id"] for asset in assets}
    for name in ("candidate.trip_duration", "validated.trips"):
        event = {"asset_id": ids[name], "extra": {"version": 1}}
        assert server.request("POST", "/api/v2/assets/events", token, json=event).status_code == 200
    for dag in ("deploy_trip_duration", "features_trip_duration"):
        assert queued(dag) == 0
        patch(dag, paused=False)
        assert queued(dag) == 1
    assert server.request("DELETE", "/api/v2/dags/features_trip_duration/assets/queuedEvents", token).status_code == 204
    assert trigger(server, token, "features_trip_duration").status_code == 200  # by hand, in the meantime
    patch("features_trip_duration", paused=True)
    patch("features_trip_duration", paused=False)
    assert queued("features_trip_duration") == 0
    assert queued("train_trip_duration") == 0


def test_who_is_told_that_a_dag_is_active_finds_what_it_missed_in_the_queue(server: airflow_home.Server) -> None:
    """The answer waits for the queue, however slow it is, and comes even if the queue could not be filled."""
    script = """
import asyncio, time
from include.orchestration import overlooked
from plugins.orchestration.orchestration_plugin import MissedEvents

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": scope["status"]})
    await send({"type": "http.response.body", "body": b"{}"})
    seen.append("committed")

def asked(path, status=200, method="PATCH", breaks=False):
    async def send(message):
        seen.append(message["type"].rpartition(".")[2])

    def queue_missed():
        time.sleep(0.2)
        seen.append("queued")
        if breaks:
            raise OSError("the database is away")

    overlooked.queue_missed = queue_missed
    seen.clear()
    scope = {"type": "http", "method": method, "path": path, "status": status}
    asyncio.run(MissedEvents(application)(scope, None, send))
    return list(seen)

seen = []
one, many = "/api/v2/dags/train_a", "/api/v2/dags"
print(json.dumps([asked(one), asked(many), asked(one, breaks=True), asked(one, 404), asked(one, method="GET")]))
"""
    one, many, broken, unknown, reading = scripted(server, script)
    assert one == many == broken == ["committed", "queued", "start", "body"]
    assert unknown == ["committed", "start", "body"]
    assert reading == ["start", "body", "committed"]


def test_the_flow_is_readable_from_the_assets_in_the_ui(server: airflow_home.Server, token: str) -> None:
    found = server.get("/api/v2/assets?limit=100", token).json()["assets"]
    assert {asset["name"] for asset in found} == {
        "validated.trips", "validated.cells", "features.trip_duration", "retraining.trip_duration",
        "candidate.trip_duration", "champion.trip_duration",
    }  # fmt: skip


def test_the_runs_of_a_retired_model_end_though_its_dags_are_gone(server: airflow_home.Server, token: str) -> None:
    """A DAG that params.yaml no longer makes is never scheduled again: its run would be `running` for ever."""
    import sqlalchemy as sa

    from include.stack import airflow_api

    for dag in ("train_trip_duration", "monitor_trip_duration"):
        assert trigger(server, token, dag, dag_run_id="left_alone+1").status_code == 200
    assert trigger(server, token, "ingest_trips", dag_run_id="not_the_models").status_code == 200
    engine = sa.create_engine(server.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    with engine.begin() as connection:
        gone = "update dag set is_stale = true where dag_id in ('train_trip_duration', 'monitor_trip_duration')"
        assert connection.execute(sa.text(gone)).rowcount == 2
    airflow = airflow_api.Airflow(server.url, airflow_home.USER, airflow_home.PASSWORD)
    ended = airflow.end_runs(airflow_api.of_model("trip_duration"), "trip_duration was retired")
    assert {run.dag for run in ended} >= {"train_trip_duration", "monitor_trip_duration"}
    assert airflow.end_runs(airflow_api.of_model("trip_duration"), "again") == []
    with engine.begin() as connection:
        query = "select dag_id, state from dag_run where run_id in ('left_alone+1', 'not_the_models')"
        states = dict(map(tuple, connection.execute(sa.text(query))))
        connection.execute(sa.text("update dag set is_stale = false"))
    engine.dispose()
    assert states == {"train_trip_duration": "failed", "monitor_trip_duration": "failed", "ingest_trips": "queued"}


OVERLOOKED = """
import contextlib, json, sys
import sqlalchemy as sa
from airflow.cli import cli_parser
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun, DagRunNote
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from include.orchestration.overlooked import GONE_SECONDS, Overlooked

def event(name):
    with create_session() as session:
        asset = session.scalar(sa.select(AssetModel).where(AssetModel.name == name))
        session.add(AssetEvent(asset_id=asset.id, extra={}))

def set_dag(dag_id, **values):
    with create_session() as session:
        session.execute(sa.update(DagModel).where(DagModel.dag_id == dag_id).values(**values))

def queued():
    with create_session() as session:
        return sorted(session.scalars(sa.select(AssetDagRunQueue.target_dag_id)))

def states(*runs):
    with create_session() as session:
        rows = session.execute(
            sa.select(DagRun.run_id, DagRun.state, DagRunNote.content)
            .outerjoin(DagRunNote, DagRunNote.dag_run_id == DagRun.id).where(DagRun.run_id.in_(runs))
        ).all()
        tasks = session.execute(
            sa.select(TaskInstance.run_id, TaskInstance.state).where(TaskInstance.run_id.in_(runs))
        ).all()
    of = {run: [str(state) for of_run, state in tasks if of_run == run] for run in runs}
    return {run: (str(state), note, of[run]) for run, state, note in rows}

def unpause(dag_id):
    arguments = cli_parser.get_parser().parse_args(["dags", "unpause", "--yes", dag_id])
    with contextlib.redirect_stdout(sys.stderr):
        arguments.func(arguments)
"""


def scripted(server: airflow_home.Server, script: str) -> Any:
    """What a program with Airflow's database prints, as JSON in its last line."""
    command = [sys.executable, "-c", OVERLOOKED + script]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_scheduler_queues_what_a_dag_missed_whichever_way_it_was_unpaused(server: airflow_home.Server) -> None:
    """On the command line, by hand in the database, and while no scheduler ran."""
    script = """
dags = ("features_trip_duration", "deploy_trip_duration", "train_trip_duration")
with create_session() as session:
    session.execute(sa.delete(AssetDagRunQueue))
    session.execute(sa.delete(DagRun).where(DagRun.dag_id.in_(dags)))
for dag in dags:
    set_dag(dag, is_paused=True)
scheduler, seen = Overlooked(), []
def look(now):
    scheduler.check(now)
    seen.append(queued())
look(0)
event("validated.trips"), event("candidate.trip_duration"), event("retraining.trip_duration")
look(10)
unpause("features_trip_duration")
look(20)
set_dag("deploy_trip_duration", is_paused=False)
look(30)
look(40)
with create_session() as session:
    session.execute(sa.delete(AssetDagRunQueue))
look(50)
scheduler = Overlooked()
set_dag("train_trip_duration", is_paused=False)
look(0)
print(json.dumps(seen))
"""
    features, deploy, train = "features_trip_duration", "deploy_trip_duration", "train_trip_duration"
    never, cli, database, again, quiet, restarted = scripted(server, script)[1:]
    assert never == []
    assert cli == [features]
    assert database == again == sorted([deploy, features])
    assert quiet == []  # nothing was unpaused since: what somebody took out of the queue stays out
    assert train in restarted


def test_the_scheduler_ends_runs_of_a_dag_that_is_gone_and_not_of_one_that_comes_back(
    server: airflow_home.Server, token: str
) -> None:
    for dag, run in (("rollback_trip_duration", "gone"), ("monitor_trip_duration", "back"), ("ingest_cells", "there")):
        conf = {"reason": "strange answers"} if run == "gone" else {}
        begun = trigger(server, token, dag, dag_run_id=run, conf=conf)
        assert begun.status_code == 200, begun.text
    script = """
runs, seen = ("gone", "back", "there"), []
scheduler = Overlooked()
set_dag("rollback_trip_duration", is_stale=True), set_dag("monitor_trip_duration", is_stale=True)
scheduler.check(0)
scheduler.check(GONE_SECONDS - 1)
seen.append(states(*runs))
set_dag("monitor_trip_duration", is_stale=False)
scheduler.check(GONE_SECONDS - 0.5)
set_dag("monitor_trip_duration", is_stale=True)
scheduler.check(GONE_SECONDS + 1)
scheduler.check(GONE_SECONDS + 2)
seen.append(states(*runs))
set_dag("rollback_trip_duration", is_stale=False), set_dag("monitor_trip_duration", is_stale=False)
print(json.dumps(seen))
"""
    before, after = scripted(server, script)
    assert {run: state for run, (state, *_) in before.items()} == dict.fromkeys(("gone", "back", "there"), "queued")
    assert {run: state for run, (state, *_) in after.items()} == {"gone": "failed", "back": "queued", "there": "queued"}
    _, note, tasks = after["gone"]
    assert note == "no file and no entry of params.yaml makes rollback_trip_duration any more"
    assert set(tasks) <= {"skipped", "failed"}
    told = [json.loads(line) for line in (server.data.parent / "logs" / "alerts.jsonl").read_text().splitlines()]
    assert [(line["event"], line["run_id"]) for line in told if line["event"] == "run_of_a_gone_dag"] == [
        ("run_of_a_gone_dag", "gone")
    ]
    assert "`mlops retire trip_duration --reason …`" in told[-1]["message"]
