"""The part of the stack that delivers alerts, as a process: to PostgreSQL and to a URL of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from include import alerting, database
from include.alerting.delivery import undelivered
from include.home import Home
from tests.conftest import ROOT
from tests.include.alerting.receiver import SECRET, Receiver
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def log(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[Path]:
    """The controller's log while it runs."""
    given = {
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_DATABASE_URL": database_url,
        "MLOPS_MLFLOW_URL": "http://127.0.0.1:9",
        "MLOPS_ALERT_URLS": receiver.url,
    }
    path = tmp_path / "rollouts.log"
    with path.open("wb") as file:
        command = [sys.executable, "-m", "include.deployment.controller"]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stdout=file, stderr=file)
        try:
            yield path
        finally:
            process.terminate()
            process.wait(30)


def test_the_controller_delivers_alerts_to_every_channel_and_logs_no_secret(
    log: Path, tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    home = tmp_path / "home"
    until(lambda: list(Home(home).alert_channels.glob("json-*.json")))  # it begins with the alerts of this moment
    alerting.send(home, "task_failed", "train_tumour failed")
    engine = database.connect(database_url)

    def rows() -> list[str]:
        with engine.connect() as connection:
            return list(connection.execute(sa.select(database.alerts.c.message)).scalars())

    until(lambda: rows() == ["train_tumour failed"])
    until(lambda: [each.failure for each in undelivered(home)] not in ([], [None]))
    with receiver.up():
        until(lambda: receiver.messages == ["train_tumour failed"])
    until(lambda: undelivered(home) == [])
    engine.dispose()
    assert "alerts cannot be delivered" in log.read_text()
    assert SECRET not in log.read_text()
