"""The target column: read, and refused where nothing can be learned from it; for `mlops check` and `prepare` alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from include.features.columns import ColumnType, from_arrow
from include.settings import Model

if TYPE_CHECKING:
    import pyarrow as pa

FRACTIONS = 20
"""Distinct numbers with fractions from which on a class of each is a mistake."""
ROWS_PER_CLASS = 3
"""Rows that each class has at least on average; with fewer most classes miss in one part of the split or another."""


class Untrainable(ValueError):
    """There is nothing to learn from these rows; the message says why, and what to do."""


def read(table: pa.Table, entry: Model, types: Mapping[str, ColumnType]) -> np.ndarray:
    """Numbers for a regression; else labels as text, whole numbers or booleans, with None for missing ones."""
    kind: ColumnType = "float" if entry.task == "regression" else types.get(entry.target, "string")
    [values] = from_arrow(table, {entry.target: kind}).values()
    if entry.task == "regression" or kind == "string":
        return values
    labels = [None if v != v else bool(v) if kind == "bool" else _label(v) for v in values.tolist()]
    return np.array([*labels, None], dtype=object)[:-1]


def _label(value: float) -> float | int:
    return int(value) if np.isfinite(value) and value == int(value) else value


def present(model: str, entry: Model, target: np.ndarray) -> np.ndarray:
    """Which rows have a target.

    Raises:
        Untrainable: none has, or one is infinite.
    """
    known = np.array([value is not None and value == value for value in target.tolist()], dtype=bool)
    if not known.any():
        raise Untrainable(f"{model}: none of {len(target)} rows has a target ({entry.target}); look at the source")
    infinite = np.array([isinstance(v, float) and bool(np.isinf(v)) for v in target[known].tolist()])
    if infinite.any():
        raise Untrainable(
            f"{model}: the target {entry.target} is infinite in {int(infinite.sum())} of {int(known.sum())} rows, and"
            " nothing can be learned from those; " + INFINITE_REMEDY
        )
    return known


INFINITE_REMEDY = (
    "correct them where they come from, let an expectation quarantine them, or declare them missing in the source's"
    " `null_values`"
)


def classes(model: str, entry: Model, target: np.ndarray) -> list[Any] | None:
    """The classes in order, None for a regression.

    Args:
        model: for messages.
        entry: its entry in params.yaml.
        target: as `read` gives it, of the rows that have one.

    Raises:
        Untrainable: there are too few or too many of them, or a number that never changes.
    """
    if entry.task == "regression":
        if (target == target[0]).all():
            raise Untrainable(f"{model}: the target {entry.target} is {target[0]:g} in all {len(target)} rows")
        return None
    counts = Counter(target.tolist())
    found = sorted(counts, key=lambda label: (isinstance(label, str), label))
    if len(found) < 2:
        raise Untrainable(f"{model}: the target {entry.target} has one class only, {found[0]!r}, in {len(target)} rows")
    if entry.task == "binary" and len(found) > 2:
        raise Untrainable(f"{model}: task is binary, and {entry.target} has {_surplus(counts)}")
    fractions = sum(isinstance(label, float) for label in found)
    if fractions > FRACTIONS:
        raise Untrainable(
            f"{model}: task is {entry.task}, and {entry.target} has {len(found)} distinct values in {len(target)} rows,"
            f" numbers with fractions such as {next(v for v in found if isinstance(v, float)):g}; set task: regression"
        )
    if len(found) > 2 and len(target) < ROWS_PER_CLASS * len(found):
        kind = "task: regression" if not isinstance(found[0], str) else "a target with fewer, larger classes"
        raise Untrainable(
            f"{model}: the target {entry.target} has {len(found)} classes in {len(target)} rows, fewer than"
            f" {ROWS_PER_CLASS} rows each; choose {kind}, or join rare ones"
        )
    return found


def _surplus(counts: Mapping[Any, int]) -> str:
    """What more than two classes are: mostly two, and dirt."""
    shown = ", ".join(f"{label!r} in {n} rows" for label, n in Counter(counts).most_common(6))
    text = f"{len(counts)} classes ({shown}{', …' if len(counts) > 6 else ''})"
    alike = _alike(counts)
    if alike:
        first, second = alike[0]
        return (
            f"{text}; {second!r} is {first!r} but for blanks or capitals: correct the source, trim its text or derive"
            " a clean column"
        )
    common = Counter(counts).most_common()
    rare = [label for label, n in common[2:] if n <= max(1, common[1][1] // 10)]
    if len(rare) == len(common) - 2:
        marks = ", ".join(repr(label) for label in rare[:4])
        return f"{text}; if {marks} means that it is not known, declare it in the source's `null_values`"
    return f"{text}; set task: multiclass"


def _alike(counts: Mapping[Any, int]) -> list[tuple[str, str]]:
    """Pairs of text classes that differ in blanks or capitals only, the more frequent one first."""
    seen: dict[str, str] = {}
    pairs = []
    for label, _ in Counter(counts).most_common():
        if isinstance(label, str):
            plain = " ".join(label.split()).casefold()
            if plain in seen:
                pairs.append((seen[plain], label))
            seen.setdefault(plain, label)
    return pairs


def doubts(entry: Model, target: np.ndarray) -> list[str]:
    """What can be learned from, and may still be a mistake: classes that differ in blanks or capitals, or are rare."""
    if entry.task == "regression":
        return []
    counts = Counter(target.tolist())
    found = [
        f"{second!r} ({counts[second]} rows) and {first!r} ({counts[first]}) are two classes that differ in blanks or"
        " capitals only"
        for first, second in _alike(counts)
    ]
    smallest = math.ceil(1 / min(entry.split.train, entry.split.validation, entry.split.test))
    rare = [f"{label!r} ({n})" for label, n in counts.most_common() if n < smallest]
    if rare:
        found.append(
            f"{len(rare)} of {len(counts)} classes of {entry.target} have fewer than {smallest} rows and will be absent"
            f" from one part of the split or another: {', '.join(rare[:6])}{', …' if len(rare) > 6 else ''}; join"
            " them, or bring more rows"
        )
    return found
