"""The way back with a real service of two workers under load, a real PostgreSQL and a real controller."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from include import database
from include.deployment import controller, rollouts, verification
from tests.conftest import ROOT
from tests.include.deployment import trials
from tests.include.serving.crafted import ROWS, champion_of, constant_graph, craft, promote, slow_graph, try_out
from tests.include.serving.process.test_service import KEY, served
from tests.waiting import seconds_until, until

pytestmark = pytest.mark.slow

SEEN: dict[str, Any] = {"serving_key": "secret", "workers": 2, "timeout": 30}


class Load:
    """Clients that ask as fast as they are answered, each on a new connection now and then; what they were answered."""

    def __init__(self, url: str, threads: int = 6) -> None:
        self.answers: list[tuple[float, int, int]] = []
        """When, the status, the version."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        while not self._stop.is_set():
            with httpx.Client(base_url=url, headers=KEY, timeout=10) as client:
                for row in ROWS * 4:
                    answer = client.post("/models/trips/predict", json=row)
                    version = answer.json().get("version", 0) if answer.status_code == 200 else 0
                    self.answers.append((time.monotonic(), answer.status_code, version))

    def versions(self, since: float = 0.0) -> set[int]:
        return {version for moment, _, version in self.answers if moment >= since}


@contextmanager
def watching(database_url: str, home: Path) -> Iterator[None]:
    """A controller, as the stack runs it."""
    stop = threading.Event()
    arguments = (database_url, home, "http://127.0.0.1:9", stop)
    thread = threading.Thread(target=controller.run, args=arguments)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.alone
def test_mlops_rollback_under_full_load_has_every_worker_back_within_ten_seconds(
    database_url: str, tmp_path: Path
) -> None:
    """From the command to the last worker, with a canary that is stopped on the way; no request fails."""
    forms = {version: craft(tmp_path / str(version), scale=version) for version in (1, 2, 3)}
    home = tmp_path / "home"
    promote(database_url, champion_of(forms[1], 1))
    promote(database_url, champion_of(forms[2], 2))
    with served(home, database_url, MLOPS_SERVING_WORKERS="2") as url:
        canary = try_out(database_url, champion_of(forms[3], 3), "canary", steps=(50,))
        seen = verification.tried("trips", "canary", 3, serving_url=url, **SEEN)
        print(f"every worker had the canary after {seen.seconds} s")
        (tmp_path / "params.yaml").write_text(PARAMS)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")},
            "MLOPS_HOME": str(home), "MLOPS_PARAMS": str(tmp_path / "params.yaml"), "MLOPS_DATABASE_URL": database_url,
            "MLOPS_SERVING_URL": url, "MLOPS_SERVING_KEY": "secret", "MLOPS_MLFLOW_URL": "http://127.0.0.1:9",
        }  # fmt: skip
        with Load(url) as load:
            time.sleep(1)
            began = time.monotonic()
            command = [sys.executable, "-m", "include.cli", "rollback", "trips", "--reason", "strange answers"]
            lines, back = [], 0.0
            piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with subprocess.Popen(command, cwd=ROOT, env=environment, **piped) as process:
                for line in process.stdout:
                    lines.append((time.monotonic() - began, line.strip()))
                    if "every worker answers" in line:
                        back = time.monotonic()
            assert process.returncode == 0, lines
        print("\n".join(f"{seconds:5.2f} s  {line}" for seconds, line in lines))
        print(f"{len(load.answers)} requests; every worker back {back - began:.2f} s after the command")
        assert back - began < 10
        assert load.versions(since=back) == {1}
        assert {status for _, status, _ in load.answers} == {200}
        assert len(load.answers) > 100
    engine = database.connect(database_url)
    event = rollouts.events(engine, [canary.id])[0]
    assert (event.event, event.actor, event.reason) == ("stop", getpass.getuser(), "strange answers")
    engine.dispose()


PARAMS = """
sources: {trips: {type: sample, dataset: taxi_trips, time_column: pickup_datetime}}
models: {trips: {source: trips, target: tip_amount, task: regression}}
service: {workers: 2}
"""


@pytest.mark.parametrize(
    ("worse", "declared", "why"),
    [
        ("constant", {}, "prediction drift"),
        ("slow", {"maximum_p99_ms": 20}, "p99"),
    ],
)
def test_a_canary_that_misbehaves_is_taken_out_by_itself_within_seconds(
    database_url: str, tmp_path: Path, worse: str, declared: dict[str, Any], why: str
) -> None:
    good = craft(tmp_path / "good")
    width = good.weights.shape[0]
    graph = constant_graph(width, 900.0) if worse == "constant" else slow_graph(good.weights, 3_000)
    golden = json.loads((good.form.directory / "golden.json").read_bytes())
    if worse == "constant":
        golden["expected"] = [900.0] * len(golden["expected"])
    bad = craft(tmp_path / "bad", graph=graph, golden=golden)
    home = tmp_path / "home"
    promote(database_url, champion_of(good, 1))
    engine = database.connect(database_url)
    with served(home, database_url, MLOPS_SERVING_WORKERS="2") as url, watching(database_url, home), Load(url) as load:
        until(lambda: 1 in load.versions())
        canary = try_out(database_url, champion_of(bad, 2), "canary", steps=(50,), minimum_requests=100, **declared)
        until(lambda: 2 in load.versions())
        first = time.monotonic()
        until(lambda: trials.now(engine, canary).status == "rolled_back")
        decided = time.monotonic()
        verification.withdrawn("trips", 1, [canary.id], serving_url=url, **SEEN)
        gone = time.monotonic()
        time.sleep(0.5)
    event = rollouts.events(engine, [canary.id])[0]
    print(f"{event.reason}: decided after {decided - first:.1f} s, gone from every worker after {gone - first:.1f} s")
    assert event.event == "rollback"
    assert why in event.reason
    assert gone - decided < 5
    assert load.versions(since=gone) == {1}
    assert {status for _, status, _ in load.answers} == {200}
    assert "rollout_rolled_back" in (home / "logs" / "alerts.jsonl").read_text()
    engine.dispose()


def test_a_good_canary_becomes_champion_by_itself(database_url: str, tmp_path: Path) -> None:
    forms = {version: craft(tmp_path / str(version), scale=1 + version / 1000) for version in (1, 2)}
    home = tmp_path / "home"
    promote(database_url, champion_of(forms[1], 1))
    engine = database.connect(database_url)
    declared = {"steps": (10, 50, 100), "bake_minutes": 0.02, "minimum_requests": 20}
    with served(home, database_url, MLOPS_SERVING_WORKERS="2") as url, watching(database_url, home), Load(url) as load:
        until(lambda: 1 in load.versions())
        canary = try_out(database_url, champion_of(forms[2], 2), "canary", **declared)
        took = seconds_until(lambda: trials.now(engine, canary).status == "promoted", seconds=60)
        verification.withdrawn("trips", 2, [canary.id], serving_url=url, **SEEN)
        since = time.monotonic()
        time.sleep(0.5)
    shares = [event.share for event in reversed(rollouts.events(engine, [canary.id]))]
    print(f"promoted {took:.1f} s after its start, by steps {shares}")
    assert shares == [0.1, 0.5, 1.0, 1.0]
    assert load.versions(since=since) == {2}
    assert {status for _, status, _ in load.answers} == {200}
    engine.dispose()


def test_a_version_that_no_worker_can_load_is_told_with_the_services_words(database_url: str, tmp_path: Path) -> None:
    good, bad = craft(tmp_path / "good"), craft(tmp_path / "bad", scale=2)
    promote(database_url, champion_of(good, 1))
    with served(tmp_path / "home", database_url) as url:
        (bad.form.directory / "model.onnx").write_bytes(b"another")
        try_out(database_url, champion_of(bad, 2), "shadow")
        with pytest.raises(verification.NotServed, match=r"version 2 does not answer as shadow: .*model\.onnx"):
            verification.tried("trips", "shadow", 2, serving_url=url, serving_key="secret", workers=1, timeout=4)
        with pytest.raises(verification.NotServed, match="version 1 of it answers, not version 5"):
            verification.withdrawn("trips", 5, [], serving_url=url, serving_key="secret", workers=1, timeout=1)
        with pytest.raises(verification.NotServed, match="/models answered 401"):
            verification.withdrawn("trips", 1, [], serving_url=url, serving_key="wrong", workers=1, timeout=0.5)
