"""Suspects: columns that are too good to be true, or teach nothing; each by what it is, never by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from include.training.preparation import suspects

ROWS = 600
RANDOM = np.random.default_rng(4)
NOISE = RANDOM.normal(size=ROWS)
LABELS = RANDOM.choice(["no", "yes"], ROWS).astype(object)
LEVELS = RANDOM.choice(["a", "b", "c"], ROWS).astype(object)
NUMBER = RANDOM.gamma(2.0, 3.0, ROWS)


def text(values: Any) -> np.ndarray:
    return np.array([*values, None], dtype=object)[:-1]


def kinds(column: np.ndarray, target: np.ndarray, task: str, kind: str = "float", **more: Any) -> list[str]:
    return [each.kind for each in suspects.find({"c": column}, target, task=task, types={"c": kind}, **more)]


@pytest.mark.parametrize(
    ("column", "target", "task", "kind", "found"),
    [
        (np.full(ROWS, 3.0), LABELS, "binary", "float", "constant"),
        (np.full(ROWS, np.nan), LABELS, "binary", "float", "constant"),
        (text(["x"] * ROWS), LABELS, "binary", "string", "constant"),
        (np.arange(ROWS) * 1.0, LABELS, "binary", "int", "identifier"),
        (RANDOM.permutation(ROWS) * 1.0, NUMBER, "regression", "int", "identifier"),
        (text(f"c-{n}" for n in range(ROWS)), LABELS, "binary", "string", "identifier"),
        ((LABELS == "yes") * 1.0, LABELS, "binary", "bool", "answer"),
        ((LABELS == "no") + NOISE / 100, LABELS, "binary", "float", "answer"),
        (text(f"{v}!" for v in LABELS), LABELS, "binary", "string", "answer"),
        (text({"a": "1", "b": "2", "c": "3"}[v] for v in LEVELS), LEVELS, "multiclass", "string", "answer"),
        (np.where(LEVELS == "a", 5.0, np.where(LEVELS == "b", 1.0, 9.0)), LEVELS, "multiclass", "int", "answer"),
        (np.where(LEVELS == "a", 5.0, np.where(LEVELS == "b", 1.0, 9.0)) + NOISE / 9, LEVELS, "multiclass", "float",
         "answer"),
        (NUMBER * 2.2 + 1, NUMBER, "regression", "float", "answer"),
        (np.exp(NUMBER), NUMBER, "regression", "float", "answer"),
        (text(f"{v}" for v in np.round(NUMBER)), np.round(NUMBER), "regression", "string", "answer"),
        (np.where(LABELS == "yes", NOISE, np.nan), LABELS, "binary", "float", "missing"),
        (text("boat" if v == "yes" else None for v in LABELS), LABELS, "binary", "string", "missing"),
    ],
)  # fmt: skip
def test_a_suspect_is_found_by_what_it_is(
    column: np.ndarray, target: np.ndarray, task: str, kind: str, found: str
) -> None:
    assert kinds(column, target, task, kind) == [found]


@pytest.mark.parametrize(
    ("column", "target", "task", "kind"),
    [
        (NOISE, LABELS, "binary", "float"),
        (NUMBER, np.where(NUMBER + 2 * NOISE > 5, "yes", "no").astype(object), "binary", "float"),
        (NUMBER + NOISE / 3, NUMBER, "regression", "float"),
        (RANDOM.integers(0, 90, ROWS) * 1.0, NUMBER, "regression", "int"),
        (LEVELS, LABELS, "binary", "string"),
        (text(RANDOM.choice([f"street {n}" for n in range(300)], ROWS)), NUMBER, "regression", "string"),
        (np.where(RANDOM.random(ROWS) < 0.4, np.nan, NOISE), LABELS, "binary", "float"),
        (NOISE, text(["no"] * (ROWS - 3) + ["yes"] * 3), "binary", "float"),
    ],
)
def test_an_ordinary_column_is_no_suspect(column: np.ndarray, target: np.ndarray, task: str, kind: str) -> None:
    assert kinds(column, target, task, kind) == []


def test_a_time_after_the_rows_own_is_known_only_afterwards() -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(ROWS) * np.timedelta64(3600, "s")
    later = times + (NUMBER * 60 + 1).astype("timedelta64[s]")
    given = {"times": times, "time_column": "pickup"}
    assert kinds(later, NUMBER, "regression", "timestamp", **given) == ["afterwards"]
    assert kinds(times - np.timedelta64(9, "D"), NUMBER, "regression", "timestamp", **given) == []
    assert kinds(later, NUMBER, "regression", "timestamp") == []


def test_few_rows_make_no_suspects() -> None:
    assert kinds(np.arange(20.0), LABELS[:20], "binary", "int") == []


def test_rows_in_order_are_noticed_and_shuffled_or_sorted_ones_are_not() -> None:
    walk = np.cumsum(NOISE)
    season = np.sin(np.arange(ROWS) / 20) + NOISE / 5
    for target in (walk, season):
        assert suspects.order(target, "regression") is not None
        assert suspects.order(np.random.default_rng(1).permutation(target), "regression") is None
        assert suspects.order(np.sort(target), "regression") is None, "sorted by the target"
    runs = np.repeat(np.random.default_rng(2).choice(["a", "b"], ROWS // 20), 20).astype(object)
    assert suspects.order(runs, "binary") is not None
    assert suspects.order(LABELS, "binary") is None
    assert suspects.order(np.sort(LABELS.astype(str)).astype(object), "binary") is None
