"""Before the study: the data of one feature version, split, fitted and laid down once for all workers.

MLflow is asked first, so that nothing expensive is begun that could not be logged. The folder `work` then holds

    X_*.npy y_*.npy     train, validation, test: mapped into memory by the workers, never copied
    codes/              the matrices once more with categories as codes: see include/training/layouts.py
    preprocessing.json  what the features learned, from the training part only
    feature_set.json    inputs and spec; definition.py beside it where the features have one
    profile.json        the distributions of what is trained on
    inputs.json         what a request must carry; golden_rows.json: some held-out rows as a client sends them
    evidence/           holdout.parquet, training_rows.npy, split.json …: who was held out, and proof of it
    prepared.json       what `prepare` returns; written last
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include import schemas, storage
from include.features.columns import ColumnType, from_arrow, types_of
from include.features.feature_set import FeatureSet, UnknownCategory
from include.features.profile import profile
from include.settings import FieldPolicy, Model, Serving, Split
from include.text import trim
from include.training import evaluation, layouts, suspects, tracking, tuning
from include.training import target as targets
from include.training.target import Untrainable

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger(__name__)

MINIMUM_ROWS = {"train": 20, "validation": 5, "test": 5}
DAYS_AS_BOUNDS = 20
"""From so many days on a part begins with a day; below, with a moment."""
GOLDEN_ROWS = 20
MOST_CATEGORIES = 10_000
"""Texts of a column that the model uses as categories, up to which the service knows which of them are new."""
MANY_CATEGORIES = 50

Columns = dict[str, np.ndarray]
__all__ = ["Prepared", "Untrainable", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """All that tuning, fitting and registration need to know; plain data."""

    model: str
    task: str
    metric: str
    direction: str
    classes: list[Any] | None
    run_key: str
    run_id: str
    run_url: str
    study: str
    work: str
    feature_version: str
    partitions: list[str]
    rows: int
    train_rows: int
    validation_rows: int
    test_rows: int
    features: int
    trials: int
    time_budget: int
    workers: int
    seed: int
    reason: str
    seconds: float
    warnings: list[str] = field(default_factory=list)
    """What may make the figures wrong or the verdict HOLD, with remedies."""


def prepare(
    model: str,
    entry: Model,
    *,
    run_key: str,
    work: str,
    time_column: str | None,
    overrides: Mapping[str, Any],
    feature_version: str | None,
    database_url: str,
    remote_url: str,
    home: Path,
    optuna_url: str,
    mlflow_url: str,
    origin_url: str = "",
) -> Prepared:
    """Lay down everything for the study, and create it; the same call again changes nothing.

    Args:
        model: the registered model's name.
        entry: its entry in params.yaml.
        run_key: names this training for ever: the DAG run's id.
        work: a folder of this training's own, which all its tasks can reach.
        time_column: the column that dates a row, if any.
        overrides: of the trigger form, all optional: trials, time_budget, window, reason.
        feature_version: default: the newest.
        database_url: the platform's database.
        remote_url: DVC's remote.
        home: scratch of this machine.
        optuna_url: the studies' database.
        mlflow_url: MLflow's server.
        origin_url: the page of the run that trains, for MLflow's tags.

    Raises:
        MLflowDown: MLflow does not answer; nothing was done.
        Untrainable: there is nothing to learn from these rows.
    """
    from include.features import versions

    tracking.check(mlflow_url)
    directory = storage.local_path(work)
    if (directory / "prepared.json").is_file():
        return Prepared(**json.loads((directory / "prepared.json").read_bytes()))
    if feature_version is None:
        newest = versions.latest(database_url, model)
        if newest is None:
            raise Untrainable(f"{model} has no features yet: run features_{model} first")
        feature_version = newest.version
    recorded = versions.recorded(database_url, model, feature_version)
    restored = directory / "features"
    shutil.rmtree(restored, ignore_errors=True)  # of an attempt that was killed: this folder is the run's own
    folder = versions.restore(
        model, feature_version, restored, database_url=database_url, remote_url=remote_url, home=home
    )
    prepared = lay_down(
        model,
        entry,
        folder,
        run_key=run_key,
        work=directory,
        time_column=time_column,
        overrides=overrides,
        feature_version=feature_version,
        dvc_lock=recorded.dvc_lock,
        optuna_url=optuna_url,
        mlflow_url=mlflow_url,
        origin_url=origin_url,
    )
    shutil.rmtree(restored, ignore_errors=True)
    return prepared


def lay_down(
    model: str,
    entry: Model,
    features: Path,
    *,
    run_key: str,
    work: Path,
    time_column: str | None,
    overrides: Mapping[str, Any],
    feature_version: str,
    dvc_lock: str,
    optuna_url: str,
    mlflow_url: str,
    origin_url: str = "",
) -> Prepared:
    """`prepare`, from a folder of feature files (one parquet per partition, and feature_set.json)."""
    import pyarrow as pa

    began = time.monotonic()
    overrides = {key: value for key, value in overrides.items() if value not in (None, "")}
    seed = entry.tuning.seed
    window = int(overrides["window"]) if "window" in overrides else entry.window
    described = json.loads((features / "feature_set.json").read_bytes())
    feature_set = FeatureSet.from_spec(described["spec"], described.get("definition"))
    files = sorted(features.glob("*.parquet"))[-window if window else None :]
    table = _read(files, model)
    raw, computed, target, times, entity = _columns(table, feature_set, entry, time_column)
    known = targets.present(model, entry, target)
    if not known.all():
        raw, computed, target = _take(raw, known), _take(computed, known), target[known]
        times, entity = (None if c is None else c[known] for c in (times, entity))
        table = table.filter(pa.array(known))
    classes = targets.classes(model, entry, target)
    y = evaluation.encode(target, classes)
    identity = fingerprints({**raw, entry.target: target, **({} if times is None else {"\0time": times})})
    rule = split_rule(entry, len(y), classes)
    part = split(rule, len(y), times=times, y=y if classes else None, groups=identity, entity=entity, seed=seed)
    check_parts(model, part, y, classes)
    suspected = suspects.find(
        raw, target, task=entry.task, types=feature_set.inputs, times=times, time_column=time_column
    )
    warnings = [
        *targets.doubts(entry, target),
        *split_warnings(entry, rule, part, target, times),
        *(f"suspect: {each}" for each in suspected),
    ]
    for warning in warnings:
        LOG.warning("%s: %s", model, warning)

    train, held = part == "train", part == "test"
    matrices: dict[str, np.ndarray] = {}
    fitted, matrices["X_train"] = feature_set.fit(_take(computed, train), y[train], task=entry.task, seed=seed)
    for name in ("validation", "test"):
        matrices[f"X_{name}"] = feature_set.transform(fitted, _take(computed, part == name), unknown="other")
    for name in ("train", "validation", "test"):
        matrices[f"y_{name}"] = y[part == name]
    tolerate(fitted, entry.serving)
    names = feature_set.names(fitted)
    _check_finite(model, matrices, names, feature_set.origins(fitted))

    work.mkdir(parents=True, exist_ok=True)
    storage.ensure_space(work, sum(m.nbytes for m in matrices.values()))
    for name, matrix in matrices.items():
        np.save(work / f"{name}.npy", np.ascontiguousarray(matrix, np.float64), allow_pickle=False)
    layouts.write_codes(work, feature_set, fitted, {name: matrices[f"X_{name}"] for name in layouts.PARTS})
    _write_json(work / "preprocessing.json", fitted)
    _write_json(
        work / "feature_set.json", {"spec": feature_set.spec, "definition": feature_set.definition, "names": names}
    )
    seen = _take({**raw, **computed}, ~held)
    distributions = {"rows": int((~held).sum()), "columns": profile(seen)}
    _write_json(work / "profile.json", {**distributions, "suspects": [asdict(each) for each in suspected]})
    inputs = describe_inputs(
        _take(raw, ~held),
        feature_set.inputs,
        serving=entry.serving,
        learned=_categories(fitted),
        unknown_category=feature_set.unknown_category,
    )
    _write_json(work / "inputs.json", inputs)
    golden = golden_rows(_take(raw, held), feature_set, fitted, inputs)
    if not golden:
        raise Untrainable(
            f"{model}: by its own policies the service would refuse every held-out row; look at serving and"
            " features.unknown_category"
        )
    _write_json(work / "golden_rows.json", as_rows(_take(raw, held), feature_set.inputs, golden))
    kept = [*feature_set.inputs, *(c for c in (time_column, entry.entity) if c), entry.target]
    table = table.select([c for c in dict.fromkeys(kept) if c in table.column_names])
    _write_evidence(work / "evidence", table, part, identity, times, rule, feature_version)
    storage.write_bytes(str(work / "evidence" / "dvc.lock"), dvc_lock.encode())

    study = f"{model}/{run_key}"
    run = tracking.start_run(
        mlflow_url,
        model=model,
        run_key=run_key,
        tags={
            "mlops.reason": str(overrides.get("reason", "")),
            "mlops.feature_version": feature_version,
            "mlops.owner": entry.owner,
            **({"mlops.airflow_run": origin_url} if origin_url else {}),
        },
    )
    tuning.create_study(study, entry, optuna_url=optuna_url)
    prepared = Prepared(
        model=model,
        task=entry.task,
        metric=entry.metric_name,
        direction=entry.direction,
        classes=classes,
        run_key=run_key,
        run_id=run.run_id,
        run_url=run.url,
        study=study,
        work=str(work),
        feature_version=feature_version,
        partitions=[file.stem for file in files],
        rows=len(y),
        train_rows=int(train.sum()),
        validation_rows=int((part == "validation").sum()),
        test_rows=int(held.sum()),
        features=len(names),
        trials=int(overrides.get("trials", entry.tuning.trials)),
        time_budget=int(overrides.get("time_budget", entry.tuning.time_budget)),
        workers=entry.tuning.workers,
        seed=seed,
        reason=str(overrides.get("reason", "")),
        seconds=round(time.monotonic() - began, 2),
        warnings=warnings,
    )
    _write_json(work / "prepared.json", asdict(prepared))
    return prepared


# ---------------------------------------------------------------------------------------------- reading


def _read(files: list[Path], model: str) -> pa.Table:
    import pyarrow.parquet as pq

    if not files:
        raise Untrainable(f"{model}: the feature version holds no partition; run features_{model} first")
    try:
        return schemas.concat([(file.stem, pq.read_table(file)) for file in files]).combine_chunks()
    except schemas.SchemaError as error:
        raise Untrainable(
            f"{model}: the partitions of this feature version do not go together: {error}; declare the type under the"
            f" source's `types`, ingest the partition again with `replace`, then run features_{model}"
        ) from error


def _columns(
    table: pa.Table, feature_set: FeatureSet, entry: Model, time_column: str | None
) -> tuple[Columns, Columns, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Raw inputs, computed feature columns, target, time and entity."""
    found = types_of(table.schema)
    kinds: dict[str, ColumnType] = {
        name: "string" if kind == "string" else "float" for name, kind in feature_set.kinds.items()
    }
    types: dict[str, ColumnType] = {**kinds, **feature_set.inputs}
    extra = [c for c in (time_column, entry.entity) if c and c in found]
    columns = from_arrow(table, {**types, **{c: found[c] for c in extra}})
    raw = {name: columns[name] for name in feature_set.inputs}
    computed = {name: columns[name] for name in feature_set.kinds}
    target = targets.read(table, entry, found)
    times = columns[time_column] if time_column in extra else None
    entity = columns[entry.entity] if entry.entity in extra else None
    return raw, computed, target, times, entity


def _take(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _check_finite(model: str, matrices: Mapping[str, np.ndarray], names: list[str], origins: list[str]) -> None:
    """What the features stage let pass can still become too large by what is learned: a scale, components."""
    for key in ("X_train", "X_validation", "X_test"):
        matrix = matrices[key]
        large = np.abs(matrix) > np.finfo(np.float32).max
        if large.any():
            column = int(np.argwhere(large.any(axis=0))[0][0])
            made = "" if names[column] == origins[column] else f", made of {origins[column]!r},"
            raise Untrainable(
                f"{model}: the feature {names[column]!r}{made} is infinite, or too large for 32 bits, in"
                f" {int(large[:, column].sum())} rows of {key[2:]}; if params.yaml or a definition computes it, bound"
                " it, as in clip(x, 0, 1e6); if it is a column of the source, " + targets.INFINITE_REMEDY
            )


# ---------------------------------------------------------------------------------------------- splitting


def split_rule(entry: Model, rows: int, classes: list[Any] | None) -> Split:
    """The shares in force: as declared; undeclared, a small table holds out as many rows as its gate needs.

    Up to a third of the rows; a table that is too small even for that gets the usual shares, and no verdict.
    """
    rule, needed = entry.split, entry.gate.minimum_rows + len(classes or ()) + 1  # each class may round down
    if "split" in entry.model_fields_set or rows * rule.test >= entry.gate.minimum_rows or rows < 3 * needed:
        return rule
    test = needed / rows
    train = (1 - test) * rule.train / (rule.train + rule.validation)
    return Split(train=train, validation=1 - test - train, test=test, by=rule.by)


def split_warnings(
    entry: Model, rule: Split, part: np.ndarray, target: np.ndarray, times: np.ndarray | None
) -> list[str]:
    """What the split of these rows means for the figures and the verdict, where that is not as usual."""
    rows, held, needed = len(part), int((part == "test").sum()), entry.gate.minimum_rows
    found = []
    if held < needed:
        share = needed / rows
        remedy = f"train on at least {int(np.ceil(needed / rule.test))} rows"
        if share <= 0.5:
            remedy += f", or declare a `split` with test: {np.ceil(share * 100) / 100 + 0.01:.2f} or more"
        found.append(
            f"{held} of {rows} rows are held out, and the gate needs {needed}: its verdict will be HOLD; {remedy}, or"
            " lower gate.minimum_rows, which makes the verdict less sure"
        )
    elif rule is not entry.split:
        found.append(
            f"only {rows} rows: {rule.test:.0%} of them are held out, not {entry.split.test:.0%}, so that the gate has"
            f" the {needed} that it needs; declare `split` for other shares"
        )
    if not (times is not None and rule.by in ("auto", "time")) and entry.entity is None:
        found += [text for text in [suspects.order(target, entry.task)] if text]
    return found


def split(
    rule: Split,
    rows: int,
    *,
    times: np.ndarray | None,
    y: np.ndarray | None,
    groups: np.ndarray,
    entity: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """The part of each row: `train`, `validation` or `test`.

    By time the newest rows are held out, rows of one moment (with many days: of one day) on one side. Otherwise rows
    that are equal, and rows of one entity, stay on one side, and each class is divided by the same shares.

    Args:
        rule: shares, and how.
        rows: how many.
        times: datetime64 (n,), or None.
        y: encoded classes (n,) for a stratified split, or None.
        groups: fingerprints (n,): equal rows have equal ones.
        entity: what a row is about (n,), or None.
        seed: of the shuffle.
    """
    by = rule.by
    if by == "auto":
        by = "time" if times is not None else "stratified" if y is not None else "random"
    if by == "time":
        if times is None:
            raise Untrainable("split.by is time, and the model has no time_column; name one, or split by random")
        return _by_time(rule, times)
    if entity is not None:
        _, groups = np.unique(entity.astype(str), return_inverse=True)
    strata = y if by == "stratified" and y is not None and entity is None else np.zeros(rows)
    part = np.empty(rows, dtype="U10")
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        part[inside] = _by_group(rule, groups[inside], np.random.default_rng([seed, int(stratum)]))
    return part


def _by_time(rule: Split, times: np.ndarray) -> np.ndarray:
    if np.isnat(times).any():
        raise Untrainable(
            f"{int(np.isnat(times).sum())} rows have no time, and the split is by time; quarantine them in the suite"
        )
    days = times.astype("datetime64[D]")
    key = days if len(np.unique(days)) >= DAYS_AS_BOUNDS else times
    moments, counts = np.unique(key, return_counts=True)
    share = (np.cumsum(counts) - counts / 2) / len(times)  # the middle of each moment's rows
    of_moment = np.select([share < rule.train, share < rule.train + rule.validation], ["train", "validation"], "test")
    return of_moment[np.searchsorted(moments, key)]


def _by_group(rule: Split, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    _, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = random.permutation(len(counts))
    share = np.empty(len(counts))
    share[order] = (np.cumsum(counts[order]) - counts[order] / 2) / len(groups)
    of_group = np.select([share < rule.train, share < rule.train + rule.validation], ["train", "validation"], "test")
    return of_group[code]


def check_parts(model: str, part: np.ndarray, y: np.ndarray, classes: list[Any] | None) -> None:
    """Refuse a split in which a part has too few rows, or one class only.

    Raises:
        Untrainable: naming the part.
    """
    for name, minimum in MINIMUM_ROWS.items():
        inside = y[part == name]
        if len(inside) < minimum:
            raise Untrainable(
                f"{model}: the {name} part has {len(inside)} of {len(y)} rows, at least {minimum} are needed;"
                " ingest more data, widen the window, or change split"
            )
        if classes is not None:
            missing = [classes[c] for c in range(len(classes)) if not (inside == c).any()]
            if len(classes) - len(missing) < 2:
                only = next(label for label in classes if label not in missing)
                raise Untrainable(
                    f"{model}: the {name} part has one class only, {only!r}; ingest more data, or change split"
                )
            if missing:
                LOG.warning("%s: the %s part has no row of class %s", model, name, missing)


# ---------------------------------------------------------------------------------------------- evidence


def fingerprints(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """One uint64 for each row, the same on every machine for equal rows, and in practice only for these."""
    from pandas.util import hash_array

    total = np.zeros(len(next(iter(columns.values()))), dtype=np.uint64)
    for name in sorted(columns):
        values = columns[name]
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]").view(np.int64)
        elif values.dtype.kind == "O":
            values = np.array(
                ["\0" if v is None else f"{type(v).__name__[0]}{v}" for v in values.tolist()], dtype=object
            )
        else:
            values = np.asarray(values, np.float64) + 0.0  # -0.0 is 0.0
            values = np.where(np.isnan(values), np.nan, values)  # one NaN for all
        salt = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") | 1)
        mixed = (hash_array(values, categorize=True) ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        total = (total ^ (mixed ^ (mixed >> np.uint64(31)))) * np.uint64(0xD6E8FEB86659FD93)
    return total


def leaked(evidence: Path, other: Path) -> int:
    """How many held-out rows of `other` the model of `evidence` was trained on: folders of `tracking.evidence`."""
    trained = np.load(evidence / "training_rows.npy", allow_pickle=False)
    held = np.load(other / "holdout_rows.npy", allow_pickle=False)
    return int(np.isin(held, trained).sum())


def _write_evidence(
    folder: Path,
    table: pa.Table,
    part: np.ndarray,
    identity: np.ndarray,
    times: np.ndarray | None,
    rule: Split,
    feature_version: str,
) -> None:
    import pyarrow as pa

    held = part == "test"
    shared = int(np.isin(identity[held], identity[~held]).sum())
    if shared:
        raise Untrainable(
            f"{shared} held-out rows are also trained on; nothing can be judged on them. This is a fault of the"
            f" split: report it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_table(str(folder / "holdout.parquet"), table.filter(pa.array(held)))
    np.save(folder / "training_rows.npy", np.sort(identity[~held]), allow_pickle=False)
    np.save(folder / "holdout_rows.npy", identity[held], allow_pickle=False)
    names = ("holdout.parquet", "training_rows.npy", "holdout_rows.npy")
    bounds = {}
    if times is not None:
        bounds = {
            str(name): [str(times[part == name].min()), str(times[part == name].max())]
            for name in ("train", "validation", "test")
        }
    record = {
        "by": "time"
        if times is not None and rule.by in ("auto", "time")
        else "stratified"
        if rule.by == "auto"
        else rule.by,
        "rows": {name: int((part == name).sum()) for name in ("train", "validation", "test")},
        "bounds": bounds,
        "held_out_rows_that_were_trained_on": shared,
        "feature_version": feature_version,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
    }
    _write_json(folder / "split.json", record)


# ---------------------------------------------------------------------------------------------- requests


def tolerate(fitted: dict[str, Any], serving: Serving) -> None:
    """Note with what was learned which columns take an unknown category although the model does not."""
    for column in fitted["columns"]:
        policy = serving.fields.get(column["column"])
        if policy is not None and policy.unknown_category == "other" and "categories" in column:
            column["unknown"] = "other"


def _categories(fitted: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns that are categories as they are, not by their bins, with those that were learned."""
    return {
        column["column"]: [value for value in column["categories"] if value is not None]
        for column in fitted["columns"]
        if "categories" in column and "edges" not in column
    }


def describe_inputs(
    raw: Mapping[str, np.ndarray],
    types: Mapping[str, ColumnType],
    *,
    serving: Serving | None = None,
    learned: Mapping[str, list[Any]] | None = None,
    unknown_category: str = "other",
) -> list[dict[str, Any]]:
    """What a request must carry, and what is done with what is unusual in it.

    Args:
        raw: the rows that training has seen.
        types: the inputs.
        serving: the model's policies; a field's own come before them. None: the defaults.
        learned: column → its categories, where it is used as one.
        unknown_category: the model's policy for these.
    """
    serving, learned = serving or Serving(), learned or {}
    described = []
    for name, kind in types.items():
        values, policy = raw[name], serving.fields.get(name, FieldPolicy())
        missing = _missing(values)
        present = values[~missing]
        missed = policy.missing or serving.missing
        if missed == "auto":
            missed = "impute" if missing.any() else "error"
        unknown = policy.unknown_category or (unknown_category if name in learned else None)
        entry: dict[str, Any] = {
            "name": name,
            "type": kind,
            "required": missed == "error",
            "missing": missed,
            "unknown_category": unknown or ("other" if kind == "string" else None),
            "out_of_range": None,
            "unit": serving.units.get(name),
            "example": _json(present[len(present) // 2], kind) if len(present) else None,
            "categories": None,
            "trimmed": kind == "string" and all(trim(text) == text for text in set(present.tolist())),
            "minimum": None,
            "maximum": None,
        }
        if unknown == "error":
            known = learned.get(name) or sorted(set(present.tolist()))
            entry["categories"] = known if kind == "string" else [_json(value, kind) for value in known]
        elif kind == "string":
            categories = sorted(set(present.tolist()))
            most = MOST_CATEGORIES if name in learned else MANY_CATEGORIES
            entry["categories"] = categories if len(categories) <= most else None
        if kind in ("float", "int", "timestamp", "date") and len(present):
            entry["minimum"], entry["maximum"] = _json(present.min(), kind), _json(present.max(), kind)
        if kind in ("float", "int"):
            entry["out_of_range"] = policy.out_of_range or serving.out_of_range
        described.append(entry)
    return described


def golden_rows(
    raw: Mapping[str, np.ndarray], feature_set: FeatureSet, fitted: dict[str, Any], inputs: list[dict[str, Any]]
) -> list[int]:
    """About twenty held-out rows that together show what is unusual: missing values, rare categories, extremes.

    Those that are answered without a warning come first. What the service would refuse, or clip, shows nothing.
    """
    rows = len(next(iter(raw.values())))
    taken = np.all([accepted(raw[entry["name"]], entry) for entry in inputs], axis=0)
    wanted: list[int] = []
    for name in raw:
        values = raw[name]
        missing = _missing(values)
        if missing.any():
            wanted.append(int(np.flatnonzero(missing)[0]))
        present = np.flatnonzero(~missing)
        if not len(present):
            continue
        if values.dtype.kind == "O":
            _, first, counts = np.unique(values[present].astype(str), return_index=True, return_counts=True)
            wanted.append(int(present[first[counts.argmin()]]))
        else:
            wanted += [int(present[values[present].argmax()]), int(present[values[present].argmin()])]
    ordinary = np.linspace(0, rows - 1, GOLDEN_ROWS).astype(int).tolist()
    unusual = list(dict.fromkeys(wanted))[: GOLDEN_ROWS // 2]
    chosen: list[int] = []
    for row in dict.fromkeys([*unusual, *ordinary]):
        if len(chosen) < GOLDEN_ROWS and taken[row] and answerable(raw, feature_set, fitted, np.array([row])).all():
            chosen.append(row)
    warned = np.any([_outside(raw[entry["name"]], entry) for entry in inputs], axis=0)
    return sorted(chosen, key=lambda row: bool(warned[row]))


def accepted(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Which values of an input the service takes as they are, by the policies of its description."""
    missing = _missing(values)
    taken = ~missing if entry["missing"] == "error" else np.ones(len(values), dtype=bool)
    if entry["out_of_range"] in ("error", "clip"):
        taken &= ~_outside(values, entry)
    if entry["unknown_category"] == "error":
        known = set(entry["categories"])
        taken &= missing | np.array([value in known for value in values.tolist()], dtype=bool)
    return taken


def _outside(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Which numbers are beyond what training saw."""
    if entry["out_of_range"] is None or entry["minimum"] is None:
        return np.zeros(len(values), dtype=bool)
    return np.asarray((values < entry["minimum"]) | (values > entry["maximum"]))


def answerable(
    raw: Mapping[str, np.ndarray], feature_set: FeatureSet, fitted: dict[str, Any], rows: np.ndarray
) -> np.ndarray:
    """Which rows the service would answer: under `unknown_category: error` none with a category that is new."""
    if feature_set.unknown_category == "other":
        return np.ones(len(rows), dtype=bool)
    found = np.ones(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        try:
            feature_set.transform(fitted, feature_set.compute(_take(raw, np.array([row]))))
        except UnknownCategory:
            found[i] = False
    return found


def as_rows(raw: Mapping[str, np.ndarray], types: Mapping[str, ColumnType], rows: list[int]) -> list[dict[str, Any]]:
    """Rows as a client sends them in JSON."""
    return [{name: _json(raw[name][row], kind) for name, kind in types.items()} for row in rows]


def _json(value: Any, kind: ColumnType) -> Any:
    if value is None or value != value:
        return None
    if kind in ("timestamp", "date"):
        moment = value.astype("datetime64[us]").item()
        return moment.date().isoformat() if kind == "date" else moment.isoformat()
    if kind == "string":
        return str(value)
    if kind == "bool":
        return bool(value)
    return int(value) if kind == "int" and value == int(value) else float(value)


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":
        return np.array([value is None for value in values.tolist()], dtype=bool)
    return np.asarray(np.isnat(values) if values.dtype.kind == "M" else np.isnan(values))


def _write_json(path: Path, document: Any) -> None:
    storage.write_bytes(str(path), json.dumps(document, allow_nan=False, indent=1).encode())
