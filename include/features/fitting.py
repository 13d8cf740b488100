"""Fits the declared transforms of one model on its training rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from include.features import transforms
from include.features.codes import Fitted
from include.features.columns import Columns, Values
from include.features.pipeline import Pipeline
from include.features.transforms import BEFORE_ENCODING, NUMBER, FitError, Learned, Stage, Training

MAXIMUM_ONE_HOT = 30
"""Categories up to which an undeclared text column becomes one_hot; above, target_encoding."""


def fit(
    declared: Mapping[str, Any], kinds: Mapping[str, str], columns: Columns, y: np.ndarray, *, task: str, seed: int
) -> tuple[Fitted, np.ndarray]:
    """Learn from the training rows: what was learned, and their matrix (n, k), target encoding cross-fitted.

    Args:
        declared: transform → its declaration, as plain data.
        kinds: feature column → `number` or `string`, in the order of the matrix.
        columns: the feature columns.
        y: the target.
        task: regression, binary or multiclass.
        seed: of the folds of cross-fitting.

    Raises:
        FitError: a transform cannot be learned from these rows.
    """
    if not len(y):
        raise FitError("the training part has no rows")
    training = Training(*target_columns(y, task), seed)
    plan = _chosen(declared, kinds)
    entries, blocks = [], []
    for column in kinds:
        entry, block = _fit_column(column, kinds[column], plan.get(column, {}), columns[column], training)
        if len(block):
            entries.append(entry)
            blocks.append(block)
    fitted: Fitted = {"columns": entries, **_fit_projections(declared, entries, blocks)}
    _make_unique([each["names"] for each in itertools.chain(*fitted.values())])
    joined = np.concatenate(blocks) if blocks else np.empty((0, len(y)))
    return fitted, np.ascontiguousarray(Pipeline(fitted, kinds).projected(joined).T)


def target_columns(y: np.ndarray, task: str) -> tuple[np.ndarray, list[Any]]:
    """The target as numbers to average: (n, 1), or for multiclass a 0/1 column for each class but the first.

    Also returns the classes in order; empty for regression.
    """
    if task == "regression":
        return np.asarray(y, dtype=np.float64).reshape(-1, 1), []
    classes = np.unique(y)
    if task == "binary" and len(classes) > 2:
        raise FitError(f"the target of a binary model has {len(classes)} classes; declare `task: multiclass`")
    indicators = [np.asarray(y == c, dtype=np.float64) for c in classes[1:]] or [np.zeros(len(y))]
    return np.stack(indicators, axis=1), classes.tolist()


def _chosen(declared: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Column → transform → how, of the transforms of single columns."""
    found: dict[str, dict[str, Any]] = {}
    known = transforms.columns_of(kinds, declared)
    for name in declared:
        if transforms.load(name).STAGE is not Stage.PROJECT:
            for column, how in transforms.load(name).chosen(declared[name], known).items():
                found.setdefault(column, {})[name] = how
    return found


def _fit_column(
    column: str, kind: str, plan: Mapping[str, Any], values: np.ndarray, training: Training
) -> tuple[Learned, np.ndarray]:
    """A column's entry, and what becomes of its training rows: (k, rows)."""
    entry: Learned = {"column": column}
    block: Values = [values] if kind == "string" else np.array(values, dtype=np.float64)[None]

    def learn(name: str) -> None:
        nonlocal block, entry
        transform = transforms.load(name)
        entry |= transform.fit(block, plan.get(name), column, training)
        cross_fit = getattr(transform, "cross_fit", None)
        block = cross_fit(block, entry, training) if cross_fit else transform.ready([entry])(block, "other")

    for name in transforms.at(*BEFORE_ENCODING):
        if name in plan:
            learn(name)
    encoding = next((name for name in transforms.at(Stage.ENCODE) if name in plan), None)
    entry["encoding"] = encoding or _encoding(kind, block[0])
    if entry["encoding"] != NUMBER:
        learn(entry["encoding"])
    entry.setdefault("names", [column])
    for name in transforms.at(Stage.SCALE):
        if name in plan:
            learn(name)
    return entry, np.asarray(block)


def _encoding(kind: str, values: np.ndarray) -> str:
    """What becomes of a column for which no encoding is declared."""
    if kind != "string":
        return NUMBER
    distinct: set[Any] = set()
    for value in values:
        distinct.add(value)
        if len(distinct) > MAXIMUM_ONE_HOT:
            return "target_encoding"
    return "one_hot"


def _fit_projections(
    declared: Mapping[str, Any], entries: Sequence[Learned], blocks: Sequence[np.ndarray]
) -> dict[str, list[Learned]]:
    found: dict[str, list[Learned]] = {}
    for name in transforms.at(Stage.PROJECT):
        found[name] = []
        for made, how in declared.get(name, {}).items():
            taken = [index for index, entry in enumerate(entries) if entry["column"] in how["columns"]]
            names = [each for index in taken for each in entries[index]["names"]]
            values = np.concatenate([blocks[index] for index in taken])
            learned = transforms.projection(name).fit(values, how, made, names)
            found[name].append({"name": made, "columns": list(how["columns"]), **learned})
    return found


def _make_unique(names: Iterable[list[str]]) -> None:
    """Number the later of equal names: `a=1`, `a=1#2`."""
    seen: dict[str, int] = {}
    for group in names:
        for index, name in enumerate(group):
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                group[index] = f"{name}#{seen[name]}"
