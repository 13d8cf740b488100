"""Who computes trees fastest, for how many rows: onnxruntime or XGBoost's library, and what the predictor adds to it.

    python benchmarks/kernels.py [--rounds 9]                about 40 s; prints microseconds, medians of the rounds

Two models of 300 trees of depth 6: `delivery`, which benchmarks/serving serves (8 scaled numbers, 4 one-hot
categories), and one on the features of the definition `trip_duration`. Rounds are interleaved, by the processor's own
time, and no call sees the rows of the call before: a processor that knows a row's branches is three times as fast.

`predict` is all that the service does between checked columns and the answers. `explain` is one row's, by TreeSHAP.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.serving import model as delivery
from include import settings
from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet
from include.inference import runtimes
from include.inference.predictor import Predictor
from include.training import estimators, export

ROOT = Path(__file__).resolve().parent.parent
ROWS = (1, 16, 32, 64, 100, 1_000)
CALLS = {1: 100, 16: 60, 32: 40, 64: 30, 100: 20, 1_000: 4}
Columns = dict[str, np.ndarray]


def trips(rows: int) -> tuple[FeatureSet, Columns, np.ndarray]:
    """Made up, with the shape of trip_duration: 8 columns by the clock, 10 others, a target encoding."""
    random = np.random.default_rng(1)
    columns: dict[str, np.ndarray] = {
        "pickup_datetime": np.datetime64("2018-01-01T00:00:00", "us")
        + random.integers(0, 30 * 86_400, rows) * np.timedelta64(1, "s"),
        "trip_distance": random.gamma(2, 2, rows),
        "pickup_location_id": random.integers(1, 264, rows) * 1.0,
        "dropoff_location_id": random.integers(1, 264, rows) * 1.0,
        "vendor_id": random.integers(1, 3, rows) * 1.0,
        "passenger_count": random.integers(1, 6, rows) * 1.0,
        "rate_code_id": random.integers(1, 5, rows) * 1.0,
    }
    minutes = 4 * columns["trip_distance"] + 5 * np.sin(columns["pickup_location_id"] / 30) + random.normal(size=rows)
    types: dict[str, settings.ColumnType] = {"pickup_datetime": "timestamp", "trip_distance": "float", "y": "float"}
    features = compile_features(
        settings.Features(definition="trip_duration", target_encoding=("route",)),
        source_columns={**dict.fromkeys(columns, "int"), **types},
        target="y",
        entity=None,
        time_column=None,
        root=ROOT,
    )
    return features, columns, minutes


def planted(folder: Path, features: FeatureSet, columns: Columns, target: np.ndarray) -> Predictor:
    """A served form of 300 trees of depth 6, as training exports it, loaded as the service loads it."""
    learned, X = features.fit(features.compute(columns), target, task="regression", seed=1)
    learned = json.loads(json.dumps(learned))
    estimator = estimators.load("xgboost")
    data = estimators.Data(X, target, None, None, "regression", "mae", 0)
    point = {**estimators.defaults("xgboost", {}, "regression"), "n_estimators": 300, "max_depth": 6}
    fitted = estimator.fit(point, data, seed=1, threads=1, progress=None)
    rows = [{name: plain(values[row]) for name, values in columns.items()} for row in range(50)]
    bare = {"required": True, "categories": None, "minimum": None, "maximum": None}
    manifest = {
        "model": "benchmark", "task": "regression", "target": "y", "estimator": "xgboost", "classes": None,
        "inputs": [{"name": n, "type": kind, "example": rows[0][n], **bare} for n, kind in features.inputs.items()],
        "feature_names": features.names(learned), "unknown_category": "other", "max_batch": 10_000,
    }  # fmt: skip
    form = export.export(
        folder,
        onnx=estimator.to_onnx(fitted),
        booster=estimator.to_booster(fitted),
        explanation=estimator.explanation(fitted),
        predict=lambda X: estimator.predict(fitted, X),
        feature_set=features,
        preprocessing=learned,
        profile={},
        golden_rows=rows,
        manifest=manifest,
        real=columns,
    )
    return Predictor.load(form)


def plain(value: Any) -> Any:
    """A value of a column as JSON holds it."""
    return str(value) if isinstance(value, np.datetime64) else value.item() if isinstance(value, np.generic) else value


def microseconds(run: Callable[[Any], object], given: Sequence[Any]) -> float:
    """Of one call."""
    began = time.thread_time()
    for part in given:
        run(part)
    return (time.thread_time() - began) / len(given) * 1e6


def measure(predictor: Predictor, folder: Path, columns: Columns, rounds: int) -> None:
    """One line for each number of rows."""
    onnx = runtimes.Onnx((folder / "model.onnx").read_bytes())
    booster = runtimes.Booster((folder / "booster.ubj").read_bytes())
    print(f"{'rows':>6}{'onnxruntime':>13}{'libxgboost':>12}{'ratio':>7}{'columns':>10}{'predict':>9}{'explain':>10}")
    for rows in ROWS:
        starts = [call * rows % (19_000 - rows) for call in range(CALLS[rows])]
        parts = [{name: values[start : start + rows] for name, values in columns.items()} for start in starts]
        matrices = [predictor.matrix(part) for part in parts]
        contenders: list[tuple[Callable[[Any], object], Sequence[Any]]] = [
            (onnx.predict, matrices), (booster.predict, matrices),
            (predictor.matrix, parts), (predictor.predict, parts),
            (booster.contributions, matrices[:3] if rows == 1 else []),
        ]  # fmt: skip
        found: list[list[float]] = [[] for _ in contenders]
        for _ in range(rounds):
            for times, (run, given) in zip(found, contenders, strict=True):
                if given:
                    times.append(microseconds(run, given))
        few, many, matrix, predict, *explain = (statistics.median(times) for times in found if times)
        told = f"{explain[0]:>10,.0f}" if explain else ""
        print(f"{rows:>6,}{few:>13,.0f}{many:>12,.0f}{few / many:>7.2f}{matrix:>10,.1f}{predict:>9,.0f}{told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    columns, target = delivery.generated(20_000, seed=1)
    for name, (features, given, y) in {
        "delivery": (delivery._features(), columns, target),
        "trip_duration": trips(20_000),
    }.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "served"
            predictor = planted(folder, features, given, y)
            print(f"\n{name}: {len(predictor.manifest['feature_names'])} columns; XGBoost from", end=" ")
            print(f"{predictor.crossover} rows on; holds about {predictor.nbytes / 2**20:.0f} MB")
            measure(predictor, folder, given, rounds)


if __name__ == "__main__":
    main()
