"""The controller: what follows from what the arms did, alone, through outages, and seen afterwards."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from include import database
from include.deployment import arms, controller, ledger, rollouts
from include.home import Home
from tests.conftest import ROOT
from tests.include.deployment import trials
from tests.waiting import seconds_until, until

EVEN, SKEWED = (20,) * 10, (200, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    trials.crown(engine, 1)
    yield engine
    engine.dispose()


@pytest.fixture
def told(tmp_path: Path) -> Any:
    path = tmp_path / "logs" / "alerts.jsonl"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def look(engine: sa.Engine, home: Path) -> None:
    assert controller.watch(engine, home, {})


# ------------------------------------------------------------------------------------------------ back


@pytest.mark.parametrize(
    ("did", "reason"),
    [
        ({"errors": 11}, "error rate 5.5% > 5.0% (11 of 200 requests; champion 0.0%)"),
        ({"slow": 3}, "p99 667 ms > 500 ms (200 answers; champion 5 ms)"),
        ({"ms": 60_000}, "p99 over 5000 ms > 500 ms (200 answers; champion 5 ms)"),
        ({"predictions": SKEWED}, "prediction drift 5.78 > 0.3 (PSI of 200 predictions against the champion's 200)"),
    ],
    ids=["errors", "slow", "beyond the buckets", "drift"],
)
@pytest.mark.parametrize("kind", ["canary", "ab"])
def test_an_arm_beyond_a_limit_is_rolled_back_at_once_with_evidence_and_an_alert(
    engine: sa.Engine, tmp_path: Path, told: Any, kind: str, did: dict[str, Any], reason: str
) -> None:
    made = trials.start(engine, kind=kind, bake_minutes=10)
    trials.report(engine, made, made.control, predictions=EVEN)
    trials.report(engine, made, made.arm, **{"predictions": EVEN, **did})
    look(engine, tmp_path)
    assert trials.now(engine, made).status == "rolled_back"
    event = rollouts.events(engine, [made.id])[0]
    assert (event.event, event.actor, event.reason) == ("rollback", "the controller", reason)
    assert event.evidence["arm"]["requests"] == event.evidence["champion"]["requests"] == 200
    assert event.evidence["arm"]["arm"] == made.arm
    [alert] = told()
    assert alert["event"] == "rollout_rolled_back"
    assert reason in alert["message"]
    assert alert["evidence"] == event.evidence
    assert ledger.champion(engine, "m").version == 1


@pytest.mark.parametrize(
    "did", [{"errors": 10}, {"slow": 2}, {"predictions": (22, 18) * 5}, {"requests": 99, "errors": 99}]
)
def test_at_a_limit_or_with_too_few_requests_nothing_happens(
    engine: sa.Engine, tmp_path: Path, told: Any, did: dict[str, Any]
) -> None:
    made = trials.start(engine, bake_minutes=10)
    trials.report(engine, made, "champion", predictions=EVEN)
    trials.report(engine, made, "canary", **{"predictions": EVEN, **did})
    look(engine, tmp_path)
    assert trials.now(engine, made) == made
    assert told() == []


def test_the_windows_of_all_workers_count_together(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, bake_minutes=10)
    for worker in ("w1", "w2", "w3"):
        trials.report(engine, made, "canary", 40, errors=3, worker=worker)
    look(engine, tmp_path)
    assert rollouts.events(engine, [made.id])[0].evidence["arm"]["requests"] == 120
    assert trials.now(engine, made).status == "rolled_back"


def test_what_happened_before_the_window_no_longer_counts_once_the_window_holds_enough(
    engine: sa.Engine, tmp_path: Path
) -> None:
    made = trials.start(engine, bake_minutes=10, window_seconds=30)
    trials.report(engine, made, "canary", 200, errors=100, ago=40)
    trials.report(engine, made, "canary", 200)
    look(engine, tmp_path)
    assert trials.now(engine, made) == made


def test_a_rare_arm_is_judged_by_as_many_seconds_as_it_takes(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, bake_minutes=10, window_seconds=10)
    for second in range(50):
        trials.report(engine, made, "canary", 2, errors=1, ago=20 + second)
    look(engine, tmp_path)
    event = rollouts.events(engine, [made.id])[0]
    assert event.event == "rollback"
    assert event.evidence["arm"]["requests"] == 100


def test_another_version_in_the_arm_does_not_count(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, bake_minutes=10)
    trials.report(engine, made, "canary", errors=200)
    with engine.begin() as connection:
        connection.execute(sa.text("update arm_windows set version = 9"))
    look(engine, tmp_path)
    assert trials.now(engine, made) == made


def test_beside_a_champion_that_answers_too_little_drift_is_not_known_and_the_other_limits_hold(
    engine: sa.Engine, tmp_path: Path
) -> None:
    made = trials.start(engine, bake_minutes=10)
    trials.report(engine, made, "champion", 9, predictions=(9, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    trials.report(engine, made, "canary", predictions=(0,) * 9 + (200,))
    look(engine, tmp_path)
    assert trials.now(engine, made) == made
    trials.report(engine, made, "canary", errors=200)
    look(engine, tmp_path)
    assert trials.now(engine, made).status == "rolled_back"


def test_equal_arms_hardly_ever_seem_to_drift() -> None:
    """Asked every second for days: chance alone must not take a version out."""
    import numpy as np

    random, limits = np.random.default_rng(1), arms.Limits(50, 0.05, 500, 0.05)
    moment = dt.datetime.now(dt.UTC)
    for shares in (np.full(10, 0.1), np.array([0.5, 0.3, 0.1, 0.05, 0.05])):
        for rows in (50, 100, 1000):
            for _ in range(500):
                counts = [tuple(map(int, random.multinomial(n, shares))) for n in (rows, 9 * rows)]
                arm, control = (
                    arms.Figures(a, 1, 100, 0, (), c) for a, c in zip(("canary", "champion"), counts, strict=True)
                )
                assert arms.breach(arms.Window(arm, control, moment, moment), limits) is None


# ------------------------------------------------------------------------------------------------ on


def test_a_canary_takes_step_after_step_and_becomes_champion(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, steps=(1, 5, 25, 100))
    for share in (0.05, 0.25, 1.0):
        trials.report(engine, trials.now(engine, made), "canary", ago=-0.01, worker=f"w{share}")
        look(engine, tmp_path)
        assert trials.now(engine, made).share == share
    trials.report(engine, made, "canary", ago=-0.01, worker="last")
    look(engine, tmp_path)
    assert trials.now(engine, made).status == "promoted"
    champion = ledger.champion(engine, "m")
    assert (champion.version, champion.url) == (2, "served/m/2")
    assert ledger.history(engine, "m")[0].actor == "the controller"
    assert "100% went well for 0 min" in ledger.history(engine, "m")[0].reason
    events = [event.event for event in rollouts.events(engine, [made.id])]
    assert events == ["promote", "step", "step", "step", "start"]


def test_a_step_needs_its_time_and_its_requests(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, bake_minutes=0.02)
    trials.report(engine, made, "canary", 99, ago=-0.01)
    look(engine, tmp_path)
    time.sleep(1.3)
    look(engine, tmp_path)
    assert trials.now(engine, made).step == 0  # time, and too few requests
    trials.report(engine, made, "canary", 1, ago=-0.01)
    look(engine, tmp_path)
    assert trials.now(engine, made).step == 1
    trials.report(engine, made, "canary", 200, ago=-0.01)
    look(engine, tmp_path)
    assert trials.now(engine, made).step == 1  # requests, and too little time


def test_requests_of_the_step_before_do_not_bake_the_next(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, steps=(5, 25, 50))
    trials.report(engine, made, "canary", ago=0)
    look(engine, tmp_path)
    look(engine, tmp_path)
    assert trials.now(engine, made).step == 1


def test_an_ab_test_takes_no_step(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, kind="ab")
    trials.report(engine, made, "b", ago=0)
    look(engine, tmp_path)
    assert trials.now(engine, made) == made


def test_a_shadow_is_left_alone_whatever_it_does(engine: sa.Engine, tmp_path: Path) -> None:
    made = trials.start(engine, kind="shadow")
    trials.report(engine, made, "shadow", errors=200)
    look(engine, tmp_path)
    assert trials.now(engine, made) == made


@pytest.mark.parametrize("kind", ["canary", "ab", "shadow"])
def test_another_champion_ends_what_was_tried_beside_the_old_one(
    engine: sa.Engine, tmp_path: Path, told: Any, kind: str
) -> None:
    made = trials.start(engine, kind=kind)
    trials.crown(engine, 3, 1)
    look(engine, tmp_path)
    assert trials.now(engine, made).status == "stopped"
    reason = "superseded: the champion was version 1 when it was started, and is version 3 now"
    assert rollouts.events(engine, [made.id])[0].reason == reason
    assert [alert["event"] for alert in told()] == ["rollout_superseded"]
    assert ledger.champion(engine, "m").version == 3


def test_windows_older_than_a_day_are_deleted(engine: sa.Engine) -> None:
    made = trials.start(engine)
    for ago in (1, 86_000, 90_000, 200_000):
        trials.report(engine, made, "canary", ago=ago)
    assert controller.sweep(engine) == 2


def test_minutes_of_service_older_than_ninety_days_are_deleted(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for days in (0, 89, 91, 400):
            connection.execute(
                sa.text(
                    "insert into service_minutes select 'w', 'm', 'champion', 1, now() - make_interval(days => :days),"
                    " 1, 0, 1, 0.1, '{1}'"
                ),
                {"days": days},
            )
    assert controller.sweep(engine) == 2


# ------------------------------------------------------------------------------------------------ alone, and robust


def test_an_error_about_one_rollout_is_alerted_once_and_does_not_stop_the_others(
    engine: sa.Engine, tmp_path: Path, told: Any
) -> None:
    trials.crown(engine, 1, model="n")
    broken, good = trials.start(engine, bake_minutes=10), trials.start(engine, model="n", bake_minutes=10)
    with engine.begin() as connection:
        connection.execute(sa.text("""update rollouts set settings = '{"steps": "none"}' where model = 'm'"""))
    trials.report(engine, good, "canary", errors=200)
    remembered: dict[int, str] = {}
    for _ in range(3):
        controller.watch(engine, tmp_path, remembered)
    assert trials.now(engine, good).status == "rolled_back"
    assert trials.now(engine, broken).status == "running"
    events = [alert["event"] for alert in told()]
    assert events.count("rollout_unwatched") == 1
    assert "goes on unwatched" in next(a["message"] for a in told() if a["event"] == "rollout_unwatched")


def test_a_full_disk_does_not_keep_a_version_in_that_must_go(engine: sa.Engine, tmp_path: Path) -> None:
    """Promise 49."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    made = trials.start(engine)
    trials.report(engine, made, "canary", errors=200)
    look(engine, tmp_path)
    assert trials.now(engine, made).status == "rolled_back"


def test_of_two_controllers_at_once_exactly_one_acts(
    engine: sa.Engine, database_url: str, tmp_path: Path, told: Any
) -> None:
    for version in range(2, 12):
        made = trials.start(engine, version)
        trials.report(engine, made, "canary", errors=200)
        barrier = threading.Barrier(2)

        def watch(start: threading.Barrier = barrier) -> None:
            own = database.connect(database_url)
            start.wait()
            controller.watch(own, tmp_path, {})
            own.dispose()

        threads = [threading.Thread(target=watch) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        events = [event.event for event in rollouts.events(engine, [made.id])]
        assert events == ["rollback", "breach", "start"]
    assert len(told()) == 10


def test_while_a_controller_works_another_waits_its_turn(engine: sa.Engine, database_url: str, tmp_path: Path) -> None:
    made = trials.start(engine)
    trials.report(engine, made, "canary", errors=200)
    other = database.connect(database_url)
    with database.advisory_lock(other, controller.LOCK):
        assert controller.watch(engine, tmp_path, {}) is False
        assert trials.now(engine, made).status == "running"
    assert controller.watch(engine, tmp_path, {}) is True
    other.dispose()
    assert trials.now(engine, made).status == "rolled_back"


@pytest.fixture
def started(database_url: str, tmp_path: Path) -> Iterator[Any]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(url: str = database_url) -> subprocess.Popen[bytes]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")},
            "MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": url, "MLOPS_MLFLOW_URL": "http://127.0.0.1:9",
        }  # fmt: skip
        with (tmp_path / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "include.deployment.controller"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_running_controller_rolls_back_within_seconds_and_ends_when_it_is_told_to(
    engine: sa.Engine, tmp_path: Path, started: Any
) -> None:
    process = started()
    until(lambda: "watching rollouts" in (tmp_path / "controller.log").read_text())
    taken = []
    for version in (2, 3, 4):
        made = trials.start(engine, version)
        time.sleep(1)
        trials.report(engine, made, "canary", errors=200, ago=0)
        taken.append(seconds_until(lambda: trials.now(engine, made).status == "rolled_back"))
    print("seconds from the report to the rollback:", [round(t, 2) for t in taken])
    assert max(taken) < 5
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.mark.slow
def test_a_killed_controller_is_replaced_and_nothing_is_decided_twice(
    engine: sa.Engine, tmp_path: Path, started: Any, told: Any
) -> None:
    first = started()
    second = started()
    made = trials.start(engine)
    os.kill(first.pid, signal.SIGKILL)
    trials.report(engine, made, "canary", errors=200)
    until(lambda: trials.now(engine, made).status == "rolled_back")
    assert second.poll() is None
    assert [event.event for event in rollouts.events(engine, [made.id])] == ["rollback", "breach", "start"]
    assert len(told()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["away", "hangs"])
def test_while_postgresql_does_not_answer_it_keeps_trying_and_alerts_once(
    engine: sa.Engine, database_url: str, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Promise 52: between it and PostgreSQL stands a relay that is closed, or that carries nothing on."""
    monkeypatch.setattr(controller, "AWAY_SECONDS", 2.0)
    made = trials.start(engine)
    stop = threading.Event()
    with Relay(str(sa.make_url(database_url).query["host"])) as relay:
        url = sa.make_url(database_url).update_query_dict({"host": str(relay.folder)}).render_as_string(False)
        thread = threading.Thread(target=controller.run, args=(url, tmp_path, "http://127.0.0.1:9", stop))
        thread.start()
        beat = Home(tmp_path).rollouts_beat
        until(beat.exists)
        relay.fault(fault)
        trials.report(engine, made, "canary", errors=200, ago=0)
        until(told)
        time.sleep(3)
        assert [alert["event"] for alert in told()] == ["rollouts_unwatched"]
        assert time.time() - beat.stat().st_mtime > 2
        assert trials.now(engine, made).status == "running"
        relay.mend()
        until(lambda: trials.now(engine, made).status == "rolled_back")
        stop.set()
        thread.join()


class Relay:
    """PostgreSQL's socket once more, in another folder, behind something that can fail."""

    def __init__(self, behind: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-"))
        [real] = Path(behind).glob(".s.PGSQL.*[0-9]")
        self._real, self._path, self._pass = real, self.folder / real.name, threading.Event()
        self._open: list[socket.socket] = []
        self._pass.set()

    def __enter__(self) -> Relay:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault("away")
        self._pass.set()
        shutil.rmtree(self.folder)

    def mend(self) -> None:
        self._pass.set()
        if not self._path.exists():
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen()
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def fault(self, kind: str) -> None:
        if kind == "hangs":
            self._pass.clear()
            return
        self._path.unlink()
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._real))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._pass.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_aliases_in_mlflow_follow_the_ledger_again_after_a_kill_between_them(
    engine: sa.Engine, database_url: str, mlflow_url: str, tmp_path: Path
) -> None:
    """Promise 27: whatever stopped between the ledger and MLflow, they converge; one model's trouble stops no other."""
    from include.training import tracking
    from tests.include.deployment import exhibits

    for name in ("one", "two"):
        made = exhibits.register(
            tmp_path / name, exhibits.rows(100), mlflow_url=mlflow_url, database_url=database_url, model="followed"
        )
    assert made.version == 2
    trials.crown(engine, 1, model="followed")
    with pytest.raises(ExceptionGroup, match="m: "):  # no version of m is registered
        controller.follow(engine, mlflow_url)
    assert tracking.aliases("followed", mlflow_url=mlflow_url) == {"champion": 1}
    trials.crown(engine, 2, 1, model="followed")
    with pytest.raises(ExceptionGroup):
        controller.follow(engine, mlflow_url)
    assert tracking.aliases("followed", mlflow_url=mlflow_url) == {"champion": 2}
