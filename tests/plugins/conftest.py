"""A real API server with the plugin, and a platform with a champion to show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from include import database, storage
from tests.conftest import free_port, new_database
from tests.dags import airflow_home
from tests.dags.conftest import airflow_template  # noqa: F401

PARAMS = """
sources:
  trips: {type: sample, dataset: taxi_trips, rows_per_day: 100}
  cells: {type: sample, dataset: breast_cancer}
models:
  trip_duration: {source: trips, target: duration_minutes, task: regression, metric: mae, description: "Minutes, not <b>hours</b>."}
  tumour: {source: cells, target: diagnosis, task: binary}
"""


@dataclass(frozen=True)
class Server:
    url: str
    data: Path

    def token(self) -> str:
        body = {"username": airflow_home.USER, "password": airflow_home.PASSWORD}
        return httpx.post(f"{self.url}/auth/token", json=body, timeout=30).json()["access_token"]

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=30)


def fill(database_url: str, data: Path) -> None:
    """A champion, its verdict, a check that found drift, and a month of partitions with a bad day among them."""
    served = data / "served" / "trip_duration" / "abc"
    manifest = {
        "run_id": "5d1e", "estimator": "xgboost", "feature_version": "9f2c77aa01b2c3", "metric": "mae",
        "metrics": {"mae": 2.871, "rmse": 4.52, "r2": 0.812},
    }  # fmt: skip
    storage.write_bytes(str(served / "manifest.json"), json.dumps(manifest).encode())
    storage.write_bytes(str(data / "docs" / "trips" / "index.html"), b"<h1>Data docs of trips</h1>")
    storage.write_bytes(str(data / "reports" / "trip_duration" / "r1.html"), b"<h1>Drift report</h1>")
    storage.write_bytes(str(data / "validated" / "trips" / "2026-03-01.parquet"), b"rows")
    engine = database.connect(database_url)
    with engine.begin() as connection:
        for day in range(1, 31):
            bad = day == 17
            connection.execute(
                sa.insert(database.partitions).values(
                    source="trips", key=f"2026-03-{day:02}", status="quarantined" if bad else "published", sha256="0" * 64,
                    rows=0 if bad else 1940 + day, quarantined_rows=2000 if bad else 20 + day % 5,
                    quality=0.62 if bad else 0.985 + 0.001 * (day % 9), report={}, run_id="manual__1",
                )
            )  # fmt: skip
        verdict = connection.execute(
            sa.insert(database.verdicts)
            .values(
                model="trip_duration", version=7, verdict="PROMOTE", champion_version=None, content_hash="abc",
                reasons=["mae 2.871 is 34 % better than the baseline's 4.35"], numbers={"baseline": 4.35, "candidate": 2.871},
            )
            .returning(database.verdicts.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(
            sa.insert(database.verdicts).values(
                model="trip_duration", version=8, verdict="HOLD", champion_version=7, content_hash="def",
                reasons=["<script>alert(1)</script> mae 2.905 is not better than the champion's 2.871"], numbers={},
            )
        )  # fmt: skip
        promotion = {"model": "trip_duration", "content_hash": "abc", "url": str(served), "bento": "prediction:abc"}
        entry = connection.execute(
            sa.insert(database.ledger)
            .values(**{k: v for k, v in (promotion | {
                "action": "promote", "to_version": 7, "verdict_id": verdict, "actor": "deploy_trip_duration", "reason": "first model",
            }).items() if k in database.ledger.c})
            .returning(database.ledger.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(sa.insert(database.champions).values(**promotion, version=7, ledger_id=entry))
        connection.execute(
            sa.insert(database.monitor_results).values(
                model="trip_duration", version=7, window=["2026-03-30"], status="critical", reason="trip_distance: PSI 0.31",
                findings=[{"message": "trip_distance: PSI 0.31 (critical above 0.2)"}],
                report_url=str(data / "reports" / "trip_duration" / "r1.html"),
            )
        )  # fmt: skip
    engine.dispose()


@pytest.fixture(scope="session")
def server(
    postgres_url: str,
    template_database: str,
    airflow_template: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Airflow's API server with the plugin; MLflow and the service are not running."""
    folder, port = tmp_path_factory.mktemp("page"), free_port()
    home, url = folder / "airflow", new_database(postgres_url, template_database)
    home.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    (home / "passwords.json").write_text(json.dumps({airflow_home.USER: airflow_home.PASSWORD}))
    fill(url, folder / "var" / "data")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_", "AIRFLOW"))},
        **airflow_home.configuration(home, new_database(postgres_url, airflow_template)),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "MLOPS_HOME": str(folder / "var"),
        "MLOPS_PARAMS": str(folder / "params.yaml"),
        "MLOPS_DATABASE_URL": url,
    }
    command = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        found = Server(f"http://127.0.0.1:{port}", folder / "var" / "data")
        _wait(found, process, folder / "log")
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if server.get("/api/v2/monitor/health").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail("the API server did not start: " + log.read_text()[-3000:])
