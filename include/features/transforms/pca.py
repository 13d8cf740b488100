"""pca: numbers become their first principal components, which replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from include.features.definition import FeatureError
from include.features.transforms import Column, FitError, Learned, Stage
from include.settings.types import Strict


class PCA(Strict):
    """Principal components of some numeric columns."""

    columns: tuple[str, ...] = Field(min_length=2)
    """The numeric columns that the components replace."""
    components: int = Field(ge=1)
    """How many of the first components."""


STAGE = Stage.PROJECT
LEARNS = ("mean", "vectors")
Declaration = dict[str, PCA]
"""name of the component columns → the columns they are made of."""


def check(declared: Mapping[str, PCA], columns: Mapping[str, Column]) -> None:
    """Refuse text, a column of two sets of components, and more components than columns."""
    parts: dict[str, str] = {}
    for name, how in declared.items():
        key = f"features.pca.{name}"
        for column in how.columns:
            if columns[column].kind == "string" and columns[column].encoding != "ordinal":
                raise FeatureError(f"{key}: {column!r} is text; principal components need numbers")
            if column in parts:
                raise FeatureError(f"{key}: {column!r} is part of features.pca.{parts[column]} already")
            parts[column] = name
        if how.components > len(how.columns):
            raise FeatureError(f"{key}: {how.components} components of {len(how.columns)} columns; declare fewer")


def fit(values: np.ndarray, how: Mapping[str, Any], name: str, columns: Sequence[str]) -> Learned:
    """Means and the first right singular vectors of the centred columns; each vector's largest entry is positive."""
    X, components = np.ascontiguousarray(values.T), int(how["components"])
    if components > min(X.shape):
        shape = f"{X.shape[1]} columns and {X.shape[0]} rows"
        raise FitError(f"pca.{name}: {components} components of {shape}; declare fewer")
    if np.isnan(X).any():
        column = columns[int(np.argmax(np.isnan(X).any(axis=0)))]
        raise FitError(f"pca.{name}: {column!r} has missing values; declare `impute: {{{column}: median}}`")
    mean = X.mean(axis=0)
    _, _, vectors = np.linalg.svd(X - mean, full_matrices=False)
    vectors = vectors[:components]
    largest = np.abs(vectors).argmax(axis=1)
    vectors = vectors * np.sign(vectors[np.arange(components), largest])[:, None]
    names = [f"{name}_{index}" for index in range(components)]
    return {"mean": mean.tolist(), "vectors": vectors.tolist(), "names": names}


def ready(learned: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """The components, summed in one fixed order: a row alone has the bits that it has among others."""
    mean, vectors = np.array(learned["mean"]).reshape(-1, 1), np.array(learned["vectors"])

    def apply(values: np.ndarray) -> np.ndarray:
        centred = values - mean
        projected = np.zeros((len(vectors), values.shape[1]))
        for column in range(len(centred)):
            projected += vectors[:, column, None] * centred[column]
        return projected

    return apply
