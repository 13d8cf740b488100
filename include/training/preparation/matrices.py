"""What estimators are fitted on: a matrix and a target for each part of the split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from include import storage
from include.features.columns import select
from include.features.feature_set import FeatureSet
from include.settings import Model
from include.training import documents, layouts
from include.training.layouts import PARTS
from include.training.preparation import request_contract
from include.training.preparation import target as targets
from include.training.preparation.rows import Rows
from include.training.preparation.split import Division
from include.training.preparation.target import Untrainable


@dataclass(frozen=True)
class Matrices:
    """The features of every row, by what was learned from the training part alone."""

    preprocessing: dict[str, Any]
    """What was learned."""
    names: list[str]
    """Of the k features."""
    X: dict[str, np.ndarray]
    """Part → float64 (rows, k); NaN is missing."""
    y: dict[str, np.ndarray]
    """Part → float64 (rows,)."""


def fit(model: str, entry: Model, rows: Rows, division: Division, feature_set: FeatureSet) -> Matrices:
    """Learn the preprocessing from the training part, and apply it to all parts.

    Raises:
        Untrainable: a feature is too large for 32 bits, by name.
    """
    y = {part: division.y[division.part == part] for part in PARTS}
    train, *others = PARTS
    fitted, matrix = feature_set.fit(
        select(rows.computed, division.part == train), y[train], task=entry.task, seed=entry.tuning.seed
    )
    X = {train: matrix}
    for part in others:
        X[part] = feature_set.transform(fitted, select(rows.computed, division.part == part), unknown="other")
    request_contract.allow_unknown(fitted, entry.serving)
    names = feature_set.names(fitted)
    _check_finite(model, X, names, feature_set.origins(fitted))
    return Matrices(fitted, names, X, y)


def write(work: Path, matrices: Matrices, feature_set: FeatureSet) -> None:
    """Write the matrices in each layout, what was learned, and the definition of the features."""
    arrays = {f"X_{part}": X for part, X in matrices.X.items()} | {f"y_{part}": y for part, y in matrices.y.items()}
    work.mkdir(parents=True, exist_ok=True)
    storage.ensure_space(work, sum(array.nbytes for array in arrays.values()))
    for name, array in arrays.items():
        np.save(work / f"{name}.npy", np.ascontiguousarray(array, np.float64), allow_pickle=False)
    layouts.write_codes(work, feature_set, matrices.preprocessing, matrices.X)
    documents.write(work / "preprocessing.json", matrices.preprocessing)
    described = {"spec": feature_set.spec, "definition": feature_set.definition, "names": matrices.names}
    documents.write(work / "feature_set.json", described)


def _check_finite(model: str, X: Mapping[str, np.ndarray], names: list[str], origins: list[str]) -> None:
    """What the features stage let pass can still become too large by what is learned: a scale, components."""
    for part, matrix in X.items():
        large = np.abs(matrix) > np.finfo(np.float32).max
        if large.any():
            column = int(np.argwhere(large.any(axis=0))[0][0])
            made = "" if names[column] == origins[column] else f", made of {origins[column]!r},"
            raise Untrainable(
                f"{model}: the feature {names[column]!r}{made} is infinite, or too large for 32 bits, in"
                f" {int(large[:, column].sum())} rows of {part}; if params.yaml or a definition computes it, bound"
                " it, as in clip(x, 0, 1e6); if it is a column of the source, " + targets.INFINITE_REMEDY
            )
