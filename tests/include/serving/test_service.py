"""The service as BentoML runs it: a real process, a real PostgreSQL, real requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from include.deployment.verification import NotServed, verify
from include.serving.command import serve_command, serve_environment
from tests.conftest import ROOT, free_port
from tests.include.serving.crafted import ROWS, champion_of, constant_graph, craft, promote

KEY = {"Authorization": "Bearer secret"}
HEAVY = (
    "airflow",
    "pandas",
    "sklearn",
    "mlflow",
    "dvc",
    "xgboost",
    "sqlalchemy",
    "scipy",
    "matplotlib",
    "fastapi",
    "pyarrow",
)


@contextmanager
def served(home: Path, database_url: str) -> Iterator[str]:
    """A running service's address; stopped, with all its processes, at the end."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(home / "bentoml", key="secret", root=ROOT)
    environment |= {"MLOPS_DATABASE_URL": database_url, "MLOPS_HOME": str(home), "MLOPS_PARAMS": str(home / "none")}
    home.mkdir(exist_ok=True)
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            serve_command(port, ROOT), env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not answers(f"{url}/livez"):
            assert process.poll() is None, (home / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (home / "log").read_text()[-3000:]
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def golden_of(form_directory: Path) -> dict[str, object]:
    golden: dict[str, object] = json.loads((form_directory / "golden.json").read_bytes())
    return golden


@pytest.mark.slow
def test_it_swaps_while_requests_go_on_and_outlives_the_database(database_url: str, tmp_path: Path) -> None:
    """Promises 30, 31, 33 and 34: no request fails, each answer is of one version, a bad version never answers."""
    forms = {version: craft(tmp_path / str(version), scale=version) for version in (1, 2, 3)}
    right = {version: golden_of(crafted.form.directory)["expected"][5] for version, crafted in forms.items()}
    home = tmp_path / "home"
    with served(home, database_url) as url:
        not_ready = httpx.get(f"{url}/readyz")
        assert not_ready.status_code == 503
        assert "no champion was promoted yet" in not_ready.json()["error"]["message"]

        promote(database_url, champion_of(forms[1], 1))
        verify("trips", 1, serving_url=url, serving_key="secret", golden=golden_of(forms[1].form.directory), timeout=15)
        seen: list[tuple[int, float]] = []
        failed: list[str] = []
        done = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=url, headers=KEY, timeout=10) as client:
                while not done.is_set():
                    answer = client.post("/models/trips/predict", json=ROWS[5])
                    if answer.status_code != 200:
                        failed.append(answer.text)
                    else:
                        seen.append((answer.json()["version"], answer.json()["prediction"]))

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        took = []
        for version in (2, 3):
            promote(database_url, champion_of(forms[version], version))
            golden = golden_of(forms[version].form.directory)
            took.append(
                verify("trips", version, serving_url=url, serving_key="secret", golden=golden, timeout=15).seconds
            )

        bad = craft(tmp_path / "bad", graph=constant_graph(forms[1].weights.shape[0], 1.0))
        promote(database_url, champion_of(bad, 4))
        with pytest.raises(NotServed, match=r"the service refused it .*golden row.* goes on with version 3"):
            verify("trips", 4, serving_url=url, serving_key="secret", golden={}, timeout=3)
        done.set()
        for asker in askers:
            asker.join()
        assert not failed
        assert {version for version, _ in seen} == {1, 2, 3}
        assert all(prediction == pytest.approx(right[version]) for version, prediction in seen)
        assert max(took) < 5, took

        metrics = httpx.get(f"{url}/metrics", headers=KEY).text
        assert 'mlops_serving_model_version{model="trips"} 3.0' in metrics
        assert 'mlops_serving_model_behind{model="trips"} 1.0' in metrics
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/health").json() == {"status": "degraded"}

    with served(home, "postgresql+psycopg2://postgres@127.0.0.1:9/none") as url:
        answer = httpx.post(f"{url}/models/trips/predict", json=ROWS[5], headers=KEY)
        assert (answer.json()["version"], answer.json()["prediction"]) == (3, pytest.approx(right[3]))
        health = httpx.get(f"{url}/health", headers=KEY).json()
        assert health["status"] == "degraded"
        assert "the ledger in PostgreSQL cannot be read" in health["problems"][0]
        assert answers(f"{url}/readyz")


@pytest.mark.slow
def test_no_worker_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """Else it would keep the port, and the restarted service could not listen."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(tmp_path / "bentoml", key="secret", root=ROOT)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            serve_command(port, ROOT), env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/livez"))
        process.kill()
        process.wait()
        wait_until(lambda: not answers(f"http://127.0.0.1:{port}/livez"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_it_imports_nothing_heavy() -> None:
    """BentoML itself and what the service needs: none of the libraries of training."""
    code = f"import sys, bentofiles.prediction.service; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "MLOPS_SERVING_KEY": "k"},
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_without_a_key_it_says_so_and_does_not_start(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(tmp_path / "bentoml", key="", root=ROOT)
    done = subprocess.run(
        serve_command(free_port(), ROOT), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "set MLOPS_SERVING_KEY" in done.stdout + done.stderr
