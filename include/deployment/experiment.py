"""The A/B test: which of two versions is better for those who use it, told from the labels that came back.

**Unit.** An entity's requests all go to one arm, so an entity is one observation: the mean over its labelled
predictions. A prediction without an entity is one by itself. What was seen in both arms (a request that the champion
answered because the tried version failed) counts in neither.

**Metric.** `error`: the absolute error, or the log loss of a classification; smaller is better. `rate`: the share of
right answers; larger is better. The label of a prediction that was received last counts; a label of an entity belongs
to the entity's last prediction before it became true; one from the future waits (`monitoring.predictions.labelled` says
the same of the whole log).

**Horizon.** Fixed. When each arm has `PILOT` units, their mean and deviation, both arms together and so without a look
at the difference, say how many units `smallest_effect` needs at the declared significance and power (`plan`); that
number is written down and stays. The test is made once, when both arms have reached it, or when `days` have passed:
however often somebody looks before, there is nothing to see and nothing is decided, so looking costs no significance.

**Test.** Welch's, two-sided, with its confidence interval (`statsmodels.stats.weightstats`); power by
`statsmodels.stats.power.TTestIndPower`.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import sqlalchemy as sa

from include.deployment import rollouts
from include.deployment.rollouts import Rollout
from include.strategies import Evidence, Labels
from include.strategies.ab import Settings

PILOT = 200
"""Units of each arm from which their spread is known well enough to say how many are needed."""

Success = Literal["error", "rate"]
_METRICS: dict[Success, str] = {"error": "mean error", "rate": "share of right answers"}


@dataclass(frozen=True)
class Units:
    """The success metric of each labelled unit, by arm."""

    a: np.ndarray
    b: np.ndarray

    @property
    def counts(self) -> tuple[int, int]:
        """How many there are of the champion's and of the tried version's."""
        return len(self.a), len(self.b)


@dataclass(frozen=True)
class Plan:
    """How many units are enough, and from what spread that follows. Fixed when it is made."""

    a: int | None
    """None: no number is enough, for the metric's mean is 0; the test ends after its days."""
    b: int | None
    mean: float
    deviation: float
    pilot: tuple[int, int]

    def reached(self, counts: tuple[int, int]) -> bool:
        """Whether both arms have enough."""
        return self.a is not None and self.b is not None and counts[0] >= self.a and counts[1] >= self.b


@dataclass(frozen=True)
class Verdict:
    """What the test says, at its horizon."""

    winner: Literal["a", "b"] | None
    """None: no difference was proven."""
    mean_a: float
    mean_b: float
    effect: float
    """mean_b - mean_a."""
    low: float
    high: float
    """The effect's confidence interval, at 1 - significance."""
    p_value: float
    units_a: int
    units_b: int
    power: float
    """With which this many units would have shown `smallest_effect`."""


def plan(units: Units, *, significance: float, power: float, smallest_effect: float) -> Plan | None:
    """How many units each arm needs; None while there are too few to say.

    Args:
        units: what is labelled so far.
        significance: the risk of finding a difference that is none.
        power: the chance of finding one of `smallest_effect`.
        smallest_effect: relative to the metric's mean.
    """
    from statsmodels.stats.power import TTestIndPower

    counts = units.counts
    if min(counts) < PILOT:
        return None
    mean, deviation = _pooled(units)
    if mean == 0:
        return Plan(None, None, mean, deviation, counts)
    size = smallest_effect * abs(mean) / deviation if deviation else math.inf
    if size > 1:  # seen with fewer than the pilot holds already
        return Plan(PILOT, PILOT, mean, deviation, counts)
    ratio = counts[1] / counts[0]
    needed = TTestIndPower().solve_power(effect_size=size, alpha=significance, power=power, ratio=ratio)
    a, b = math.ceil(float(needed)), math.ceil(float(needed) * ratio)
    return Plan(max(PILOT, a), max(PILOT, b), mean, deviation, counts)


def verdict(units: Units, success: Success, *, significance: float, smallest_effect: float) -> Verdict:
    """Which arm is better. To be asked once, at the horizon; both arms must have `PILOT` units."""
    from statsmodels.stats.power import TTestIndPower
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    mean_a, mean_b = float(units.a.mean()), float(units.b.mean())
    mean, deviation = _pooled(units)
    if units.a.std() == 0 and units.b.std() == 0:
        low = high = mean_b - mean_a
        p_value, reached = float(mean_a == mean_b), 1.0
    else:
        compared = CompareMeans(DescrStatsW(units.b), DescrStatsW(units.a))
        p_value = float(compared.ttest_ind(usevar="unequal")[1])
        low, high = map(float, compared.tconfint_diff(alpha=significance, usevar="unequal"))
        size, ratio = smallest_effect * abs(mean) / deviation, len(units.b) / len(units.a)
        reached = float(TTestIndPower().power(size, nobs1=len(units.a), alpha=significance, ratio=ratio))
    better = mean_b < mean_a if success == "error" else mean_b > mean_a
    winner: Literal["a", "b"] | None = None if p_value >= significance else "b" if better else "a"
    return Verdict(winner, mean_a, mean_b, mean_b - mean_a, low, high, p_value, *units.counts, power=reached)


def _pooled(units: Units) -> tuple[float, float]:
    both = np.concatenate([units.a, units.b])
    return float(both.mean()), float(both.std(ddof=1))


# ------------------------------------------------------------------------------------------------ a rollout's test


@dataclass(frozen=True)
class Standing:
    """Where a running A/B test stands: how many units, of how many; never which of the two looks better."""

    counts: tuple[int, int]
    plan: Plan | None
    until: dt.datetime

    def __str__(self) -> str:
        a, b = self.counts
        if self.plan is None:
            return (
                f"not enough yet: {a} and {b} labelled units, {PILOT} of each say how many are needed;"
                f" it ends on {self.until:%Y-%m-%d %H:%M} UTC at the latest"
            )
        if self.plan.a is None or self.plan.b is None:
            return f"{a} and {b} labelled units; their mean is 0, so it ends on {self.until:%Y-%m-%d %H:%M} UTC"
        missing = max(0, self.plan.a - a), max(0, self.plan.b - b)
        state = "not enough yet" if any(missing) else "enough"
        return (
            f"{state}: {a:,} of {self.plan.a:,} and {b:,} of {self.plan.b:,} labelled units, {missing[0]:,} and"
            f" {missing[1]:,} are missing; it ends on {self.until:%Y-%m-%d %H:%M} UTC at the latest"
        )


def standing(connection: sa.Connection, rollout: Rollout, counts: tuple[int, int]) -> Standing:
    """The test's plan, where there is one, beside what is labelled."""
    until = rollout.started_at + dt.timedelta(days=_declared(rollout).days)
    return Standing(counts, _planned(connection, rollout), until)


def examine(engine: sa.Engine, rollout: Rollout, *, actor: str) -> Standing:
    """Look at a running A/B test: plan it, leave it, or, at its horizon, make the test and end it by its verdict.

    Raises:
        rollouts.Ended: it ended meanwhile.
        ledger.Superseded: the tried version won, and somebody else changed the champion meanwhile.
    """
    with engine.connect() as connection:
        now = connection.execute(sa.select(sa.func.now())).scalar_one()
        units = observed(connection, rollout)
        stands = standing(connection, rollout, units.counts)
    declared = _declared(rollout)
    if stands.plan is None:
        limits = {"significance": declared.significance, "power": declared.power}
        made = plan(units, smallest_effect=declared.smallest_effect, **limits)
        if made is not None:
            stands = Standing(units.counts, made, stands.until)
            evidence = {**asdict(made), **limits, "smallest_effect": declared.smallest_effect}
            rollouts.note(engine, rollout, "plan", actor=actor, reason=str(stands), evidence=evidence)
    if now >= stands.until or (stands.plan is not None and stands.plan.reached(units.counts)):
        _conclude(engine, rollout, units, stands, actor)
    return stands


def _conclude(engine: sa.Engine, rollout: Rollout, units: Units, stands: Standing, actor: str) -> None:
    declared = _declared(rollout)
    if min(units.counts) < PILOT:
        a, b = units.counts
        reason = f"no verdict after {declared.days:g} days: {a} and {b} labelled units, {PILOT} of each are the least"
        _end(engine, rollout, Labels(None, reason), actor, {"units": [a, b]})
        return
    success: Success = declared.success or "error"
    limits = {"significance": declared.significance, "smallest_effect": declared.smallest_effect}
    found = verdict(units, success, **limits)
    evidence = {**asdict(found), **limits, "success": success, "plan": stands.plan and asdict(stands.plan)}
    reason = describe_verdict(rollout, found, success)
    with engine.begin() as connection:
        rollouts.note(connection, rollout, "verdict", actor=actor, reason=reason, evidence=evidence)
        better = None if found.winner is None else found.winner == "b"
        _end(connection, rollout, Labels(better, reason), actor, evidence)


def _end(
    bind: sa.Engine | sa.Connection, rollout: Rollout, labels: Labels, actor: str, evidence: dict[str, Any]
) -> None:
    """What the rollout's strategy makes of it."""
    move = rollout.strategy.decide(rollout.declared, Evidence(rollout.step, rollout.share, labels=labels))
    rollouts.apply(bind, rollout, move, actor=actor, evidence=evidence)


def _declared(rollout: Rollout) -> Settings:
    return cast("Settings", rollout.declared)  # a rollout's settings have the keys of all strategies


def describe_verdict(rollout: Rollout, found: Verdict, success: Success) -> str:
    """A verdict in one line."""
    declared = _declared(rollout)
    scale = abs(found.mean_a) or math.nan
    share = f"{1 - declared.significance:.0%} interval {found.low / scale:+.1%} to {found.high / scale:+.1%}"
    numbers = (
        f"{_METRICS[success]} {found.mean_b:.4g} against {found.mean_a:.4g} of version {rollout.champion_version},"
        f" {found.effect / scale:+.1%} ({share}), p = {found.p_value:.2g},"
        f" {found.units_b:,} and {found.units_a:,} units"
    )
    if found.winner is not None:
        outcome = "better" if found.winner == "b" else "worse"
        return f"{rollout.title}: version {rollout.version} is {outcome}: {numbers}"
    power = f"an effect of {declared.smallest_effect:.1%} would have been seen with a power of {found.power:.0%}"
    return f"{rollout.title}: no difference was proven, the champion stays: {numbers}; {power}"


def _planned(connection: sa.Connection, rollout: Rollout) -> Plan | None:
    made = [event for event in rollouts.events(connection, [rollout.id]) if event.event == "plan"]
    if not made:
        return None
    fields: dict[str, Any] = {name: made[0].evidence[name] for name in Plan.__dataclass_fields__}
    return Plan(**fields | {"pilot": tuple(fields["pilot"])})


# ------------------------------------------------------------------------------------------------ reading

_UNITS = """
    with told as (
        select distinct on (prediction_id) prediction_id, label from (
            select prediction_id, id, label, received_at from labels
            where model = :model and prediction_id is not null and at <= now()
              and received_at >= :since - interval '1 day'
            union all
            select last.id, l.id, l.label, l.received_at from labels l
            cross join lateral (
                select p.id from predictions p
                where p.model = l.model and p.entity = l.entity and p.at <= l.at and p.at >= :since
                  and p.arm in (:control, :arm)
                order by p.at desc limit 1
            ) last
            where l.model = :model and l.entity is not null and l.at <= now()
              and l.received_at >= :since - interval '1 day'
        ) found order by prediction_id, received_at desc, id desc
    ), scored as (
        select p.arm, coalesce(p.entity, p.id::text) as unit, {value} as value
        from predictions p join told on told.prediction_id = p.id
        where p.model = :model and p.at >= :since
          and ((p.arm = :control and p.version = :champion) or (p.arm = :arm and p.version = :version))
    )
    select min(arm), avg(value) from scored where value is not null group by unit having count(distinct arm) = 1
"""
_VALUES: dict[Success, str] = {
    "rate": "((p.output::jsonb -> 'prediction') = told.label)::int::float",
    "error": """case
        when p.output::jsonb -> 'probabilities' ? (told.label #>> '{}')
            then -ln(greatest((p.output -> 'probabilities' ->> (told.label #>> '{}'))::float, 1e-15))
        when p.output::jsonb ? 'probabilities' then null
        when jsonb_typeof(told.label) = 'number' then abs(p.prediction - (told.label #>> '{}')::float) end""",
}


def observed(connection: sa.Connection, rollout: Rollout) -> Units:
    """The success metric of each unit that was labelled since the test began, without labels that fit no answer."""
    value = _VALUES[_declared(rollout).success or "error"]
    parameters = {
        "model": rollout.model,
        "since": rollout.started_at,
        "champion": rollout.champion_version,
        "version": rollout.version,
        "control": rollout.control,
        "arm": rollout.arm,
    }
    rows = connection.execute(sa.text(_UNITS.replace("{value}", value)), parameters).all()
    arms = rollout.control, rollout.arm
    return Units(*(np.array([value for found, value in rows if found == arm], dtype=np.float64) for arm in arms))
