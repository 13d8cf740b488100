"""The one model that everyone serves: generated deliveries, 8 scaled numbers and 4 categories, 300 trees of depth 6.

`python -m benchmarks.serving.model <folder>` fits it as the platform's training does, and lays it down in the form
that each contender knows:

    served/  served-2/      the platform's served form, and a second version to swap with
    booster.ubj             XGBoost's own format
    preprocessing.json      means, deviations and categories, for the hand-written contenders
    pipeline.joblib         the same as a scikit-learn Pipeline
    rows.json               rows as clients send them, from the training data, with the booster's answers
    mlflow/                 the Pipeline, as MLflow saves it
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

NAME = "delivery"
NUMBERS = ("weight", "volume", "distance", "stops", "traffic", "rain", "wind", "hour")
CATEGORIES = ("city", "carrier", "vehicle", "weekday")
TARGET = "minutes"
TREES, DEPTH = 300, 6
TRAINED_ROWS, SENT_ROWS = 20_000, 2_048
_VALUES = {
    "city": ("Lisbon", "Madrid", "Milan", "Paris", "Vienna", "Zurich"),
    "carrier": ("blue", "green", "red", "white"),
    "vehicle": ("bike", "car", "truck", "van"),
    "weekday": ("friday", "monday", "saturday", "sunday", "thursday", "tuesday", "wednesday"),
}


def generated(rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns, and the minutes that the deliveries took: not linear, and not free of noise."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {
        "weight": np.round(rng.gamma(2.0, 4.0, rows), 2),
        "volume": np.round(rng.gamma(1.5, 30.0, rows), 1),
        "distance": np.round(rng.gamma(2.2, 5.0, rows), 2),
        "stops": rng.integers(1, 40, rows).astype(np.float64),
        "traffic": np.round(rng.beta(2, 4, rows), 3),
        "rain": np.round(np.maximum(rng.normal(-1, 2, rows), 0), 1),
        "wind": np.round(rng.gamma(2, 8, rows), 1),
        "hour": np.round(rng.uniform(6, 22, rows), 2),
    }
    for name, values in _VALUES.items():
        columns[name] = rng.choice(np.array(values, dtype=object), rows)
    slow = np.where(columns["vehicle"] == "bike", 1.8, 1.0) * (1 + columns["traffic"] * 1.5)
    rush = np.exp(-((columns["hour"] - 17.5) ** 2) / 3)
    minutes = 4 + columns["distance"] * 2.1 * slow * (1 + 0.4 * rush) + columns["stops"] * 1.3
    minutes += np.where(columns["rain"] > 1, 6, 0) + np.where(columns["city"] == "Paris", 5, 0) + columns["wind"] * 0.05
    return columns, np.round(minutes * rng.lognormal(0, 0.08, rows), 2)


def make(folder: Path) -> None:
    """Fit, and write all but MLflow's form; what was in the folder is replaced."""
    import joblib

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    columns, target = generated(TRAINED_ROWS, seed=1)
    features = _features()
    computed = features.compute(columns)
    learned, X = features.fit(computed, target, task="regression", seed=1)
    learned = json.loads(json.dumps(learned))
    X = features.transform(learned, computed)
    rows = _rows(columns, SENT_ROWS)
    booster = None
    for name, rate in (("served-2", 0.08), ("served", 0.1)):
        fitted = _fit(X, target, rate)
        _export(folder / name, fitted, features, learned, columns, target, rows[:20])
        booster = fitted.booster
    assert booster is not None
    booster.save_model(folder / "booster.ubj")
    plain = _plain(learned)
    _write(folder / "preprocessing.json", plain)
    pipeline = _pipeline(folder / "booster.ubj", plain)
    joblib.dump(pipeline, folder / "pipeline.joblib")
    answers = booster.inplace_predict(X[:SENT_ROWS].astype(np.float32))
    _write(folder / "rows.json", {"rows": rows, "predictions": [float(answer) for answer in answers]})


def _features() -> Any:
    """The platform's features, as params.yaml would declare them."""
    from include import settings
    from include.features.compiler import compile_features

    types: dict[str, settings.ColumnType] = {}
    types |= dict.fromkeys(NUMBERS, "float")
    types |= dict.fromkeys(CATEGORIES, "string")
    return compile_features(
        settings.Features(standard_scaler=NUMBERS, one_hot=CATEGORIES),
        source_columns={**types, TARGET: "float"},
        target=TARGET,
        entity=None,
        time_column=None,
        root=Path(__file__).parents[2],
    )


def _fit(X: np.ndarray, target: np.ndarray, learning_rate: float) -> Any:
    from include.training import estimators
    from include.training.estimators import xgboost

    params = estimators.defaults("xgboost", {}, "regression") | {
        "n_estimators": TREES,
        "max_depth": DEPTH,
        "learning_rate": learning_rate,
    }
    data = estimators.Data(X, target, None, None, "regression", "mae", 0)
    return xgboost.fit(params, data, seed=7, threads=1, progress=None)


def _export(
    into: Path,
    fitted: Any,
    features: Any,
    learned: dict[str, Any],
    columns: dict[str, np.ndarray],
    target: np.ndarray,
    golden: list[dict[str, Any]],
) -> None:
    """As fitting.py does it, with the same check that the served form answers as the trained model."""
    from include.features.profile import profile
    from include.training import evaluation, export
    from include.training.estimators import xgboost
    from include.training.preparation import request_contract

    categories = {entry["column"]: entry["categories"] for entry in learned["columns"] if "categories" in entry}
    prediction = xgboost.predict(fitted, features.transform(learned, features.compute(columns)))
    metrics = evaluation.metrics("regression", target, prediction)
    export.export(
        into,
        onnx=xgboost.to_onnx(fitted),
        booster=xgboost.to_booster(fitted),
        explanation=xgboost.explanation(fitted),
        predict=lambda X: xgboost.predict(fitted, X),
        feature_set=features,
        preprocessing=learned,
        profile={
            "rows": len(target),
            "columns": profile(columns),
            "prediction": profile({"prediction": prediction})["prediction"],
            "metric": {"name": "mae", "value": metrics["mae"]},
        },
        golden_rows=golden,
        manifest={
            "model": NAME,
            "task": "regression",
            "target": TARGET,
            "target_unit": "min",
            "entity": None,
            "description": "Minutes that a generated delivery takes.",
            "estimator": "xgboost",
            "classes": None,
            "positive": None,
            "inputs": request_contract.describe_inputs(columns, features.inputs, learned=categories),
            "feature_names": features.names(learned),
            "unknown_category": features.unknown_category,
            "metric": "mae",
            "metrics": metrics,
            "baseline": {},
            "run_id": "benchmark",
            "feature_version": "benchmark",
            "code_version": "benchmark",
            "created_at": "2018-01-01T00:00:00+00:00",
            "max_batch": 10_000,
            "extra_field": "error",
        },
        real=columns,
    )


def _plain(learned: dict[str, Any]) -> dict[str, Any]:
    """What the features learned, in the words of somebody who writes the service by hand."""
    by_column = {entry["column"]: entry for entry in learned["columns"]}
    assert list(by_column) == [*NUMBERS, *CATEGORIES], "the matrix holds the numbers, then the categories"
    return {
        "numbers": {name: by_column[name]["scale"][0] for name in NUMBERS},
        "categories": {name: by_column[name]["categories"] for name in CATEGORIES},
    }


def _pipeline(booster: Path, plain: dict[str, Any]) -> Any:
    """scikit-learn's Pipeline around the same booster, with the same means, deviations and categories."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from xgboost import XGBRegressor

    columns, _ = generated(TRAINED_ROWS, seed=1)
    one_hot = OneHotEncoder(
        categories=[plain["categories"][name] for name in CATEGORIES], handle_unknown="ignore", sparse_output=False
    )
    preprocessing = ColumnTransformer(
        [("numbers", StandardScaler(), list(NUMBERS)), ("categories", one_hot, list(CATEGORIES))]
    ).fit(pd.DataFrame(columns))
    scaler = preprocessing.named_transformers_["numbers"]
    scaler.mean_ = np.array([plain["numbers"][name][0] for name in NUMBERS])  # equal to the last bit
    scaler.scale_ = np.array([plain["numbers"][name][1] for name in NUMBERS])
    regressor = XGBRegressor(n_jobs=1)
    regressor.load_model(booster)
    regressor.set_params(n_jobs=1)
    return Pipeline([("preprocessing", preprocessing), ("regressor", regressor)])


def save_with_mlflow(folder: Path) -> None:
    """With a signature, as one logs it: the server then checks types. The pickle is our own, of a minute ago."""
    import joblib
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature

    pipeline = joblib.load(folder / "pipeline.joblib")
    columns, _ = generated(100, seed=2)
    frame = pd.DataFrame(columns)
    mlflow.sklearn.save_model(
        pipeline,
        folder / "mlflow",
        signature=infer_signature(frame, pipeline.predict(frame)),
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn", "xgboost"],
    )


def _rows(columns: dict[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    return [{name: columns[name][i] for name in (*NUMBERS, *CATEGORIES)} for i in range(count)]


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    save_with_mlflow(Path(sys.argv[1]))
