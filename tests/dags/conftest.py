"""Airflow for the tests of DAGs: parsed in this process, run in processes of their own on a database of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import new_database
from tests.dags import airflow_home

airflow_home.for_this_process()


@pytest.fixture(scope="session")
def airflow_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with Airflow's tables, made once."""
    url = new_database(postgres_url, "template1")
    home = tmp_path_factory.mktemp("airflow-template")
    airflow_home.migrate(home, {**os.environ, **airflow_home.configuration(home, url)})
    return sa.make_url(url).database or ""


@pytest.fixture
def airflow_environment(postgres_url: str, airflow_template: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a fresh Airflow and a fresh platform; MLOPS_MLFLOW_URL is for the test to add."""
    home = tmp_path / "airflow"
    home.mkdir()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_", "AIRFLOW"))},
        **airflow_home.configuration(home, new_database(postgres_url, airflow_template)),
        "MLOPS_HOME": str(tmp_path / "var"),
        "MLOPS_DATABASE_URL": database_url,
        "OMP_NUM_THREADS": "1",
    }
