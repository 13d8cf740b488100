"""The population stability index, Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ): e the shares in the training set, a those now.

From Siddiqi, *Credit Risk Scorecards*, 2006, as are the thresholds 0.1 and 0.2. It is the symmetric Kullback-Leibler
divergence in nats, and has no upper bound: a bucket that empties or fills weighs heavily.

Two samples of one population have a PSI above 0: about (1/n + 1/m) times chi-squared, with one degree of freedom fewer
than there are buckets (Yurdakul and Naranjo, *Statistical properties of the population stability index*, Journal of
Risk Model Validation, 2020), and more where buckets stay empty. With thirty categories and 100 rows chance alone gives
0.3.
"""

from __future__ import annotations

import numpy as np

from include.features import profile
from include.monitoring.drift_measures import by_chance

TITLE = "population stability index"
SHORT = "PSI"
WARN = 0.1
CRITICAL = 0.2


def compute(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The index of each pair of distributions."""
    return profile.psi(reference, current)


def chance(reference: np.ndarray, trained: int, newest: int) -> float:
    """What chance alone gives; drawn, since the asymptotic formula is too low where buckets stay empty."""
    return by_chance(compute, reference, trained, newest)
