"""One file for each measure of drift: how far two distributions over the same buckets lie apart.

A measure is a module of this package with the names of `DriftMeasure`; it is found by its file's name, so that adding
one is adding one file. The buckets are pinned at training (include/features/profile.py): bins of a number, or the
frequent categories and one bucket for all others, which an unseen category falls into; the last is the missing values.

Two samples of one population never agree exactly, so every measure also has what chance alone gives at the number of
rows in hand, and a finding must pass both that and its threshold. `by_chance` draws it from the training shares.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np

from include.features.profile import EPSILON
from include.settings import Monitoring, drift_measure_names
from include.text import did_you_mean

_DRAWS, _QUANTILE = 500, 0.998


class DriftMeasure(Protocol):
    """What each file of this package offers at module level; its docstring names the formula's source."""

    TITLE: str
    """What it is called in full, on the picture's axis."""
    SHORT: str
    """What it is called in a finding's line and in the report: `PSI`."""
    WARN: float
    """Beyond it a column has drifted, where params.yaml declares no other threshold."""
    CRITICAL: float
    """Beyond it retraining is requested."""

    def compute(self, reference: np.ndarray, current: np.ndarray) -> np.ndarray:
        """The distance of two distributions, at least 0, and 0 for equal ones.

        Args:
            reference: shares of the training set, (…, buckets), each at least `EPSILON`; they add up to about 1.
            current: shares of the newest rows over the same buckets, (…, buckets).

        Returns:
            An array (…), one value for each pair.
        """

    def chance(self, reference: np.ndarray, trained: int, newest: int) -> float:
        """The value that samples of `trained` and of `newest` rows of one population rarely exceed.

        Args:
            reference: shares of that population, (buckets,).
            trained: rows of the training set.
            newest: rows that are compared with it.
        """


def load(name: str) -> DriftMeasure:
    """The measure in include/monitoring/drift_measures/<name>.py.

    Raises:
        LookupError: there is no such file.
    """
    if name not in drift_measure_names():
        near = did_you_mean(name, drift_measure_names())
        raise LookupError(f"no file include/monitoring/drift_measures/{name}.py{near}")
    return cast(DriftMeasure, importlib.import_module(f"{__name__}.{name}"))


def thresholds(rules: Monitoring) -> tuple[float, float]:
    """Beyond which values a model's columns have drifted, and retraining is requested.

    What params.yaml does not declare is the measure's own; a default that contradicts a declared value gives way to it.
    """
    measure, (warn, critical) = load(rules.drift.measure), rules.drift_thresholds
    if critical is None:
        critical = max(measure.CRITICAL, warn or 0.0)
    return (min(measure.WARN, critical) if warn is None else warn), critical


def by_chance(
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray], reference: np.ndarray, trained: int, newest: int
) -> float:
    """What two samples of one population, of so many rows each, stay below 998 times in 1,000: by simulation."""
    population = np.asarray(reference) / np.sum(reference)
    random = np.random.default_rng(0)
    first, second = (
        np.maximum(random.multinomial(rows, population, _DRAWS) / rows, EPSILON) for rows in (trained, newest)
    )
    return float(np.quantile(compute(first, second), _QUANTILE))
