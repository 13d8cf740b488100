"""The A/B test: looking often costs nothing, a real effect is found as often as promised, labels are read right."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from include import database
from include.deployment import decisions, experiment, ledger, rollouts
from include.deployment.experiment import PILOT, Units
from tests.include.deployment import trials

SIGNIFICANCE, POWER = 0.05, 0.8
DAYS, DAILY = 30, 100


def daily(draw: Callable[[str], np.ndarray], effect: float) -> tuple[experiment.Verdict | None, bool]:
    """A test that somebody looks at every day; and what a t-test on each of those days would have led to."""
    a, b = draw("a"), draw("b")
    planned, naive = None, False
    for day in range(1, DAYS + 1):
        units = Units(a[: day * DAILY], b[: day * DAILY])
        error = np.sqrt(units.a.var() / len(units.a) + units.b.var() / len(units.b))
        naive = naive or abs(units.a.mean() - units.b.mean()) > 1.96 * error
        planned = planned or experiment.plan(units, significance=SIGNIFICANCE, power=POWER, smallest_effect=effect)
        if day == DAYS or (planned and planned.reached(units.counts)):
            return experiment.verdict(units, "error", significance=SIGNIFICANCE, smallest_effect=effect), naive
    return None, naive


def share(found: list[bool]) -> tuple[float, float]:
    """How often, and three standard deviations of what chance makes of that."""
    return float(np.mean(found)), 3 * float(np.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / len(found)))


@pytest.mark.slow
@pytest.mark.parametrize("errors", ["skewed", "yes or no"])
def test_equal_versions_are_called_different_no_more_often_than_declared_however_often_one_looks(errors: str) -> None:
    """Peeking daily; the naive test beside it shows what would have happened."""
    random = np.random.default_rng(3)
    draw = {
        "skewed": lambda _: random.lognormal(1, 0.6, DAYS * DAILY),
        "yes or no": lambda _: (random.random(DAYS * DAILY) < 0.2).astype(float),
    }[errors]
    effect = {"skewed": 0.06, "yes or no": 0.2}[errors]
    ends = [daily(draw, effect) for _ in range(600)]
    wrong, noise = share([end is not None and end.winner is not None for end, _ in ends])
    naive, _ = share([naive for _, naive in ends])
    print(f"{errors}: {wrong:.1%} false verdicts at {SIGNIFICANCE:.0%}; a daily t-test: {naive:.1%}")
    assert wrong <= SIGNIFICANCE + noise
    assert naive > 2 * SIGNIFICANCE + noise  # so that this test would see it


@pytest.mark.slow
@pytest.mark.parametrize("better", ["a", "b"])
def test_a_real_effect_is_found_with_about_the_promised_power(better: str) -> None:
    random = np.random.default_rng(4)
    effect = 0.06
    scale = {arm: 1 - effect if arm == better else 1.0 for arm in "ab"}
    ends = [daily(lambda arm: scale[arm] * random.lognormal(1, 0.6, DAYS * DAILY), effect)[0] for _ in range(400)]
    found = np.mean([end is not None and end.winner == better for end in ends])
    wrong = np.mean([end is not None and end.winner not in (better, None) for end in ends])
    print(f"version {better} is better by {effect:.0%}: found {found:.0%}, promised {POWER:.0%}")
    assert POWER - 0.06 < found < POWER + 0.12  # days come whole, so a little more than needed
    assert wrong == 0


def test_the_interval_covers_the_true_effect_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = []
    for _ in range(500):
        units = Units(random.lognormal(1, 0.6, 400), random.lognormal(1, 0.6, 700) * 1.1)
        found = experiment.verdict(units, "error", significance=0.1, smallest_effect=0.05)
        true = 0.1 * float(np.exp(1 + 0.6**2 / 2))
        covered.append(found.low < true < found.high)
    assert 0.87 < np.mean(covered) < 0.93


def test_unequal_shares_need_unequal_numbers() -> None:
    random = np.random.default_rng(6)
    planned = experiment.plan(
        Units(random.normal(10, 3, 1800), random.normal(10, 3, 200)), significance=0.05, power=0.8, smallest_effect=0.02
    )
    assert planned is not None
    assert planned.a == pytest.approx(9 * planned.b, rel=0.01)
    even = 16 * (planned.deviation / (0.02 * planned.mean)) ** 2  # Lehr's rule for each of two equal arms
    assert 1 / planned.a + 1 / planned.b == pytest.approx(2 / even, rel=0.03)


def test_before_the_pilot_nothing_is_planned_and_a_large_effect_needs_no_more_than_it() -> None:
    few, enough = np.ones(PILOT - 1), np.random.default_rng(1).normal(10, 1, PILOT)
    asked = {"significance": 0.05, "power": 0.8, "smallest_effect": 0.5}
    assert experiment.plan(Units(few, enough), **asked) is None
    planned = experiment.plan(Units(enough, enough), **asked)
    assert planned is not None
    assert (planned.a, planned.b) == (PILOT, PILOT)


@pytest.mark.parametrize(("a", "b", "winner"), [(1.0, 1.0, None), (1.0, 0.0, "a"), (0.0, 1.0, "b")])
def test_arms_without_any_spread_are_compared_too(a: float, b: float, winner: str | None) -> None:
    units = Units(np.full(PILOT, a), np.full(PILOT, b))
    found = experiment.verdict(units, "rate", significance=0.05, smallest_effect=0.1)
    assert found.winner == winner
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_where_the_mean_is_zero_no_number_is_enough_and_the_days_decide() -> None:
    zero = np.zeros(PILOT)
    planned = experiment.plan(Units(zero, zero), significance=0.05, power=0.8, smallest_effect=0.1)
    assert planned is not None
    assert not planned.reached((10**9, 10**9))


# ------------------------------------------------------------------------------------------------ in the database


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    trials.crown(engine, 1)
    with engine.begin() as connection:
        for day in (-1, 0, 1):
            connection.execute(sa.text(f"select make_prediction_partition((now() at time zone 'utc')::date + {day})"))
    yield engine
    engine.dispose()


def log(
    engine: sa.Engine,
    rollout: rollouts.Rollout,
    arm: str,
    *,
    prediction: float = 10.0,
    entity: str | None = None,
    label: Any = None,
    output: dict[str, Any] | None = None,
    after: float = 0,
) -> str:
    """A prediction of the test, and its label where there is one."""
    key, at = str(uuid.uuid4()), rollout.started_at + dt.timedelta(milliseconds=1 + after)
    version = rollout.version if arm == "b" else rollout.champion_version
    with engine.begin() as connection:
        connection.execute(
            sa.insert(database.predictions).values(
                id=key, model="m", version=version, arm=arm, at=at, inputs={},
                output=output or {"prediction": prediction}, prediction=prediction, entity=entity,
            )
        )  # fmt: skip
        if label is not None:
            resolve(connection, label, at, prediction_id=key)
    return key


def resolve(connection: sa.Connection, label: Any, at: dt.datetime, **about: Any) -> None:
    connection.execute(sa.insert(database.labels).values(model="m", label=label, at=at, **about))


def seen(engine: sa.Engine, rollout: rollouts.Rollout) -> tuple[list[float], list[float]]:
    with engine.connect() as connection:
        units = experiment.observed(connection, rollout)
    return sorted(units.a), sorted(units.b)


def test_an_entity_is_one_unit_and_a_prediction_without_one_is_another(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab", success="error")
    log(engine, made, "a", entity="x", prediction=10, label=12)
    log(engine, made, "a", entity="x", prediction=10, label=6)
    log(engine, made, "a", prediction=10, label=11)
    log(engine, made, "a", prediction=10, label=11.5)
    log(engine, made, "b", entity="y", prediction=7, label=7)
    log(engine, made, "b", entity="unlabelled")
    assert seen(engine, made) == ([1.0, 1.5, 3.0], [0.0])


def test_what_was_seen_in_both_arms_counts_in_neither(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab")
    log(engine, made, "a", entity="x", label=1)
    log(engine, made, "b", entity="x", label=1)
    log(engine, made, "b", entity="y", label=10)
    assert seen(engine, made) == ([], [0.0])


def test_the_newest_label_counts_and_what_is_no_number_does_not(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab")
    key = log(engine, made, "b", prediction=10, label=99)
    log(engine, made, "b", prediction=10, label="lost")
    with engine.begin() as connection:
        resolve(connection, 12, made.started_at, prediction_id=key)
    assert seen(engine, made) == ([], [2.0])


def test_a_label_of_an_entity_belongs_to_its_last_prediction_before(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab")
    log(engine, made, "b", entity="x", prediction=1, after=0)
    log(engine, made, "b", entity="x", prediction=2, after=10)
    log(engine, made, "b", entity="x", prediction=3, after=30)
    time.sleep(0.1)
    with engine.begin() as connection:
        resolve(connection, 2.5, made.started_at + dt.timedelta(milliseconds=20), entity="x")
        resolve(connection, 7.0, made.started_at - dt.timedelta(seconds=2), entity="x")
    assert seen(engine, made) == ([], [0.5])


def test_a_label_from_the_future_waits(engine: sa.Engine) -> None:
    """Promise 42."""
    made = trials.start(engine, kind="ab")
    key = log(engine, made, "b", prediction=10, label=11)
    with engine.begin() as connection:
        resolve(connection, 99, made.started_at + dt.timedelta(hours=1), prediction_id=key)
    assert seen(engine, made) == ([], [1.0])


def test_what_came_before_the_test_or_from_other_versions_does_not_count(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab")
    log(engine, made, "a", label=10, after=-5000)
    log(engine, made, "champion", label=10)
    log(engine, made, "shadow", label=10)
    assert seen(engine, made) == ([], [])


def test_a_classification_is_judged_by_right_answers_or_by_log_loss(engine: sa.Engine) -> None:
    answer = {"prediction": "ill", "probabilities": {"ill": 0.8, "well": 0.2}}
    by_rate = trials.start(engine, kind="ab", success="rate")
    for label in ("ill", "well", "ill", "nobody knows"):
        log(engine, by_rate, "b", output=answer, prediction=0.8, label=label)
    assert seen(engine, by_rate) == ([], [0.0, 0.0, 1.0, 1.0])
    rollouts.stop(engine, by_rate, actor=decisions.CONTROLLER, reason="r")
    by_error = trials.start(engine, kind="ab", success="error")
    log(engine, by_error, "b", output=answer, prediction=0.8, label="ill")
    log(engine, by_error, "b", output={"prediction": 1, "probabilities": {"0": 0.1, "1": 0.9}}, label=0)
    log(engine, by_error, "b", output=answer, label="nobody knows")
    assert seen(engine, by_error)[1] == pytest.approx([-np.log(0.8), -np.log(0.1)])


def fill(engine: sa.Engine, rollout: rollouts.Rollout, errors: dict[str, float], count: int) -> None:
    """So many labelled predictions in each arm, with errors around these means."""
    random = np.random.default_rng(count)
    at, now = rollout.started_at + dt.timedelta(milliseconds=1), []
    for arm, mean in errors.items():
        for error in random.normal(mean, 0.3, count):
            now.append((str(uuid.uuid4()), arm, 2 if arm == "b" else 1, 10.0, 10.0 + float(error)))
    with engine.begin() as connection:
        connection.execute(
            sa.insert(database.predictions),
            [
                {"id": key, "model": "m", "version": version, "arm": arm, "at": at, "inputs": {},
                 "output": {"prediction": value}, "prediction": value}
                for key, arm, version, value, _ in now
            ],
        )  # fmt: skip
        connection.execute(
            sa.insert(database.labels),
            [{"model": "m", "prediction_id": key, "label": label, "at": at} for key, _, _, _, label in now],
        )


def told(engine: sa.Engine, rollout: rollouts.Rollout) -> list[str]:
    return [event.event for event in reversed(rollouts.events(engine, [rollout.id]))]


def look(engine: sa.Engine, rollout: rollouts.Rollout) -> experiment.Standing:
    return experiment.examine(engine, rollout, actor="the controller")


def test_too_few_labels_are_not_enough_yet_and_say_how_many_are_missing(engine: sa.Engine) -> None:
    made = trials.start(engine, kind="ab", smallest_effect=0.02)
    fill(engine, made, {"a": 2.0, "b": 2.0}, 150)
    assert str(look(engine, made)).startswith("not enough yet: 150 and 150 labelled units, 200 of each say how many")
    fill(engine, made, {"a": 2.0, "b": 2.0}, 160)
    planned = look(engine, made)
    assert planned.plan is not None
    missing = planned.plan.a - 310
    assert f"310 of {planned.plan.a:,}" in str(planned)
    assert f"{missing:,} and {missing:,} are missing" in str(planned)
    assert told(engine, made) == ["start", "plan"]
    fill(engine, made, {"a": 2.0, "b": 2.0}, 155)
    assert look(engine, made).plan == planned.plan  # fixed, whatever the newer ones say
    assert told(engine, made) == ["start", "plan"]
    assert trials.now(engine, made).status == "running"


@pytest.mark.parametrize(
    ("b", "status", "reason"),
    [
        (
            1.8,
            "promoted",
            r"version 2 is better: mean error 1\.\d+ against \d\.\d+ of version 1, -\d+\.\d% \(95% interval",
        ),
        (2.2, "stopped", "version 2 is worse"),
        (
            2.0,
            "stopped",
            "no difference was proven, the champion stays: .*; an effect of 5.0% would have been seen with",
        ),
    ],
)
def test_at_its_horizon_the_verdict_ends_the_test(engine: sa.Engine, b: float, status: str, reason: str) -> None:
    import re

    made = trials.start(engine, kind="ab", smallest_effect=0.05)
    fill(engine, made, {"a": 2.0, "b": b}, 210)
    look(engine, made)
    ended = trials.now(engine, made)
    assert ended.status == status
    assert told(engine, made) == ["start", "plan", "verdict", "promote" if status == "promoted" else "stop"]
    event = rollouts.events(engine, [made.id])[0]
    assert re.search(reason, event.reason)
    assert event.evidence["units_a"] == event.evidence["units_b"] == 210
    assert event.evidence["plan"]["a"] == PILOT
    assert ledger.champion(engine, "m").version == (2 if status == "promoted" else 1)
    with pytest.raises(rollouts.Ended):
        look(engine, made)


def test_after_its_days_it_ends_with_what_there_is(engine: sa.Engine) -> None:
    few = trials.start(engine, kind="ab", days=1e-9)
    fill(engine, few, {"a": 2.0, "b": 1.0}, 20)
    look(engine, few)
    assert "20 and 20 labelled units, 200 of each are the least" in rollouts.events(engine, [few.id])[0].reason
    assert trials.now(engine, few).status == "stopped"
    enough = trials.start(engine, kind="ab", days=1e-9, smallest_effect=0.001)
    fill(engine, enough, {"a": 2.0, "b": 1.0}, 250)
    look(engine, enough)
    assert trials.now(engine, enough).status == "promoted"
