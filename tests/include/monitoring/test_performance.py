from __future__ import annotations

import numpy as np
import pytest

from include.monitoring import performance


def measure(target, prediction, **changes):
    given = {
        "task": "regression", "metric": "mae", "then": 1.0, "classes": None,
        "minimum_rows": 10, "warn": 0.05, "critical": 0.10,
    }  # fmt: skip
    return performance.measure(target, prediction, **{**given, **changes})


@pytest.mark.parametrize(
    ("error", "level", "told"),
    [
        (0.9, "ok", "10.0% better"),
        (1.0, "ok", "the same"),
        (1.04, "ok", "4.0% worse"),
        (1.08, "warn", "8.0% worse"),
        (1.2, "critical", "20.0% worse"),
    ],
)
def test_a_larger_error_than_at_training_is_found(error, level, told):
    found = measure(np.zeros(100), np.full(100, error))
    assert found.level == level
    assert found.message == f"mae: {error:.4g} on 100 new rows, 1 at training: {told}"


@pytest.mark.parametrize(
    ("metric", "now", "then", "lost"),
    [
        ("mae", 5.5, 5.0, 0.1),
        ("mae", 0.0, 0.0, 0.0),
        ("mae", 0.1, 0.0, np.inf),
        ("roc_auc", 0.81, 0.90, 0.1),
        ("accuracy", 0.95, 0.9, -0.05 / 0.9),
        ("r2", -0.5, -0.25, 1.0),
    ],
)
def test_worse_is_relative_and_knows_the_direction(metric, now, then, lost):
    assert performance.worsening(metric, now, then) == pytest.approx(lost)


def test_outcomes_that_are_not_known_yet_do_not_count():
    target = np.where(np.arange(100) < 40, 0.0, np.nan)
    found = measure(target, np.full(100, 2.0))
    assert "on 40 new rows" in found.message


def test_too_few_outcomes_are_said_and_not_taken_for_a_good_sign():
    target = np.where(np.arange(100) < 5, 0.0, np.nan)
    found = measure(target, np.full(100, 9.0))
    assert (found.level, found.value) == ("ok", None)
    assert found.message == "mae: not measured, 5 labelled rows < 10 (coverage 5%)"


def test_rows_that_the_champion_refuses_are_left_out():
    prediction = np.where(np.arange(100) < 50, np.nan, 1.0)
    assert "on 50 new rows" in measure(np.zeros(100), prediction).message


def test_classes_are_compared_by_their_labels():
    target = np.array(["no", "yes"] * 50, dtype=object)
    right = np.tile([[0.9, 0.1], [0.2, 0.8]], (50, 1))
    binary = {"task": "binary", "metric": "accuracy", "then": 1.0, "classes": ["no", "yes"]}
    assert measure(target, right, **binary).level == "ok"
    assert measure(target, right[:, ::-1], **binary).level == "critical"


def test_a_class_that_training_never_saw_is_a_finding():
    target = np.array(["no", "perhaps"] * 50, dtype=object)
    binary = {"task": "binary", "metric": "accuracy", "then": 1.0, "classes": ["no", "yes"]}
    found = measure(target, np.tile([0.9, 0.1], (100, 1)), **binary)
    assert found.level == "warn"
    assert "the class 'perhaps' is none of the trained" in found.message
