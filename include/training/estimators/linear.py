"""Linear (ridge) regression, or logistic regression, on imputed and scaled features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.settings import Range, Task
from include.training import graphs
from include.training.estimators import Data, Layout, Parameter, Progress


@dataclass(frozen=True)
class Fitted:
    """`link(where(isnan(X), fill, X) @ weights + bias)`: imputing and scaling are folded into these numbers."""

    weights: np.ndarray
    bias: np.ndarray
    fill: np.ndarray
    mean: np.ndarray
    """Of the training rows, imputed."""
    scale: np.ndarray
    link: graphs.Link


def parameters(task: Task) -> dict[str, Parameter]:
    """The strength of the penalty; for classifications also how classes are weighted."""
    if task == "regression":
        return {"alpha": Parameter(1.0, low=0, search=Range(low=1e-3, high=1e3, scale="log"))}
    return {
        "C": Parameter(1.0, low=1e-9, search=Range(low=1e-3, high=1e2, scale="log")),
        "class_weight": Parameter(None, choices=(None, "balanced")),
        "max_iter": Parameter(500, low=1, integer=True),
    }


def starts(task: Task, metric: str) -> list[dict[str, Any]]:
    """The defaults are all."""
    return []


def layout(params: Mapping[str, Any]) -> Layout:
    """It knows no categories."""
    return "one_hot"


def fit(params: Mapping[str, Any], data: Data, *, seed: int, threads: int, progress: Progress | None) -> Fitted:
    """Impute by the median, scale to unit variance, fit."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if "scaled" not in data.shared:
        data.shared["scaled"] = _scaled(data.X)
    Z, fill, mean, scale = data.shared["scaled"]
    if data.task == "regression":
        model = Ridge(alpha=params["alpha"]).fit(Z, data.y)
        coefficients, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
        link: graphs.Link = "identity"
    else:
        model = LogisticRegression(
            C=params["C"], class_weight=params["class_weight"], max_iter=params["max_iter"], random_state=seed
        )
        model.fit(Z, data.y.astype(np.int64))
        coefficients, intercept = _every_class(model, data.classes)
        link = "sigmoid" if data.classes == 2 else "softmax"
    weights = coefficients.T / scale[:, None]
    return Fitted(weights, intercept - mean @ weights, fill, mean, scale, link)


def _every_class(model: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients with a row for each class, also for those that the training part does not hold."""
    if classes == 2:
        return model.coef_, model.intercept_
    coefficients, intercept = np.zeros((classes, model.coef_.shape[1])), np.full(classes, -50.0)
    if len(model.classes_) == 2:  # scikit-learn then keeps one row: the log odds of the second
        coefficients[model.classes_[1]], intercept[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        coefficients[model.classes_], intercept[model.classes_] = model.coef_, model.intercept_
    return coefficients, intercept


def _scaled(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    missing = np.isnan(X)
    known = ~missing.all(axis=0)
    fill = np.zeros(X.shape[1])
    fill[known] = np.nanmedian(X[:, known], axis=0)
    filled = np.where(missing, fill, X)
    mean, scale = filled.mean(axis=0), filled.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, 1.0)
    return (filled - mean) / scale, fill, mean, scale


def settled(params: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """The parameters as they are."""
    return dict(params)


def predict(fitted: Fitted, X: np.ndarray) -> np.ndarray:
    """Numbers, or probabilities."""
    score = np.where(np.isnan(X), fitted.fill, X) @ fitted.weights + fitted.bias
    if fitted.link == "identity":
        return np.asarray(score[:, 0])
    if fitted.link == "sigmoid":
        positive = 1 / (1 + np.exp(-np.clip(score[:, 0], -700, 700)))
        return np.column_stack([1 - positive, positive])
    exponent = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def to_onnx(fitted: Fitted) -> bytes:
    """A double-precision matrix product."""
    return graphs.linear(fitted.weights, fitted.bias, fitted.fill, fitted.link)


def to_booster(fitted: Fitted) -> None:
    """It has no trees."""


def explanation(fitted: Fitted) -> dict[str, Any]:
    """Each feature's weight times its distance from the training rows' mean."""
    return {
        "method": "linear",
        "scale": graphs.SCALES[fitted.link],
        "base": (fitted.bias + fitted.mean @ fitted.weights).tolist(),
        "weights": fitted.weights.tolist(),
        "mean": fitted.mean.tolist(),
        "fill": fitted.fill.tolist(),
    }


def importance(fitted: Fitted) -> np.ndarray:
    """How far one standard deviation of a feature moves the score."""
    moved = np.abs(fitted.weights * fitted.scale[:, None]).mean(axis=1)
    return np.asarray(moved / max(moved.sum(), 1e-300))
