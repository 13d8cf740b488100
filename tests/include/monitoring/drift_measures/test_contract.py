"""What every measure of drift must do, and what each one is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from include import settings
from include.features.profile import EPSILON, profile
from include.monitoring import drift, drift_measures
from include.monitoring.decision import Finding
from include.monitoring.drift_measures import DriftMeasure, jensen_shannon, psi

NAMES = settings.drift_measure_names()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def measure(name: str) -> DriftMeasure:
    return drift_measures.load(name)


def distributions(count: int, buckets: int, seed: int = 3) -> np.ndarray:
    return np.maximum(np.random.default_rng(seed).dirichlet(np.ones(buckets), count), EPSILON)


def of(name: str, then: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict[str, Finding]:
    measure = drift_measures.load(name)
    found = drift.find(profile(then), now, by=name, warn=measure.WARN, critical=measure.CRITICAL)
    return {each.subject: each for each in found}


def normal(seed: int, mean: float = 0.0, rows: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, rows)


def texts(seed: int, shares: dict[str, float], rows: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(list(shares), dtype=object), rows, p=list(shares.values()))


def test_it_has_words_and_thresholds_that_warn_first(measure: DriftMeasure) -> None:
    assert measure.TITLE
    assert measure.SHORT
    assert 0 < measure.WARN < measure.CRITICAL


def test_equal_distributions_have_none_and_others_have_some(measure: DriftMeasure) -> None:
    some = distributions(50, 11)
    assert measure.compute(some, some) == pytest.approx(np.zeros(50), abs=1e-7)
    assert (measure.compute(some[:-1], some[1:]) > 0.01).all()


def test_it_computes_many_pairs_as_it_computes_each(measure: DriftMeasure) -> None:
    then, now = distributions(20, 7, seed=1), distributions(20, 7, seed=2)
    together = measure.compute(then, now)
    assert together.shape == (20,)
    assert together.tolist() == [float(measure.compute(a, b)) for a, b in zip(then, now, strict=True)]


def test_which_way_round_and_in_which_order_the_buckets_stand_is_no_matter(measure: DriftMeasure) -> None:
    then, now = distributions(20, 7, seed=1), distributions(20, 7, seed=2)
    order = np.random.default_rng(0).permutation(7)
    forth = measure.compute(then, now)
    assert measure.compute(now, then) == pytest.approx(forth)
    assert measure.compute(then[:, order], now[:, order]) == pytest.approx(forth)


def test_a_larger_shift_is_a_larger_value(measure: DriftMeasure) -> None:
    then = np.array([0.5, 0.5])
    values = [float(measure.compute(then, np.array([0.5 + shift, 0.5 - shift]))) for shift in (0.0, 0.1, 0.2, 0.4)]
    assert values == sorted(values)
    assert values[0] < measure.WARN < values[-1]


def test_empty_buckets_are_finite(measure: DriftMeasure) -> None:
    then, now = np.array([1.0, EPSILON, EPSILON]), np.array([EPSILON, EPSILON, 1.0])
    assert math.isfinite(measure.compute(then, now))
    assert measure.compute(then, now) > measure.CRITICAL


def test_chance_shrinks_with_the_rows_of_both_sides_and_grows_with_the_buckets(measure: DriftMeasure) -> None:
    ten, forty = np.full(10, 0.1), np.full(40, 0.025)
    assert measure.chance(ten, 10_000, 2000) < measure.chance(ten, 10_000, 200) < measure.chance(forty, 10_000, 200)
    assert measure.chance(ten, 10_000, 2000) < measure.chance(ten, 100, 2000)
    assert measure.chance(ten, 10_000, 2000) == measure.chance(ten, 10_000, 2000)


@pytest.mark.parametrize("rows", [100, 2000])
def test_chance_alone_does_not_warn_and_a_real_shift_does(name: str, rows: int) -> None:
    categories = {f"c{i}": 1 / 30 for i in range(30)}
    then = {"x": normal(0, rows=20_000), "c": texts(0, categories, 20_000)}
    found = [
        finding
        for seed in range(1, 40)
        for finding in of(name, then, {"x": normal(seed, rows=rows), "c": texts(seed, categories, rows)}).values()
    ]
    assert sum(finding.level != "ok" for finding in found) <= 2
    moved = of(name, then, {"x": normal(1, 1.0, rows), "c": texts(1, {"c0": 0.9, "c1": 0.1}, rows)})
    assert {finding.level for finding in moved.values()} == {"critical"}


def test_missing_values_are_a_bucket_of_their_own(name: str) -> None:
    then = {"x": normal(1), "c": texts(1, {"a": 0.5, "b": 0.5})}
    half = np.arange(5000) % 2 == 0
    now = {"x": np.where(half, np.nan, normal(2)), "c": np.where(half, None, texts(2, {"a": 0.5, "b": 0.5}))}
    found = of(name, then, now)
    assert {finding.level for finding in found.values()} == {"critical"}
    assert all("50% missing (0% at training)" in finding.message for finding in found.values())
    assert {finding.level for finding in of(name, now, now).values()} == {"ok"}


def test_unseen_categories_are_found_and_named(name: str) -> None:
    then, now = {"c": texts(1, {"a": 0.5, "b": 0.5})}, {"c": texts(2, {"a": 0.5, "z": 0.3, "y": 0.2})}
    finding = of(name, then, now)["c"]
    assert finding.level == "critical"
    assert "50% in categories that were rare or unknown" in finding.message
    assert finding.message.startswith(f"c: {drift_measures.load(name).SHORT} {finding.value:.2f}, ")
    assert finding.measure == name


def test_a_name_without_a_file_is_refused_with_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"drift_measures/jensen_shanon\.py; did you mean 'jensen_shannon'"):
        drift_measures.load("jensen_shanon")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, lambda m: (m.WARN, m.CRITICAL)),
        ({"warn": 0.01}, lambda m: (0.01, m.CRITICAL)),
        ({"critical": 0.9}, lambda m: (m.WARN, 0.9)),
        ({"warn": 0.95}, lambda m: (0.95, 0.95)),
        ({"critical": 0.02}, lambda m: (0.02, 0.02)),
        ({"warn": 0.3, "critical": 0.4}, lambda m: (0.3, 0.4)),
    ],
)
def test_a_threshold_that_is_not_declared_is_the_measures_own(name, declared, expected) -> None:
    rules = settings.Monitoring(drift=settings.Drift(measure=name, **declared))
    assert drift_measures.thresholds(rules) == expected(drift_measures.load(name))


# ------------------------------------------------------------------------------------------------ each one


def test_psi_is_the_one_of_the_textbook() -> None:
    """Two of ten buckets have 5 and 15 per cent instead of 10."""
    now = np.array([0.05, 0.15] + [0.1] * 8)
    expected = -0.05 * math.log(0.5) + 0.05 * math.log(1.5)
    assert psi.compute(np.full(10, 0.1), now) == pytest.approx(expected)


def test_jensen_shannon_is_the_one_of_the_textbook() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): H(3/8, 5/8) - (1 + H(1/4, 3/4)) / 2 bits."""

    def entropy(*shares: float) -> float:
        return -sum(share * math.log2(share) for share in shares)

    expected = entropy(3 / 8, 5 / 8) - (1 + entropy(1 / 4, 3 / 4)) / 2
    found = jensen_shannon.compute(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    assert found**2 == pytest.approx(expected)


def test_jensen_shannon_is_a_metric_bounded_by_one() -> None:
    a, b, c = (distributions(200, 5, seed) for seed in (1, 2, 3))
    ab, bc, ac = (jensen_shannon.compute(*pair) for pair in ((a, b), (b, c), (a, c)))
    assert (ab + bc >= ac - 1e-12).all()
    assert (ab <= 1).all()
    apart = jensen_shannon.compute(np.array([1.0, 0.0]) + EPSILON, np.array([0.0, 1.0]) + EPSILON)
    assert 0.99 < apart <= 1


def test_jensen_shannons_thresholds_lie_where_those_of_psi_do() -> None:
    then, shift = np.full(10, 0.1), np.array([1, -1] * 5)
    for level in ("WARN", "CRITICAL"):
        sizes = np.linspace(0, 0.09, 2000)[:, None]
        now = then + sizes * shift
        reaches = [np.argmax(measure.compute(then, now) > getattr(measure, level)) for measure in (psi, jensen_shannon)]
        assert sizes[reaches[1], 0] == pytest.approx(sizes[reaches[0], 0], rel=0.03)
