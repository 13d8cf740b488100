"""Where the platform runs: the variables MLOPS_* of this process, and its cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from include.home import DEFAULT, ROOT, Home


class Environment(BaseSettings):
    """Where the platform runs: read from `MLOPS_*` variables, which the stack (or docker-compose) sets."""

    model_config = SettingsConfigDict(env_prefix="MLOPS_", extra="ignore", frozen=True)

    home: Path = ROOT / DEFAULT
    """Scratch and state of this machine."""
    params: Path = ROOT / "params.yaml"
    data_url: str = ""
    """Where partitions, quarantine, reports and served forms live: a directory or s3://. Default: <home>/data."""
    dvc_remote_url: str = ""
    """Default: <home>/dvc/remote."""
    database_url: str = ""
    """The platform's own PostgreSQL, `postgresql+psycopg2://…`."""
    optuna_url: str = ""
    """Optuna's PostgreSQL database."""
    mlflow_url: str = "http://127.0.0.1:5000"
    serving_url: str = "http://127.0.0.1:3000"
    serving_key: str = ""
    airflow_url: str = "http://127.0.0.1:8080"
    alert_urls: SecretStr = SecretStr("")
    """Where alerts are sent, as Apprise's URLs with spaces between them; only the part that delivers them has it."""
    s3_endpoint_url: str | None = None
    suites: Path = ROOT / "great_expectations" / "expectations"

    @model_validator(mode="before")
    @classmethod
    def _defaults_below_home(cls, data: Any) -> Any:
        paths = Home(Path(data.get("home") or ROOT / DEFAULT).absolute())
        data["home"] = paths.path
        data.setdefault("data_url", str(paths.data))
        data.setdefault("dvc_remote_url", str(paths.dvc_remote))
        return data

    @property
    def paths(self) -> Home:
        """Files and folders below `home`."""
        return Home(self.home)


def environment() -> Environment:
    """The environment of this process, read now."""
    return Environment()


def cores(shared_by: int = 1) -> int:
    """How many cores each of some processes side by side may use: threads without a core of their own only wait."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // shared_by)
