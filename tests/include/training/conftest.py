"""A small model with numbers, text, missing values and days: laid down, tuned and fitted with the real code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include import storage
from include.features.columns import from_arrow, to_arrow, types_of
from include.features.compiler import compile_features
from include.settings import Model
from include.training import preparation, tracking, tuning

ROOT = Path(__file__).resolve().parents[3]
FAST = {"linear": {}, "xgboost": {"n_estimators": 40, "early_stopping_rounds": 5}}


def entry_for(task: str, **changes: Any) -> Model:
    values = {
        "source": "rides",
        "target": "minutes",
        "task": task,
        "time_column": "at",
        "features": {"exclude": ["at"], "derived": {"longer": "distance * 2"}, "one_hot": ["zone"]},
        "estimators": FAST,
        "tuning": {"trials": 5, "time_budget": 120},
    }
    return Model.model_validate({**values, **changes})


def rides(rows: int, task: str, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    distance = random.gamma(2.0, 2.0, rows)
    zone = random.choice(["north", "south", "harbour"], rows, p=[0.6, 0.35, 0.05])
    minutes = 4 * distance + 5 * (zone == "south") + random.normal(size=rows)
    target: Any = minutes
    if task == "binary":
        target = np.where(minutes > 18, "late", "early")
    elif task == "multiclass":
        target = np.digitize(minutes, [10, 20])
    return pa.table(
        {
            "at": np.datetime64("2024-01-01T00:00:00", "us") + np.arange(rows) * np.timedelta64(3600, "s"),
            "distance": pa.array(np.where(random.random(rows) < 0.05, np.nan, distance), from_pandas=True),
            "zone": pa.array([None if random.random() < 0.03 else z for z in zone]),
            "minutes": target,
        }
    )


def write_features(folder: Path, entry: Model, table: pa.Table, time_column: str | None = "at") -> Path:
    """What the DVC stage lays down, in two partitions."""
    folder.mkdir(parents=True, exist_ok=True)
    types = types_of(table.schema)
    feature_set = compile_features(
        entry.features,
        source_columns=types,
        target=entry.target,
        entity=entry.entity,
        time_column=time_column,
        root=ROOT,
    )
    computed = to_arrow(feature_set.compute(from_arrow(table, feature_set.inputs)))
    for name in computed.column_names:
        if name not in table.column_names:
            table = table.append_column(name, computed.column(name))
    half = len(table) // 2
    storage.write_table(str(folder / "2024-01-01.parquet"), table.slice(0, half))
    storage.write_table(str(folder / "2024-01-02.parquet"), table.slice(half))
    (folder / "feature_set.json").write_text(
        json.dumps({"spec": feature_set.spec, "definition": feature_set.definition})
    )
    return folder


@dataclasses.dataclass(frozen=True)
class Laboratory:
    """One training's servers and folder."""

    root: Path
    database_url: str
    optuna_url: str
    mlflow_url: str

    def lay_down(self, entry: Model, table: pa.Table, key: str = "run 1", **overrides: Any) -> dict[str, Any]:
        time_column = entry.time_column
        folder = write_features(self.root / "features", entry, table, time_column)
        prepared = preparation.lay_down(
            self.model,
            entry,
            folder,
            run_key=f"{self.root.name}/{key}",
            work=self.root / key,
            time_column=time_column,
            overrides=overrides,
            feature_version="f" * 32,
            dvc_lock="schema: '2.0'\n",
            optuna_url=self.optuna_url,
            mlflow_url=self.mlflow_url,
            origin_url="http://airflow/dags/train_ride/runs/run%201",
        )
        return json.loads(json.dumps(asdict(prepared)))  # as XCom carries it

    @property
    def model(self) -> str:
        return f"ride_{abs(hash(self.root)) % 10**8}"

    def tune(self, entry: Model, prepared: dict[str, Any], **options: Any) -> tuning.Tuned:
        return tuning.tune(
            self.model,
            entry,
            prepared,
            worker=0,
            optuna_url=self.optuna_url,
            database_url=self.database_url,
            **options,
        )

    def fit(self, entry: Model, prepared: dict[str, Any]) -> dict[str, Any]:
        from include.training import fitting

        fitted = fitting.fit(
            self.model, entry, prepared, optuna_url=self.optuna_url, mlflow_url=self.mlflow_url, root=ROOT, threads=1
        )
        return json.loads(json.dumps(asdict(fitted)))

    def register(self, fitted: dict[str, Any]) -> tracking.Candidate:
        return tracking.register(fitted, mlflow_url=self.mlflow_url, database_url=self.database_url)


@pytest.fixture
def laboratory(tmp_path: Path, database_url: str, optuna_url: str, mlflow_url: str) -> Laboratory:
    return Laboratory(tmp_path, database_url, optuna_url, mlflow_url)


@pytest.fixture
def trained(laboratory: Laboratory) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Lay down, tune and fit: (prepared, fitted)."""

    def train(task: str = "regression", rows: int = 400, key: str = "run 1", **changes: Any) -> Any:
        entry = entry_for(task, **changes)
        prepared = laboratory.lay_down(entry, rides(rows, task), key)
        laboratory.tune(entry, prepared)
        return prepared, laboratory.fit(entry, prepared)

    return train


def free_laboratory(root: Path) -> Laboratory:
    """For what must fail before any server is asked: the addresses lead nowhere."""
    return Laboratory(root, "", "", "")
