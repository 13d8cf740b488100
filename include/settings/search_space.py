"""The settings of a study: estimators, the space it searches, its budget."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from include.home import ROOT
from include.settings.types import Strict


class Range(Strict):
    """A dimension of a search space: `[low, high]`, `[low, high, log]` or `[low, high, int]`."""

    low: float
    high: float
    scale: Literal["float", "log", "int", "log_int"] = "float"


class Choices(Strict):
    """A dimension of a search space with named values: `{choices: [a, b]}`."""

    choices: tuple[float | int | str | bool | None, ...] = Field(min_length=1)


Dimension = Range | Choices | bool | int | float | str | None
"""A range or choices to search, or a scalar that is fixed."""


def dimension_of(name: str, value: Any) -> Dimension:
    """A parameter of the space: a fixed value, a list of choices, or a range `{low, high}`.

    Raises:
        ValueError: it is none of them; `name` begins the message.
    """
    if isinstance(value, Range | Choices) or value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and set(value) == {"choices"}:
        return Choices(choices=tuple(value["choices"]))
    if isinstance(value, list | tuple) and len(value) in (2, 3):
        low, high, *scale = value
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
        kind = scale[0] if scale else ("int" if isinstance(low, int) and isinstance(high, int) else "float")
        if numbers and kind in ("float", "log", "int", "log_int"):
            if not low < high:
                raise ValueError(f"{name}: low {low} must be below high {high}")
            if kind.startswith("log") and low <= 0:
                raise ValueError(f"{name}: a log range must start above 0, not at {low}")
            return Range(low=low, high=high, scale=kind)
    raise ValueError(
        f"{name}: write [low, high], [low, high, log | int | log_int], {{choices: [...]}} or one fixed value,"
        f" not {value!r}"
    )


DEFAULT_ESTIMATORS: dict[str, dict[str, Any]] = {"linear": {}, "random_forest": {}, "xgboost": {}}


def estimator_names() -> list[str]:
    """The estimators there are: one file each in include/training/estimators/."""
    folder = ROOT / "include" / "training" / "estimators"
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


class Tuning(Strict):
    """The study: how many trials, for how long, by how many Airflow tasks."""

    trials: int = Field(default=30, ge=1, le=10_000)
    """How many points of the search space are tried, over all estimators."""
    time_budget: int = Field(default=600, ge=5)
    """Seconds, for the whole study."""
    workers: int = Field(default=2, ge=1, le=32)
    """How many Airflow tasks share the study."""
    pruning: bool = True
    """Whether a trial that will not become the best is stopped early."""
    seed: int = 7
    """Of the search, the split and the estimators."""
