"""Versions crafted by hand: a straight line through one number, sealed, with the evidence that training writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from include import settings, storage
from include.deployment.gate import Exhibit
from include.features.columns import to_arrow
from include.features.compiler import compile_features
from include.features.profile import profile
from include.inference import served_form
from include.training import tracking
from include.training.preparation import request_contract
from include.training.preparation.rows import fingerprints
from tests.include.serving.crafted import linear_graph

TYPES: dict[str, settings.ColumnType] = {"at": "timestamp", "x": "float", "zone": "string", "y": "float"}


def rows(count: int = 400, *, seed: int = 1, first_day: str = "2024-01-01", per_day: int = 20) -> dict[str, np.ndarray]:
    """y = 3 x + noise, in the order of time."""
    random = np.random.default_rng(seed)
    x = random.uniform(1, 10, count)
    minutes = np.arange(count) * (1440 // per_day)
    return {
        "at": np.datetime64(first_day, "us") + minutes.astype("timedelta64[m]"),
        "x": x,
        "zone": random.choice(np.array(["a", "b", "c"], dtype=object), count),
        "y": 3 * x + random.normal(0, 0.5, count),
    }


def entry(**changes: Any) -> settings.Model:
    return settings.Model.model_validate({"source": "s", "target": "y", "task": "regression", **changes})


def craft(
    folder: Path,
    columns: dict[str, np.ndarray],
    *,
    slope: float = 3.0,
    held: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    baseline: float = 6.0,
    feature_version: str = "f1",
    features: settings.Features | None = None,
    run_id: str = "run",
    model: str = "m",
) -> Exhibit:
    """A version that answers `slope * x`; `held` and `trained` are masks, by default the last and the other rows."""
    count = len(columns["y"])
    held = np.arange(count) >= count * 0.8 if held is None else held
    trained = ~held if trained is None else trained
    raw = {name: values for name, values in columns.items() if name != "y"}
    compiled = compile_features(
        features or settings.Features(columns=("x",)),
        source_columns=TYPES, target="y", entity=None, time_column="at", root=Path(__file__).parents[3],
    )  # fmt: skip
    computed = compiled.compute(raw)
    fitted, matrix = compiled.fit(computed, columns["y"], task="regression", seed=1)
    fitted = json.loads(json.dumps(fitted))
    weights = np.zeros((matrix.shape[1], 1))
    weights[0] = slope
    form_folder = folder / "served"
    form_folder.mkdir(parents=True)
    inputs = {name: raw[name] for name in compiled.inputs}
    golden = request_contract.as_rows(inputs, compiled.inputs, [0, 1, 2])
    error = float(np.abs(columns["y"][held] - slope * columns["x"][held]).mean()) if held.any() else 0.0
    metrics = {"mae": error}
    documents = {
        "preprocessing.json": fitted,
        "golden.json": {"rows": golden, "expected": (slope * raw["x"][:3]).tolist(), "tolerance": 1e-5},
        "profile.json": {
            "rows": int(trained.sum()),
            "columns": profile({n: v[trained] for n, v in {**inputs, **computed}.items()}),
            "prediction": profile({"prediction": slope * raw["x"][trained]})["prediction"],
            "metric": {"name": "mae", "value": error},
        },
    }
    for name, document in documents.items():
        (form_folder / name).write_text(json.dumps(document))
    (form_folder / "model.onnx").write_bytes(linear_graph(weights))
    form = served_form.seal(
        form_folder,
        {
            "model": model, "task": "regression", "target": "y", "estimator": "linear", "classes": None,
            "positive": None,
            "inputs": request_contract.describe_inputs(inputs, compiled.inputs), "features": compiled.spec,
            "feature_names": compiled.names(fitted), "unknown_category": "other", "metric": "mae", "metrics": metrics,
            "baseline": {"mae": baseline}, "run_id": run_id, "feature_version": feature_version, "code_version": "c",
            "created_at": "2024-02-01T00:00:00+00:00", "max_batch": 100,
        },
    )  # fmt: skip
    np.save(folder / "example.npy", matrix[:3])
    identity = fingerprints({**inputs, "y": columns["y"], "\0time": columns["at"]})
    evidence(folder / "evidence", to_arrow(columns).filter(pa.array(held)), identity[held], identity[trained])
    return Exhibit(form, folder / "evidence")


def evidence(folder: Path, held: pa.Table, held_rows: np.ndarray, trained_rows: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_table(str(folder / "holdout.parquet"), held)
    np.save(folder / "holdout_rows.npy", held_rows, allow_pickle=False)
    np.save(folder / "training_rows.npy", np.sort(trained_rows), allow_pickle=False)
    names = ("holdout.parquet", "training_rows.npy", "holdout_rows.npy")
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "split.json").write_text(json.dumps({"by": "time", "files": files}))


def register(folder: Path, columns: dict[str, np.ndarray], *, mlflow_url: str, database_url: str, **options: Any):
    """Craft a version and register it as training does; returns MLflow's candidate."""
    model = options["model"]
    run = tracking.start_run(mlflow_url, model=model, run_key=f"{model}-{folder.name}", tags={})
    made = craft(folder, columns, run_id=run.run_id, **options)
    (folder / "plots").mkdir()
    (folder / "plots" / "note.txt").write_text("none")
    fitted = {
        "model": model, "description": "", "run_id": run.run_id, "run_url": run.url, "work": str(folder),
        "estimator": "linear", "metric": "mae", "direction": "minimize", "value": made.form.manifest["metrics"]["mae"],
        "baseline": 6.0, "content_hash": made.form.content_hash, "feature_version": "f1", "code_version": "c",
        "rows": len(columns["y"]), "test_rows": 80, "seconds": 0.0,
    }  # fmt: skip
    return tracking.register(fitted, mlflow_url=mlflow_url, database_url=database_url)


def with_form(exhibit: Exhibit, form: served_form.ServedForm) -> Exhibit:
    return dataclasses.replace(exhibit, form=form)
