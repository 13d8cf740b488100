"""The environment variables of each part: the one place that says how Airflow, MLflow and the service are set up.

Docker-compose and the tests use the same functions with other values: nothing here knows a path or a port of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from include.home import Home

TELEMETRY_OFF = {
    "SCARF_ANALYTICS": "false",
    "SCARF_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "true",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "ORT_DISABLE_TELEMETRY": "1",
}

PRELOADED = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "alembic.command",
    "great_expectations",
    "great_expectations.expectations.core",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.calibration",
    "sklearn.model_selection",
    "xgboost",
    "optuna",
    "optuna.storages",
    "optuna.samplers",
    "optuna_integration.xgboost",
    "mlflow",
    "mlflow.sklearn",
    "mlflow.xgboost",
    "dvc.repo",
    "dvc.repo.reproduce",
    "dvc.repo.push",
    "matplotlib.figure",
    "onnxruntime",
    "evidently",
    "evidently.presets",
)
"""What tasks import that costs seconds; no module of ours, so that an edit counts from the next task on."""


SHARED = (
    "airflow.__main__",
    "airflow.cli.commands.scheduler_command",
    "airflow.cli.commands.dag_processor_command",
    "airflow.cli.commands.triggerer_command",
    "airflow.cli.commands.api_server_command",
    "airflow.cli.commands.db_command",
    "airflow.executors.local_executor",
    "airflow.api_fastapi.app",
    "airflow.api_fastapi.execution_api.app",
    "psycopg2",
    "alembic.command",
)
"""What more than one of Airflow's processes import: it is imported once, and they are forked; no module of ours."""


def database_url(user: str, password: str, host: str, port: int, database: str, driver: str = "psycopg2") -> str:
    """A PostgreSQL URL with everything that needs quoting quoted."""
    return f"postgresql+{driver}://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}/{database}"


def platform_environment(
    *,
    root: Path,
    home: Path,
    database_url: str,
    optuna_url: str,
    mlflow_url: str,
    mlflow_user: str,
    mlflow_password: str,
    serving_url: str,
    serving_key: str,
    airflow_url: str,
    threads: int,
) -> dict[str, str]:
    """What `include.settings.Environment` reads, and what every process that works for us needs besides."""
    return {
        **TELEMETRY_OFF,
        "PYTHONPATH": str(root),
        "MLOPS_HOME": str(home),
        "MLOPS_DATABASE_URL": database_url,
        "MLOPS_OPTUNA_URL": optuna_url,
        "MLOPS_MLFLOW_URL": mlflow_url,
        "MLOPS_SERVING_URL": serving_url,
        "MLOPS_SERVING_KEY": serving_key,
        "MLOPS_AIRFLOW_URL": airflow_url,
        "MLFLOW_TRACKING_URI": mlflow_url,
        "MLFLOW_TRACKING_USERNAME": mlflow_user,
        "MLFLOW_TRACKING_PASSWORD": mlflow_password,
        # A dead server must not stall a task for minutes.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        # Its log goes where a process's log goes, with its levels, and not to stderr, which Airflow shows as errors.
        "MLFLOW_CONFIGURE_LOGGING": "false",
        # Tasks run beside each other: one that takes every core for itself slows all.
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # Processes keep their environment readable for their owner when they change their title: it finds orphans.
        "SPT_NOENV": "1",
    }


AIRFLOW_OPTIONS = {
    "core": {
        "load_examples": "False",
        # What runs by itself runs from its first parsing on, whoever starts the stack; only `ingest_` and `features_`
        # wait, in their files, until somebody has chosen the history.
        "dags_are_paused_at_creation": "False",
        "hostname_callable": "socket.gethostname",
        "simple_auth_manager_users": "admin:admin",
        # A file is parsed when it has changed: what is new must be written, however soon after the last edit.
        "min_serialized_dag_update_interval": "0",
    },
    "api": {"workers": "1", "expose_config": "False"},
    "api_auth": {"jwt_issuer": "mlops"},
    "scheduler": {
        "scheduler_idle_sleep_time": "0.2",
        "enable_health_check": "False",
        # Only the scheduler's LocalExecutor forks tasks: the others would import all this for nothing.
        "mp_start_method": "forkserver",
        "mp_forkserver_preload": ",".join(PRELOADED),
        "task_instance_heartbeat_timeout": "300",
    },
    # A task outlives two minutes without an API server: 40 failed heartbeats, 5 s apart.
    "workers": {"min_heartbeat_interval": "5", "max_failed_heartbeats": "40", "execution_api_retries": "10"},
    # An edit of a DAG file, of params.yaml or of include/ is seen within two seconds, and parsed then: the bundle
    # watches them (include/orchestration/bundle.py). Without an edit, a file is parsed every ten minutes.
    "dag_processor": {
        "refresh_interval": "2",
        "bundle_refresh_check_interval": "2",
        "min_file_process_interval": "600",
        "parsing_processes": "2",
    },
    "logging": {"colored_console_log": "False"},
}
"""Airflow's configuration, by section, as far as it is the same on every machine."""


def airflow_environment(
    *,
    root: Path,
    airflow_home: Path,
    host: str,
    port: int,
    base_url: str,
    passwords_file: Path,
    executor: str,
    parallelism: int,
) -> dict[str, str]:
    """Airflow's configuration, as the variables that override airflow.cfg; its secrets are in that file alone.

    Tasks inherit the variables of the scheduler that starts them, and so does whatever a task starts or prints.

    Args:
        root: the folder with dags/, plugins/ and include/.
        airflow_home: where Airflow keeps its logs, and airflow.cfg with what `airflow_secrets` returns.
        host: where the API server listens.
        port: the port it listens on.
        base_url: how users and tasks reach it.
        passwords_file: SimpleAuthManager's, as `simple_auth_passwords` writes it.
        executor: `LocalExecutor`, or `CeleryExecutor` on a team's server.
        parallelism: how many tasks run at once.
    """
    bundle = {
        "name": "dags-folder",
        "classpath": "include.orchestration.bundle.SnapshotBundle",
        "kwargs": {"folder": str(root / "dags")},
    }
    options = {
        "core": {
            "dags_folder": str(root / "dags"),
            "plugins_folder": str(root / "plugins"),
            "executor": executor,
            "parallelism": str(parallelism),
            "max_active_tasks_per_dag": str(parallelism),
            "execution_api_server_url": f"{base_url.rstrip('/')}/execution/",
            "simple_auth_manager_passwords_file": str(passwords_file),
        },
        "api": {"host": host, "port": str(port), "base_url": base_url},
        "dag_processor": {
            "dag_bundle_config_list": json.dumps([bundle]),
            "dag_bundle_storage_path": str(airflow_home / "dag_bundles"),
        },
        "logging": {"base_log_folder": str(airflow_home / "logs")},
    }
    return {
        "AIRFLOW_HOME": str(airflow_home),
        **{
            f"AIRFLOW__{section.upper()}__{option.upper()}": value
            for source in (AIRFLOW_OPTIONS, options)
            for section, values in source.items()
            for option, value in values.items()
        },
    }


def airflow_secrets(
    *, database_url: str, async_database_url: str, jwt_secret: str, fernet_key: str, api_secret_key: str
) -> str:
    """The content of airflow.cfg: what signs, encrypts and opens the database, for a file that its owner alone reads.

    Args:
        database_url: Airflow's metadata, for psycopg2; `async_database_url` the same for asyncpg.
        async_database_url: see `database_url`.
        jwt_secret: signs users' and tasks' tokens.
        fernet_key: encrypts connections and variables.
        api_secret_key: signs sessions.
    """
    sections = {
        "core": {"fernet_key": fernet_key},
        "database": {"sql_alchemy_conn": database_url, "sql_alchemy_conn_async": async_database_url},
        "api": {"secret_key": api_secret_key},
        "api_auth": {"jwt_secret": jwt_secret},
    }
    lines = ["# Written by `mlops up`. Keep it secret."]
    for section, options in sections.items():
        lines += [f"[{section}]", *(f"{name} = {value.replace('%', '%%')}" for name, value in options.items())]
    return "\n".join(lines) + "\n"


def simple_auth_passwords(admin_password: str) -> str:
    """The content of SimpleAuthManager's passwords file, with the one user `admin`."""
    return json.dumps({"admin": admin_password}) + "\n"


def mlflow_server_environment(
    *,
    root: Path,
    home: Path,
    database_url: str,
    artifacts: str,
    port: int,
    auth_config: Path,
    admin_password: str,
    session_key: str,
) -> dict[str, str]:
    """What `mlflow server --app-name basic-auth` reads; in variables, so that no password stands in a process list."""
    return {
        **TELEMETRY_OFF,
        "PYTHONPATH": str(root),
        "MLOPS_HOME": str(home),
        "MLFLOW_BACKEND_STORE_URI": database_url,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_AUTH_CONFIG_PATH": str(auth_config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": session_key,
        "SPT_NOENV": "1",
    }


def mlflow_auth_config(database_url: str) -> str:
    """The basic-auth app's settings: nothing without a password; one slow hash a minute, not one a request."""
    return "\n".join(
        [
            "[mlflow]",
            "default_permission = NO_PERMISSIONS",
            "database_uri = " + database_url.replace("%", "%%"),
            "admin_username = admin",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
            "grant_default_workspace_access = false",
            "auth_cache_ttl_seconds = 60",
            "",
        ]
    )


def serving_environment(
    *, root: Path, home: Path, database_url: str, serving_url: str, data_url: str
) -> dict[str, str]:
    """What the prediction service reads: none of the other parts' secrets, and its keys from <home>/serving."""
    return {
        **TELEMETRY_OFF,
        "PYTHONPATH": str(root),
        "MLOPS_HOME": str(home),
        "MLOPS_DATA_URL": data_url,
        "MLOPS_DATABASE_URL": database_url,
        "MLOPS_SERVING_URL": serving_url,
        "BENTOML_HOME": str(Home(home).bentoml),
        "OMP_NUM_THREADS": "1",
        "SPT_NOENV": "1",
    }
