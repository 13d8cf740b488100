"""Which estimator comes next."""

from __future__ import annotations

from include.training.allocation import PER_DIMENSION, Past, next_estimator

DIMENSIONS = {"linear": 1, "random_forest": 3, "xgboost": 7}


def past(*trials: tuple[str, float | None], sampled: bool = False) -> list[Past]:
    return [Past(name, value, sampled) for name, value in trials]


def continued(history: list[Past], count: int, values: dict[str, float]) -> list[str]:
    for _ in range(count):
        name = next_estimator(history, DIMENSIONS)
        history = [*history, Past(name, values[name], sampled=True)]
    return [trial.estimator for trial in history[-count:]]


def test_two_of_three_trials_go_to_the_leader_and_the_others_take_turns() -> None:
    first = past(("linear", 3.0), ("random_forest", 2.0), ("xgboost", 1.0))
    values = {"linear": 3.0, "random_forest": 2.0, "xgboost": 3.5}
    assert continued(first, 6, values) == [
        "xgboost", "xgboost", "random_forest", "xgboost", "xgboost", "linear",
    ]  # fmt: skip


def test_one_that_is_beaten_beyond_doubt_has_no_more_trials() -> None:
    """Even the leader's worst complete trial is better: the cost of a forest's trials buys nothing."""
    first = past(("linear", 9.0), ("random_forest", 5.0), ("xgboost", 1.0), ("xgboost", 1.2), ("xgboost", 1.1))
    values = {"linear": 9.0, "random_forest": 5.0, "xgboost": 1.3}
    assert set(continued(first, 12, values)) == {"xgboost"}


def test_pruned_trials_do_not_make_a_leader_look_worse() -> None:
    """They are hopeless points, of which a sampler that sees the estimator as a choice would conclude otherwise."""
    first = past(("random_forest", 2.0), ("xgboost", 1.0), *[("xgboost", None)] * 10, sampled=False)
    assert next_estimator(first, DIMENSIONS) == "xgboost"


def test_a_small_space_is_searched_enough_at_some_point() -> None:
    first = past(*[("linear", 1.0)] * PER_DIMENSION, ("random_forest", 2.0), ("xgboost", 3.0))
    values = {"linear": 1.0, "random_forest": 2.0, "xgboost": 3.0}
    assert "linear" not in continued(first, 6, values)


def test_without_any_result_and_without_any_dimension_there_is_an_answer() -> None:
    assert next_estimator(past(("xgboost", None)), DIMENSIONS) in DIMENSIONS
    assert next_estimator(past(("dummy", 1.0)), {"dummy": 0}) == "dummy"
