"""Which rows are trained on, validated on, and held out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.settings import Model, Split
from include.training import evaluation
from include.training.preparation import suspects
from include.training.preparation import target as targets
from include.training.preparation.rows import Rows, fingerprints
from include.training.preparation.target import Untrainable

LOG = logging.getLogger(__name__)

MINIMUM_ROWS = {"train": 20, "validation": 5, "test": 5}
DAYS_AS_BOUNDS = 20
"""From so many days on a part begins with a day; below, with a moment."""


@dataclass(frozen=True)
class Division:
    """Rows that are divided into the parts of a split; n of them."""

    rule: Split
    """The shares in force."""
    part: np.ndarray
    """`train`, `validation` or `test`, (n,)."""
    y: np.ndarray
    """Targets as float64 (n,), classes by their place in `classes`."""
    classes: list[Any] | None
    identity: np.ndarray
    """Fingerprints (n,) of the rows: of inputs, target and time."""

    @property
    def held_out(self) -> np.ndarray:
        """Which rows are held out, (n,)."""
        return np.asarray(self.part == "test")


def divide(model: str, entry: Model, rows: Rows) -> Division:
    """Divide the rows by the model's split.

    Raises:
        Untrainable: a part would have too few rows or one class only, or the target has.
    """
    classes = targets.classes(model, entry, rows.target)
    y = evaluation.encode(rows.target, classes)
    times = {} if rows.times is None else {"\0time": rows.times}
    identity = fingerprints({**rows.raw, entry.target: rows.target, **times})
    rule = rule_for(entry, len(y), classes)
    part = assign_parts(
        rule,
        len(y),
        times=rows.times,
        y=y if classes else None,
        groups=identity,
        entity=rows.entity,
        seed=entry.tuning.seed,
    )
    check_parts(model, part, y, classes)
    return Division(rule, part, y, classes, identity)


def rule_for(entry: Model, rows: int, classes: list[Any] | None) -> Split:
    """The shares in force: as declared; undeclared, a small table holds out as many rows as its gate needs.

    Up to a third of the rows; a table that is too small even for that gets the usual shares, and no verdict.
    """
    rule, needed = entry.split, entry.gate.minimum_rows + len(classes or ()) + 1  # each class may round down
    if "split" in entry.model_fields_set or rows * rule.test >= entry.gate.minimum_rows or rows < 3 * needed:
        return rule
    test = needed / rows
    train = (1 - test) * rule.train / (rule.train + rule.validation)
    return Split(train=train, validation=1 - test - train, test=test, by=rule.by)


def warnings_of(entry: Model, rule: Split, part: np.ndarray, target: np.ndarray, times: np.ndarray | None) -> list[str]:
    """What the split of these rows means for the figures and the verdict, where that is not as usual."""
    rows, held_out, needed = len(part), int((part == "test").sum()), entry.gate.minimum_rows
    found = []
    if held_out < needed:
        share = needed / rows
        remedy = f"train on at least {int(np.ceil(needed / rule.test))} rows"
        if share <= 0.5:
            remedy += f", or declare a `split` with test: {np.ceil(share * 100) / 100 + 0.01:.2f} or more"
        found.append(
            f"{held_out} of {rows} rows are held out, and the gate needs {needed}: its verdict will be HOLD; {remedy},"
            " lower gate.minimum_rows, which makes the verdict less sure"
        )
    elif rule is not entry.split:
        found.append(
            f"only {rows} rows: {rule.test:.0%} of them are held out, not {entry.split.test:.0%}, so that the gate has"
            f" the {needed} that it needs; declare `split` for other shares"
        )
    if not (times is not None and rule.by in ("auto", "time")) and entry.entity is None:
        found += [text for text in [suspects.order(target, entry.task)] if text]
    return found


def assign_parts(
    rule: Split,
    rows: int,
    *,
    times: np.ndarray | None,
    y: np.ndarray | None,
    groups: np.ndarray,
    entity: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """The part of each row: `train`, `validation` or `test`.

    By time the newest rows are held out, rows of one moment (with many days: of one day) on one side. Otherwise rows
    that are equal, and rows of one entity, stay on one side, and each class is divided by the same shares.

    Args:
        rule: shares, and how.
        rows: how many.
        times: datetime64 (n,), or None.
        y: encoded classes (n,) for a stratified split, or None.
        groups: fingerprints (n,): equal rows have equal ones.
        entity: what a row is about (n,), or None.
        seed: of the shuffle.
    """
    by = rule.by
    if by == "auto":
        by = "time" if times is not None else "stratified" if y is not None else "random"
    if by == "time":
        if times is None:
            raise Untrainable("split.by is time, and the model has no time_column; name one, or split by random")
        return _by_time(rule, times)
    if entity is not None:
        _, groups = np.unique(entity.astype(str), return_inverse=True)
    strata = y if by == "stratified" and y is not None and entity is None else np.zeros(rows)
    part = np.empty(rows, dtype="U10")
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        part[inside] = _by_group(rule, groups[inside], np.random.default_rng([seed, int(stratum)]))
    return part


def _by_time(rule: Split, times: np.ndarray) -> np.ndarray:
    if np.isnat(times).any():
        raise Untrainable(
            f"{int(np.isnat(times).sum())} rows have no time, and the split is by time; quarantine them in the suite"
        )
    days = times.astype("datetime64[D]")
    key = days if len(np.unique(days)) >= DAYS_AS_BOUNDS else times
    moments, counts = np.unique(key, return_counts=True)
    share = (np.cumsum(counts) - counts / 2) / len(times)  # the middle of each moment's rows
    of_moment = np.select([share < rule.train, share < rule.train + rule.validation], ["train", "validation"], "test")
    return of_moment[np.searchsorted(moments, key)]


def _by_group(rule: Split, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    _, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = random.permutation(len(counts))
    share = np.empty(len(counts))
    share[order] = (np.cumsum(counts[order]) - counts[order] / 2) / len(groups)
    of_group = np.select([share < rule.train, share < rule.train + rule.validation], ["train", "validation"], "test")
    return of_group[code]


def check_parts(model: str, part: np.ndarray, y: np.ndarray, classes: list[Any] | None) -> None:
    """Refuse a split in which a part has too few rows, or one class only.

    Raises:
        Untrainable: naming the part.
    """
    for name, minimum in MINIMUM_ROWS.items():
        inside = y[part == name]
        if len(inside) < minimum:
            raise Untrainable(
                f"{model}: the {name} part has {len(inside)} of {len(y)} rows, at least {minimum} are needed;"
                " ingest more data, widen the window, or change split"
            )
        if classes is not None:
            missing = [classes[c] for c in range(len(classes)) if not (inside == c).any()]
            if len(classes) - len(missing) < 2:
                only = next(label for label in classes if label not in missing)
                raise Untrainable(
                    f"{model}: the {name} part has one class only, {only!r}; ingest more data, or change split"
                )
            if missing:
                LOG.warning("%s: the %s part has no row of class %s", model, name, missing)
