"""The baseline: always the training part's median, mean, or shares of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.settings import Task
from include.training import graphs
from include.training.estimators import Data, Layout, Parameter, Progress


@dataclass(frozen=True)
class Fitted:
    """One number, or one probability per class."""

    answer: np.ndarray
    features: int


def parameters(task: Task) -> dict[str, Parameter]:
    """`strategy` for a regression; none for a classification."""
    return {"strategy": Parameter("auto", choices=("auto", "mean", "median"))} if task == "regression" else {}


def starts(task: Task, metric: str) -> list[dict[str, Any]]:
    """None."""
    return []


def layout(params: Mapping[str, Any]) -> Layout:
    """It knows no categories."""
    return "one_hot"


def fit(params: Mapping[str, Any], data: Data, *, seed: int, threads: int, progress: Progress | None) -> Fitted:
    """Learn the answer; `auto` is the median where the metric is mae, which it minimises, else the mean."""
    if data.task == "regression":
        strategy = params.get("strategy", "auto")
        median = strategy == "median" or (strategy == "auto" and data.metric == "mae")
        answer = np.array([np.median(data.y) if median else np.mean(data.y)])
    else:
        answer = np.bincount(data.y.astype(np.int64), minlength=data.classes) / len(data.y)
    return Fitted(answer, data.X.shape[1])


def settled(params: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """The parameters as they are."""
    return dict(params)


def predict(fitted: Fitted, X: np.ndarray) -> np.ndarray:
    """The same for every row."""
    shape: tuple[int, ...] = (len(X),) if fitted.answer.size == 1 else (len(X), fitted.answer.size)
    return np.broadcast_to(fitted.answer, shape).copy()


def to_onnx(fitted: Fitted) -> bytes:
    """A graph of one constant."""
    return graphs.constant(fitted.answer, fitted.features)


def to_booster(fitted: Fitted) -> None:
    """It has no trees."""


def explanation(fitted: Fitted) -> dict[str, Any]:
    """No feature adds anything to the answer; of two classes it is the second one's."""
    answer = fitted.answer[1:] if fitted.answer.size == 2 else fitted.answer
    return {"method": "constant", "scale": "prediction", "base": answer.tolist()}


def importance(fitted: Fitted) -> None:
    """It uses no feature."""
