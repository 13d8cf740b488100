"""Who answers: shares, entities that stay with their arm, and what takes an arm out at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from include import settings
from include.serving.metrics.counters import ArmCounters, Recent
from include.serving.metrics.limits import Limits
from include.serving.routing.breaker import breach
from include.serving.routing.route import Arm, Route

ENTITIES = [f"customer-{n}" for n in range(20_000)]


def arm(name: str) -> Arm:
    loaded: Any = None  # choosing does not look at it
    return Arm(name, loaded, None, ArmCounters("trips", name, 1))


def route(share: float, *, salt: str = "salt", sticky: bool = True) -> Route:
    return Route("trips", arm("champion"), challenger=arm("canary"), share=share, salt=salt, sticky=sticky)


def chosen(route: Route) -> np.ndarray:
    return np.array([route.choose(entity) is route.challenger for entity in ENTITIES])


def test_without_a_challenger_the_champion_answers() -> None:
    alone = Route("trips", arm("champion"), shadow=arm("shadow"))
    assert alone.choose(None) is alone.choose("customer-1") is alone.champion


def test_what_stands_by_answers_the_requests_that_name_it_alone() -> None:
    found = Route("trips", arm("champion"), standby=arm("green"), shadow=arm("shadow"))
    assert {found.choose(entity) for entity in (None, *ENTITIES)} == {found.champion}
    assert found.trial is not None
    assert found.trial.arms == [found.standby]
    assert {arm.name: found.share_of(arm) for arm in found.arms} == {"champion": 1, "green": 0, "shadow": 0}
    assert dataclasses.replace(found, standby=None).trial is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("entities", [ENTITIES, [None] * len(ENTITIES)])
def test_the_challenger_gets_its_share(share: float, entities: list[str | None]) -> None:
    """Within five standard deviations; all at 1, none at 0."""
    found = route(share)
    got = sum(found.choose(entity) is found.challenger for entity in entities) / len(entities)
    assert abs(got - share) <= 5 * np.sqrt(share * (1 - share) / len(entities))


def test_entities_lie_evenly_on_the_shares() -> None:
    """A chi-squared test over twenty steps, for entities that only differ in a number."""
    edges = np.linspace(0, 1, 21)
    below = [chosen(route(edge)).sum() for edge in edges]
    counts = np.diff(below)
    expected = len(ENTITIES) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 0.1 % of 19 degrees of freedom


def test_a_growing_share_adds_entities_and_moves_none_back() -> None:
    before = chosen(route(0.0))
    for share in (0.01, 0.05, 0.25, 0.5, 0.99, 1.0):
        now = chosen(route(share))
        assert not (before & ~now).any()
        assert now.sum() > before.sum()
        before = now


def test_an_entity_stays_with_its_arm_in_every_worker() -> None:
    """Not Python's own hash, which differs from process to process."""
    assert [route(0.5).choose(f"c{n}").name for n in range(8)] == [
        "champion", "canary", "champion", "canary", "canary", "canary", "champion", "canary",
    ]  # fmt: skip


def test_two_rollouts_have_independent_groups() -> None:
    one, other = chosen(route(0.5, salt="1")), chosen(route(0.5, salt="2"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_without_stickiness_an_entity_gets_both() -> None:
    loose = route(0.5, sticky=False)
    assert {loose.choose("customer-1").name for _ in range(100)} == {"champion", "canary"}


@pytest.mark.parametrize("entity", ["", "ä", "日本", "\ud800", "x" * 100_000])
def test_any_text_is_an_entity(entity: str) -> None:
    assert route(1.0).choose(entity).name == "canary"
    assert route(0.0).choose(entity).name == "champion"


def test_shares_of_arms_sum_to_one() -> None:
    full = dataclasses.replace(route(0.05), shadow=arm("shadow"))
    assert [(a.name, full.share_of(a)) for a in full.arms] == [("champion", 0.95), ("canary", 0.05), ("shadow", 0.0)]


def test_limits_default_to_the_settings() -> None:
    assert Limits() == Limits.of(settings.Rollout().model_dump(mode="json"))
    assert Limits.of({"minimum_requests": 7, "steps": [1]}).minimum_requests == 7


def recent(answered: int, seconds: float, failed: int) -> Recent:
    found, tally = Recent(), ArmCounters("trips", "canary", 2)
    tally.answered(answered, seconds)
    tally.failed(failed)
    found.add(tally.take(), now=0.0)
    return found


@pytest.mark.parametrize(
    ("answered", "seconds", "failed", "reason"),
    [
        (1000, 0.001, 0, None),
        (950, 0.001, 50, None),
        (940, 0.001, 60, "its error rate is 6.0% (60 of 1000 requests in 60 s), 5.0% is allowed"),
        (90, 0.001, 9, None),
        (1000, 0.4, 0, None),
        (1000, 0.6, 0, "its p99 is 995 ms (1000 requests in 60 s), 500 ms are allowed"),
        (1000, 9.0, 0, "its p99 is more than 5000 ms (1000 requests in 60 s), 500 ms are allowed"),
        (0, 0.0, 0, None),
        (0, 0.0, 100, "its error rate is 100.0% (100 of 100 requests in 60 s), 5.0% is allowed"),
    ],
)
def test_a_breach_needs_enough_requests_and_says_its_numbers(
    answered: int, seconds: float, failed: int, reason: str | None
) -> None:
    assert breach(recent(answered, seconds, failed), Limits()) == reason
