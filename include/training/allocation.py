"""Which estimator the study's next trial is of.

Each estimator first has its proven points. Then two of three trials go to the one that leads, and the third to the
others by turns, as long as they are not beaten beyond doubt. The sampler chooses parameters only: it would see
that trials of a slow estimator are never stopped early, take that for merit, and spend the study on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EVERY = 3
"""One of so many sampled trials goes to an estimator that does not lead."""
JUDGED = 3
"""An estimator leads beyond doubt where even its worst of at least so many complete trials beats another's best."""
PER_DIMENSION = 8
"""Trials after which an estimator has been searched enough, for each dimension of its space."""


@dataclass(frozen=True)
class Past:
    """One trial of the study that has begun."""

    estimator: str
    value: float | None
    """Smaller is better; None: not complete."""
    sampled: bool
    """Whether the sampler chose its point."""


def next_estimator(past: Sequence[Past], dimensions: Mapping[str, int]) -> str:
    """The estimator of the next sampled trial.

    Args:
        past: the study's trials in order.
        dimensions: of each estimator's search space; one with none has a single point, and is not sampled.
    """
    best = {name: min((t.value for t in past if t.estimator == name and t.value is not None), default=np.inf)
            for name in dimensions}  # fmt: skip
    order = {name: place for place, name in enumerate(dimensions)}
    ranked = sorted(dimensions, key=lambda name: (best[name], order[name]))
    counts = {name: sum(t.estimator == name for t in past) for name in dimensions}
    leader, others = ranked[0], ranked[1:]
    open_others = [name for name in others if counts[name] < PER_DIMENSION * dimensions[name]]
    if counts[leader] >= PER_DIMENSION * dimensions[leader]:
        return min(open_others, key=lambda name: counts[name] / dimensions[name], default=leader)
    rivals = [name for name in open_others if not _beyond_doubt(past, leader, best[name])]
    sampled = sum(t.sampled for t in past)
    if rivals and sampled % EVERY == EVERY - 1:
        return rivals[(sampled // EVERY) % len(rivals)]
    return leader


def _beyond_doubt(past: Sequence[Past], leader: str, rival: float) -> bool:
    values = [t.value for t in past if t.estimator == leader and t.value is not None]
    return len(values) >= JUDGED and max(values) < rival
