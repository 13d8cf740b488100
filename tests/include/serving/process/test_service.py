"""The service as BentoML runs it: a real process, a real PostgreSQL, real requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from include.deployment.verification import NotServed, verify
from include.serving.process.command import serve_command, serve_environment
from include.serving.versions.disk_cache import write_bundle
from tests.conftest import ROOT, free_port
from tests.include.serving.crafted import ROWS, champion_of, constant_graph, craft, promote
from tests.waiting import until

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


NO_DATABASE = "postgresql+psycopg2://postgres@127.0.0.1:9/none"


def params(folder: Path, service: str) -> dict[str, str]:
    """A params.yaml with settings of the service, as variables for it."""
    file = folder / "params.yaml"
    file.write_text(f"sources: {{trips: {{type: sample, dataset: taxi_trips}}}}\nservice: {{{service}}}\n")
    return {"MLOPS_PARAMS": str(file)}


@contextmanager
def served(home: Path, database_url: str, **variables: str) -> Iterator[str]:
    """A running service's address; stopped, with all its processes, at the end."""
    with service(home, database_url, **variables) as (url, _):
        yield url


@contextmanager
def service(home: Path, database_url: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running service's address, and its launcher."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(home / "bentoml", key="secret", root=ROOT)
    environment |= {"MLOPS_DATABASE_URL": database_url, "MLOPS_HOME": str(home), "MLOPS_PARAMS": str(home / "none")}
    environment |= variables
    home.mkdir(exist_ok=True)
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            serve_command(port, ROOT), env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    url = f"{'https' if 'MLOPS_SERVING_CERTIFICATE' in variables else 'http'}://127.0.0.1:{port}"
    try:
        until(
            lambda: answers(f"{url}/livez"),
            pause=0.1,
            unless=lambda: process.poll() is not None,
            show=lambda: (home / "log").read_text()[-3000:],
        )
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, verify=False).status_code == 200  # noqa: S501
    except httpx.HTTPError:
        return False


def golden_of(form_directory: Path) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads((form_directory / "golden.json").read_bytes())
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
        for version in (2, 3):
            promote(database_url, champion_of(forms[version], version))
            golden = golden_of(forms[version].form.directory)
            verify("trips", version, serving_url=url, serving_key="secret", golden=golden, timeout=15)

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

        metrics = httpx.get(f"{url}/metrics", headers=KEY).text
        assert 'mlops_serving_model_version{model="trips"} 3.0' in metrics
        assert 'mlops_serving_model_behind{model="trips"} 1.0' in metrics
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/health").json() == {"status": "degraded"}

    with served(home, NO_DATABASE) as url:
        answer = httpx.post(f"{url}/models/trips/predict", json=ROWS[5], headers=KEY)
        assert (answer.json()["version"], answer.json()["prediction"]) == (3, pytest.approx(right[3]))
        health = httpx.get(f"{url}/health", headers=KEY).json()
        assert health["status"] == "degraded"
        assert "the ledger in PostgreSQL cannot be read" in health["problems"][0]
        assert answers(f"{url}/readyz")


@pytest.mark.slow
def test_sigterm_under_load_is_announced_and_fails_nobody(tmp_path: Path) -> None:
    """Promise 35: readiness turns 503 first while requests go on being taken; all that was asked is answered."""
    bundle(tmp_path / "home")
    patient = params(tmp_path, "drain_seconds: 3")  # as other things may run on this machine
    with service(tmp_path / "home", NO_DATABASE, **patient) as (url, launcher):
        assert answers(f"{url}/readyz")
        load = Load(url)
        time.sleep(0.5)
        launcher.terminate()
        told = time.monotonic()
        until(lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 503, seconds=3)
        last_taken = httpx.post(f"{url}/models/trips/predict", json=ROWS[5], headers=KEY, timeout=2)
        assert last_taken.status_code == 200
        assert last_taken.headers["connection"] == "close"
        assert httpx.get(f"{url}/readyz", timeout=2).json()["error"]["code"] == "not_ready"
        load.stop()  # as a balancer does that has seen it
        in_flight = slow_request(url, 3.5)
        assert launcher.wait(14) == 0
        ended = time.monotonic()
        assert load.answered > 100
        assert not load.failed
        assert load.unreachable_since is None
        assert in_flight.result(0).startswith(b"HTTP/1.1 200")
        assert ended - told >= 3.0


def slow_request(url: str, seconds: float) -> Future[bytes]:
    """The answer to a request whose body takes so long to arrive; its headers are sent when this returns."""
    body = json.dumps(ROWS[5]).encode()
    host, port = httpx.URL(url).host, httpx.URL(url).port
    head = f"POST /models/trips/predict HTTP/1.1\r\nHost: {host}\r\nAuthorization: {KEY['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((host, port), timeout=20)
    connection.sendall(head.encode() + body[:10])

    def rest() -> bytes:
        with connection:
            time.sleep(seconds)
            connection.sendall(body[10:])
            return connection.recv(65536)

    return ThreadPoolExecutor(1).submit(rest)


@pytest.mark.slow
def test_a_worker_is_replaced_under_load_without_a_failed_request(tmp_path: Path) -> None:
    """Told to end, it drains; the launcher holds the socket, so whoever comes meanwhile is answered by the next one."""
    bundle(tmp_path / "home")
    with service(tmp_path / "home", NO_DATABASE) as (url, launcher):
        load = Load(url)
        for _ in range(3):
            [worker] = workers_of(launcher)
            os.kill(worker, signal.SIGTERM)
            until(lambda: workers_of(launcher) not in ([worker], []))
            answered = load.answered
            until(lambda: load.answered > answered + 50)
        load.stop()
        assert not load.failed
        assert load.unreachable_since is None


@pytest.mark.slow
def test_a_worker_killed_under_load_is_back_and_refuses_no_connection(tmp_path: Path) -> None:
    """Promise 36, as far as connections go: who was being answered loses that answer, who comes then waits."""
    bundle(tmp_path / "home")
    with service(tmp_path / "home", NO_DATABASE) as (url, launcher):
        load = Load(url)
        for _ in range(2):
            time.sleep(0.5)
            [worker] = workers_of(launcher)
            answered = load.answered
            os.kill(worker, signal.SIGKILL)
            until(lambda: load.answered > answered + 50)
        load.stop()
        assert load.unreachable_since is None
        assert len(load.failed) <= 2 * Load.CLIENTS, load.failed[:3]  # those whom the dead ones were answering


@pytest.mark.slow
def test_every_acknowledged_prediction_is_in_postgresql_after_kills(database_url: str, tmp_path: Path) -> None:
    """Promises 35 and 36, and invariant I3: once each, whatever ended the workers."""
    import sqlalchemy as sa

    crafted = craft(tmp_path / "form")
    promote(database_url, champion_of(crafted, 1))
    with service(tmp_path / "home", database_url) as (url, launcher):
        until(lambda: answers(f"{url}/readyz"))
        load = Load(url)
        for _ in range(2):
            time.sleep(0.5)
            [worker] = workers_of(launcher)
            os.kill(worker, signal.SIGKILL)
            answered = load.answered
            until(lambda: load.answered > answered + 50)
        load.stop()
        launcher.terminate()
        launcher.wait(20)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("select replace(id::text, '-', ''), count(*) from predictions group by 1"))
        recorded = {row[0]: row[1] for row in rows}
    engine.dispose()
    assert len(load.acknowledged) > 100
    assert set(load.acknowledged) <= recorded.keys()
    assert set(recorded.values()) == {1}


class Load:
    """Clients that ask one after another: half of them keep their connections, half take a new one each time."""

    CLIENTS = 4

    def __init__(self, url: str) -> None:
        self.answered, self.failed, self.acknowledged = 0, list[str](), list[str]()
        self.unreachable_since: float | None = None
        self._url, self._done = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n % 2,)) for n in range(self.CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, keeps: int) -> None:
        headers = KEY if keeps else {**KEY, "Connection": "close"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=20) as client:
            while not self._done.is_set():
                try:
                    answer = client.post("/models/trips/predict", json=ROWS[5])
                except httpx.ConnectError:
                    self.unreachable_since = self.unreachable_since or time.monotonic()
                    return
                except httpx.TransportError as error:
                    self.failed.append(repr(error))
                else:
                    if answer.status_code != 200:
                        self.failed.append(answer.text)
                    else:
                        self.acknowledged.append(answer.json()["prediction_id"])
                    self.answered += 1

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def bundle(home: Path) -> None:
    """A last good copy, so that the service answers without a database."""
    crafted = craft(home.with_name("form"))
    write_bundle(home / "serving", crafted.form, champion_of(crafted, 1))


def workers_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of a launcher's living workers."""
    found = []
    for child in psutil.Process(launcher.pid).children():
        with contextlib.suppress(psutil.Error):  # it is ending
            if "--worker-id" in child.cmdline():
                found.append(child.pid)
    return found


@pytest.mark.slow
def test_it_speaks_tls_when_given_a_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=service"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    bundle(tmp_path / "home")
    both = {"MLOPS_SERVING_CERTIFICATE": str(certificate), "MLOPS_SERVING_CERTIFICATE_KEY": str(key)}
    with served(tmp_path / "home", NO_DATABASE, **both) as url:
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=url, verify=trusted, headers=KEY) as client:
            assert client.post("/models/trips/predict", json=ROWS[5]).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{url}/livez")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url.replace('https', 'http')}/livez")


@pytest.mark.slow
def test_it_stays_small(tmp_path: Path) -> None:
    """Under 200 MB; how soon it starts, `benchmarks/serving` measures."""
    bundle(tmp_path / "home")
    with service(tmp_path / "home", NO_DATABASE) as (url, launcher):
        assert httpx.post(f"{url}/models/trips/predict", json=ROWS[5], headers=KEY).status_code == 200
        [worker] = workers_of(launcher)
        megabytes = [psutil.Process(pid).memory_info().rss / 1e6 for pid in (launcher.pid, worker)]
        assert megabytes[0] < 30, megabytes
        assert megabytes[1] < 200, megabytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are pinned to cores on Linux only")
def test_workers_that_are_pinned_have_a_core_each_with_all_their_threads(tmp_path: Path) -> None:
    bundle(tmp_path / "home")
    pinned = params(tmp_path, "workers: 2, pin_workers: true")
    with service(tmp_path / "home", NO_DATABASE, **pinned) as (url, launcher):
        until(lambda: answers(f"{url}/readyz") and len(workers_of(launcher)) == 2)

        def cores() -> set[frozenset[int]]:
            tasks = [task for pid in workers_of(launcher) for task in Path(f"/proc/{pid}/task").iterdir()]
            return {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks}

        free = sorted(os.sched_getaffinity(0))
        until(lambda: cores() == {frozenset([core]) for core in free[:2]})


@pytest.mark.slow
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
