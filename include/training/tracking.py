"""The only caller of MLflow: runs, trials, registered versions, aliases.

A version is registered, with the tag `mlops.ready`, when every file was read back from the server and hashed.
Whatever is interrupted is finished by calling it again: runs are found by the key of the DAG run, versions by their
run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include import database
from include.inference import served_form
from include.inference.served_form import ServedForm
from include.training import anchor

HTTP_SECONDS = 10
FIRST_ANSWER_SECONDS = 3
TRIAL_THREADS = 4
READY, CONTENT_HASH = "mlops.ready", "mlops.content_hash"
RUN_KEY, TRIAL, PARENT = "mlops.run_key", "mlops.trial", "mlflow.parentRunId"
SERVED, FLAVOUR, EVIDENCE = "served", "model", "evidence"
SPLIT = "split.json"
"""Of the evidence: how the rows were split, and the hashes of the evidence's other files."""

_ENVIRONMENT = {
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


class NotRegistered(RuntimeError):
    """A version cannot be used: it does not exist, is not ready, or its files are not those that were registered."""


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


# ---------------------------------------------------------------------------------------------- the server


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


def _client(mlflow_url: str) -> Any:
    os.environ.update(_ENVIRONMENT)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)


def _run_url(mlflow_url: str, experiment_id: str, run_id: str) -> str:
    return f"{mlflow_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


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


# ---------------------------------------------------------------------------------------------- runs


def start_run(mlflow_url: str, *, model: str, run_key: str, tags: Mapping[str, str]) -> Run:
    """The run of this training, created at the first call and found by its key at every later one.

    Raises:
        MLflowDown: MLflow does not answer.
    """
    check(mlflow_url)
    client = _client(mlflow_url)
    experiment = _experiment(client, model)
    found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{_quoted(run_key)}'", max_results=1)
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
    return Run(run.info.run_id, experiment, _run_url(mlflow_url, experiment, run.info.run_id))


def _run_name(title: str, began: float) -> str:
    """For people; what programs find a run by is its key."""
    return f"{title}, {time.strftime('%d %b %Y %H:%M', time.gmtime(began))} UTC"


def _quoted(text: str) -> str:
    if "'" in text:
        raise ValueError(f"a run's key must not hold a quote: {text}")
    return text


def log_trials(mlflow_url: str, run_id: str, trials: Sequence[Trial]) -> float:
    """Log each trial as a nested run, once; returns the seconds it took.

    They are written together when the study has ended, from Optuna's records: three small requests each, a few at a
    time.
    """
    began = time.monotonic()
    client = _client(mlflow_url)
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

    client = _client(mlflow_url)
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
    client = _client(mlflow_url)
    client.set_tag(run_id, "mlops.error", reason[:5000])
    client.set_terminated(run_id, "FAILED")


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


# ---------------------------------------------------------------------------------------------- registration


def register(fitted: Mapping[str, Any], *, mlflow_url: str, database_url: str) -> Candidate:
    """Upload, read back, and register the version of this run: exactly one, however often it is called.

    Args:
        fitted: what `fitting.fit` returned, as a mapping.
        mlflow_url: the server.
        database_url: the platform's database, for the lock under which a model's versions are made.

    Raises:
        NotRegistered: a file on the server is not the one that was uploaded.
    """
    check(mlflow_url)
    began = time.monotonic()
    client = _client(mlflow_url)
    engine = database.connect(database_url)
    try:
        with database.advisory_lock(engine, f"register:{fitted['model']}"):
            version = _register(client, fitted, mlflow_url)
            anchor.record(engine, _anchor(fitted, version))
    finally:
        engine.dispose()
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
        info = mlflow.pyfunc.log_model(name=FLAVOUR, **flavour(form, Path(folder)))
    return client.get_logged_model(info.model_id)


def flavour(form: ServedForm, scratch: Path) -> dict[str, Any]:
    """What `mlflow.pyfunc` saves: the served form as it is, and the code that answers with it."""
    from include.training import pyfunc

    return {
        "loader_module": pyfunc.__name__,
        "data_path": str(form.directory),
        "code_paths": [str(pyfunc.copy_code(scratch))],
        "signature": _signature(form),
        "input_example": _example(form),
        "pip_requirements": [f"{package}=={_version_of(package)}" for package in pyfunc.REQUIREMENTS],
        "metadata": {"content_hash": form.content_hash},
    }


_MLFLOW_TYPES = {"string": "string", "bool": "boolean", "timestamp": "datetime", "date": "datetime"}


def _signature(form: ServedForm) -> Any:
    """The inputs of a request, and the answer's columns.

    Numbers are of any type: MLflow would refuse 3 where 3.0 is expected, and 3.0 where whole numbers may be missing.
    The served form's own schema checks them.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = [
        ColSpec(DataType[_MLFLOW_TYPES[entry["type"]]], entry["name"], required=entry["required"])
        if entry["type"] in _MLFLOW_TYPES
        else ColSpec(AnyType(), entry["name"], required=False)
        for entry in form.manifest["inputs"]
    ]
    classes = form.manifest["classes"]
    kind = "double" if classes is None else "string" if isinstance(classes[0], str) else "long"
    if classes is not None and isinstance(classes[0], bool):
        kind = "boolean"
    outputs = [ColSpec(DataType[kind], "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{label}") for label in classes or ()]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _example(form: ServedForm) -> Any:
    """Some golden rows, as a caller has them."""
    import pandas as pd

    frame = pd.DataFrame(form.json("golden.json")["rows"][:3])
    for entry in form.manifest["inputs"]:
        if entry["type"] in ("timestamp", "date"):
            frame[entry["name"]] = pd.to_datetime(frame[entry["name"]])
    return frame


def _version_of(package: str) -> str:
    from importlib.metadata import version

    return version(package)


ALIASES = (
    "The aliases `champion` and `challenger` follow the platform's ledger: one that is set or deleted here by hand is"
    " set back within a minute, without a word. To change the champion, trigger the DAG `deploy_{model}`, or run"
    " `mlops rollback {model} --reason …`."
)
"""What a person reads at a registered model who is about to move an alias."""


def _registered_model(client: Any, model: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    text = "\n\n".join(part for part in (description, ALIASES.format(model=model)) if part)
    try:
        client.create_registered_model(model, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_registered_model(model, description=text)


def show_verdict(model: str, version: int, *, verdict: str, summary: str, mlflow_url: str) -> None:
    """Show the gate's verdict at a version, as its tags; PostgreSQL holds the verdict itself."""
    client = _client(mlflow_url)
    client.set_model_version_tag(model, str(version), "mlops.verdict", verdict)
    client.set_model_version_tag(model, str(version), "mlops.verdict_summary", summary[:5000])


def _description(fitted: Mapping[str, Any]) -> str:
    return (
        f"{fitted['estimator']}: {fitted['metric']} {fitted['value']:.5g} on {fitted['test_rows']} held-out rows,"
        f" the baseline {fitted['baseline']:.5g}; features {fitted['feature_version'][:12]},"
        f" {fitted['code_version'][:16]}. Aliases follow the platform's ledger: see the registered model"
    )


def _read_back(mlflow_url: str, fitted: Mapping[str, Any], source: str) -> None:
    """Read every file from the server and compare it with what was uploaded."""
    work = Path(fitted["work"])
    with tempfile.TemporaryDirectory() as folder:
        for part in (SERVED, EVIDENCE):
            found = _download(mlflow_url, f"runs:/{fitted['run_id']}/{part}", Path(folder) / part)
            sent, received = _hashes(work / part), _hashes(found)
            wrong = sorted(name for name in sent.keys() | received.keys() if sent.get(name) != received.get(name))
            if wrong:
                raise NotRegistered(
                    f"{fitted['model']}: {part}/{wrong[0]} on the MLflow server is not the file that was uploaded"
                    f" ({len(wrong)} of {len(sent)} differ); nothing is registered. Look at the artifact"
                    " store, then retry"
                )
        flavour = _download(mlflow_url, source, Path(folder) / FLAVOUR)
        missing = [name for name in ("MLmodel", "requirements.txt") if not (flavour / name).is_file()]
        problem = f"{missing[0]} is missing" if missing else _unlike(flavour / "data" / SERVED, fitted["content_hash"])
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


def _download(mlflow_url: str, uri: str, into: Path) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.update(_ENVIRONMENT)
    into.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=mlflow_url))
    except (MlflowException, OSError) as error:
        raise NotRegistered(f"{uri} cannot be read from MLflow at {mlflow_url}: {error}") from error


def _collect(client: Any, run_id: str) -> None:
    """Delete what an interrupted attempt of this run left: logged models; other files are written over."""
    experiment = client.get_run(run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(logged.model_id)


# ---------------------------------------------------------------------------------------------- versions


def version_info(model: str, version: int, *, mlflow_url: str) -> Version:
    """What MLflow knows of a version.

    Raises:
        NotRegistered: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    client = _client(mlflow_url)
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
        _run_url(mlflow_url, run.info.experiment_id, found.run_id),
        found.tags.get(READY) == "true",
        found.tags.get(CONTENT_HASH, ""),
        dict(run.data.metrics),
        dict(found.tags),
        found.creation_timestamp / 1000,
    )


def versions(model: str, *, mlflow_url: str, database_url: str) -> list[int]:
    """The model's versions that this platform registered and MLflow has, in order."""
    found = _client(mlflow_url).search_model_versions(f"name = '{_quoted(model)}'")
    ready = {int(v.version) for v in found if v.tags.get(READY) == "true"}
    return sorted(ready.intersection(anchor.versions(database_url, model)))


def download(model: str, version: int, into: Path, *, mlflow_url: str, database_url: str) -> ServedForm:
    """Bring a version's served form to local disk, verified against the hash that PostgreSQL recorded.

    Raises:
        NotRegistered: this platform did not register the version, or its files cannot be read.
        BadServedForm: its files are not those that were registered.
    """
    info, known = _ready(model, version, mlflow_url, database_url)
    return served_form.verify(_download(mlflow_url, f"runs:/{info.run_id}/{SERVED}", into), known.content_hash)


def evidence(model: str, version: int, into: Path, *, mlflow_url: str, database_url: str) -> Path:
    """Bring to local disk who was held out from a version, and proof that it was not trained on them.

    The folder holds `holdout.parquet` (raw inputs, target, time), `training_rows.npy` and `holdout_rows.npy`
    (fingerprints; see `preparation.leaked`), `split.json`, and the `dvc.lock` of the features.

    Raises:
        NotRegistered: the version is not ready, or a file is not the one that was registered.
    """
    info, known = _ready(model, version, mlflow_url, database_url)
    folder = _download(mlflow_url, f"runs:/{info.run_id}/{EVIDENCE}", into)
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


def set_alias(model: str, alias: str, version: int | None, *, mlflow_url: str) -> None:
    """Let an alias (`champion`, `challenger`) name a version, or none."""
    client = _client(mlflow_url)
    if version is None:
        client.delete_registered_model_alias(model, alias)
    else:
        client.set_registered_model_alias(model, alias, str(version))


def aliases(model: str, *, mlflow_url: str) -> dict[str, int]:
    """Alias → version; empty for a model that is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        found = _client(mlflow_url).get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(version) for alias, version in found.aliases.items()}


def attach(run_id: str, folder: Path, path: str, *, mlflow_url: str) -> None:
    """Add the files of a local folder to a run's artifacts, below `path`."""
    _client(mlflow_url).log_artifacts(run_id, str(folder), path)
