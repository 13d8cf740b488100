"""Served forms of small models that were really trained and exported, on numbers and text, with values missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from include import settings
from include.features.columns import from_rows
from include.features.compiler import compile_features
from include.inference.served_form import ServedForm
from include.training import estimators, export

TYPES: dict[str, settings.ColumnType] = {"a": "float", "b": "float", "c": "float", "kind": "string", "y": "float"}
CLASSES: dict[settings.Task, list[str] | None] = {
    "regression": None,
    "binary": ["no", "yes"],
    "multiclass": ["low", "mid", "top"],
}


@dataclass(frozen=True)
class Planted:
    """A sealed form, the fitted estimator in it, and rows like those that it learned from."""

    form: ServedForm
    fitted: Any
    columns: dict[str, np.ndarray]
    matrix: np.ndarray

    def first(self, rows: int) -> dict[str, np.ndarray]:
        return {name: values[:rows] for name, values in self.columns.items()}


def rows_of(count: int, seed: int = 1) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(count, 3))
    return [
        {"a": x, "b": None if random.random() < 0.1 else y, "c": z, "kind": random.choice(["p", "q", "r"]).item()}
        for x, y, z in numbers.tolist()
    ]


def plant(
    directory: Path, name: str = "xgboost", task: settings.Task = "regression", *, rows: int = 600, **params: Any
) -> Planted:
    """Train an estimator of include/training/estimators and export it, with all the checks of an export."""
    given = rows_of(rows)
    features = compile_features(
        settings.Features(one_hot=("kind",), standard_scaler=("a", "b")),
        source_columns=TYPES, target="y", entity=None, time_column=None, root=Path(__file__).parents[3],
    )  # fmt: skip
    columns = from_rows(given, features.inputs)
    score = 5 + 2 * columns["a"] - np.nan_to_num(columns["b"]) * columns["c"] + 3 * (columns["kind"] == "q")
    cuts: dict[settings.Task, list[float]] = {"binary": [5], "multiclass": [4, 7]}
    y = np.exp(score / 5) + 1 if task == "regression" else np.digitize(score, cuts[task]).astype(float)
    preprocessing, X = features.fit(features.compute(columns), y, task=task, seed=1)
    preprocessing = json.loads(json.dumps(preprocessing))
    classes = CLASSES[task]
    estimator = estimators.load(name)
    data = estimators.Data(X, y, None, None, task, "mae", len(classes or ()))
    small = {"xgboost": {"n_estimators": 30, "max_depth": 4}, "random_forest": {"n_estimators": 12, "max_depth": 6}}
    point = {**estimators.defaults(name, {}, task), **small.get(name, {}), **params}
    fitted = estimator.fit(point, data, seed=3, threads=1, progress=None)
    inputs = [{"name": n, "type": k, "required": n != "b", "example": given[0][n]} for n, k in features.inputs.items()]
    manifest: dict[str, Any] = {
        "model": "planted", "task": task, "target": "y", "estimator": name, "classes": classes,
        "positive": "yes" if task == "binary" else None,
        "inputs": [{**entry, "categories": None, "minimum": None, "maximum": None} for entry in inputs],
        "feature_names": features.names(preprocessing), "unknown_category": "other", "metric": "mae", "metrics": {},
        "run_id": "r", "feature_version": "f", "code_version": "c", "created_at": "2018-02-01T00:00:00+00:00",
        "max_batch": 10_000,
    }  # fmt: skip
    form = export.export(
        directory,
        onnx=estimator.to_onnx(fitted),
        booster=estimator.to_booster(fitted),
        explanation=estimator.explanation(fitted),
        predict=lambda X: estimator.predict(fitted, X),
        feature_set=features,
        preprocessing=preprocessing,
        profile={},
        golden_rows=given[:40],
        manifest=manifest,
        real=columns,
    )
    return Planted(form, fitted, columns, X.astype(np.float32))


def resealed(form: ServedForm, **files: bytes | None) -> ServedForm:
    """The form with other bytes in some of its files, or (None) without them, and right hashes."""
    from include.inference import served_form

    for name, content in files.items():
        path = form.directory / name.replace("_", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    manifest = {key: value for key, value in form.manifest.items() if key not in ("files", "format")}
    return served_form.seal(form.directory, manifest)
