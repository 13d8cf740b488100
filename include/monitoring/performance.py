"""The champion's error on the newest rows, where their outcome is known, beside its error at training.

Worse by, relative:   smaller is better: (now - then) / |then|      larger is better: (then - now) / |then|
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from include.monitoring.decision import Finding, level_of
from include.settings import METRICS, Task


def worsening(metric: str, now: float, then: float) -> float:
    """By which share the metric is worse than at training; negative when it is better."""
    lost = now - then if METRICS[metric] == "minimize" else then - now
    if lost == 0:
        return 0.0
    return lost / abs(then) if then else math.copysign(math.inf, lost)


def measure(
    target: np.ndarray,
    prediction: np.ndarray,
    *,
    task: Task,
    metric: str,
    then: float,
    classes: Sequence[Any] | None,
    minimum_rows: int,
    warn: float,
    critical: float,
) -> Finding:
    """One finding about the champion's metric.

    Args:
        target: the outcome of each row as the source brings it; missing where it is not known yet.
        prediction: the champion's answers; rows of NaN where it has none.
        task: regression, binary or multiclass.
        metric: the model's metric.
        then: its value at training, on the held-out rows.
        classes: the labels, in the order of the probabilities; None for a regression.
        minimum_rows: labelled rows below which nothing is concluded.
        warn: the relative worsening above which the finding warns.
        critical: the relative worsening above which retraining is requested.
    """
    from include.features.columns import is_missing
    from include.training import evaluation

    answered = np.isfinite(prediction).all(axis=1) if prediction.ndim == 2 else np.isfinite(prediction)
    known = ~is_missing(target) & answered
    if (labelled := int(known.sum())) < minimum_rows:
        coverage = labelled / len(target) if len(target) else 0.0
        message = f"{metric}: not measured, {labelled} labelled rows < {minimum_rows} (coverage {coverage:.0%})"
        return Finding("performance", metric, "ok", message)
    try:
        y = evaluation.encode(target[known], classes)
        now = evaluation.score(metric, task, y, prediction[known])
    except evaluation.Unscorable as error:
        return Finding("performance", metric, "warn", f"{metric}: not measured, {error}")
    lost = worsening(metric, now, then)
    level = level_of(lost, warn, critical)
    change = f"{abs(lost):.1%} {'worse' if lost > 0 else 'better'}" if lost else "the same"
    message = f"{metric}: {now:.4g} on {labelled} new rows, {then:.4g} at training: {change}"
    threshold = critical if level == "critical" else warn
    return Finding("performance", metric, level, message, lost, threshold, metric=now, rows=labelled)
