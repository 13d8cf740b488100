"""What `make demo` asks for, and what it tells."""

from __future__ import annotations

import datetime as dt
import io
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from include import database, settings
from include.stack import credentials
from include.stack.airflow_api import Airflow, Run
from include.stack.demo import chain as demo
from include.stack.demo import history, summary
from include.stack.demo import journey as way
from include.stack.machine import Stack
from include.stack.progress import Progress
from tests.include.stack.test_airflow_api import Server, serving

TODAY = dt.date(2026, 3, 10)


def source(**more: object) -> settings.SampleSource:
    return settings.SampleSource.model_validate({"type": "sample", "dataset": "taxi_trips", **more})


def test_by_default_the_history_is_sixty_days_and_leaves_yesterday_to_the_schedule() -> None:
    days = history.between("", "", today=TODAY)
    assert (days.first, days.last) == (dt.date(2026, 1, 8), dt.date(2026, 3, 8))
    assert not days.explicit


def test_the_user_may_name_the_days() -> None:
    days = history.between("2018-01-01", "2018-06-30", today=TODAY)
    assert days.of(source(start="2020-01-01")) == (dt.date(2018, 1, 1), dt.date(2018, 6, 30))


@pytest.mark.parametrize(("first", "last"), [("01/02/2018", ""), ("2018-02-30", ""), ("2018-02-02", "2018-02-01")])
def test_days_that_are_none_are_refused(first: str, last: str) -> None:
    with pytest.raises(history.DemoError, match=r"FROM|TO"):
        history.between(first, last, today=TODAY)


def test_a_source_that_begins_later_is_not_asked_for_earlier_days() -> None:
    days = history.between("", "", today=TODAY)
    assert days.of(source(start="2026-03-01")) == (dt.date(2026, 3, 1), dt.date(2026, 3, 8))
    assert days.of(source(start="2026-03-20")) is None


def test_files_begin_where_the_source_says_however_long_ago() -> None:
    files = settings.FilesSource.model_validate(
        {"type": "files", "path": "x-{yyyy}-{mm}.parquet", "time_column": "t", "start": "2018-01-01"}
    )
    assert history.between("", "", today=TODAY).of(files) == (dt.date(2018, 1, 1), dt.date(2018, 3, 1))


def test_the_curl_line_survives_a_shell_whatever_the_row_holds(tmp_path: Path) -> None:
    stack = Stack(tmp_path, tmp_path / "a home", "id", {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4})
    line = summary.curl(stack, "trips", {"note": "it's $HOME `x`", "n": None})
    words = shlex.split(line)
    assert words[0] == "curl"
    assert words[-1] == '{"note": "it\'s $HOME `x`", "n": null}'
    assert "http://127.0.0.1:3/models/trips/predict" in words
    assert "\n" not in line


def test_a_run_knows_how_long_it_took() -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert Run("d", "r", "success", "manual", begin, begin + dt.timedelta(seconds=3)).seconds == 3
    assert Run("d", "r", "running", "manual", begin, None).active


# ------------------------------------------------------------------------------------------------ the models' ways


class Scene:
    """Airflow as two models' demo sees it: runs and tasks that a test changes from look to look."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.runs: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.paused: dict[str, bool] = {}
        self.looks = 0
        self.at_look: dict[int, Any] = {}
        server.answers = self.answer

    def run(self, dag: str, state: str) -> None:
        self.runs = [run for run in self.runs if run["dag_id"] != dag]
        moment = "2026-03-10T00:00:00Z"
        common = {"run_type": "manual", "run_after": moment, "queued_at": moment, "start_date": moment}
        ended = None if state in ("queued", "running") else moment
        self.runs.append({"dag_id": dag, "dag_run_id": "r", "state": state, "end_date": ended, **common})

    def task(self, dag: str, task: str, state: str) -> None:
        self.tasks = [one for one in self.tasks if (one["dag_id"], one["task_id"]) != (dag, task)]
        common = {"map_index": -1, "try_number": 1, "start_date": None, "duration": None}
        self.tasks.append({"dag_id": dag, "dag_run_id": "r", "task_id": task, "state": state, **common})

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path.endswith("/dagRuns/list"):
            self.looks += 1
            self.at_look.get(self.looks, lambda: None)()
            return 200, {"dag_runs": [run for run in self.runs if run["dag_id"] in body["dag_ids"]]}
        if path.endswith("/taskInstances/list"):
            return 200, {"task_instances": [task for task in self.tasks if task["dag_id"] in body["dag_ids"]]}
        if path.endswith("/hitlDetails"):
            return 200, {"subject": "Promote a version of good?", "body": "version 1: mae 0.4 against 0.9"}
        if "/logs/" in path:
            return 200, {"content": [{"event": "the study begins"}, {"event": "no trial was complete"}]}
        if method == "PATCH":
            self.paused[path.split("/")[4]] = body["is_paused"]
            return 200, {}
        if path.startswith("/api/v2/dags?"):
            return 200, {"dags": [{"dag_id": dag, "is_paused": paused} for dag, paused in self.paused.items()]}
        raise AssertionError(f"{method} {path}")


@pytest.fixture
def scene() -> Iterator[Scene]:
    with serving() as server:
        yield Scene(server)


PARAMS = """
sources:
  one: {type: sample, dataset: breast_cancer}
  two: {type: sample, dataset: breast_cancer}
models:
  good: {source: one, target: diagnosis, task: binary, metric: roc_auc, estimators: {linear: {}}}
  bad: {source: two, target: diagnosis, task: binary, metric: roc_auc, estimators: {linear: {}}}
"""


@pytest.fixture
def journey(scene: Scene, database_url: str, tmp_path: Path) -> Iterator[way.Journey]:
    (tmp_path / "params.yaml").write_text(PARAMS)
    params = settings.load_params(tmp_path / "params.yaml")
    engine = database.connect(database_url)
    airflow = Airflow(scene.server.url, "admin", "p")
    scene.paused = dict.fromkeys([*way.dags_of_all(params), "maintenance"], True)
    yield way.Journey(
        airflow,
        params,
        engine,
        Progress(io.StringIO()),
        ["good", "bad"],
        [],
        way.dags_of_all(params),
        dt.datetime.now(dt.UTC),
        released={"good", "bad"},
        requested={"good", "bad"},
    )
    engine.dispose()


def promote(engine: sa.Engine, model: str) -> None:
    with engine.begin() as connection:
        row = {"model": model, "version": 1, "content_hash": "h"}
        verdict = connection.execute(
            sa.insert(database.verdicts)
            .values(**row, verdict="PROMOTE", reasons=[], numbers={})
            .returning(database.verdicts.c.id)
        ).scalar_one()
    from include.deployment import ledger

    ledger.promote(
        engine, model=model, to_version=1, expected_from=None, content_hash="h", url="u", bento="b",
        verdict_id=verdict, actor="a test", reason="first",
    )  # fmt: skip


def printed(journey: way.Journey) -> str:
    stream = journey.progress._stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_one_models_failed_task_does_not_end_the_others_way(scene: Scene, journey: way.Journey) -> None:
    scene.run("train_bad", "failed")
    scene.task("train_bad", "fit", "failed")
    scene.run("deploy_good", "running")

    def served() -> None:
        scene.run("deploy_good", "success")
        promote(journey.engine, "good")

    scene.at_look[2] = served
    way.follow(journey)
    assert journey.failed == {
        "bad": "bad: train_bad.fit failed; its log ends with\n    the study begins\n    no trial was complete"
    }
    assert ("deploy_good", "r") in journey.reported


def test_a_run_that_timed_out_ends_its_own_model_only(scene: Scene, journey: way.Journey) -> None:
    scene.run("features_bad", "failed")
    promote(journey.engine, "good")
    way.follow(journey)
    assert list(journey.failed) == ["bad"]
    assert "ran into its time-out" in journey.failed["bad"]


def test_an_approval_that_is_awaited_is_said_once_with_its_numbers_and_its_page(
    scene: Scene, journey: way.Journey
) -> None:
    journey.failed["bad"] = "bad: does not matter here"
    scene.run("deploy_good", "running")
    scene.task("deploy_good", "approve", "awaiting_input")

    def approved() -> None:
        scene.run("deploy_good", "success")
        scene.task("deploy_good", "approve", "success")
        promote(journey.engine, "good")

    scene.at_look[3] = approved
    way.follow(journey)
    text = printed(journey)
    assert text.count("deploy_good waits for your approval: Promote a version of good? version 1: mae 0.4") == 1
    assert f"{scene.server.url}/dags/deploy_good/runs/r/tasks/approve/required_actions" in text
    assert "becomes champion" in text


def test_whatever_ended_the_demo_monitors_and_maintenance_run_by_themselves(scene: Scene, journey: way.Journey) -> None:
    journey.released = {"good"}  # bad's history is still on its way
    way.leave_to_the_schedule(journey)
    assert [dag for dag, paused in scene.paused.items() if paused] == ["features_bad"]
    assert "features_bad; the next `make demo` goes on" in printed(journey)


def test_up_names_what_is_paused_and_what_will_be_when_airflow_has_read_it(
    scene: Scene, journey: way.Journey, tmp_path: Path
) -> None:
    ports = {"airflow": scene.server.server_port, "mlflow": 2, "serving": 3, "postgres": 4}
    (tmp_path / "home").mkdir()
    stack = Stack(tmp_path, tmp_path / "home", "id", ports)
    credentials.read_or_create(stack.credentials_file)
    scene.paused = dict.fromkeys([*way.dags_of_all(journey.params), "maintenance"], False) | {"monitor_bad": True}
    assert demo.paused(stack, journey.params) == ["monitor_bad"]
    scene.paused = {}  # nothing is read yet: what runs by itself is not paused at its creation
    assert demo.paused(stack, journey.params) == ["ingest_one", "ingest_two", "features_good", "features_bad"]


def test_a_held_version_is_the_reason_and_not_a_training_that_is_under_way(journey: way.Journey) -> None:
    with journey.engine.begin() as connection:
        connection.execute(
            sa.insert(database.verdicts).values(
                model="bad", version=2, verdict="HOLD", content_hash="h", reasons=["200 rows < 334"], numbers={}
            )
        )
    assert way._why_nothing_moves(journey, ["bad"]) == {"bad": "bad: the gate says HOLD to version 2: 200 rows < 334"}
    promote(journey.engine, "good")
    assert "was not approved" in way._why_nothing_moves(journey, ["good"])["good"]


@pytest.mark.parametrize(
    ("by_hand", "scheduled"), [("running", "success"), ("queued", "running"), ("running", "failed")]
)
def test_features_wait_for_the_history_whatever_the_schedules_own_run_has_brought(
    scene: Scene, journey: way.Journey, by_hand: str, scheduled: str
) -> None:
    """Else the newest day alone trains the first champion, where the schedule's run comes first."""
    journey.params = settings.parse_params(
        "sources: {trips: {type: sample, dataset: taxi_trips}}\n"
        "models: {m: {source: trips, target: duration_minutes, task: regression}}"
    )
    journey.released, scene.paused = set(), {"features_m": True}
    runs = [
        Run("ingest_trips", name, state, kind, None, None)
        for name, state, kind in (("h", by_hand, "manual"), ("s", scheduled, "scheduled"))
    ]
    way._release_when_due(journey, "trips", runs, began=-1000)
    assert scene.paused == {"features_m": True}
    ended = [Run("ingest_trips", run.run_id, "success", run.kind, None, None) for run in runs]
    way._release_when_due(journey, "trips", ended, began=-1000)
    assert scene.paused == {"features_m": False}
