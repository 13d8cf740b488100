"""The study's champion beside a plain script's best point: the same rows, one thread, several splits of each table.

    python benchmarks/study_quality.py [--tables abalone taxi …] [--csv FILE TARGET TASK METRIC] [--splits 3]
                                       [--trials 30] [--rows 15000] [--without-pruning] [--log FILE]
    python benchmarks/study_quality.py --report FILE      # what such a log says, as a table in Markdown

The script is what a practitioner writes by hand: a handful of XGBoost points with early stopping (native categories,
patience 50, at most 3,000 trees), the best on the validation part refitted on both parts. The study runs with the
platform's own features, matrices, trials and refit, and the default search space. Its trials are counted, not
timed, so that a busy machine changes no metric; what they cost is counted in CPU seconds and trees. Both are judged on
the held-out part, which neither has seen.

Rule: on a table the study is worse beyond noise where the mean of the paired differences (study minus script, as a
share of the script's error) is above zero by more than the one-sided 95 % quantile of Student's t allows for so many
splits. The error of a metric that is better when larger is its distance from 1.

Tables: ../shared/data where it is there (else they are skipped, and that is printed), and scikit-learn's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tuning import trees_counted
from include.features.columns import from_arrow, types_of
from include.features.compiler import compile_features
from include.settings import ColumnType, Model
from include.training import estimators, evaluation, fitting, layouts, studies, study_results, tuning
from include.training.preparation import split
from include.training.preparation.rows import fingerprints

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results"


@dataclasses.dataclass(frozen=True)
class Table:
    """A data set, and what is predicted of it."""

    name: str
    frame: pd.DataFrame
    target: str
    task: str
    metric: str

    @property
    def entry(self) -> Model:
        """Its model: everything by default, the split random or stratified."""
        return Model.model_validate(
            {
                "source": "none",
                "target": self.target,
                "task": self.task,
                "metric": self.metric,
                "tuning": {"workers": 1},
            }
        )


# ---------------------------------------------------------------------------------------------- tables


def _csv(name: str, target: int | str, task: str, metric: str, **options: Any) -> Table:
    frame = pd.read_csv(DATA / "tables" / f"{name}.csv", **options)
    frame.columns = [str(column) if isinstance(column, str) else f"c{column}" for column in frame.columns]
    chosen = target if isinstance(target, str) else frame.columns[target]
    return Table(name, frame, chosen, task, metric)


def _taxi() -> Table:
    """Three months: how long a trip takes, by what is known at pickup."""
    folder = DATA / "nyc_yellow_taxi"
    months = [pd.read_csv(folder / f"yellow_tripdata_sample_2018-0{month}.csv.gz") for month in (1, 2, 3)]
    frame = pd.concat(months, ignore_index=True)
    pickup, dropoff = (pd.to_datetime(frame[f"{end}_datetime"]) for end in ("pickup", "dropoff"))
    minutes = (dropoff - pickup).dt.total_seconds() / 60
    known = frame[
        ["vendor_id", "passenger_count", "trip_distance", "rate_code_id", "pickup_location_id", "dropoff_location_id"]
    ].assign(hour=pickup.dt.hour, weekday=pickup.dt.weekday, minute=pickup.dt.minute, minutes=minutes)
    kept = known[(minutes >= 1) & (minutes <= 120) & (frame["trip_distance"] < 60)]
    return Table("taxi", kept.reset_index(drop=True), "minutes", "regression", "mae")


def _titanic() -> Table:
    table = _csv("titanic", "survived", "binary", "roc_auc")
    return dataclasses.replace(table, frame=table.frame.drop(columns=["alive"]))


def _bundled(name: str, task: str, metric: str) -> Table:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
    frame = bunch.frame.rename(columns=lambda column: column.replace(" ", "_"))
    return Table(name, frame, "target", task, metric)


TABLES: dict[str, Callable[[], Table]] = {
    "abalone": lambda: _csv("abalone", -1, "regression", "mae", header=None),
    "winequality-white": lambda: _csv("winequality-white", -1, "regression", "rmse", header=None),
    "housing": lambda: _csv("housing", -1, "regression", "mae", header=None),
    "phoneme": lambda: _csv("phoneme", -1, "binary", "roc_auc", header=None),
    "mammography": lambda: _csv("mammography", -1, "binary", "roc_auc", header=None),
    "german": lambda: _csv("german", -1, "binary", "roc_auc", header=None),
    "titanic": _titanic,
    "taxi": _taxi,
    "diabetes": lambda: _bundled("diabetes", "regression", "rmse"),
    "breast_cancer": lambda: _bundled("breast_cancer", "binary", "log_loss"),
    "digits": lambda: _bundled("digits", "multiclass", "log_loss"),
}


# ---------------------------------------------------------------------------------------------- one split


@dataclasses.dataclass(frozen=True)
class Parts:
    """A table as rows of raw columns, the encoded target, and the part of each row."""

    columns: dict[str, np.ndarray]
    y: np.ndarray
    part: np.ndarray
    classes: list[Any] | None


def divided(table: Table, rows: int, seed: int) -> Parts:
    """At most `rows` of the table's rows, split as the platform splits."""
    frame = table.frame.sample(min(rows, len(table.frame)), random_state=seed).reset_index(drop=True)
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    found = types_of(arrow.schema)
    columns = from_arrow(arrow, {name: kind for name, kind in found.items() if name != table.target})
    target = frame[table.target].to_numpy()
    classes = None if table.task == "regression" else sorted(set(target.tolist()))
    y = evaluation.encode(target, classes)
    groups = fingerprints({**columns, table.target: target})
    part = split.assign_parts(
        split.rule_for(table.entry, len(y), classes),
        len(y),
        times=None,
        y=y if classes else None,
        groups=groups,
        entity=None,
        seed=seed,
    )
    return Parts(columns, y, part, classes)


def error(table: Table, y: np.ndarray, prediction: np.ndarray) -> float:
    """The metric, or its distance from 1 where larger is better."""
    value = evaluation.score(table.metric, table.entry.task, y, prediction)
    return 1 - value if table.entry.direction == "maximize" else value


def script(table: Table, parts: Parts) -> float:
    """The held-out error of the best of the hand-set points, by XGBoost alone."""
    import xgboost

    X, kinds = coded(parts)
    y, inside = parts.y, {name: parts.part == name for name in ("train", "validation", "test")}

    def matrix(rows: np.ndarray) -> Any:
        return xgboost.DMatrix(X[rows], y[rows], feature_types=kinds, enable_categorical=True)

    train, validation, held = (matrix(inside[name]) for name in ("train", "validation", "test"))
    best: tuple[float, dict[str, Any], int] | None = None
    for point in points(table, parts):
        booster = xgboost.train(
            point, train, 3_000, evals=[(validation, "v")], early_stopping_rounds=50, verbose_eval=False
        )
        trees = booster.best_iteration + 1
        found = error(table, y[inside["validation"]], _answer(table, booster, validation, trees))
        if best is None or found < best[0]:
            best = found, point, trees
    assert best is not None
    both = matrix(inside["train"] | inside["validation"])
    final = xgboost.train(best[1], both, best[2])
    return error(table, y[inside["test"]], _answer(table, final, held, best[2]))


def points(table: Table, parts: Parts) -> list[dict[str, Any]]:
    """What one would try by hand: two or three depths at a low rate, and for the absolute error its own objective."""
    objective = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}
    metric = {"regression": "mae" if table.metric == "mae" else "rmse", "binary": "logloss", "multiclass": "mlogloss"}
    fixed: dict[str, Any] = {
        "objective": objective[table.task], "eval_metric": metric[table.task], "eta": 0.05, "nthread": 1,
        "tree_method": "hist", "seed": 7, "verbosity": 0,
    }  # fmt: skip
    if table.task == "multiclass":
        fixed["num_class"] = len(parts.classes or ())
    tried: list[dict[str, Any]] = [
        {"max_depth": 6},
        {"max_depth": 8},
        {"max_depth": 4, "subsample": 0.8, "colsample_bytree": 0.8},
    ]
    if table.metric == "mae":
        tried.append({"max_depth": 8, "objective": "reg:absoluteerror"})
    return [{**fixed, **point} for point in tried]


def coded(parts: Parts) -> tuple[np.ndarray, list[str]]:
    """The raw columns as a matrix, text as the code of its category among the training rows, and the columns' types."""
    blocks, kinds = [], []
    for values in parts.columns.values():
        text = values.dtype.kind == "O"
        if text:
            seen = sorted({v for v in values[parts.part == "train"].tolist() if v is not None})
            places = {value: float(place) for place, value in enumerate(seen)}
            values = np.array([places.get(v, np.nan) for v in values.tolist()])
        blocks.append(values.astype(np.float64))
        kinds.append("c" if text else "q")
    return np.column_stack(blocks), kinds


def _answer(table: Table, booster: Any, matrix: Any, trees: int) -> np.ndarray:
    answer = booster.predict(matrix, iteration_range=(0, trees)).astype(np.float64)
    return np.column_stack([1 - answer, answer]) if table.task == "binary" else answer


@dataclasses.dataclass(frozen=True)
class Studied:
    """What a study found."""

    error: float
    seconds: float
    """CPU seconds of the study's process: fits, sampling and records."""
    trees: int
    """That XGBoost grew."""
    estimator: str
    complete: int
    pruned: int
    by_estimator: dict[str, int]


def study(table: Table, parts: Parts, *, trials: int, pruning: bool) -> Studied:
    """The held-out error of the study's champion, by the platform's own code, from raw columns to the refit.

    Its records are in memory: what PostgreSQL costs is counted by benchmarks/tuning.py.
    """
    import optuna

    entry = table.entry
    entry = entry.model_copy(update={"tuning": entry.tuning.model_copy(update={"trials": trials, "pruning": pruning})})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(table, entry, parts, work)
        prepared = {
            "model": table.name, "work": folder, "study": table.name, "trials": trials, "time_budget": 86_400,
            "seed": entry.tuning.seed, "task": table.task, "metric": table.metric, "classes": parts.classes,
        }  # fmt: skip
        storage = optuna.storages.InMemoryStorage()
        storage.record_heartbeat = lambda trial_id: None
        studied = optuna.create_study(storage=storage, direction=entry.direction)
        matrices = {layout: tuning.load(prepared, layout) for layout in tuning.LAYOUTS}
        seed = entry.tuning.seed
        with trees_counted() as trees:
            began = time.process_time()
            for number in range(trials):
                studied.sampler = studies.sampler(seed + number)
                trial = studies.claim(studied, entry, 0)
                tuning._run(studied, trial, entry, matrices, prepared, seed=seed, threads=1)
            seconds = time.process_time() - began
        tuned, results = studies.tally(studied), study_results.finished_of(studied.get_trials(deepcopy=False))
        choice = study_results.choose(results, entry, prepared)
        name, params = choice.estimator, choice.params
        estimator = estimators.load(name)
        layout = estimator.layout(params)
        both = fitting.train_and_validation(prepared, layout)
        chosen = estimator.fit(params, both, seed=entry.tuning.seed, threads=1, progress=None)
        X, y = np.load(layouts.find(work, layout)[0] / "X_test.npy"), np.load(work / "y_test.npy")
        found = error(table, y, estimator.predict(chosen, X))
        names = [each.trial.params["estimator"] for each in results]
        counts = {n: names.count(n) for n in sorted(set(names))}
        return Studied(found, seconds, trees[0], name, tuned.complete, tuned.pruned, counts)


def prepare(table: Table, entry: Model, parts: Parts, work: Path) -> None:
    """The matrices of the study, as preparation makes them."""
    kinds: dict[str, ColumnType] = {
        name: "string" if values.dtype.kind == "O" else "float" for name, values in parts.columns.items()
    }
    features = compile_features(
        entry.features, source_columns={**kinds, table.target: "float"}, target=table.target, entity=None,
        time_column=None, root=ROOT,
    )  # fmt: skip
    computed = features.compute(parts.columns)
    inside = {name: parts.part == name for name in ("train", "validation", "test")}
    training = {name: values[inside["train"]] for name, values in computed.items()}
    fitted, X = features.fit(training, parts.y[inside["train"]], task=table.task, seed=entry.tuning.seed)
    matrices = {"train": X}
    for name in ("validation", "test"):
        rows = {column: values[inside[name]] for column, values in computed.items()}
        matrices[name] = features.transform(fitted, rows, unknown="other")
    layouts.write_codes(work, features, fitted, matrices)
    for name, matrix in matrices.items():
        np.save(work / f"X_{name}.npy", matrix)
        np.save(work / f"y_{name}.npy", parts.y[inside[name]])


# ---------------------------------------------------------------------------------------------- all of it


def verdict(differences: list[float]) -> str:
    """By the rule above: `worse`, `better` or `level`."""
    if len(differences) < 2:
        return "one split"
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    noise = scipy.stats.t.ppf(0.95, len(differences) - 1) * spread / len(differences) ** 0.5
    return "worse" if mean > noise else "better" if mean < -noise else "level"


def beside(line: dict[str, Any]) -> float:
    """The study's error beside the script's, of one split."""
    ours, by_hand = line["study"]["error"], line["script"]
    return float(ours / by_hand - 1) if by_hand else 0.0 if ours == 0 else float("inf")


def report(log: Path) -> str:
    """The results in a log, a row for each table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in log.read_text().splitlines():
        line = json.loads(text)
        found.setdefault(line["table"], []).append(line)
    rows = [
        "| table, error | rows | script | study | study beside script, by split | | CPU seconds, script / study |",
        "|---" * 7 + "|",
    ]
    for name, lines in found.items():
        differences = [beside(line) for line in lines]
        by_split = ", ".join(f"{100 * difference:+.1f}" for difference in differences)
        mean = {key: statistics.fmean(values) for key, values in {
            "script": [line["script"] for line in lines],
            "study": [line["study"]["error"] for line in lines],
            "seconds": [line["study"]["seconds"] for line in lines],
            "script_seconds": [line["script_seconds"] for line in lines],
        }.items()}  # fmt: skip
        metric = lines[0]["metric"]
        label = f"1 - {metric}" if metric in ("roc_auc", "accuracy", "r2", "f1") else metric
        rows.append(
            f"| {name}, {label} | {lines[0]['rows']} | {mean['script']:.4g} | {mean['study']:.4g} |"
            f" {100 * statistics.fmean(differences):+.1f} % ({by_split}) | {verdict(differences)} |"
            f" {mean['script_seconds']:.0f} / {mean['seconds']:.0f} |"
        )
    pruned = [line for lines in found.values() for line in lines if "unpruned" in line]
    if pruned:
        rows += [
            "",
            "| table | split | trials stopped | trees, with / without pruning | CPU seconds | error |",
            "|---" * 6 + "|",
        ]
        rows += [
            f"| {line['table']} | {line['split']} | {line['study']['pruned']} of"
            f" {line['study']['pruned'] + line['study']['complete']} |"
            f" {line['study']['trees']} / {line['unpruned']['trees']}"
            f" ({line['study']['trees'] / max(line['unpruned']['trees'], 1) - 1:+.0%}) |"
            f" {line['study']['seconds']:.1f} / {line['unpruned']['seconds']:.1f} |"
            f" {line['study']['error']:.5g} / {line['unpruned']['error']:.5g} |"
            for line in pruned
        ]
    return "\n".join(rows)


def from_csv(file: Path, target: str, task: str, metric: str) -> Table:
    return Table(file.stem, pd.read_csv(file), target, task, metric)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--csv", nargs=4, action="append", default=[], metavar=("FILE", "TARGET", "TASK", "METRIC"))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first split's seed")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--without-pruning", action="store_true", help="each study a second time, without pruning")
    parser.add_argument("--log", type=Path, help="append each split's result to this file, as JSON lines")
    parser.add_argument("--report", type=Path, help="print what a log says, and run nothing")
    arguments = parser.parse_args()
    if arguments.report:
        print(report(arguments.report))
        return
    makers = {name: TABLES[name] for name in arguments.tables}
    for file, target, task, metric in arguments.csv:
        makers[Path(file).stem] = functools.partial(from_csv, Path(file), target, task, metric)
    for name, make in makers.items():
        try:
            table = make()
        except FileNotFoundError as missing:
            print(f"{name}: SKIPPED, {missing.filename} is not there")
            continue
        differences = []
        for seed in range(arguments.first, arguments.first + arguments.splits):
            parts = divided(table, arguments.rows, seed)
            began = time.process_time()
            by_hand = script(table, parts)
            hand_seconds = time.process_time() - began
            ours = study(table, parts, trials=arguments.trials, pruning=True)
            line = {"table": name, "metric": table.metric, "rows": len(parts.y), "split": seed, "script": by_hand,
                    "script_seconds": round(hand_seconds, 1), "study": dataclasses.asdict(ours)}  # fmt: skip
            if arguments.without_pruning:
                line["unpruned"] = dataclasses.asdict(study(table, parts, trials=arguments.trials, pruning=False))
            differences.append(beside(line))
            print(json.dumps(line), flush=True)
            if arguments.log:
                with arguments.log.open("a") as log:
                    log.write(json.dumps(line) + "\n")
        print(f"{name}: {100 * statistics.fmean(differences):+.2f} % ({verdict(differences)})", flush=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}")


if __name__ == "__main__":
    main()
