"""A random forest of scikit-learn's trees, each grown on a sample of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.settings import Range, Task
from include.training import boosters, graphs
from include.training.estimators import Data, Layout, Parameter, Progress


@dataclass(frozen=True)
class Fitted:
    """The forest, and what stands in for missing values."""

    forest: Any
    fill: np.ndarray
    classes: int


def parameters(task: Task) -> dict[str, Parameter]:
    """The size of the forest and of its trees."""
    return {
        "n_estimators": Parameter(100, low=1, high=5000, integer=True),
        "max_depth": Parameter(
            12, low=1, high=64, choices=(None,), integer=True, search=Range(low=4, high=16, scale="int")
        ),
        "min_samples_leaf": Parameter(5, low=1, integer=True, search=Range(low=2, high=50, scale="log_int")),
        "max_features": Parameter(0.5, low=0.01, high=1, choices=("sqrt", "log2"), search=Range(low=0.2, high=1.0)),
        # A tree of a forest needs no more: on 80,000 rows 10,000 a tree cost an eighth, and 1 % more error.
        "max_samples": Parameter(10_000, low=1, integer=True),
    }


def starts(task: Task, metric: str) -> list[dict[str, Any]]:
    """Deeper trees with smaller leaves, which need more rows."""
    return [{"max_depth": 16, "min_samples_leaf": 2}]


def layout(params: Mapping[str, Any]) -> Layout:
    """It knows no categories."""
    return "one_hot"


def fit(params: Mapping[str, Any], data: Data, *, seed: int, threads: int, progress: Progress | None) -> Fitted:
    """Impute by the median, and grow. `max_samples` counts rows."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    if "float32" not in data.shared:
        data.shared["float32"] = _filled(data.X)
    X, fill = data.shared["float32"]
    kind = RandomForestRegressor if data.task == "regression" else RandomForestClassifier
    forest = kind(
        **{**params, "max_samples": min(int(params["max_samples"]), len(X))}, random_state=seed, n_jobs=threads
    )
    forest.fit(X, data.y if data.task == "regression" else data.y.astype(np.int64))
    return Fitted(forest, fill, data.classes)


def _filled(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fill = np.zeros(X.shape[1], np.float32)
    known = ~np.isnan(X).all(axis=0)
    fill[known] = np.nanmedian(X[:, known], axis=0)
    X32 = X.astype(np.float32)
    return np.where(np.isnan(X32), fill, X32), fill


def settled(params: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """The parameters as they are."""
    return dict(params)


def predict(fitted: Fitted, X: np.ndarray) -> np.ndarray:
    """Numbers, or probabilities."""
    X32 = X.astype(np.float32)
    filled = np.where(np.isnan(X32), fitted.fill, X32)
    if not fitted.classes:
        return np.asarray(fitted.forest.predict(filled))
    probabilities = np.zeros((len(X), fitted.classes))
    probabilities[:, fitted.forest.classes_] = fitted.forest.predict_proba(filled)
    return probabilities


def to_onnx(fitted: Fitted) -> bytes:
    """The trees as they are, thresholds rounded towards the side on which no float32 changes its way."""
    width = max(fitted.classes, 1)
    return graphs.trees(
        _trees(fitted),
        None,
        features=len(fitted.fill),
        width=width,
        mode="BRANCH_LEQ",
        base=np.zeros(width),
        link="identity" if not fitted.classes else "probabilities",
        fill=fitted.fill,
    )


def to_booster(fitted: Fitted) -> bytes:
    """The same trees; of two classes the second one's probability alone."""
    targets = range(1, 2) if fitted.classes == 2 else range(max(fitted.classes, 1))
    return boosters.of_forest(_trees(fitted), features=len(fitted.fill), targets=targets, fill=fitted.fill)


def explanation(fitted: Fitted) -> dict[str, Any]:
    """By its trees, whose sum is the prediction itself."""
    return {"method": "trees", "scale": "prediction"}


def _trees(fitted: Fitted) -> list[graphs.Tree]:
    width = max(fitted.classes, 1)
    return [_tree(estimator.tree_, fitted, width) for estimator in fitted.forest.estimators_]


def _tree(tree: Any, fitted: Fitted, width: int) -> graphs.Tree:
    threshold = tree.threshold.astype(np.float32)
    threshold = np.where(threshold > tree.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    values = np.zeros((tree.node_count, width))
    share = tree.value[:, 0, :]
    if fitted.classes:
        values[:, fitted.forest.classes_] = share / share.sum(axis=1, keepdims=True)
    else:
        values[:] = share
    values /= len(fitted.forest.estimators_)
    never = np.zeros(tree.node_count, bool)
    return graphs.Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=threshold,
        missing_left=never,
        values=values.astype(np.float32),
        cover=tree.weighted_n_node_samples,
    )


def importance(fitted: Fitted) -> np.ndarray:
    """The share of the impurity that splits on a feature took away."""
    return np.asarray(fitted.forest.feature_importances_)
