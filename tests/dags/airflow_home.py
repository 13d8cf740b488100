"""A folder, a configuration and a database of Airflow's own for the tests: nothing of the machine's is used."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, free_port
from tests.waiting import until

USER, PASSWORD = "operator", "only-for-this-test"


def configuration(home: Path, database_url: str = "", **options: str) -> dict[str, str]:
    """Airflow's variables; without a database's address, for parsing only."""
    variables = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-this-test-and-of-no-other-use",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(ROOT),
    }
    if database_url:
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database_url
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = database_url.replace("psycopg2", "asyncpg")
    return variables | options


def for_this_process() -> None:
    """Set what Airflow reads when it is first imported; tests that only parse share one empty folder."""
    if "airflow" not in sys.modules:
        home = Path(tempfile.mkdtemp(prefix="airflow-test-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ.update(configuration(home))


class Driver:
    """Runs DAGs, and Airflow's own commands, in copies of one process that has imported what they need: drive.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, environment: Mapping[str, str], folder: Path, *steps: dict[str, Any]) -> list[dict[str, Any]]:
        """Take steps in their order, in an environment and a folder of their own; what drive.py found at each."""
        results, log = folder / "results.json", folder / "drive.log"
        results.unlink(missing_ok=True)
        process = self._started()
        request = {"environment": dict(environment), "folder": str(folder), "steps": steps}
        try:
            process.stdin.write(json.dumps({**request, "log": str(log), "results": str(results)}) + "\n")
            process.stdin.flush()
            code = process.stdout.readline().strip()
        except BaseException:  # a time-out: its answer would be taken for that of the next request
            self.stop()
            raise
        found = json.loads(results.read_text()) if results.exists() else []
        if code != "0" or len(found) < len(steps):
            last = log.read_text() if log.exists() else (self._folder / "log").read_text()
            pytest.fail(f"{len(found)} of {len(steps)} steps ended ({code or 'no answer'}):\n{last[-6000:]}")
        return found

    def stop(self) -> None:
        """End the process, and whatever its last copy has begun."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdin.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).parent / "drive.py")],
                    env=foreign() | configuration(self._folder) | IMPORTING, cwd=self._folder, start_new_session=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                )  # fmt: skip
        return self._process


IMPORTING = {
    "OMP_NUM_THREADS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""No library begins a thread when it is imported: a copy of the process would not have it."""


def foreign() -> dict[str, str]:
    """This process's variables without ours and Airflow's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_", "AIRFLOW"))}


@dataclass(frozen=True)
class Server:
    """A running API server and one who may use it."""

    url: str
    data: Path
    environment: dict[str, str]

    def token(self) -> str:
        """What a user gets for the password."""
        body = {"username": USER, "password": PASSWORD}
        return str(httpx.post(f"{self.url}/auth/token", json=body, timeout=30).json()["access_token"])

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        """A page, as a browser or a script asks for it."""
        return self.request("GET", path, token)

    def request(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> httpx.Response:
        """A request, with the token where there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, **kwargs)


@contextlib.contextmanager
def api_server(folder: Path, airflow_database: str, platform_database: str) -> Iterator[Server]:
    """Airflow's API server with our plugins, on a port of its own; `folder` holds params.yaml."""
    home, port = folder / "airflow", free_port()
    home.mkdir()
    (home / "passwords.json").write_text(json.dumps({USER: PASSWORD}))
    environment = {
        **foreign(),
        **configuration(home, airflow_database),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "MLOPS_HOME": str(folder / "var"),
        "MLOPS_PARAMS": str(folder / "params.yaml"),
        "MLOPS_DATABASE_URL": platform_database,
    }
    command = [
        sys.executable,
        "-m",
        "airflow",
        "api-server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        server = Server(f"http://127.0.0.1:{port}", folder / "var" / "data", environment)
        _wait(server, process, folder / "log")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until(
        lambda: server.get("/api/v2/monitor/health").status_code == 200,
        "the API server is healthy",
        seconds=120,
        pause=0.5,
        unless=lambda: process.poll() is not None,
        show=lambda: log.read_text()[-3000:],
        ignore=httpx.HTTPError,
    )
