"""After the study: the best trial's model, refitted, judged on the held-out part, and laid down in its served form.

The refit sees training and validation part together, with the iterations that early stopping found on the validation
part. With a split by time the validation rows are the newest before the held-out ones; to leave them out would serve
an older model.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from include.features.feature_set import FeatureSet
from include.features.profile import profile
from include.settings import Model, cores
from include.training import estimators, evaluation, export, layouts, preparation, tracking, tuning


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
    """Choose, refit, evaluate, draw, export and log; the same call again gives the same model.

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
    threads: int | None,
) -> Fitted:
    threads = threads or cores(entry.tuning.workers)
    trials = records(prepared["study"], optuna_url=optuna_url)
    tracking.log_trials(mlflow_url, prepared["run_id"], [record for record, _ in trials])
    best, name, params = _best(trials, entry, prepared)

    work, classes = Path(prepared["work"]), prepared["classes"]
    estimator, seed = estimators.load(name), int(prepared["seed"])
    layout = estimator.layout(params)
    data = _everything(prepared, layout)
    chosen = estimator.fit(params, data, seed=seed, threads=threads, progress=None)
    X_test = np.load(layouts.find(work, layout)[0] / "X_test.npy", allow_pickle=False)
    y_test = np.load(work / "y_test.npy", allow_pickle=False)
    prediction = estimator.predict(chosen, X_test)
    metrics = evaluation.metrics(entry.task, y_test, prediction)
    value = evaluation.score(entry.metric_name, entry.task, y_test, prediction)
    if not np.isfinite(value):
        raise tuning.StudyFailed(
            f"{model}: {name} has no finite {entry.metric_name} on the held-out part; nothing is registered"
        )
    dummy = estimators.load("dummy")
    guess = dummy.fit(estimators.defaults("dummy", {}, entry.task), data, seed=seed, threads=1, progress=None)
    baseline = evaluation.metrics(entry.task, y_test, dummy.predict(guess, X_test))

    described = json.loads((work / "feature_set.json").read_bytes())
    feature_set = FeatureSet.from_spec(described["spec"], described["definition"])
    preprocessing = layouts.preprocessing(work, layout)
    names = feature_set.names(preprocessing)
    code_version = tracking.code_version(root)
    held = _held_out(work, feature_set)
    rows = np.arange(min(len(y_test), export.CHECKED_ROWS))
    rows = rows[preparation.answerable(held, feature_set, preprocessing, rows)]
    form = export.export(
        work / tracking.SERVED,
        onnx=estimator.to_onnx(chosen),
        booster=estimator.to_booster(chosen),
        explanation=estimator.explanation(chosen),
        predict=lambda X: estimator.predict(chosen, X),
        feature_set=feature_set,
        preprocessing=preprocessing,
        profile={
            **json.loads((work / "profile.json").read_bytes()),
            "prediction": _prediction_profile(prediction),
            "metric": {"name": entry.metric_name, "value": value},
        },
        golden_rows=json.loads((work / "golden_rows.json").read_bytes()),
        manifest={
            "model": model,
            "task": entry.task,
            "target": entry.target,
            "target_unit": entry.serving.units.get(entry.target),
            "entity": entry.entity,
            "description": entry.description,
            "estimator": name,
            "classes": classes,
            "positive": classes[1] if entry.task == "binary" else None,
            "inputs": json.loads((work / "inputs.json").read_bytes()),
            "feature_names": names,
            "unknown_category": feature_set.unknown_category,
            "metric": entry.metric_name,
            "metrics": metrics,
            "baseline": baseline,
            "run_id": prepared["run_id"],
            "feature_version": prepared["feature_version"],
            "code_version": code_version,
            "created_at": dt.datetime.fromtimestamp(best.ended, dt.UTC).isoformat(timespec="seconds"),
            "max_batch": entry.serving.max_batch,
            "extra_field": entry.serving.extra_field,
            "logged": entry.serving.log.inputs,
        },
        real={column: values[rows] for column, values in held.items()},
    )
    share = estimator.importance(chosen)
    importance = {} if share is None else dict(zip(names, map(float, share), strict=True))
    _draw(work / "plots", entry, y_test, prediction, classes, importance, trials, best)
    states = Counter(record.state for record, _ in trials)
    tracking.log_result(
        mlflow_url,
        prepared["run_id"],
        title=f"{name}: {entry.metric_name} {value:.4g}",
        code_version=code_version,
        params={
            "estimator": name,
            **{f"{name}.{key}": v for key, v in params.items()},
            "seed": seed,
            "trial": best.number,
            "rows": prepared["rows"],
            "feature_version": prepared["feature_version"],
            "code_version": code_version,
            "content_hash": form.content_hash,
        },
        metrics={
            **metrics,
            **{f"baseline_{k}": v for k, v in baseline.items()},
            f"validation_{entry.metric_name}": float(best.value or 0.0),
            **{f"trials_{state}": float(n) for state, n in states.items()},
        },
        dataset={
            "name": f"{model}-features",
            "digest": prepared["feature_version"],
            "source": f"dvc:{model}@{prepared['feature_version']}",
            "rows": prepared["rows"],
            "columns": [{"name": n, "type": "double", "required": False} for n in names],
        },
    )
    return Fitted(
        model=model,
        description=entry.description,
        run_id=prepared["run_id"],
        run_url=prepared["run_url"],
        work=str(work),
        estimator=name,
        params=params,
        trial=best.number,
        metric=entry.metric_name,
        direction=entry.direction,
        value=value,
        baseline=baseline[entry.metric_name],
        metrics=metrics,
        content_hash=form.content_hash,
        feature_version=prepared["feature_version"],
        code_version=code_version,
        rows=prepared["rows"],
        test_rows=len(y_test),
        trials=dict(states),
        seconds=round(prepared["seconds"] + time.time() - min(record.began for record, _ in trials), 2),
    )


def records(study: str, *, optuna_url: str) -> list[tuple[tracking.Trial, dict[str, Any]]]:
    """Every finished trial of the study with its user attributes; those put back into the queue are left out."""
    import optuna

    loaded = optuna.load_study(study_name=study, storage=tuning.open_storage(optuna_url))
    return records_of(loaded.get_trials(deepcopy=False))


def records_of(trials: Sequence[Any]) -> list[tuple[tracking.Trial, dict[str, Any]]]:
    """The same of Optuna's trials."""
    from optuna.trial import TrialState

    requeued = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return [
        (
            tracking.Trial(
                number=t.number,
                state=names[t.state],
                value=t.value if t.value is not None and np.isfinite(t.value) else None,
                params=dict(t.params),
                curve={step: v for step, v in tuning.curve_of(t).items() if np.isfinite(v)},
                began=(t.datetime_start or t.datetime_complete).timestamp(),
                ended=(t.datetime_complete or t.datetime_start).timestamp(),
                error=t.user_attrs.get("error"),
            ),
            dict(t.user_attrs),
        )
        for t in trials
        if t.state in names and not (t.state == TrialState.FAIL and t.number in requeued)
    ]


def _best(
    trials: list[tuple[tracking.Trial, dict[str, Any]]], entry: Model, prepared: Mapping[str, Any]
) -> tuple[tracking.Trial, str, dict[str, Any]]:
    """The best complete trial, the first of equal ones; its estimator and settled parameters."""
    usable = [
        (record, attrs["settled"]) for record, attrs in trials if record.state == "complete" and "settled" in attrs
    ]
    if not usable:
        states = Counter(record.state for record, _ in trials)
        reasons = Counter(record.error for record, _ in trials if record.error).most_common(1)
        counts = ", ".join(f"{n} {state}" for state, n in states.items()) or "none finished"
        why = f" Most often: {reasons[0][0]}" if reasons else ""
        raise tuning.StudyFailed(
            f"{prepared['model']}: no trial of the study {prepared['study']} gave a model ({counts}); nothing"
            f" is registered.{why}"
        )
    sign = 1 if entry.direction == "minimize" else -1
    record, settled = min(usable, key=lambda pair: (sign * float(pair[0].value or 0.0), pair[0].number))
    return record, settled["estimator"], settled["params"]


def _everything(prepared: Mapping[str, Any], layout: estimators.Layout) -> estimators.Data:
    """Training and validation part as one."""
    data = tuning.load(prepared, layout)
    X = np.concatenate([data.X, data.X_val])
    y = np.concatenate([data.y, data.y_val])
    return estimators.Data(X, y, None, None, data.task, data.metric, data.classes, data.coded)


def _held_out(work: Path, feature_set: FeatureSet) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    from include.features.columns import from_arrow

    return from_arrow(pq.read_table(work / tracking.EVIDENCE / "holdout.parquet"), feature_set.inputs)


def _prediction_profile(prediction: np.ndarray) -> dict[str, Any]:
    """Of the number, or of the last class's probability (binary: the positive one's)."""
    return dict(profile({"prediction": prediction if prediction.ndim == 1 else prediction[:, -1]})["prediction"])


def _draw(
    folder: Path,
    entry: Model,
    y: np.ndarray,
    prediction: np.ndarray,
    classes: list[Any] | None,
    importance: dict[str, float],
    trials: list[tuple[tracking.Trial, dict[str, Any]]],
    best: tracking.Trial,
) -> None:
    top = sorted((r for r, _ in trials if r.curve), key=lambda r: (r.number != best.number, r.state != "complete"))[:6]
    pictures = evaluation.plots(
        entry.task,
        y,
        prediction,
        metric=entry.metric_name,
        classes=classes,
        importance=importance,
        curves={
            f"trial {r.number}{' (best)' if r.number == best.number else ''}": sorted(r.curve.items()) for r in top
        },
        trials=[
            (r.number, str(r.params.get("estimator")), r.value)
            for r, _ in trials
            if r.state == "complete" and r.value is not None
        ],
    )
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)


def plain(result: Any) -> dict[str, Any]:
    """A result as the plain mapping that goes through XCom."""
    return asdict(result)
