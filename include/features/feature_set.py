"""The features of a model, from params.yaml, from a Python definition, or from both, as one thing.

    computed    definition → derived → date_parts: `compute`, in computed.py
    learned     the transforms that are declared, one file each in transforms/: `fit`, then `transform`

A feature set is a `spec` of plain data and the definition's source text: stored with the features and in the served
form, so that the service runs the very code that trained the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from include.features import fitting
from include.features.categories import UnknownCategory
from include.features.codes import Fitted, codes_of, with_codes
from include.features.columns import Columns
from include.features.computed import ComputedFeatures
from include.features.definition import FeatureError
from include.features.pipeline import Pipeline
from include.features.transforms import FitError

__all__ = ["FeatureError", "FeatureSet", "FitError", "UnknownCategory"]


class FeatureSet(ComputedFeatures):
    """What turns raw columns into a matrix.

    Args:
        spec: plain data.
        definition: the source text of the Python definition, if there is one.
        left_out: of a set that was compiled just now, the source's columns that are no inputs although the model takes
            all, each with the reason.
    """

    def __init__(
        self, spec: Mapping[str, Any], definition: str | None = None, left_out: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(spec, definition)
        self.unknown_category: str = spec["unknown_category"]
        self.left_out = dict(left_out or {})
        self._ready: tuple[Fitted, Pipeline] | None = None

    def fit(self, columns: Columns, y: np.ndarray, *, task: str, seed: int) -> tuple[Fitted, np.ndarray]:
        """Learn from the training part: what was learned, as plain data, and its matrix X in float64.

        Args:
            columns: feature columns, as `compute` gives them, of the training part only.
            y: the target.
            task: regression, binary or multiclass.
            seed: of the folds in which target encoding is cross-fitted.

        Raises:
            FitError: a declared transform cannot be learned from these rows.
        """
        return fitting.fit(self.spec["declared"], self.kinds, columns, np.asarray(y), task=task, seed=seed)

    def transform(self, fitted: Fitted, columns: Columns, *, unknown: str | None = None) -> np.ndarray:
        """Feature columns → the matrix X (n, k) in float64, by what `fit` learned.

        Args:
            fitted: from `fit`, or read back from JSON; must not be changed between calls.
            columns: feature columns, as `compute` gives them.
            unknown: `other` or `error`; default: the model's policy.

        Raises:
            UnknownCategory: by the policy `error`.
        """
        rows = len(next(iter(columns.values())))
        return self._pipeline(fitted).transform(columns, rows, unknown or self.unknown_category)

    def names(self, fitted: Fitted) -> list[str]:
        """The names of the columns of X, in order."""
        return list(self._pipeline(fitted).names)

    def origins(self, fitted: Fitted) -> list[str]:
        """For each column of X the feature column that it is made of: `vendor` for `vendor=a`; PCA's are their own."""
        return list(self._pipeline(fitted).origins)

    def with_codes(self, fitted: Fitted) -> Fitted | None:
        """The same, with categories as codes instead of undeclared one_hot columns; None where there are none."""
        return with_codes(fitted, self.spec["declared"].get("one_hot", ()))

    def codes_of(self, fitted: Fitted, coded: Fitted, X: np.ndarray) -> np.ndarray:
        """The matrix of `coded`, from `with_codes`, made of that of `fitted`."""
        return codes_of(fitted, coded, X)

    def coded(self, fitted: Fitted) -> list[bool]:
        """For each column of X whether it holds codes of categories."""
        return list(self._pipeline(fitted).coded)

    def _pipeline(self, fitted: Fitted) -> Pipeline:
        ready = self._ready
        if ready is None or ready[0] is not fitted:
            ready = self._ready = (fitted, Pipeline(fitted, self.kinds))
        return ready[1]
