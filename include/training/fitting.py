"""After the study: the best trial's model, refitted, judged on the held-out part, and exported in its served form.

The refit sees training and validation part together, with the iterations that early stopping found on the validation
part. With a split by time the validation rows are the newest before the held-out ones; to leave them out would serve
an older model.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from include.features.feature_set import FeatureSet
from include.features.profile import profile
from include.inference.served_form import ServedForm
from include.settings import Model, cores
from include.training import (
    documents,
    estimators,
    evaluation,
    export,
    layouts,
    study_results,
    tracking,
    tuning,
)
from include.training.preparation import request_contract
from include.training.study_results import Choice, Finished

CURVES = 6
"""Learning curves in the picture of the trials."""


@dataclass(frozen=True)
class Fitted:
    """The chosen model, ready to be registered; plain data."""

    model: str
    description: str
    run_id: str
    run_url: str
    work: str
    estimator: str
    params: dict[str, Any]
    trial: int
    metric: str
    direction: str
    value: float
    """The metric on the held-out part."""
    baseline: float
    """The dummy estimator's, on the same rows."""
    metrics: dict[str, float]
    content_hash: str
    feature_version: str
    code_version: str
    rows: int
    test_rows: int
    trials: dict[str, int]
    """complete, pruned, failed → how many."""
    seconds: float
    """Since the study's first trial."""


@dataclass(frozen=True)
class Refitted:
    """The chosen model, fitted on training and validation part."""

    choice: Choice
    estimator: estimators.Estimator
    fitted: Any
    layout: estimators.Layout
    data: estimators.Data
    seed: int

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Numbers (n,), or probabilities (n, classes), for a matrix of its layout."""
        return self.estimator.predict(self.fitted, X)


@dataclass(frozen=True)
class Judged:
    """How the model does on the held-out part, and the dummy estimator."""

    y: np.ndarray
    """The held-out part's targets, (n,)."""
    prediction: np.ndarray
    metrics: dict[str, float]
    value: float
    """The study's metric."""
    baseline: dict[str, float]


@dataclass(frozen=True)
class Preprocessing:
    """The features, and what they learned, as the model's layout applies it."""

    feature_set: FeatureSet
    learned: dict[str, Any]
    names: list[str]
    """Of the matrix's columns."""


def fit(
    model: str,
    entry: Model,
    prepared: Mapping[str, Any],
    *,
    optuna_url: str,
    mlflow_url: str,
    root: Path,
    threads: int | None = None,
) -> Fitted:
    """Choose, refit, judge, export, draw and log; the same call again gives the same model.

    Args:
        model: the registered model's name.
        entry: its entry in params.yaml.
        prepared: what `preparation.prepare` returned, as a mapping.
        optuna_url: the studies' database.
        mlflow_url: MLflow's server.
        root: the repository, for the code's version.
        threads: of the refit; None: as many as a trial had.

    Raises:
        StudyFailed: no trial gave a model.
        NotEqual: the served form does not answer as the trained model.
    """
    tracking.check(mlflow_url)
    threads = threads or cores(entry.tuning.workers)
    try:
        return _fit(model, entry, prepared, optuna_url=optuna_url, mlflow_url=mlflow_url, root=root, threads=threads)
    except (tuning.StudyFailed, export.NotEqual) as error:
        tracking.fail_run(mlflow_url, prepared["run_id"], str(error))
        raise


def _fit(
    model: str,
    entry: Model,
    prepared: Mapping[str, Any],
    *,
    optuna_url: str,
    mlflow_url: str,
    root: Path,
    threads: int,
) -> Fitted:
    results = study_results.finished(prepared["study"], optuna_url=optuna_url)
    tracking.log_trials(mlflow_url, prepared["run_id"], [each.trial for each in results])
    choice = study_results.choose(results, entry, prepared)
    refitted = refit(choice, prepared, threads=threads)
    judged = judge(entry, prepared, refitted)
    preprocessing = read_preprocessing(Path(prepared["work"]), refitted.layout)
    code_version = tracking.code_version(root)
    manifest = describe(entry, prepared, choice, judged, preprocessing, code_version)
    form = export_form(entry, prepared, refitted, judged, preprocessing, manifest)
    draw(entry, prepared, results, choice, judged, _importance(refitted, preprocessing.names))
    _log(entry, prepared, results, choice, judged, form, mlflow_url)
    began = min(each.trial.began for each in results)
    return Fitted(
        model=model,
        description=entry.description,
        run_id=prepared["run_id"],
        run_url=prepared["run_url"],
        work=prepared["work"],
        estimator=choice.estimator,
        params=choice.params,
        trial=choice.trial.number,
        metric=entry.metric_name,
        direction=entry.direction,
        value=judged.value,
        baseline=judged.baseline[entry.metric_name],
        metrics=judged.metrics,
        content_hash=form.content_hash,
        feature_version=prepared["feature_version"],
        code_version=code_version,
        rows=prepared["rows"],
        test_rows=len(judged.y),
        trials=dict(_states(results)),
        seconds=round(prepared["seconds"] + time.time() - began, 2),
    )


# ---------------------------------------------------------------------------------------------- fit and judge


def refit(choice: Choice, prepared: Mapping[str, Any], *, threads: int) -> Refitted:
    """Fit the chosen point on training and validation part together."""
    estimator, seed = estimators.load(choice.estimator), int(prepared["seed"])
    layout = estimator.layout(choice.params)
    data = train_and_validation(prepared, layout)
    fitted = estimator.fit(choice.params, data, seed=seed, threads=threads, progress=None)
    return Refitted(choice, estimator, fitted, layout, data, seed)


def train_and_validation(prepared: Mapping[str, Any], layout: estimators.Layout) -> estimators.Data:
    """Training and validation part as one."""
    data = tuning.load(prepared, layout)
    X = np.concatenate([data.X, data.X_val])
    y = np.concatenate([data.y, data.y_val])
    return estimators.Data(X, y, None, None, data.task, data.metric, data.classes, data.coded)


def judge(entry: Model, prepared: Mapping[str, Any], refitted: Refitted) -> Judged:
    """Score the model and the dummy estimator on the held-out part.

    Raises:
        StudyFailed: the model's score is not a finite number.
    """
    work = Path(prepared["work"])
    X = np.load(layouts.find(work, refitted.layout)[0] / "X_test.npy", allow_pickle=False)
    y = np.load(work / "y_test.npy", allow_pickle=False)
    prediction = refitted.predict(X)
    metric, name = entry.metric_name, refitted.choice.estimator
    value = evaluation.score(metric, entry.task, y, prediction)
    if not np.isfinite(value):
        raise tuning.StudyFailed(
            f"{prepared['model']}: {name} has no finite {metric} on the held-out part; nothing is registered"
        )
    dummy = estimators.load("dummy")
    params = estimators.defaults("dummy", {}, entry.task)
    guess = dummy.fit(params, refitted.data, seed=refitted.seed, threads=1, progress=None)
    baseline = evaluation.metrics(entry.task, y, dummy.predict(guess, X))
    return Judged(y, prediction, evaluation.metrics(entry.task, y, prediction), value, baseline)


def _importance(refitted: Refitted, names: list[str]) -> dict[str, float]:
    """Feature → share; empty where the algorithm knows none."""
    share = refitted.estimator.importance(refitted.fitted)
    return {} if share is None else dict(zip(names, map(float, share), strict=True))


# ---------------------------------------------------------------------------------------------- the served form


def read_preprocessing(work: Path, layout: estimators.Layout) -> Preprocessing:
    """The features of a training, from its folder."""
    described = documents.read(work / "feature_set.json")
    feature_set = FeatureSet.from_spec(described["spec"], described["definition"])
    learned = layouts.preprocessing(work, layout)
    return Preprocessing(feature_set, learned, feature_set.names(learned))


def describe(
    entry: Model,
    prepared: Mapping[str, Any],
    choice: Choice,
    judged: Judged,
    preprocessing: Preprocessing,
    code_version: str,
) -> dict[str, Any]:
    """The served form's manifest: see include/inference/served_form.py."""
    classes = prepared["classes"]
    return {
        "model": prepared["model"],
        "task": entry.task,
        "target": entry.target,
        "target_unit": entry.serving.units.get(entry.target),
        "entity": entry.entity,
        "description": entry.description,
        "estimator": choice.estimator,
        "classes": classes,
        "positive": classes[1] if entry.task == "binary" else None,
        "inputs": documents.read(Path(prepared["work"]) / "inputs.json"),
        "feature_names": preprocessing.names,
        "unknown_category": preprocessing.feature_set.unknown_category,
        "metric": entry.metric_name,
        "metrics": judged.metrics,
        "baseline": judged.baseline,
        "run_id": prepared["run_id"],
        "feature_version": prepared["feature_version"],
        "code_version": code_version,
        "created_at": dt.datetime.fromtimestamp(choice.trial.ended, dt.UTC).isoformat(timespec="seconds"),
        "max_batch": entry.serving.max_batch,
        "extra_field": entry.serving.extra_field,
        "logged": entry.serving.log.inputs,
    }


def export_form(
    entry: Model,
    prepared: Mapping[str, Any],
    refitted: Refitted,
    judged: Judged,
    preprocessing: Preprocessing,
    manifest: Mapping[str, Any],
) -> ServedForm:
    """Export the model, proved equal to the trained one on held-out rows that the service would answer.

    Raises:
        NotEqual: it does not answer as the trained model.
    """
    work, feature_set, learned = Path(prepared["work"]), preprocessing.feature_set, preprocessing.learned
    raw = held_out(work, feature_set)
    rows = np.arange(min(len(judged.y), export.CHECKED_ROWS))
    rows = rows[request_contract.answerable(raw, feature_set, learned, rows)]
    distributions = {
        **documents.read(work / "profile.json"),
        "prediction": _prediction_profile(judged.prediction),
        "metric": {"name": entry.metric_name, "value": judged.value},
    }
    return export.export(
        work / tracking.SERVED,
        onnx=refitted.estimator.to_onnx(refitted.fitted),
        booster=refitted.estimator.to_booster(refitted.fitted),
        explanation=refitted.estimator.explanation(refitted.fitted),
        predict=refitted.predict,
        feature_set=feature_set,
        preprocessing=learned,
        profile=distributions,
        golden_rows=documents.read(work / "golden_rows.json"),
        manifest=manifest,
        real={column: values[rows] for column, values in raw.items()},
    )


def held_out(work: Path, feature_set: FeatureSet) -> dict[str, np.ndarray]:
    """The raw inputs of the held-out rows."""
    import pyarrow.parquet as pq

    from include.features.columns import from_arrow

    return from_arrow(pq.read_table(work / tracking.EVIDENCE / "holdout.parquet"), feature_set.inputs)


def _prediction_profile(prediction: np.ndarray) -> dict[str, Any]:
    """Of the number, or of the last class's probability (binary: the positive one's)."""
    return dict(profile({"prediction": prediction if prediction.ndim == 1 else prediction[:, -1]})["prediction"])


# ---------------------------------------------------------------------------------------------- pictures and MLflow


def draw(
    entry: Model,
    prepared: Mapping[str, Any],
    results: Sequence[Finished],
    choice: Choice,
    judged: Judged,
    importance: Mapping[str, float],
) -> None:
    """Write the pictures of the model and of its study."""
    trials, best = [each.trial for each in results], choice.trial.number
    ranked = sorted((t for t in trials if t.curve), key=lambda t: (t.number != best, t.state != "complete"))
    pictures = evaluation.plots(
        entry.task,
        judged.y,
        judged.prediction,
        metric=entry.metric_name,
        classes=prepared["classes"],
        importance=importance,
        curves={
            f"trial {t.number}{' (best)' if t.number == best else ''}": sorted(t.curve.items()) for t in ranked[:CURVES]
        },
        trials=[
            (t.number, str(t.params.get("estimator")), t.value)
            for t in trials
            if t.state == "complete" and t.value is not None
        ],
    )
    folder = Path(prepared["work"]) / "plots"
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)


def _log(
    entry: Model,
    prepared: Mapping[str, Any],
    results: Sequence[Finished],
    choice: Choice,
    judged: Judged,
    form: ServedForm,
    mlflow_url: str,
) -> None:
    model, version, name = prepared["model"], prepared["feature_version"], choice.estimator
    tracking.log_result(
        mlflow_url,
        prepared["run_id"],
        title=f"{name}: {entry.metric_name} {judged.value:.4g}",
        code_version=form.manifest["code_version"],
        params={
            "estimator": name,
            **{f"{name}.{key}": value for key, value in choice.params.items()},
            "seed": int(prepared["seed"]),
            "trial": choice.trial.number,
            "rows": prepared["rows"],
            "feature_version": version,
            "code_version": form.manifest["code_version"],
            "content_hash": form.content_hash,
        },
        metrics={
            **judged.metrics,
            **{f"baseline_{key}": value for key, value in judged.baseline.items()},
            f"validation_{entry.metric_name}": float(choice.trial.value or 0.0),
            **{f"trials_{state}": float(count) for state, count in _states(results).items()},
        },
        dataset={
            "name": f"{model}-features",
            "digest": version,
            "source": f"dvc:{model}@{version}",
            "rows": prepared["rows"],
            "columns": [{"name": n, "type": "double", "required": False} for n in form.manifest["feature_names"]],
        },
    )


def _states(results: Sequence[Finished]) -> Counter[str]:
    """How many trials ended how."""
    return Counter(each.trial.state for each in results)
