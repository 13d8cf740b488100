"""From a feature version to a study: the steps of preparation, in order.

MLflow is checked first, so that nothing expensive is begun that could not be logged. The folder `work` then has

    X_*.npy y_*.npy     train, validation, test: mapped into memory by the workers, never copied
    codes/              the matrices once more with categories as codes: see include/training/layouts.py
    preprocessing.json  what the features learned, from the training part only
    feature_set.json    inputs and spec, and the source of the features in Python, if there are any
    profile.json        the distributions of what is trained on
    inputs.json         what a request must carry; golden_rows.json: some held-out rows as a client sends them
    evidence/           holdout.parquet, training_rows.npy, split.json …: see holdout.py
    prepared.json       what `prepare` returns; written last
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from include import storage
from include.features.columns import select
from include.features.feature_set import FeatureSet
from include.features.profile import profile
from include.settings import Model
from include.training import documents, studies, tracking
from include.training.preparation import holdout, matrices, request_contract, split, suspects
from include.training.preparation import rows as feature_rows
from include.training.preparation import target as targets
from include.training.preparation.matrices import Matrices
from include.training.preparation.rows import Rows
from include.training.preparation.split import Division
from include.training.preparation.target import Untrainable

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """All that tuning, fitting and registration need to know; plain data."""

    model: str
    task: str
    metric: str
    direction: str
    classes: list[Any] | None
    run_key: str
    run_id: str
    run_url: str
    study: str
    work: str
    feature_version: str
    partitions: list[str]
    rows: int
    train_rows: int
    validation_rows: int
    test_rows: int
    features: int
    trials: int
    time_budget: int
    workers: int
    seed: int
    reason: str
    seconds: float
    warnings: list[str] = field(default_factory=list)
    """What may make the figures wrong or the verdict HOLD, with remedies."""


@dataclass(frozen=True)
class Training:
    """One training as it was triggered: a model's entry in params.yaml, with the form's overrides in force."""

    model: str
    entry: Model
    run_key: str
    """Names this training for ever: the DAG run's id."""
    time_column: str | None
    """The column that dates a row, if any."""
    trials: int
    time_budget: int
    """Seconds."""
    window: int | None
    """How many of the newest partitions are trained on; None: all."""
    reason: str
    origin_url: str
    """The page of the run that trains, for MLflow's tags."""

    @classmethod
    def of(
        cls,
        model: str,
        entry: Model,
        *,
        run_key: str,
        time_column: str | None,
        overrides: Mapping[str, Any],
        origin_url: str = "",
    ) -> Training:
        """Values of the form that are None or empty override nothing."""
        given = {key: value for key, value in overrides.items() if value not in (None, "")}
        return cls(
            model=model,
            entry=entry,
            run_key=run_key,
            time_column=time_column,
            trials=int(given.get("trials", entry.tuning.trials)),
            time_budget=int(given.get("time_budget", entry.tuning.time_budget)),
            window=int(given["window"]) if "window" in given else entry.window,
            reason=str(given.get("reason", "")),
            origin_url=origin_url,
        )

    @property
    def study(self) -> str:
        """The name of its study."""
        return f"{self.model}/{self.run_key}"


def prepare(
    model: str,
    entry: Model,
    *,
    run_key: str,
    work: str,
    time_column: str | None,
    overrides: Mapping[str, Any],
    feature_version: str | None,
    database_url: str,
    remote_url: str,
    home: Path,
    optuna_url: str,
    mlflow_url: str,
    origin_url: str = "",
) -> Prepared:
    """Write all that the study needs, and create it; the same call again changes nothing.

    Args:
        model: the registered model's name.
        entry: its entry in params.yaml.
        run_key: names this training for ever: the DAG run's id.
        work: a folder of this training's own, which all its tasks can reach.
        time_column: the column that dates a row, if any.
        overrides: of the trigger form, all optional: trials, time_budget, window, reason.
        feature_version: default: the newest.
        database_url: the platform's database.
        remote_url: DVC's remote.
        home: scratch of this machine.
        optuna_url: the studies' database.
        mlflow_url: MLflow's server.
        origin_url: the page of the run that trains, for MLflow's tags.

    Raises:
        MLflowDown: MLflow does not answer; nothing was done.
        Untrainable: there is nothing to learn from these rows.
    """
    tracking.check(mlflow_url)
    directory = storage.local_path(work)
    if (directory / "prepared.json").is_file():
        return Prepared(**documents.read(directory / "prepared.json"))
    training = Training.of(
        model, entry, run_key=run_key, time_column=time_column, overrides=overrides, origin_url=origin_url
    )
    version, dvc_lock = _feature_version(model, feature_version, database_url)
    folder = _restore(model, version, directory, database_url=database_url, remote_url=remote_url, home=home)
    servers = {"optuna_url": optuna_url, "mlflow_url": mlflow_url}
    prepared = materialize(training, folder, directory, feature_version=version, dvc_lock=dvc_lock, **servers)
    shutil.rmtree(folder, ignore_errors=True)
    return prepared


def materialize(
    training: Training,
    features: Path,
    work: Path,
    *,
    feature_version: str,
    dvc_lock: str,
    optuna_url: str,
    mlflow_url: str,
) -> Prepared:
    """`prepare`, from a folder of feature files (one parquet per partition, and feature_set.json)."""
    began = time.monotonic()
    model, entry = training.model, training.entry
    described = documents.read(features / "feature_set.json")
    feature_set = FeatureSet.from_spec(described["spec"], described.get("definition"))

    rows = feature_rows.read(
        model, entry, features, feature_set, time_column=training.time_column, window=training.window
    )
    division = split.divide(model, entry, rows)
    findings = examine(training, rows, division, feature_set)
    made = matrices.fit(model, entry, rows, division, feature_set)

    matrices.write(work, made, feature_set)
    _write_profile(work, rows, division, findings)
    _write_requests(work, training, rows, division, made, feature_set)
    columns = _evidence_columns(training, rows, feature_set)
    holdout.write(work / "evidence", rows, division, columns=columns, feature_version=feature_version)
    storage.write_bytes(str(work / "evidence" / "dvc.lock"), dvc_lock.encode())

    run = _start_run(training, feature_version, mlflow_url)
    studies.create(training.study, entry, optuna_url=optuna_url)
    prepared = Prepared(
        **_declared(training),
        **_counted(rows, division),
        classes=division.classes,
        run_id=run.run_id,
        run_url=run.url,
        work=str(work),
        feature_version=feature_version,
        features=len(made.names),
        seconds=round(time.monotonic() - began, 2),
        warnings=findings.warnings,
    )
    documents.write(work / "prepared.json", asdict(prepared))
    return prepared


# ---------------------------------------------------------------------------------------------- the feature version


def _feature_version(model: str, version: str | None, database_url: str) -> tuple[str, str]:
    """The named feature version, or the newest, and its dvc.lock."""
    from include.features import versions

    if version is None:
        newest = versions.latest(database_url, model)
        if newest is None:
            raise Untrainable(f"{model} has no features yet: run features_{model} first")
        version = newest.version
    return version, versions.recorded(database_url, model, version).dvc_lock


def _restore(model: str, version: str, work: Path, *, database_url: str, remote_url: str, home: Path) -> Path:
    """The files of a feature version, in a folder below `work`."""
    from include.features import versions

    folder = work / "features"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed: this folder is the run's own
    return versions.restore(model, version, folder, database_url=database_url, remote_url=remote_url, home=home)


# ---------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Findings:
    """What is doubtful about the rows and their split."""

    suspects: list[suspects.Suspect]
    warnings: list[str]


def examine(training: Training, rows: Rows, division: Division, feature_set: FeatureSet) -> Findings:
    """Find what may make the figures wrong, and log it."""
    entry = training.entry
    suspected = suspects.find(
        rows.raw,
        rows.target,
        task=entry.task,
        types=feature_set.inputs,
        times=rows.times,
        time_column=training.time_column,
    )
    warnings = [
        *targets.doubts(entry, rows.target),
        *split.warnings_of(entry, division.rule, division.part, rows.target, rows.times),
        *(f"suspect: {each}" for each in suspected),
    ]
    for warning in warnings:
        LOG.warning("%s: %s", training.model, warning)
    return Findings(suspected, warnings)


def _write_profile(work: Path, rows: Rows, division: Division, findings: Findings) -> None:
    """The distributions of all that is trained on: training and validation part."""
    seen = ~division.held_out
    distributions = {"rows": int(seen.sum()), "columns": profile(select({**rows.raw, **rows.computed}, seen))}
    documents.write(work / "profile.json", {**distributions, "suspects": [asdict(each) for each in findings.suspects]})


def _write_requests(
    work: Path, training: Training, rows: Rows, division: Division, made: Matrices, feature_set: FeatureSet
) -> None:
    """What a request must carry, and held-out rows that a service must answer as the trained model does."""
    held_out = select(rows.raw, division.held_out)
    inputs = request_contract.describe_inputs(
        select(rows.raw, ~division.held_out),
        feature_set.inputs,
        serving=training.entry.serving,
        learned=request_contract.categories_of(made.preprocessing),
        unknown_category=feature_set.unknown_category,
    )
    documents.write(work / "inputs.json", inputs)
    golden = request_contract.golden_rows(held_out, feature_set, made.preprocessing, inputs)
    if not golden:
        raise Untrainable(
            f"{training.model}: by its own policies the service would refuse every held-out row; look at serving and"
            " features.unknown_category"
        )
    documents.write(work / "golden_rows.json", request_contract.as_rows(held_out, feature_set.inputs, golden))


def _evidence_columns(training: Training, rows: Rows, feature_set: FeatureSet) -> list[str]:
    """What the gate judges held-out rows by: the inputs, time, entity and target that there are."""
    entry = training.entry
    named = [*feature_set.inputs, *(c for c in (training.time_column, entry.entity) if c), entry.target]
    return [column for column in dict.fromkeys(named) if column in rows.table.column_names]


def _start_run(training: Training, feature_version: str, mlflow_url: str) -> tracking.Run:
    tags = {
        "mlops.reason": training.reason,
        "mlops.feature_version": feature_version,
        "mlops.owner": training.entry.owner,
    }
    if training.origin_url:
        tags["mlops.airflow_run"] = training.origin_url
    return tracking.start_run(mlflow_url, model=training.model, run_key=training.run_key, tags=tags)


def _declared(training: Training) -> dict[str, Any]:
    """Of `Prepared`: what was declared, or overridden."""
    entry = training.entry
    return {
        "model": training.model,
        "task": entry.task,
        "metric": entry.metric_name,
        "direction": entry.direction,
        "run_key": training.run_key,
        "study": training.study,
        "trials": training.trials,
        "time_budget": training.time_budget,
        "workers": entry.tuning.workers,
        "seed": entry.tuning.seed,
        "reason": training.reason,
    }


def _counted(rows: Rows, division: Division) -> dict[str, Any]:
    """Of `Prepared`: the partitions, and how many rows each part has."""
    counts = {f"{part}_rows": int((division.part == part).sum()) for part in ("train", "validation", "test")}
    return {"partitions": rows.partitions, "rows": len(rows), **counts}
