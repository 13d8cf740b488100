"""One file per algorithm: its search space and how it is built.

An estimator is a module of this package with the functions of `Estimator`; it is found by its file's name, so that
adding one is adding one file. Nothing heavy is imported before a function needs it: `check` costs milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from include.settings import Choices, Dimension, Range, Task, estimator_names
from include.text import did_you_mean

if TYPE_CHECKING:
    import numpy as np

Layout = Literal["one_hot", "codes"]
"""How undeclared categories of text stand in the matrix: as 0/1 columns, or as one column of codes."""


class Progress(Protocol):
    """The study's view of a fit that advances in steps."""

    def report(self, step: int, value: float) -> None:
        """Record the study's metric on the validation part; may raise to prune.

        Steps grow by a constant factor and mean the same in all trials of the estimator.
        """

    def time_is_up(self) -> bool:
        """Whether to end now, with the model that there is."""


class EstimatorError(ValueError):
    """An estimator's entry in params.yaml is wrong; the message names the key and the remedy."""


@dataclass(frozen=True)
class Parameter:
    """What an estimator accepts for one parameter, what it takes by default, and what the study searches."""

    default: float | str | None
    low: float | None = None
    high: float | None = None
    choices: tuple[float | str | None, ...] = ()
    """Named values it accepts, besides the numbers between `low` and `high` where one of these is given."""
    search: Range | Choices | None = None
    """What the study searches when params.yaml does not say; None: it stays at its default."""
    search_for: Mapping[str, Range | Choices] = field(default_factory=dict)
    """What it searches instead where it is judged by one of these metrics."""
    integer: bool = False


@dataclass
class Data:
    """The matrices of a study, shared by all trials of a process."""

    X: np.ndarray
    """Training rows, float64 (n, k); NaN is missing."""
    y: np.ndarray
    """float64; for classification the class's position in `classes`."""
    X_val: np.ndarray | None
    """Rows for early stopping and for the trial's score; None: the final fit, which sees all of them in `X`."""
    y_val: np.ndarray | None
    task: Task
    metric: str
    classes: int
    """How many classes; 0 for regression."""
    coded: list[bool] | None = None
    """Which columns hold codes of categories; None: there are none."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What an estimator built from these matrices and the next trial can use again."""


class Estimator(Protocol):
    """What each file of this package offers, as module-level functions."""

    def parameters(self, task: Task) -> dict[str, Parameter]:
        """All that params.yaml may say about this estimator."""

    def starts(self, task: Task, metric: str) -> list[dict[str, Any]]:
        """Points that have proved good on many tables: the study tries them after the defaults, before it samples.

        Each names what differs from the defaults.
        """

    def layout(self, params: Mapping[str, Any]) -> Layout:
        """The matrix that these parameters are fitted on, and that `predict` takes."""

    def fit(self, params: Mapping[str, Any], data: Data, *, seed: int, threads: int, progress: Progress | None) -> Any:
        """Fit with fixed parameters; the same seed and threads give the same model."""

    def settled(self, params: Mapping[str, Any], fitted: Any) -> dict[str, Any]:
        """The parameters that rebuild `fitted` without a validation part, say with the iterations it stopped at."""

    def predict(self, fitted: Any, X: np.ndarray) -> np.ndarray:
        """Numbers (n,) for a regression, else probabilities (n, classes)."""

    def to_onnx(self, fitted: Any) -> bytes:
        """One graph from `X` (n, k) to `prediction`, equal to `predict`."""

    def to_booster(self, fitted: Any) -> bytes | None:
        """The same trees as XGBoost's binary model, with their covers; None where it has none."""

    def explanation(self, fitted: Any) -> dict[str, Any]:
        """How a score is taken apart, as plain data: see include/inference/explanation.py."""

    def importance(self, fitted: Any) -> np.ndarray | None:
        """A share of each feature (k,), adding up to 1; None where the algorithm knows none."""


def load(name: str) -> Estimator:
    """The estimator in include/training/estimators/<name>.py."""
    if name not in estimator_names():
        raise EstimatorError(f"no file include/training/estimators/{name}.py{did_you_mean(name, estimator_names())}")
    return cast(Estimator, importlib.import_module(f"{__name__}.{name}"))


def space(name: str, params: Mapping[str, Dimension], task: Task, metric: str | None = None) -> dict[str, Dimension]:
    """The search space in force: each of the estimator's own dimensions, with those of params.yaml in their place."""

    def own(parameter: Parameter) -> Dimension:
        search = parameter.search_for.get(metric or "", parameter.search)
        return search if search is not None else parameter.default

    return {key: params.get(key, own(parameter)) for key, parameter in load(name).parameters(task).items()}


def defaults(name: str, params: Mapping[str, Dimension], task: Task, metric: str | None = None) -> dict[str, Any]:
    """The point the study begins with: the defaults, moved into the ranges of params.yaml where they lie outside."""
    return _point(name, params, task, metric, {})


def first_points(name: str, params: Mapping[str, Dimension], task: Task, metric: str) -> list[dict[str, Any]]:
    """What the study tries before it samples: the defaults, then `starts`, all moved into the ranges of params.yaml."""
    starts = [{}, *load(name).starts(task, metric)]
    points = [_point(name, params, task, metric, start) for start in starts]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def _point(
    name: str, params: Mapping[str, Dimension], task: Task, metric: str | None, start: Mapping[str, Any]
) -> dict[str, Any]:
    accepted = load(name).parameters(task)
    return {
        key: _nearest(dimension, start.get(key, accepted[key].default))
        for key, dimension in space(name, params, task, metric).items()
    }


def _nearest(dimension: Dimension, default: Any) -> Any:
    if isinstance(dimension, Range):
        whole = dimension.scale in ("int", "log_int")
        if not isinstance(default, int | float):
            default = (dimension.low * dimension.high) ** 0.5 if "log" in dimension.scale else dimension.low
        value = min(max(default, dimension.low), dimension.high)
        return round(value) if whole else float(value)
    if isinstance(dimension, Choices):
        return default if default in dimension.choices else dimension.choices[0]
    return dimension


def check(name: str, params: Mapping[str, Dimension], task: Task) -> None:
    """Refuse what this estimator would not understand.

    Raises:
        EstimatorError: one line per mistake: `xgboost.max_dept: unknown parameter; did you mean 'max_depth'?`
    """
    accepted = load(name).parameters(task)
    mistakes = []
    for key, dimension in params.items():
        if key not in accepted:
            hint = did_you_mean(key, accepted) or f"; {name} accepts {', '.join(accepted)}"
            mistakes.append(f"{name}.{key}: unknown parameter for {task}{hint}")
        elif problem := _problem(accepted[key], dimension):
            mistakes.append(f"{name}.{key}: {problem}")
    if mistakes:
        raise EstimatorError("\n".join(mistakes))


def _problem(parameter: Parameter, dimension: Dimension) -> str | None:
    if isinstance(dimension, Range):
        if parameter.low is None and parameter.high is None:
            return f"not a number to search; choose from {list(parameter.choices)}"
        if parameter.integer and dimension.scale not in ("int", "log_int"):
            scale = "log_int" if dimension.scale == "log" else "int"
            return f"takes whole numbers: write [{dimension.low:g}, {dimension.high:g}, {scale}]"
        values: tuple[Any, ...] = (dimension.low, dimension.high)
    else:
        values = dimension.choices if isinstance(dimension, Choices) else (dimension,)
    return next((p for value in values if (p := _refused(parameter, value))), None)


def _refused(parameter: Parameter, value: Any) -> str | None:
    if value in parameter.choices and not isinstance(value, bool):
        return None
    if parameter.low is None and parameter.high is None:
        return f"{value!r} is not one of {list(parameter.choices)}{did_you_mean(str(value), parameter.choices)}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"expected a number, not {value!r}"
    if parameter.integer and value != int(value):
        return f"expected a whole number, not {value!r}"
    if (parameter.low is not None and value < parameter.low) or (parameter.high is not None and value > parameter.high):
        low = "-∞" if parameter.low is None else f"{parameter.low:g}"
        high = "∞" if parameter.high is None else f"{parameter.high:g}"
        return f"{value:g} is outside of {low} to {high}"
    return None
