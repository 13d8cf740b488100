"""MLflow's server: whether it answers, and the client of it."""

from __future__ import annotations

import os
import time
from typing import Any

HTTP_SECONDS = 10
FIRST_ANSWER_SECONDS = 3

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(HTTP_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MLflowDown(ConnectionError):
    """MLflow does not answer; nothing was begun."""


def check(mlflow_url: str) -> None:
    """Make sure that MLflow answers, within seconds.

    Raises:
        MLflowDown: it does not.
    """
    import httpx

    if not mlflow_url:
        raise MLflowDown("MLflow is not configured: set MLOPS_MLFLOW_URL, or run `make up`")
    problem = ""
    for attempt in range(2):
        try:
            answer = httpx.get(f"{mlflow_url.rstrip('/')}/health", timeout=FIRST_ANSWER_SECONDS)
        except httpx.HTTPError as error:
            problem = type(error).__name__
        else:
            if answer.status_code == 200:
                return
            problem = f"HTTP {answer.status_code}"
        if attempt == 0:
            time.sleep(0.5)
    raise MLflowDown(
        f"MLflow at {mlflow_url} does not answer ({problem}); nothing was begun. Look at `make status`, then try again"
    )


def client(mlflow_url: str) -> Any:
    """MLflow's client, for runs and registered versions."""
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)


def run_url(mlflow_url: str, experiment_id: str, run_id: str) -> str:
    """The page that shows a run."""
    return f"{mlflow_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def quoted(text: str) -> str:
    """A value for a filter of MLflow's search.

    Raises:
        ValueError: it contains a quotation mark.
    """
    if "'" in text:
        raise ValueError(f"a run's key must not hold a quote: {text}")
    return text
