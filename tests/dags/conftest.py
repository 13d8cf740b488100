"""Airflow for the tests of DAGs: parsed in this process, run in processes of their own on a database of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import new_database
from tests.dags import airflow_home

airflow_home.for_this_process()

PARAMS = """
sources:
  trips:
    type: sample
    dataset: taxi_trips
    rows_per_day: 300
    time_column: pickup_datetime
    quarantine_share: 0.10
    derive: {duration_minutes: minutes(dropoff_datetime - pickup_datetime)}
    incidents: [{kind: poisoned_day, start: 2026-03-20, end: 2026-03-20}]
  cells: {type: sample, dataset: breast_cancer}
models:
  trip_duration:
    source: trips
    target: duration_minutes
    task: regression
    metric: mae
    features: {definition: trip_duration, target_encoding: [route]}
    estimators: {linear: {}, xgboost: {n_estimators: 60, max_depth: [3, 6, int], learning_rate: [0.1, 0.3, log]}}
    tuning: {trials: 3, time_budget: 60, workers: 2}
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[airflow_home.Driver]:
    """The process in whose copies Airflow runs."""
    found = airflow_home.Driver(tmp_path_factory.mktemp("driver"))
    yield found
    found.stop()


@pytest.fixture(scope="session")
def airflow_template(postgres_url: str, driver: airflow_home.Driver, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with Airflow's tables, made once."""
    url = new_database(postgres_url, "template1")
    home = tmp_path_factory.mktemp("airflow-template")
    environment = airflow_home.foreign() | airflow_home.configuration(home, url)
    driver.run(environment, home, {"airflow": ["db", "migrate"]})
    return sa.make_url(url).database or ""


@pytest.fixture
def airflow_environment(postgres_url: str, airflow_template: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a fresh Airflow and a fresh platform; MLOPS_MLFLOW_URL is for the test to add."""
    home = tmp_path / "airflow"
    home.mkdir()
    return {
        **airflow_home.foreign(),
        **airflow_home.configuration(home, new_database(postgres_url, airflow_template)),
        "MLOPS_HOME": str(tmp_path / "var"),
        "MLOPS_DATABASE_URL": database_url,
        "OMP_NUM_THREADS": "1",
    }


@dataclass(frozen=True)
class Night:
    """An Airflow and a platform of one test's own."""

    folder: Path
    environment: dict[str, str]
    driver: airflow_home.Driver

    def run(self, *steps: dict[str, Any]) -> list[dict[str, Any]]:
        """Run DAGs in their order; each one's states, answers and asset events."""
        return self.driver.run(self.environment, self.folder, *steps)

    def params(self, text: str) -> None:
        """Write another params.yaml."""
        Path(self.environment["MLOPS_PARAMS"]).write_text(text)


@pytest.fixture
def night(airflow_environment: dict[str, str], optuna_url: str, driver: airflow_home.Driver, tmp_path: Path) -> Night:
    """Nothing has run yet; there is no MLflow and no service."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    where = {"MLOPS_PARAMS": str(tmp_path / "params.yaml"), "MLOPS_OPTUNA_URL": optuna_url}
    return Night(tmp_path, {**airflow_environment, **where, "MLOPS_MLFLOW_URL": "http://127.0.0.1:9"}, driver)
