"""Columns that give the target away, or teach a model nothing: named in check, profile and verdict.

    constant    one value in all rows
    identifier  text or whole numbers of which (nearly) every row has its own: a model learns rows by heart
    answer      the column alone gives the target away: ROC AUC above 0.99, R² above 0.999, or nearly all classes right
    missing     whether the column has a value gives the target away: it is filled in once the answer is known
    afterwards  a time that comes after the row's own: it is not known when a prediction is made

They are suspects: a real signal can be that strong, so nothing is refused. A column's power is judged on rows that its
categories were not counted on, so that an identifier is not taken for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from include.features.categories import categories_of
from include.features.columns import is_missing

ROWS = 20_000
"""Rows that are judged, evenly spread; more would not change what is found."""
FEWEST = 30
"""Rows below which chance alone makes suspects."""
UNIQUE = 0.99
AUC, R2, RIGHT = 0.99, 0.999, 0.99
MISSING = 0.01
"""The share of missing values, and of present ones, from which on they can be a sign."""
LATER = 0.99


@dataclass(frozen=True)
class Suspect:
    """A column to think about before a model is trusted."""

    column: str
    kind: str
    text: str
    """What was seen, with its number, and what to do."""

    def __str__(self) -> str:
        return f"{self.column!r} {self.text}"


def find(
    columns: Mapping[str, np.ndarray],
    target: np.ndarray,
    *,
    task: str,
    types: Mapping[str, str],
    times: np.ndarray | None = None,
    time_column: str | None = None,
) -> list[Suspect]:
    """The suspects among raw input columns, each once, by the gravest reason.

    Args:
        columns: name → values (n,), as include/features/columns.py describes them.
        target: numbers for a regression, else labels (n,); none missing.
        task: regression, binary or multiclass.
        types: name → type; only whole numbers and text can be identifiers.
        times: datetime64 (n,) of the rows, or None.
        time_column: its name.
    """
    if len(target) < FEWEST:
        return []
    rows = np.unique(np.linspace(0, len(target) - 1, min(len(target), ROWS)).astype(np.int64))
    answer = _Answer(target[rows], task)
    found = []
    for name, values in columns.items():
        part = values[rows]
        if part.dtype.kind == "M":
            reason = _afterwards(part, None if times is None or name == time_column else times[rows], time_column)
        else:
            reason = _constant(part) or answer.given_by(part) or _identifier(part, types.get(name, "float"))
        if reason:
            found.append(Suspect(name, *reason))
    return found


_Reason = tuple[str, str]


def _constant(values: np.ndarray) -> _Reason | None:
    missing = is_missing(values)
    if missing.all():
        return "constant", "has no value in any row; leave it out with `features.exclude`"
    if not missing.any() and (values == values[0]).all():
        only = values[0] if values.dtype.kind == "O" else float(values[0])
        return "constant", f"is {only!r} in all rows and teaches nothing; leave it out with `features.exclude`"
    return None


def _identifier(values: np.ndarray, kind: str) -> _Reason | None:
    present = values[~is_missing(values)]
    if kind not in ("int", "string") or len(present) < max(FEWEST, len(values) / 2):
        return None
    distinct = len(set(present.tolist()))
    if distinct < len(present) and not (kind == "string" and distinct >= UNIQUE * len(present)):
        return None
    return "identifier", (
        f"has {distinct} distinct values in {len(present)} rows, as an ID has: a model learns rows by heart;"
        " leave it out with `features.exclude`"
    )


def _afterwards(values: np.ndarray, times: np.ndarray | None, time_column: str | None) -> _Reason | None:
    if times is None:
        return None
    both = ~np.isnat(values) & ~np.isnat(times)
    if both.sum() < FEWEST:
        return None
    later = (values[both] > times[both]).mean()
    if later < LATER:
        return None
    return "afterwards", (
        f"is later than {time_column!r} in {later:.1%} of the rows: is it known when a prediction is made?"
        " If not, leave it out with `features.exclude`"
    )


class _Answer:
    """The target, and how well one column alone gives it."""

    def __init__(self, target: np.ndarray, task: str) -> None:
        self.regression = task == "regression"
        if self.regression:
            self.y = np.asarray(target, np.float64)
        else:
            classes, codes = np.unique(target.astype(str), return_inverse=True)
            self.count, self.codes = len(classes), codes
            self.common = np.bincount(codes).max() / len(codes)
        self.first = np.random.default_rng(0).permutation(len(target)) % 2 == 0
        """Half of the rows: what is learned from one half is judged on the other."""

    def given_by(self, values: np.ndarray) -> _Reason | None:
        missing = is_missing(values)
        if MISSING < missing.mean() < 1 - MISSING:
            power = self.power(np.where(missing, 1.0, 0.0))
            if power:
                return "missing", (
                    f"is missing or not exactly as the target has it ({power}): is it filled in once the answer is"
                    " known? If so, leave it out with `features.exclude`"
                )
        power = self.power(values)
        if power is None:
            return None
        return "answer", (
            f"alone explains the target ({power}): is it known when a prediction is made? If not, leave it out with"
            " `features.exclude`"
        )

    def power(self, values: np.ndarray) -> str | None:
        """The measure by which a column alone gives the target, in words; None where it does not."""
        if values.dtype.kind != "O" and len(np.unique(values)) > 1:
            present = ~np.isnan(values)
            if self.regression:
                x, y = values[present], self.y[present]
                explained = max(_r2(x, y), _r2(_ranks(x), _ranks(y)))
                if present.mean() > 1 - MISSING and explained > R2:
                    return f"R² {explained:.4f}"
            elif self.count == 2:
                area = _auc(np.nan_to_num(_ranks(values), nan=-1.0), self.codes == 1)
                if area > AUC:
                    return f"ROC AUC {area:.3f}"
            if len(np.unique(values[present])) > len(values) / 4:
                return self.by_neighbour(values, present)
        return self.by_category(values)

    def by_neighbour(self, values: np.ndarray, present: np.ndarray) -> str | None:
        """The answer of the row that is next in the column's order, for functions that neither rise nor fall."""
        shuffled = np.random.default_rng(0).permutation(np.flatnonzero(present))
        order = shuffled[np.argsort(values[shuffled], kind="stable")]
        if len(order) < FEWEST or present.mean() < 1 - MISSING:
            return None
        if self.regression:
            y = self.y[order]
            guess, truth = (y[2:] + y[:-2]) / 2, y[1:-1]
            spread = float(truth.var())
            explained = 1 - float(((truth - guess) ** 2).mean()) / spread if spread > 0 else 0.0
            return f"R² {explained:.4f}" if explained > R2 else None
        share = float((self.codes[order][1:] == self.codes[order][:-1]).mean())
        return f"{share:.1%} of the classes right" if share > max(RIGHT, (1 + self.common) / 2) else None

    def by_category(self, values: np.ndarray) -> str | None:
        """Each half's categories (of numbers: those that repeat, as classes would) foretell the other half."""
        known = categories_of(values)
        if len(known) < 2 or len(known) > len(values) / 4:
            return None
        places = {value: place for place, value in enumerate(known)}
        found = np.array([places[None if v != v else v] for v in values.tolist()])
        judged = np.zeros(len(found), dtype=bool)  # rows whose category the other half has
        guess, right = np.zeros(len(found)), np.zeros(len(found), dtype=bool)
        for half in (self.first, ~self.first):
            sizes = np.bincount(found[half], minlength=len(known))
            judged[~half] = sizes[found[~half]] > 0
            if self.regression:
                sums = np.bincount(found[half], weights=self.y[half], minlength=len(known))
                guess[~half] = (sums / np.maximum(sizes, 1))[found[~half]]
            else:
                table = np.zeros((len(known), self.count))
                np.add.at(table, (found[half], self.codes[half]), 1)
                right[~half] = table.argmax(axis=1)[found[~half]] == self.codes[~half]
                guess[~half] = (table[:, -1] / np.maximum(sizes, 1))[found[~half]]
        if judged.mean() < 0.5 or judged.sum() < FEWEST:
            return None
        if self.regression:
            y = self.y[judged]
            spread = float(y.var())
            explained = 1 - float(((y - guess[judged]) ** 2).mean()) / spread if spread > 0 else 0.0
            return f"R² {explained:.4f}" if explained > R2 else None
        if self.count == 2:
            area = _auc(guess[judged], self.codes[judged] == 1)
            return f"ROC AUC {area:.3f}" if area > AUC else None
        share = float(right[judged].mean())
        return f"{share:.1%} of the classes right" if share > max(RIGHT, (1 + self.common) / 2) else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in order, equal ones sharing theirs; NaN stays."""
    present = ~np.isnan(values)
    _, codes, counts = np.unique(values[present], return_inverse=True, return_counts=True)
    ranks = np.full(len(values), np.nan)
    ranks[present] = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    return ranks


def _r2(x: np.ndarray, y: np.ndarray) -> float:
    """The squared correlation: the R² of the best straight line."""
    if len(x) < FEWEST:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # values may be infinite
        x, y = x - x.mean(), y - y.mean()
        scale = (x @ x) * (y @ y)
        return float((x @ y) ** 2 / scale) if np.isfinite(scale) and scale > 0 else 0.0


def _auc(score: np.ndarray, positive: np.ndarray) -> float:
    """The ROC AUC of a score, whichever way it points."""
    ranks, n = _ranks(score), int(positive.sum())
    if n == 0 or n == len(score):
        return 0.0
    area = (ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n))
    return float(max(area, 1 - area))


def order(target: np.ndarray, task: str) -> str | None:
    """Whether neighbouring rows are alike, so that a random split shows the model its held-out rows' neighbours.

    The measure is the share of the variance that a row has in common with the one before it, 1 - (mean squared
    difference of neighbours) / (2 variance): von Neumann's ratio, 0 for rows in random order. Rows that are sorted by
    the target itself say nothing about time.
    """
    if len(target) < 4 * FEWEST:
        return None
    if task == "regression":
        y = _ranks(np.asarray(target, np.float64))
    else:
        y = np.unique(target.astype(str), return_inverse=True)[1].astype(np.float64)
    steps = np.diff(y)
    reversals = int((np.diff(np.sign(steps[steps != 0])) != 0).sum())
    blocks = int((steps != 0).sum()) + 1
    if reversals < 5 or (task != "regression" and blocks <= 2 * len(np.unique(y))):
        return None  # sorted by the target
    alike = 1 - float((steps**2).mean()) / (2 * float(y.var())) if y.var() > 0 else 0.0
    if alike < 0.5:
        return None
    return (
        f"neighbouring rows are alike (a row shares {alike:.0%} of the target's variance with the one before it), and"
        " the split is random: held-out rows have their neighbours in training, and the figures come out too good. If"
        " the rows are in the order of time, declare a `time_column`; `timestamp(year, month, day, hour)` in the"
        " source's `derive` makes one of several columns. If they belong to groups, declare the `entity`"
    )
