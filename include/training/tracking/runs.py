"""The run of a training: its trials, its result, its files.

A run is found by the key of the DAG run, a trial by its number; logging either again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.training.tracking import server

TRIAL_THREADS = 4
RUN_KEY, TRIAL, PARENT = "mlops.run_key", "mlops.trial", "mlflow.parentRunId"


@dataclass(frozen=True)
class Run:
    """An MLflow run, and the page that shows it."""

    run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class Trial:
    """One finished trial of the study, as MLflow shall show it."""

    number: int
    state: str
    """complete, pruned or failed."""
    value: float | None
    params: dict[str, Any]
    curve: dict[int, float]
    """Iteration → the value that was reported to the study."""
    began: float
    """Seconds since the epoch."""
    ended: float
    error: str | None


def start_run(mlflow_url: str, *, model: str, run_key: str, tags: Mapping[str, str]) -> Run:
    """The run of this training, created at the first call and found by its key at every later one.

    Raises:
        MLflowDown: MLflow does not answer.
    """
    server.check(mlflow_url)
    client = server.client(mlflow_url)
    experiment = _experiment(client, model)
    found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{server.quoted(run_key)}'", max_results=1)
    began = time.time()
    run = (
        found[0]
        if found
        else client.create_run(
            experiment,
            start_time=round(began * 1000),
            tags={**tags, RUN_KEY: run_key},
            run_name=_run_name("training", began),
        )
    )
    return Run(run.info.run_id, experiment, server.run_url(mlflow_url, experiment, run.info.run_id))


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _run_name(title: str, began: float) -> str:
    """For people; what programs find a run by is its key."""
    return f"{title}, {time.strftime('%d %b %Y %H:%M', time.gmtime(began))} UTC"


def log_trials(mlflow_url: str, run_id: str, trials: Sequence[Trial]) -> float:
    """Log each trial as a nested run, once; returns the seconds it took.

    They are written together when the study has ended, from Optuna's records: three small requests each, a few at a
    time.
    """
    began = time.monotonic()
    client = server.client(mlflow_url)
    experiment = client.get_run(run_id).info.experiment_id
    known: dict[int, Any] = {}
    for run in _children(client, experiment, run_id):
        known[int(run.data.tags[TRIAL])] = run
    waiting = [t for t in trials if t.number not in known or known[t.number].info.status == "RUNNING"]
    with ThreadPoolExecutor(TRIAL_THREADS) as pool:
        list(pool.map(lambda t: _log_trial(client, experiment, run_id, t, known.get(t.number)), waiting))
    return time.monotonic() - began


def _children(client: Any, experiment: str, run_id: str) -> Iterable[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _log_trial(client: Any, experiment: str, parent: str, trial: Trial, run: Any) -> None:
    from mlflow.entities import Metric, Param

    if run is None:
        run = client.create_run(
            experiment,
            start_time=round(trial.began * 1000),
            run_name=_trial_name(trial),
            tags={
                PARENT: parent,
                TRIAL: str(trial.number),
                "mlops.state": trial.state,
                "mlops.error": trial.error or "",
            },
        )
    ended = round(trial.ended * 1000)
    metrics = [Metric("validation", value, ended, step) for step, value in sorted(trial.curve.items())][-900:]
    if trial.value is not None:
        metrics.append(Metric("value", trial.value, ended, 0))
    client.log_batch(run.info.run_id, metrics, [Param(k, str(v)[:500]) for k, v in trial.params.items()][:100])
    status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial.state]
    client.set_terminated(run.info.run_id, status, ended)


def _trial_name(trial: Trial) -> str:
    """`trial 3: xgboost, 2.514`."""
    end = trial.state if trial.value is None else f"{trial.value:.4g}"
    return f"trial {trial.number}: {trial.params.get('estimator', 'unknown')}, {end}"


def log_result(
    mlflow_url: str,
    run_id: str,
    *,
    title: str,
    code_version: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    dataset: Mapping[str, Any],
) -> None:
    """Log what the chosen model is and does; the same call again changes nothing.

    Args:
        mlflow_url: the server.
        run_id: the parent run.
        title: what the run gave, in its name.
        code_version: see `code_version`; a commit becomes the tag that MLflow shows as the source's version.
        params: chosen parameters, seeds, versions.
        metrics: on the held-out part.
        dataset: name, digest and source of the training data, its rows and columns.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    client = server.client(mlflow_url)
    now = round(time.time() * 1000)
    client.log_batch(
        run_id,
        [Metric(k, v, now, 0) for k, v in metrics.items()],
        [Param(k, str(v)[:500]) for k, v in params.items()],
    )
    entity = Dataset(
        name=dataset["name"],
        digest=str(dataset["digest"])[:36],
        source_type="dvc",
        source=json.dumps({"uri": dataset["source"]}),
        schema=json.dumps({"mlflow_colspec": dataset["columns"]}),
        profile=json.dumps({"num_rows": dataset["rows"]}),
    )
    commit = code_version.removeprefix("git-").partition("+")[0] if code_version.startswith("git-") else ""
    client.set_tag(run_id, "mlops.code_version", code_version)
    if commit:
        client.set_tag(run_id, "mlflow.source.git.commit", commit)
    began = client.get_run(run_id).info.start_time / 1000
    client.set_tag(run_id, "mlflow.runName", _run_name(title, began))
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def fail_run(mlflow_url: str, run_id: str, reason: str) -> None:
    """Mark a run as failed, with the reason."""
    client = server.client(mlflow_url)
    client.set_tag(run_id, "mlops.error", reason[:5000])
    client.set_terminated(run_id, "FAILED")


def attach(run_id: str, folder: Path, path: str, *, mlflow_url: str) -> None:
    """Add the files of a local folder to a run's artifacts, below `path`."""
    server.client(mlflow_url).log_artifacts(run_id, str(folder), path)


def code_version(root: Path) -> str:
    """The commit that trains, or the content hash of include/ where there is no clean checkout."""
    digest = hashlib.sha256()
    for path in sorted((root / "include").rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    content = f"include-{digest.hexdigest()[:12]}"
    try:
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--", "include"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return content
    if head.returncode or status.returncode:
        return content
    return f"git-{head.stdout.strip()}" + (f"+{content}" if status.stdout.strip() else "")
