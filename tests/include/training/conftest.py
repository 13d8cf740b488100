"""A small model with numbers, text, missing values and days: prepared, tuned and fitted with the real code."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
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
from include.training import fitting, preparation, tracking, tuning
from tests.conftest import fresh_database

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
    """What the DVC stage writes, in two partitions."""
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

    def materialize(self, entry: Model, table: pa.Table, key: str = "run 1", **overrides: Any) -> dict[str, Any]:
        training = preparation.Training.of(
            self.model,
            entry,
            run_key=f"{self.root.name}/{key}",
            time_column=entry.time_column,
            overrides=overrides,
            origin_url="http://airflow/dags/train_ride/runs/run%201",
        )
        prepared = preparation.materialize(
            training,
            write_features(self.root / "features", entry, table, entry.time_column),
            self.root / key,
            feature_version="f" * 32,
            dvc_lock="schema: '2.0'\n",
            optuna_url=self.optuna_url,
            mlflow_url=self.mlflow_url,
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
            threads=1,  # several that wait for each other on a busy machine take many times as long
            **options,
        )

    def fit(self, entry: Model, prepared: dict[str, Any]) -> dict[str, Any]:
        fitted = fitting.fit(
            self.model, entry, prepared, optuna_url=self.optuna_url, mlflow_url=self.mlflow_url, root=ROOT, threads=1
        )
        return json.loads(json.dumps(asdict(fitted)))

    def train(self, entry: Model, table: pa.Table, key: str = "run 1") -> tuple[dict[str, Any], dict[str, Any]]:
        """All of it: (prepared, fitted)."""
        prepared = self.materialize(entry, table, key)
        self.tune(entry, prepared)
        return prepared, self.fit(entry, prepared)

    def repeat(self, fitted: dict[str, Any]) -> dict[str, Any]:
        """A training of this laboratory's model that ended as another did: its files, under a run of its own."""
        work = shutil.copytree(fitted["work"], self.root / "repeated")
        run = tracking.start_run(self.mlflow_url, model=self.model, run_key=self.root.name, tags={})
        return {**fitted, "model": self.model, "work": str(work), "run_id": run.run_id, "run_url": run.url}

    def register(self, fitted: dict[str, Any]) -> tracking.Candidate:
        return tracking.register(fitted, **self.registry)

    @property
    def registry(self) -> dict[str, str]:
        """Where versions are registered."""
        return {"mlflow_url": self.mlflow_url, "database_url": self.database_url}

    @property
    def versions(self) -> list[int]:
        return tracking.versions(self.model, **self.registry)


@pytest.fixture
def laboratory(tmp_path: Path, database_url: str, optuna_url: str, mlflow_url: str) -> Laboratory:
    return Laboratory(tmp_path, database_url, optuna_url, mlflow_url)


@pytest.fixture
def trained(laboratory: Laboratory) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Prepare, tune and fit: (prepared, fitted)."""

    def train(task: str = "regression", rows: int = 400, key: str = "run 1", **changes: Any) -> Any:
        return laboratory.train(entry_for(task, **changes), rides(rows, task), key)

    return train


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished training that tests share: they change nothing of it."""

    laboratory: Laboratory
    prepared: dict[str, Any]
    fitted: dict[str, Any]


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, template_database: str, mlflow_url: str
) -> Iterator[Callable[[str], Trained]]:
    """One training of each task, for tests that need a finished one and not one of their own."""
    with (
        fresh_database(postgres_url, template_database) as database_url,
        fresh_database(postgres_url, "template1") as optuna_url,
    ):

        @functools.cache
        def trained_once(task: str) -> Trained:
            laboratory = Laboratory(tmp_path_factory.mktemp(task), database_url, optuna_url, mlflow_url)
            return Trained(laboratory, *laboratory.train(entry_for(task), rides(400, task)))

        yield trained_once


@pytest.fixture
def fitted(laboratory: Laboratory, shared: Callable[[str], Trained]) -> dict[str, Any]:
    """A fitted regression, ready to be registered as this laboratory's."""
    return laboratory.repeat(shared("regression").fitted)


def free_laboratory(root: Path) -> Laboratory:
    """For what must fail before any server is asked: the addresses lead nowhere."""
    return Laboratory(root, "", "", "")
