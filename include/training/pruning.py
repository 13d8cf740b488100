"""When a trial is stopped before its end: if not even a hopeful guess at its end is as good as the best trial.

Values of an unfinished trial are not compared with those of others at the same step: those that learn fast lead there,
and those that learn slowly often end better. What is compared is its end, guessed generously, with the best end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Curve = dict[int, float]
"""Step → the study's metric on the validation part."""

FIRST_STEP = 28
"""Before it nothing is stopped: 28 iterations at a rate of 0.1."""
ALIKE = 3
"""So many finished trials of its kind must have shown how much is still gained from a step on."""
GENEROSITY = 1.5
"""A trial may gain this much more than any other gained from the same step on."""
DOUBLINGS = 2.0
"""It may also gain this many times what it gained over the last doubling of its steps: gains shrink as steps grow."""


def kind(estimator: str, params: Mapping[str, Any]) -> str:
    """Trials whose curves can be compared: of one estimator, and of one objective where it has several."""
    return f"{estimator}/{params.get('objective', '')}"


def hopeless(
    curve: Mapping[int, float], finished: Sequence[tuple[Mapping[int, float], float]], best: float, *, sign: float
) -> bool:
    """Whether a trial will not become the best.

    Args:
        curve: of the trial, up to now.
        finished: curve and final value of each complete trial of its kind.
        best: the study's best value, times `sign`.
        sign: 1 where small values are good, else -1.
    """
    step = max(curve)
    reached = sign * min((sign * v for v in curve.values() if np.isfinite(v)), default=np.nan)
    gains = [gain for others, end in finished if (gain := _gained_after(others, end, step, sign)) is not None]
    if step < FIRST_STEP or len(gains) < ALIKE or not np.isfinite(reached):
        return False
    before = _best_until(curve, step / 2, sign)
    own = np.inf if before is None else before - sign * reached
    return bool(sign * reached - max(GENEROSITY * max(gains), DOUBLINGS * own) > best)


def _gained_after(curve: Mapping[int, float], end: float, step: int, sign: float) -> float | None:
    """What a finished trial gained from a step to its end; None where it reported nothing up to there."""
    there = _best_until(curve, step, sign)
    return None if there is None else max(0.0, there - sign * end)


def _best_until(curve: Mapping[int, float], step: float, sign: float) -> float | None:
    values = [sign * value for at, value in curve.items() if at <= step and np.isfinite(value)]
    return min(values, default=None)
