"""The Jensen-Shannon distance: the square root of H(m) - (H(p) + H(q)) / 2 in bits, m = (p + q) / 2, H the entropy.

The divergence is Lin's (*Divergence measures based on the Shannon entropy*, IEEE Transactions on Information Theory,
1991); its square root is a metric (Endres and Schindelin, *A new metric for probability distributions*, same journal,
2003). It is 0 for equal distributions, 1 for those that share no bucket, and so, unlike the PSI, cannot be driven far
by one bucket that empties.

For small shifts the divergence is an eighth of the PSI in nats, so the distance is √(PSI / (8 ln 2)): the thresholds
are where PSI's usual 0.1 and 0.2 lie.
"""

from __future__ import annotations

import numpy as np

from include.monitoring.drift_measures import by_chance

TITLE = "Jensen-Shannon distance"
SHORT = "Jensen-Shannon distance"
WARN = 0.134
CRITICAL = 0.19


def compute(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The distance of each pair of distributions, from 0 to 1."""
    p, q = (np.asarray(shares) / np.sum(shares, axis=-1, keepdims=True) for shares in (reference, current))
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(axis=-1) / 2
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)))  # rounding leaves equal distributions at -1e-17


def chance(reference: np.ndarray, trained: int, newest: int) -> float:
    """What chance alone gives, by simulation."""
    return by_chance(compute, reference, trained, newest)
