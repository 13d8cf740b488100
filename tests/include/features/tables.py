"""Small tables for the tests of transforms."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from include.features import fitting
from include.features.pipeline import Pipeline


def fit(
    declared: dict[str, Any], columns: dict[str, np.ndarray], y: Any = None, task: str = "regression"
) -> tuple[Any, np.ndarray, Pipeline]:
    """What is learned of some columns, their matrix, and what was learned, brought back from JSON and ready."""
    kinds = {name: "string" if values.dtype.kind == "O" else "number" for name, values in columns.items()}
    target = np.arange(len(next(iter(columns.values()))), dtype=float) if y is None else np.asarray(y)
    fitted, X = fitting.fit(declared, kinds, columns, target, task=task, seed=3)
    fitted = json.loads(json.dumps(fitted, allow_nan=False))
    return fitted, X, Pipeline(fitted, kinds)


def text(*values: str | None) -> np.ndarray:
    """A column of text."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def apply(pipeline: Pipeline, unknown: str = "other", **columns: np.ndarray) -> np.ndarray:
    """The matrix of some rows."""
    return pipeline.transform(columns, len(next(iter(columns.values()))), unknown)
