"""Stopped is only what cannot become the best, by a generous guess."""

from __future__ import annotations

import pytest

from include.training import pruning

FAST = ({28: 2.0, 40: 1.9, 57: 1.85}, 1.8)
SLOW = ({28: 4.0, 40: 3.0, 57: 2.3, 80: 1.9}, 1.7)
STEEP = ({28: 6.0, 40: 4.0, 57: 3.0, 80: 2.4}, 2.0)


def hopeless(curve: dict[int, float], *finished: tuple[dict[int, float], float], sign: float = 1.0) -> bool:
    best = min(sign * end for _, end in finished) if finished else float("inf")
    return pruning.hopeless(curve, finished, best, sign=sign)


def test_one_that_learns_slowly_goes_on_where_such_a_one_became_the_best() -> None:
    assert not hopeless({14: 6.0, 28: 4.2}, FAST, FAST, FAST, SLOW)


def test_one_that_learns_slowly_goes_on_by_its_own_gains_where_all_others_were_fast() -> None:
    """Three fast trials are complete; at the same step this one is twice as far off, and still gains a lot."""
    assert not hopeless({14: 6.0, 20: 5.0, 28: 4.2}, FAST, FAST, FAST)


def test_one_that_gains_no_more_and_is_far_off_is_stopped() -> None:
    assert hopeless({10: 5.05, 14: 5.01, 28: 5.0, 40: 5.0, 57: 4.99}, FAST, SLOW, STEEP)


def test_nothing_is_stopped_too_early_or_by_too_few_of_its_kind() -> None:
    far_off = {10: 9.1, 14: 9.02, 20: 9.0}
    assert not hopeless(far_off, FAST, SLOW, STEEP)
    assert hopeless({**far_off, 28: 9.0}, FAST, SLOW, STEEP)
    assert not hopeless({**far_off, 28: 9.0}, FAST, SLOW)


def test_a_metric_that_is_better_when_larger_is_judged_the_other_way_round() -> None:
    done = [({28: 0.7, 57: 0.8}, 0.85), ({28: 0.65, 57: 0.8}, 0.86), ({28: 0.72, 57: 0.8}, 0.84)]
    assert not hopeless({14: 0.55, 28: 0.6, 57: 0.75}, *done, sign=-1.0)
    assert hopeless({14: 0.6, 28: 0.605, 57: 0.61}, *done, sign=-1.0)


def test_a_value_that_is_no_number_is_left_out() -> None:
    assert not hopeless({28: float("nan")}, FAST, SLOW, STEEP)
    assert hopeless({14: 9.0, 20: 9.0, 28: float("nan"), 40: 9.0}, FAST, SLOW, STEEP)


@pytest.mark.parametrize(
    ("params", "kind"),
    [({"objective": "reg:absoluteerror"}, "xgboost/reg:absoluteerror"), ({"max_depth": 3}, "xgboost/")],
)
def test_curves_of_different_objectives_are_not_compared(params: dict[str, object], kind: str) -> None:
    assert pruning.kind("xgboost", params) == kind
