"""The environment of each part: closed, quiet, and without another's secrets."""

from __future__ import annotations

import json
from pathlib import Path

from include import settings
from include.stack import environment
from include.stack.machine import Stack
from include.stack.parts import airflow_secrets, airflow_variables, platform_variables, programs
from include.stack.supervision.supervisor import Program


def stack(tmp_path: Path) -> Stack:
    from include.stack import credentials

    made = Stack(Path("/root of it"), tmp_path, "an-id", {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4})
    credentials.read_or_create(made.credentials_file)
    return made


def by_name(tmp_path: Path) -> dict[str, Program]:
    return {program.name: program for program in programs(stack(tmp_path), {})}


def test_a_database_url_holds_any_password() -> None:
    url = environment.database_url("me", "p@ss/w:rd %", "127.0.0.1", 5, "db")
    assert url == "postgresql+psycopg2://me:p%40ss%2Fw%3Ard%20%25@127.0.0.1:5/db"


def test_airflow_listens_on_loopback_and_shows_no_examples(tmp_path: Path) -> None:
    variables = airflow_variables(stack(tmp_path), {})
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert variables["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1/execution/"
    assert variables["AIRFLOW__CORE__DAGS_FOLDER"] == "/root of it/dags"
    assert variables["PYTHONPATH"] == "/root of it"


def test_nothing_of_ours_is_preloaded_so_that_an_edit_counts_from_the_next_task_on() -> None:
    assert [module for module in environment.PRELOADED if module.split(".")[0] in ("include", "dags", "plugins")] == []


def test_telemetry_is_off_in_every_part(tmp_path: Path) -> None:
    parts = by_name(tmp_path)
    for name in ("mlflow", "prediction", "api-server", "scheduler", "dag-processor", "triggerer"):
        assert environment.TELEMETRY_OFF.items() <= parts[name].environment.items(), name


def test_the_settings_read_what_the_stack_sets(tmp_path: Path, monkeypatch) -> None:
    made = stack(tmp_path)
    for name, value in platform_variables(made, {"MLOPS_DATA_URL": "s3://bucket/data"}).items():
        monkeypatch.setenv(name, value)
    env = settings.environment()
    assert env.home == tmp_path
    assert env.data_url == "s3://bucket/data"
    assert env.serving_key == made.credentials().serving_key
    assert env.database_url.endswith("@127.0.0.1:4/platform")


def test_no_part_holds_a_secret_that_it_does_not_need(tmp_path: Path) -> None:
    keys, parts = stack(tmp_path).credentials(), by_name(tmp_path)

    def secrets(name: str) -> set[str]:
        text = " ".join(parts[name].environment.values())
        return {field for field, value in vars(keys).items() if value in text}

    assert secrets("postgres") == set()
    assert secrets("mlflow") == {"mlflow_admin_password", "mlflow_session_key", "mlflow_database_password"}
    assert secrets("prediction") == {"serving_database_password"}  # of its keys it knows the hashes only
    assert "postgres_password" not in secrets("scheduler")


def test_no_secret_stands_in_a_command_line(tmp_path: Path) -> None:
    secrets = vars(stack(tmp_path).credentials()).values()
    for program in by_name(tmp_path).values():
        assert not [s for s in secrets if s in " ".join(program.command)], program.name


def test_simple_auth_manager_finds_its_one_user() -> None:
    assert json.loads(environment.simple_auth_passwords("secret")) == {"admin": "secret"}


def test_mlflow_gives_nothing_away_without_a_password() -> None:
    config = environment.mlflow_auth_config("postgresql+psycopg2://m:a%40b@h/db")
    assert "default_permission = NO_PERMISSIONS" in config
    assert "a%%40b" in config


def test_with_a_certificate_the_service_speaks_tls_and_our_clients_trust_it(tmp_path: Path) -> None:
    from dataclasses import replace

    from include.stack.machine import load

    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).touch()
    given = {
        "MLOPS_SERVING_CERTIFICATE": str(tmp_path / "certificate.pem"),
        "MLOPS_SERVING_CERTIFICATE_KEY": str(tmp_path / "key.pem"),
    }
    made = replace(stack(tmp_path), certificate=given["MLOPS_SERVING_CERTIFICATE"])
    [prediction] = [program for program in programs(made, given) if program.name == "prediction"]
    assert given.items() <= prediction.environment.items()
    variables = platform_variables(made, given)
    assert variables["MLOPS_SERVING_URL"] == "https://127.0.0.1:3"
    assert variables["SSL_CERT_FILE"] == str(tmp_path / "run" / "trusted.pem")
    assert "SSL_CERT_FILE" not in platform_variables(stack(tmp_path), {})
    (tmp_path / "stack.json").write_text(json.dumps({"id": "an-id", "ports": made.ports, "certificate": "there.pem"}))
    assert load(tmp_path, tmp_path).address("serving") == "https://127.0.0.1:3"


def test_a_tasks_environment_has_the_secrets_it_needs_and_not_airflows(tmp_path: Path) -> None:
    """What signs Airflow's tokens, encrypts its connections and opens its database is in a file of the owner's."""
    import configparser

    made = stack(tmp_path)
    keys = made.credentials()
    variables = airflow_variables(made, {})
    airflows = {
        keys.airflow_jwt_secret, keys.airflow_fernet_key, keys.airflow_api_secret_key,
        keys.airflow_database_password, keys.airflow_admin_password,
    }  # fmt: skip
    others = {keys.postgres_password, keys.supervisor_password, keys.mlflow_session_key, keys.serving_admin_key}
    others |= {keys.mlflow_database_password, keys.serving_database_password, keys.serving_feedback_key}
    text = "\n".join(variables.values())
    assert not [secret for secret in airflows | others if secret in text]
    assert keys.platform_database_password in text
    read = configparser.ConfigParser()
    read.read_string(airflow_secrets(made))
    assert read["core"]["fernet_key"] == keys.airflow_fernet_key
    assert read["api_auth"]["jwt_secret"] == keys.airflow_jwt_secret
    assert read["api"]["secret_key"] == keys.airflow_api_secret_key
    assert keys.airflow_database_password in read["database"]["sql_alchemy_conn_async"]


def test_a_percent_sign_in_a_secret_is_one_when_airflow_reads_it() -> None:
    import configparser

    read = configparser.ConfigParser()
    secrets = {"jwt_secret": "%", "fernet_key": "%(x)s", "api_secret_key": "s"}
    read.read_string(environment.airflow_secrets(database_url="p://u:a%40b@h/d", async_database_url="q", **secrets))
    assert read["database"]["sql_alchemy_conn"] == "p://u:a%40b@h/d"
    assert (read["api_auth"]["jwt_secret"], read["core"]["fernet_key"]) == ("%", "%(x)s")


def test_the_service_connects_to_postgresql_as_a_role_of_its_own(tmp_path: Path) -> None:
    made = by_name(tmp_path)
    url = made["prediction"].environment["MLOPS_DATABASE_URL"]
    assert url.startswith("postgresql+psycopg2://serving:")
    assert url.endswith("/platform")
    assert made["rollouts"].environment["MLOPS_DATABASE_URL"].startswith("postgresql+psycopg2://platform:")


def test_only_the_part_that_delivers_alerts_knows_where_they_go(tmp_path: Path) -> None:
    given = {"MLOPS_ALERT_URLS": "slack://secret"}
    knows = [program.name for program in programs(stack(tmp_path), given) if "slack://secret" in str(program)]
    assert knows == ["rollouts"]
