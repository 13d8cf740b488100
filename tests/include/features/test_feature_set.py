"""Feature sets: computed, learned, stored and brought back, the same for one row and for many."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from include.features.columns import ColumnType, from_rows
from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet
from include.settings import ROOT, load_params
from tests.include.features.compiling import compiled


def test_everything_declared_compiles_and_survives_json() -> None:
    made = compiled(
        derived={"old": "age > 60", "years": "days(seen - since) / 365.25"},
        date_parts={"since": ["month", "weekday"]},
        impute={"age": "median"}, bin={"years": 3}, one_hot=["city"], standard_scaler=["age"],
    )  # fmt: skip
    assert list(made.kinds) == ["age", "city", "member", "old", "years", "since_month", "since_weekday"]
    assert made.inputs["seen"] == "timestamp", "a formula may read the time column"
    rows: list[dict[str, Any]] = [
        {"age": 61.0, "city": "b", "member": True, "since": "2020-01-01", "seen": "2024-01-01"},
        {"seen": "2024-01-01"},
    ] * 5
    columns = made.compute(from_rows(rows, made.inputs))
    fitted, X = made.fit(columns, np.arange(10.0), task="regression", seed=1)
    again = FeatureSet.from_spec(json.loads(json.dumps(made.spec)), made.definition)
    learned = json.loads(json.dumps(fitted))
    np.testing.assert_array_equal(again.transform(learned, again.compute(from_rows(rows, again.inputs))), X)
    assert again.names(learned) == made.names(fitted)
    assert again.outputs["city"] == "string"


def test_the_shipped_definition_gives_one_row_the_bits_it_gives_among_many() -> None:
    entry = load_params(ROOT / "params.yaml").models["trip_duration"]
    types: dict[str, ColumnType] = {
        "pickup_datetime": "timestamp", "dropoff_datetime": "timestamp", "trip_distance": "float",
        "pickup_location_id": "int",
        "dropoff_location_id": "int", "vendor_id": "int", "passenger_count": "int",
        "rate_code_id": "int", "duration_minutes": "float",
    }  # fmt: skip
    made = compile_features(
        entry.features,
        source_columns=types,
        target="duration_minutes",
        entity=None,
        time_column="pickup_datetime",
        root=ROOT,
    )
    rng = np.random.default_rng(4)
    n = 500
    raw = {
        "pickup_datetime": np.datetime64("2018-01-01", "us") + rng.integers(0, 10**13, n) * np.timedelta64(1, "us"),
        "trip_distance": rng.gamma(2, 2, n),
        "pickup_location_id": rng.integers(1, 40, n).astype(float),
        "dropoff_location_id": rng.integers(1, 40, n).astype(float),
        "vendor_id": np.ones(n), "passenger_count": np.where(rng.random(n) < 0.1, np.nan, 2.0),
        "rate_code_id": np.ones(n),
    }  # fmt: skip
    raw["pickup_datetime"][7] = np.datetime64("NaT")
    columns = made.compute(raw)
    assert all(values.dtype == np.float64 for values in columns.values())
    assert np.isnan([columns[name][7] for name in ("hour", "weekday", "rush_hour", "hour_sine")]).all()
    fitted, _ = made.fit(columns, rng.gamma(2, 5, n), task="regression", seed=1)
    whole = made.transform(fitted, columns)
    alone = np.concatenate(
        [made.transform(fitted, made.compute({k: v[i : i + 1] for k, v in raw.items()})) for i in range(n)]
    )
    assert np.array_equal(whole, alone, equal_nan=True)


def test_the_room_is_light_enough_for_the_service() -> None:
    code = (
        "import sys, include.features.feature_set, include.features.columns, include.features.profile;"
        "heavy = {'pandas', 'sklearn', 'mlflow', 'dvc', 'xgboost', 'sqlalchemy', 'airflow', 'pyarrow'};"
        "heavy &= set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
