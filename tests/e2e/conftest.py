"""The README's stack, started as a user starts it: a fresh clone, `make demo`, the REST API, the service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import waiting
from tests.conftest import ROOT, free_port


@dataclass
class Checkout:
    """A clone of what is committed, with its own ports and its own state."""

    folder: Path
    environment: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _token: str = ""

    def run(self, command: str, *, timeout: float = 900, check: bool = True) -> str:
        """Run a line as a user types it in the clone; its output is kept beside the clone."""
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            text=True,
            check=False,
        )
        self.outputs[command] = result.stdout
        if check and result.returncode:
            pytest.fail(f"`{command}` ended with {result.returncode}:\n{result.stdout[-6000:]}")
        return result.stdout

    def mlops(self, arguments: str) -> str:
        return self.run(f".venv/bin/mlops {arguments}").strip()

    def key(self, name: str) -> str:
        """What `mlops key` says, the first time: a stack's own keys stay as they are."""
        if name not in self._keys:
            self._keys[name] = self.mlops(f"key {name}")
        return self._keys[name]

    def address(self, part: str) -> str:
        return f"http://127.0.0.1:{self.environment[f'MLOPS_{part.upper()}_PORT']}"

    def processes(self) -> list[psutil.Process]:
        """Every process that works on this clone's state, whoever its parent is now."""
        found, home = [], self.environment["MLOPS_HOME"]
        for process in psutil.process_iter():
            try:  # the supervisor has it in its command line, PostgreSQL works there
                named = any(f"{home}/" in argument for argument in [*process.cmdline(), f"{process.cwd()}/"])
                if (named or process.environ().get("MLOPS_HOME") == home) and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    # --- Airflow's REST API, as a user's script calls it

    def airflow(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.airflow_token()}"}
        answer = httpx.request(method, f"{self.address('airflow')}/api/v2{path}", headers=headers, timeout=30, **kwargs)
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def airflow_token(self) -> str:
        """What Airflow's API takes as a login; the first one, as it lasts for a day."""
        if not self._token:
            who = {"username": "admin", "password": self.key("airflow")}
            answer = httpx.post(f"{self.address('airflow')}/auth/token", json=who, timeout=30)
            self._token = str(answer.raise_for_status().json()["access_token"])
        return self._token

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return self.airflow("GET", f"/dags/{dag}/dagRuns", params={"limit": 100, "order_by": "-run_after"})["dag_runs"]

    # --- the service

    def models(self) -> dict[str, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.key('serving')}"}
        answer = httpx.get(f"{self.address('serving')}/models", headers=headers, timeout=10)
        answer.raise_for_status()
        return {entry["model"]: entry for entry in answer.json()["models"]}

    def predict(self, model: str, row: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key('serving')}"}
        return httpx.post(f"{self.address('serving')}/models/{model}/predict", json=row, headers=headers, timeout=10)


def until(condition: Callable[[], Any], what: str, seconds: float, pause: float = 0.5) -> Any:
    """Wait for a condition of the stack; a part that cannot be reached is just starting again."""
    return waiting.until(condition, what, seconds=seconds, pause=pause, ignore=httpx.TransportError)


@pytest.fixture(scope="session")
def checkout() -> Iterator[Checkout]:
    """A fresh clone in an empty folder; whatever it started is gone afterwards.

    Not in pytest's temporary folder: that is closed to the user that PostgreSQL runs as when we are root.
    """
    outer = Path(tempfile.mkdtemp(prefix="mlops-user-"))
    folder = outer / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    kept = {
        k: v
        for k, v in os.environ.items()
        if not re.match(r"MLOPS_|AIRFLOW|MLFLOW|VIRTUAL_ENV|PYTHONPATH|XDG_RUNTIME", k)
    }
    ports = {f"MLOPS_{part}_PORT": str(free_port()) for part in ("AIRFLOW", "MLFLOW", "SERVING")}
    clone = Checkout(folder, {**kept, **ports, "MLOPS_HOME": str(folder / "var")})
    yield clone
    clone.run("make down", check=False)
    for process in clone.processes():
        process.kill()
    shutil.rmtree(outer, ignore_errors=True)


@pytest.fixture(scope="session")
def demo(checkout: Checkout) -> Checkout:
    """The clone after README's first command, to the letter."""
    checkout.run("make demo", timeout=1500)
    return checkout
