"""What each feature added to a prediction: the base and all contributions together are the score, exactly.

A served form's explanation.json says how its estimator's score is taken apart:

    {"method": "constant", "scale", "base": [per target]}
    {"method": "linear", "scale", "base": [per target], "weights": [[per target] per column], "mean": [per column],
     "fill": [per column]}                              weight times the distance from the training rows' mean
    {"method": "trees", "scale"}                        exact TreeSHAP of booster.ubj

A target is the number of a regression, the second class of two, or each of several classes. The scale is what the
score is: the `prediction` itself, its `log`, or the `log_odds` of the class (of several: what softmax is taken of).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Taken = tuple[np.ndarray, np.ndarray]
"""The bases (targets,), and what each column of the matrix adds: (n, targets, k)."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Some rows' predictions, taken apart."""

    scale: str
    features: list[str]
    """What contributes: a feature's columns, say those of its one-hot encoding, are one."""
    base: np.ndarray
    """The score of no row in particular, (targets,)."""
    contributions: np.ndarray
    """(n, targets, features)."""
    columns: list[str]
    """The matrix's columns."""
    by_column: np.ndarray
    """(n, targets, columns)."""
    classes: list[Any] | None

    def predictions(self) -> np.ndarray:
        """What base and contributions add up to, as `Predictor.predict` answers it."""
        score = self.base + self.contributions.sum(axis=2)
        if self.scale == "log":
            score = np.exp(score)
        if self.classes is None:
            return np.asarray(score[:, 0])
        if len(self.base) > 1:
            if self.scale == "log_odds":
                score = np.exp(score - score.max(axis=1, keepdims=True))
                score /= score.sum(axis=1, keepdims=True)
            return np.asarray(score)
        second = 1 / (1 + np.exp(-score)) if self.scale == "log_odds" else score
        return np.concatenate([1 - second, second], axis=1)

    def row(self, number: int) -> dict[str, Any]:
        """A row's explanation as an answer holds it.

        Of a regression `{"scale", "base": number, "contributions": {feature: number}}`. Of two classes the same, and
        `class`, the second one, which it is about. Of several, base and contributions are objects by class.
        """
        parts = self.contributions[number].tolist()
        named = [dict(zip(self.features, values, strict=True)) for values in parts]
        base = self.base.tolist()
        if self.classes is None:
            return {"scale": self.scale, "base": base[0], "contributions": named[0]}
        if len(base) == 1:
            return {"scale": self.scale, "class": self.classes[-1], "base": base[0], "contributions": named[0]}
        keys = [label if isinstance(label, str) else json.dumps(label) for label in self.classes]
        return {
            "scale": self.scale,
            "base": dict(zip(keys, base, strict=True)),
            "contributions": dict(zip(keys, named, strict=True)),
        }


class Explainer:
    """How one version's predictions are taken apart.

    Args:
        document: the form's explanation.json.
        columns: the names of the matrix's columns.
        origins: for each of them the feature that it belongs to.
        classes: of a classification.
        trees: for the method `trees`: a matrix (n, k) → (n, targets, k + 1), the last of them the base.
    """

    def __init__(
        self,
        document: dict[str, Any],
        *,
        columns: Sequence[str],
        origins: Sequence[str],
        classes: list[Any] | None,
        trees: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        self._scale, self._columns, self._classes = str(document["scale"]), list(columns), classes
        self._features = list(dict.fromkeys(origins))
        places = {feature: place for place, feature in enumerate(self._features)}
        self._belongs = np.zeros((len(self._columns), len(self._features)))
        self._belongs[np.arange(len(self._columns)), [places[origin] for origin in origins]] = 1.0
        self._take = _method(document, len(self._columns), trees)

    def explain(self, X: np.ndarray) -> Explanation:
        """Take apart the score of each row of a matrix (n, k)."""
        base, by_column = self._take(X)
        return Explanation(
            self._scale, self._features, base, by_column @ self._belongs, self._columns, by_column, self._classes
        )


def _method(
    document: dict[str, Any], width: int, trees: Callable[[np.ndarray], np.ndarray] | None
) -> Callable[[np.ndarray], Taken]:
    method = document["method"]
    if method == "trees" and trees is not None:
        return lambda X: _of_trees(trees(X))
    base = np.array(document["base"], dtype=np.float64)
    if method == "constant":
        return lambda X: (base, np.zeros((len(X), len(base), width)))
    if method == "linear":
        weights, mean, fill = (np.array(document[name], dtype=np.float64) for name in ("weights", "mean", "fill"))
        return lambda X: (base, (np.where(np.isnan(X), fill, X) - mean)[:, None, :] * weights.T[None])
    raise ValueError(f"explanation.json: no method is called {method!r}")


def _of_trees(answer: np.ndarray) -> Taken:
    answer = answer.astype(np.float64)
    return answer[0, :, -1], answer[:, :, :-1]
