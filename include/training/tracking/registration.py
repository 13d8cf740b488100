"""Registration: upload a candidate's files, read every one back, and create its version in one request.

Whatever is interrupted is finished by calling it again: a version is found by its run.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include import database
from include.inference import served_form
from include.inference.served_form import ServedForm
from include.training import anchor
from include.training.tracking import flavour, server
from include.training.tracking.registry import (
    CONTENT_HASH,
    EVIDENCE,
    FLAVOUR,
    READY,
    SERVED,
    SPLIT,
    NotRegistered,
    fetch,
)

ALIASES = (
    "The aliases `champion` and `challenger` follow the platform's ledger: one that is set or deleted here by hand is"
    " set back within a minute, without a word. To change the champion, trigger the DAG `deploy_{model}`, or run"
    " `mlops rollback {model} --reason …`."
)
"""What a person reads at a registered model who is about to move an alias."""


@dataclass(frozen=True)
class Candidate:
    """A registered version that waits for the gate."""

    model: str
    version: int
    run_id: str
    run_url: str
    content_hash: str
    estimator: str
    metric: str
    direction: str
    value: float
    baseline: float
    feature_version: str
    rows: int
    seconds: float


def register(fitted: Mapping[str, Any], *, mlflow_url: str, database_url: str) -> Candidate:
    """Upload, read back, and register the version of this run: exactly one, however often it is called.

    Args:
        fitted: what `fitting.fit` returned, as a mapping.
        mlflow_url: the server.
        database_url: the platform's database, for the lock under which a model's versions are made.

    Raises:
        NotRegistered: a file on the server is not the one that was uploaded.
    """
    server.check(mlflow_url)
    began = time.monotonic()
    client = server.client(mlflow_url)
    with database.connected(database_url) as engine, database.advisory_lock(engine, f"register:{fitted['model']}"):
        version = _register(client, fitted, mlflow_url)
        anchor.record(engine, _anchor(fitted, version))
    return Candidate(
        model=fitted["model"],
        version=version,
        run_id=fitted["run_id"],
        run_url=fitted["run_url"],
        content_hash=fitted["content_hash"],
        estimator=fitted["estimator"],
        metric=fitted["metric"],
        direction=fitted["direction"],
        value=fitted["value"],
        baseline=fitted["baseline"],
        feature_version=fitted["feature_version"],
        rows=fitted["rows"],
        seconds=round(fitted["seconds"] + time.monotonic() - began, 2),
    )


def _anchor(fitted: Mapping[str, Any], version: int) -> anchor.Anchor:
    split = Path(fitted["work"]) / EVIDENCE / SPLIT
    return anchor.Anchor(
        model=fitted["model"],
        version=version,
        content_hash=fitted["content_hash"],
        evidence_hash=hashlib.sha256(split.read_bytes()).hexdigest(),
        run_id=fitted["run_id"],
        feature_version=fitted["feature_version"],
    )


def _register(client: Any, fitted: Mapping[str, Any], mlflow_url: str) -> int:
    """The version appears in one request, when all its files have been read back: it is never half there."""
    model, run_id, digest = fitted["model"], fitted["run_id"], fitted["content_hash"]
    form = served_form.verify(Path(fitted["work"]) / SERVED, digest)
    existing = client.search_model_versions(f"run_id = '{run_id}'")
    if not existing:
        _collect(client, run_id)
        upload(client, fitted)
        logged = _log_flavour(client, mlflow_url, form, run_id)
        _read_back(mlflow_url, fitted, logged.model_uri)
        _registered_model(client, model, fitted["description"])
        existing = [
            client.create_model_version(
                model,
                source=logged.model_uri,
                run_id=run_id,
                model_id=logged.model_id,
                tags={READY: "true", CONTENT_HASH: digest, "mlops.feature_version": fitted["feature_version"]},
                description=_description(fitted),
            )
        ]
    [version] = existing
    if version.tags.get(CONTENT_HASH) != digest:
        raise NotRegistered(
            f"{model} version {version.version} of this run was registered with other content; start a new training"
        )
    client.set_terminated(run_id, "FINISHED")
    return int(version.version)


def upload(client: Any, fitted: Mapping[str, Any]) -> None:
    """Send the served form, the held-out part, the evidence and the pictures to the run's artifacts."""
    work = Path(fitted["work"])
    for folder in (SERVED, EVIDENCE, "plots"):
        client.log_artifacts(fitted["run_id"], str(work / folder), folder)


def _log_flavour(client: Any, mlflow_url: str, form: ServedForm, run_id: str) -> Any:
    """Log the served form as a model that MLflow shows, and that takes what a caller of the service has."""
    import mlflow

    mlflow.set_tracking_uri(mlflow_url)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = mlflow.pyfunc.log_model(name=FLAVOUR, **flavour.log_arguments(form, Path(folder)))
    return client.get_logged_model(info.model_id)


def _read_back(mlflow_url: str, fitted: Mapping[str, Any], source: str) -> None:
    """Read every file from the server and compare it with what was uploaded."""
    work = Path(fitted["work"])
    with tempfile.TemporaryDirectory() as folder:
        for part in (SERVED, EVIDENCE):
            found = fetch(mlflow_url, f"runs:/{fitted['run_id']}/{part}", Path(folder) / part)
            sent, received = _hashes(work / part), _hashes(found)
            wrong = sorted(name for name in sent.keys() | received.keys() if sent.get(name) != received.get(name))
            if wrong:
                raise NotRegistered(
                    f"{fitted['model']}: {part}/{wrong[0]} on the MLflow server is not the file that was uploaded"
                    f" ({len(wrong)} of {len(sent)} differ); nothing is registered. Look at the artifact"
                    " store, then retry"
                )
        saved = fetch(mlflow_url, source, Path(folder) / FLAVOUR)
        missing = [name for name in ("MLmodel", "requirements.txt") if not (saved / name).is_file()]
        problem = f"{missing[0]} is missing" if missing else _unlike(saved / "data" / SERVED, fitted["content_hash"])
        if problem:
            raise NotRegistered(f"{fitted['model']}: the MLflow model at {source} is not whole: {problem}; retry")


def _unlike(folder: Path, content_hash: str) -> str | None:
    """What is wrong with a copy of the served form."""
    try:
        served_form.verify(folder, content_hash)
    except served_form.BadServedForm as error:
        return str(error)
    return None


def _hashes(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _collect(client: Any, run_id: str) -> None:
    """Delete what an interrupted attempt of this run left: logged models; other files are written over."""
    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(logged.model_id)


def _registered_model(client: Any, model: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    text = "\n\n".join(part for part in (description, ALIASES.format(model=model)) if part)
    try:
        client.create_registered_model(model, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_registered_model(model, description=text)


def _description(fitted: Mapping[str, Any]) -> str:
    return (
        f"{fitted['estimator']}: {fitted['metric']} {fitted['value']:.5g} on {fitted['test_rows']} held-out rows,"
        f" the baseline {fitted['baseline']:.5g}; features {fitted['feature_version'][:12]},"
        f" {fitted['code_version'][:16]}. Aliases follow the platform's ledger: see the registered model"
    )
