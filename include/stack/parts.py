"""What the supervisor runs: each part's command and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from include import settings
from include.serving.process.command import STOP_SECONDS, certificate, serve_command
from include.stack import environment, machine, ports, postgres
from include.stack.machine import Stack
from include.stack.supervision import processes, supervisor

MLFLOW_SERVER = (
    "import os, runpy, sys, uvicorn; from mlflow import server; from mlflow.cli import cli;"
    " server._exec_cmd = lambda command, *, extra_env, **_: (os.environ.update(extra_env),"
    " sys.__setattr__('argv', command[2:]), runpy.run_module(command[2], run_name='__main__', alter_sys=True));"
    " cli(prog_name='mlflow')"
)
"""`mlflow server` becomes the server that it would start, `python -m uvicorn ...`: else 150 MB wait for it to end, all
is imported twice, and an orphan may be left. uvicorn is imported first, since MLflow's Flask app looks for it.

Should MLflow start it in another way one day, the line has no effect.
"""
ALERT_URLS = "MLOPS_ALERT_URLS"
"""A secret that only the part that delivers alerts is given: tasks neither need nor see it."""
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""For processes with many threads that allocate little: glibc gives each thread a heap of its own otherwise."""


def platform_variables(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment in which this stack's tasks run, and in which the command line talks to it."""
    keys, port = stack.credentials(), stack.ports["postgres"]
    variables = environment.platform_environment(
        root=stack.root,
        home=stack.home,
        database_url=postgres.url("platform", keys.platform_database_password, port),
        optuna_url=postgres.url("optuna", keys.optuna_database_password, port),
        mlflow_url=stack.address("mlflow"),
        mlflow_user="admin",
        mlflow_password=keys.mlflow_admin_password,
        serving_url=stack.address("serving"),
        serving_key=keys.serving_key,
        airflow_url=stack.address("airflow"),
        threads=settings.cores(shared_by=2),
    )
    passed_on = ("MLOPS_PARAMS", "MLOPS_DATA_URL", "MLOPS_DVC_REMOTE_URL", "MLOPS_S3_ENDPOINT_URL", "MLOPS_SUITES")
    if stack.certificate:
        variables["SSL_CERT_FILE"] = str(stack.paths.trusted)
    return {**variables, **{name: inherited[name] for name in passed_on if inherited.get(name)}}


def airflow_variables(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of Airflow's processes and tasks; Airflow's own secrets are in its airflow.cfg."""
    return {
        **platform_variables(stack, inherited),
        "BENTOML_HOME": str(stack.paths.bentoml),
        **environment.airflow_environment(
            root=stack.root,
            airflow_home=stack.paths.airflow,
            host=ports.HOST,
            port=stack.ports["airflow"],
            base_url=stack.address("airflow"),
            passwords_file=stack.paths.airflow_passwords,
            executor="include.orchestration.executor.RestingExecutor",
            parallelism=max(4, 2 * settings.cores()),
        ),
    }


def airflow_secrets(stack: Stack) -> str:
    """The content of this stack's airflow.cfg."""
    keys, port = stack.credentials(), stack.ports["postgres"]
    return environment.airflow_secrets(
        database_url=postgres.url("airflow", keys.airflow_database_password, port),
        async_database_url=postgres.url("airflow", keys.airflow_database_password, port, "asyncpg"),
        jwt_secret=keys.airflow_jwt_secret,
        fernet_key=keys.airflow_fernet_key,
        api_secret_key=keys.airflow_api_secret_key,
    )


def programs(stack: Stack, inherited: Mapping[str, str]) -> list[supervisor.Program]:
    """What the supervisor runs, in the order in which it would stop them last to first."""
    platform, airflow = platform_variables(stack, inherited), airflow_variables(stack, inherited)
    return [
        *_forkservers(stack, airflow),
        _postgres(stack),
        _mlflow(stack),
        _prediction(stack, inherited, platform),
        _rollouts(inherited, platform),
        *_airflow(stack, airflow),
    ]


def _forkservers(stack: Stack, airflow: Mapping[str, str]) -> list[supervisor.Program]:
    socket = str(machine.forkserver_socket(stack.run))
    command = (sys.executable, "-m", "include.stack.supervision.forkserver", "--socket", socket, *environment.SHARED)
    # Few arenas of the forks; what they execute, such as tasks, has the environment of its part.
    return [supervisor.Program(name, command, {**airflow, **FEW_ARENAS}) for name in machine.FORKS]


def _postgres(stack: Stack) -> supervisor.Program:
    user = postgres.account()
    return supervisor.Program(
        "postgres",
        postgres.command(stack.paths.postgres, stack.ports["postgres"]),
        {"LC_ALL": "C"},
        user=user.pw_name if user else None,
        data=stack.paths.postgres,
        stop_signal="INT",
        stop_group=False,
        stop_seconds=30,
    )


def _mlflow(stack: Stack) -> supervisor.Program:
    keys = stack.credentials()
    variables = environment.mlflow_server_environment(
        root=stack.root,
        home=stack.home,
        database_url=postgres.url("mlflow", keys.mlflow_database_password, stack.ports["postgres"]),
        artifacts=str(stack.paths.mlflow_artifacts),
        port=stack.ports["mlflow"],
        auth_config=stack.paths.mlflow_auth,
        admin_password=keys.mlflow_admin_password,
        session_key=keys.mlflow_session_key,
    )
    address = ("--host", ports.HOST, "--port", str(stack.ports["mlflow"]))
    options = ("--workers", "1", "--app-name", "basic-auth", "--uvicorn-opts", "--log-level warning")
    return supervisor.Program(
        "mlflow",
        (sys.executable, "-c", MLFLOW_SERVER, "server", *address, *options),
        variables | FEW_ARENAS,
        alone=True,
        stop_seconds=4,  # it holds no state, and waits for idle connections
    )


def _prediction(stack: Stack, inherited: Mapping[str, str], platform: Mapping[str, str]) -> supervisor.Program:
    password = stack.credentials().serving_database_password
    variables = environment.serving_environment(
        root=stack.root,
        home=stack.home,
        data_url=platform.get("MLOPS_DATA_URL") or str(stack.paths.data),
        database_url=postgres.url("platform", password, stack.ports["postgres"], user=postgres.SERVICE_ROLE),
        serving_url=stack.address("serving"),
    )
    variables |= {name: platform[name] for name in ("MLOPS_PARAMS", "MLOPS_S3_ENDPOINT_URL") if name in platform}
    if files := certificate(inherited):
        variables |= {"MLOPS_SERVING_CERTIFICATE": str(files[0]), "MLOPS_SERVING_CERTIFICATE_KEY": str(files[1])}
    command = tuple(serve_command(stack.ports["serving"], stack.root))
    return supervisor.Program("prediction", command, variables, stop_seconds=STOP_SECONDS)


def _rollouts(inherited: Mapping[str, str], platform: Mapping[str, str]) -> supervisor.Program:
    secrets = {name: inherited[name] for name in (ALERT_URLS,) if inherited.get(name)}
    command = (sys.executable, "-m", "include.deployment.controller")
    return supervisor.Program("rollouts", command, {**platform, **secrets}, stop_seconds=4)


def _airflow(stack: Stack, airflow: dict[str, str]) -> list[supervisor.Program]:
    address = ("--host", ports.HOST, "--port", str(stack.ports["airflow"]))
    commands: dict[str, tuple[str, ...]] = {
        "api-server": ("airflow", "api-server", *address, "--workers", "1"),
        "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
        "dag-processor": ("include.orchestration.dag_processor", "dag-processor"),
        "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    }
    return [
        supervisor.Program(
            name,
            (sys.executable, "-m", *commands[name]),
            airflow if name == "scheduler" else airflow | FEW_ARENAS,  # its tasks train
            alone=name == "api-server",
            forkserver=machine.forkserver_socket(stack.run) if machine.FORKS else None,
            stop_seconds=4 if name == "api-server" else 10,
        )
        for name in machine.AIRFLOW_PARTS
    ]


def base_environment(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """What supervisord, and through it every part, inherits: the user's own without what would mislead our parts."""
    own = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("AIRFLOW__", "AIRFLOW_HOME", "MLFLOW_", "MLOPS_", "PYTHON", "BENTOML_", "PG"))
    }
    bin_folder = str(Path(sys.executable).parent)
    return {
        **own,
        "PATH": f"{bin_folder}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        processes.MARKER: stack.stack_id,
        "SPT_NOENV": "1",
    }
