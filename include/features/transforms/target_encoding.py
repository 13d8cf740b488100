"""target_encoding: a category becomes the smoothed mean of the target where it occurs; unknown: the overall mean.

Smoothing. The mean of category c with n_c rows is `(n_c * mean_c + m * mean) / (n_c + m)`, the shrinkage of D.
Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes" (SIGKDD Explorations 3(1),
2001), equations 3 to 5, with m the ratio of the variance within categories to the variance between them, both
estimated by one-way analysis of variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features.categories import Categories, Lookup, categories_of
from include.features.columns import Values
from include.features.transforms import Apply, Column, Learned, Stage, Training, as_mapping

STAGE = Stage.ENCODE
LEARNS = ("categories", "means", "prior")
Declaration = tuple[str, ...]
"""Columns whose categories become the smoothed mean of the target."""

FOLDS = 5
SMOOTHING = (1.0, 1_000.0)
"""The bounds of m, in rows."""

chosen = as_mapping


def check(declared: Sequence[str], columns: Mapping[str, Column]) -> None:
    """Any column can be taken for categories."""


def fit(values: Values, how: None, column: str, training: Training) -> Learned:
    """The means (targets, categories) and the overall ones (targets,), with a column for each target."""
    categories = categories_of(values[0])
    means, prior = smoothed_means(Categories(categories).places(values[0]), len(categories), training.targets)
    suffixes = [""] if len(prior) == 1 else [f"_{each}" for each in training.classes[1:]]
    names = [f"{column}_target{suffix}" for suffix in suffixes]
    return {"categories": categories, "means": means.T.tolist(), "prior": prior.tolist(), "names": names}


def smoothed_means(places: np.ndarray, count: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed means of the target: (categories, targets), and the overall mean (targets,).

    Args:
        places: the category of each row; rows below 0 have none, and are left out.
        count: how many categories.
        targets: (rows, targets).
    """
    known = places >= 0
    if not known.all():
        places, targets = places[known], targets[known]
    prior = targets.mean(axis=0) if len(targets) else np.zeros(targets.shape[1])
    sizes = np.bincount(places, minlength=count).astype(np.float64)
    means = np.empty((count, targets.shape[1]))
    for k in range(targets.shape[1]):
        y = targets[:, k]
        sums = np.bincount(places, weights=y, minlength=count)
        m = _smoothing(places, y, sizes, sums, prior[k])
        means[:, k] = (sums + m * prior[k]) / (sizes + m)
    return means, prior


def _smoothing(places: np.ndarray, y: np.ndarray, sizes: np.ndarray, sums: np.ndarray, prior: float) -> float:
    seen = sizes > 0
    groups, rows = int(seen.sum()), len(y)
    if groups < 2 or rows <= groups:
        return SMOOTHING[1]
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=seen)
    within = float(((y - means[places]) ** 2).sum()) / (rows - groups)
    between_squares = float((sizes * (means - prior) ** 2)[seen].sum())
    effective = rows - float((sizes**2).sum()) / rows
    between = (between_squares - (groups - 1) * within) / effective
    if between <= 0:
        return SMOOTHING[1]
    return float(np.clip(within / between, *SMOOTHING))


def cross_fit(values: Values, learned: Mapping[str, Any], training: Training) -> np.ndarray:
    """The training rows themselves, (targets, rows), each by the other folds: a row never sees its own target."""
    count = len(learned["categories"])
    places = Categories(learned["categories"]).places(values[0])
    targets, rows = training.targets, len(places)
    folds = min(FOLDS, rows)
    fold = np.random.default_rng(training.seed).permutation(rows) % max(folds, 1)
    encoded = np.empty((rows, targets.shape[1]))
    for number in range(folds):
        own = fold == number
        others = own if folds == 1 else ~own
        means, prior = smoothed_means(places[others], count, targets[others])
        encoded[own] = np.concatenate([means, prior[None]])[np.where(places[own] < 0, count, places[own])]
    return np.ascontiguousarray(encoded.T)


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """The means of each value's category, a column for each target; the overall ones where it is unknown."""
    lookup = Lookup(learned)
    tables = [
        lookup.table([np.array(entry["means"][k]) for entry in learned], [entry["prior"][k] for entry in learned])
        for k in range(len(learned[0]["prior"]))
    ]

    def apply(values: Values, unknown: str) -> Values:
        rows = lookup(values, unknown)
        encoded: list[np.ndarray] = [table[rows] for table in tables]
        return encoded[0] if len(encoded) == 1 else np.stack(encoded, axis=1).reshape(-1, rows.shape[1])

    return apply
