"""A folder, a configuration and a database of Airflow's own for the tests: nothing of the machine's is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

USER, PASSWORD = "operator", "only-for-this-test"  # noqa: S105


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
        os.environ.update(configuration(Path(tempfile.mkdtemp(prefix="airflow-test-"))))


def migrate(home: Path, environment: dict[str, str]) -> None:
    """Make Airflow's tables and its one user."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "passwords.json").write_text(json.dumps({USER: PASSWORD}))
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=180,
    )  # fmt: skip
