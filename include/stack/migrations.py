"""Bring the databases' tables up to date: ours, Airflow's, MLflow's."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Mapping, Sequence

from include.stack import machine, parts, ports, postgres
from include.stack.machine import Stack
from include.stack.supervision import part


def version(database: str) -> str:
    """What a database's tables are brought to: the version of the package that owns them, or of our own schema."""
    if database == "platform":
        from include.database import SCHEMA_VERSION

        return SCHEMA_VERSION
    return importlib.metadata.version({"airflow": "apache-airflow-core", "mlflow": "mlflow"}[database])


def start(
    stack: Stack, inherited: Mapping[str, str], migrated: Mapping[str, str]
) -> dict[str, subprocess.Popen[bytes]]:
    """Start the migrations that are due: Airflow's, and MLflow's unless it is new (the server makes its tables)."""
    commands: dict[str, list[str]] = {}
    variables = parts.airflow_variables(stack, inherited)
    if migrated["airflow"] != version("airflow"):
        commands["airflow"] = ["airflow", "db", "migrate"]
    if migrated["mlflow"] not in ("", version("mlflow")):
        # Without the password, which PGPASSWORD brings: a command line can be read by everyone.
        commands["mlflow"] = [
            "mlflow",
            "db",
            "upgrade",
            f"postgresql://mlflow@{ports.HOST}:{stack.ports['postgres']}/mlflow",
        ]
        variables["PGPASSWORD"] = stack.credentials().mlflow_database_password
    jobs = {}
    for name, command in commands.items():
        file = stack.paths.log(f"{name}-migration")
        with file.open("wb") as log:
            whole: Sequence[str] = [sys.executable, "-m", *command]
            if name == "airflow" and machine.FORKS:
                socket = machine.forkserver_socket(stack.run)
                whole = part.through(whole, name, file, directory=stack.root, forkserver=socket, job=True)
            jobs[name] = subprocess.Popen(
                whole,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=stack.root,
                env={**parts.base_environment(stack, inherited), **variables},
            )
    return jobs


def migrate_platform(stack: Stack, migrated: Mapping[str, str]) -> None:
    """Bring our own tables up to date, with the rights that the service has on them."""
    from include import database

    keys = stack.credentials()
    with database.connected(
        postgres.url("platform", keys.platform_database_password, stack.ports["postgres"])
    ) as engine:
        if migrated["platform"] != version("platform"):
            database.migrate(engine)
        database.grant_service(engine, postgres.SERVICE_ROLE)
    postgres.mark_migrated(stack.ports["postgres"], keys.postgres_password, "platform", version("platform"))
