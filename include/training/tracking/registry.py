"""Registered versions: what MLflow has of them counts as far as PostgreSQL's record agrees.

A version is registered, with the tag `mlops.ready`, when every file was read back from the server and hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from include.inference import served_form
from include.inference.served_form import ServedForm
from include.training import anchor
from include.training.tracking import server

READY, CONTENT_HASH = "mlops.ready", "mlops.content_hash"
SERVED, FLAVOUR, EVIDENCE = "served", "model", "evidence"
SPLIT = "split.json"
"""Of the evidence: how the rows were split, and the hashes of the evidence's other files."""


class NotRegistered(RuntimeError):
    """A version cannot be used: it does not exist, is not ready, or its files are not those that were registered."""


@dataclass(frozen=True)
class Version:
    """What MLflow knows of a registered version."""

    model: str
    version: int
    run_id: str
    run_url: str
    ready: bool
    content_hash: str
    metrics: dict[str, float]
    tags: dict[str, str]
    created_at: float
    """Seconds since the epoch."""


def version_info(model: str, version: int, *, mlflow_url: str) -> Version:
    """What MLflow knows of a version.

    Raises:
        NotRegistered: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    client = server.client(mlflow_url)
    try:
        found = client.get_model_version(model, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NotRegistered(f"{model} has no version {version} in MLflow at {mlflow_url}") from error
    run = client.get_run(found.run_id)
    return Version(
        model,
        int(found.version),
        found.run_id,
        server.run_url(mlflow_url, run.info.experiment_id, found.run_id),
        found.tags.get(READY) == "true",
        found.tags.get(CONTENT_HASH, ""),
        dict(run.data.metrics),
        dict(found.tags),
        found.creation_timestamp / 1000,
    )


def versions(model: str, *, mlflow_url: str, database_url: str) -> list[int]:
    """The model's versions that this platform registered and MLflow has, in order."""
    found = server.client(mlflow_url).search_model_versions(f"name = '{server.quoted(model)}'")
    ready = {int(v.version) for v in found if v.tags.get(READY) == "true"}
    return sorted(ready.intersection(anchor.versions(database_url, model)))


def download(model: str, version: int, into: Path, *, mlflow_url: str, database_url: str) -> ServedForm:
    """Bring a version's served form to local disk, verified against the hash that PostgreSQL recorded.

    Raises:
        NotRegistered: this platform did not register the version, or its files cannot be read.
        BadServedForm: its files are not those that were registered.
    """
    info, known = _ready(model, version, mlflow_url, database_url)
    return served_form.verify(fetch(mlflow_url, f"runs:/{info.run_id}/{SERVED}", into), known.content_hash)


def evidence(model: str, version: int, into: Path, *, mlflow_url: str, database_url: str) -> Path:
    """Bring to local disk who was held out from a version, and proof that it was not trained on them.

    The folder holds `holdout.parquet` (raw inputs, target, time), `training_rows.npy` and `holdout_rows.npy`
    (fingerprints), `split.json`, and the `dvc.lock` of the features.

    Raises:
        NotRegistered: the version is not ready, or a file is not the one that was registered.
    """
    info, known = _ready(model, version, mlflow_url, database_url)
    folder = fetch(mlflow_url, f"runs:/{info.run_id}/{EVIDENCE}", into)
    content = (folder / SPLIT).read_bytes() if (folder / SPLIT).is_file() else b""
    if known.evidence_hash not in (None, hashlib.sha256(content).hexdigest()):
        raise NotRegistered(f"{model} version {version}: {EVIDENCE}/{SPLIT} is missing or changed; it is not used")
    split = json.loads(content)
    for name, expected in split["files"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise NotRegistered(f"{model} version {version}: {EVIDENCE}/{name} is missing or changed; it is not used")
    return folder


def _ready(model: str, version: int, mlflow_url: str, database_url: str) -> tuple[Version, anchor.Anchor]:
    """What MLflow knows of a version, and what this platform recorded of it, which agree about its content."""
    info = version_info(model, version, mlflow_url=mlflow_url)
    if not info.ready:
        raise NotRegistered(
            f"{model} version {version} was not registered by this platform: its files were never checked"
        )
    try:
        known = anchor.recorded(database_url, model, version)
    except anchor.NotAnchored as error:
        raise NotRegistered(str(error)) from None
    if info.content_hash != known.content_hash:
        raise NotRegistered(
            f"{model} version {version} has other content in MLflow ({info.content_hash[:12]}…) than this platform"
            f" registered ({known.content_hash[:12]}…): it was changed since, and is not used"
        )
    return info, known


def fetch(mlflow_url: str, uri: str, into: Path) -> Path:
    """Download the artifacts at a URI into a folder.

    Raises:
        NotRegistered: they cannot be read.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.update(server.ENVIRONMENT)
    into.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=mlflow_url))
    except (MlflowException, OSError) as error:
        raise NotRegistered(f"{uri} cannot be read from MLflow at {mlflow_url}: {error}") from error


def show_verdict(model: str, version: int, *, verdict: str, summary: str, mlflow_url: str) -> None:
    """Show the gate's verdict at a version, as its tags; PostgreSQL holds the verdict itself."""
    client = server.client(mlflow_url)
    client.set_model_version_tag(model, str(version), "mlops.verdict", verdict)
    client.set_model_version_tag(model, str(version), "mlops.verdict_summary", summary[:5000])


def set_alias(model: str, alias: str, version: int | None, *, mlflow_url: str) -> None:
    """Let an alias (`champion`, `challenger`) name a version, or none."""
    client = server.client(mlflow_url)
    if version is None:
        client.delete_registered_model_alias(model, alias)
    else:
        client.set_registered_model_alias(model, alias, str(version))


def aliases(model: str, *, mlflow_url: str) -> dict[str, int]:
    """Alias → version; empty for a model that is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        found = server.client(mlflow_url).get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(version) for alias, version in found.aliases.items()}
