"""Profiles: bins pinned at training, shares that always add up and never are zero."""

from __future__ import annotations

import json

import numpy as np
import pytest

from include.features.profile import EPSILON, profile, psi, shares


def text(*values: str | None) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_the_same_rows_do_not_drift_and_shifted_ones_do() -> None:
    rng = np.random.default_rng(0)
    training = {"x": rng.normal(size=5000), "s": text(*rng.choice(["a", "b", "c"], 5000).tolist())}
    pinned = json.loads(json.dumps(profile(training), allow_nan=False))
    same = shares(pinned, {"x": rng.normal(size=5000), "s": training["s"]})
    moved = shares(pinned, {"x": rng.normal(1.0, size=5000), "s": text(*["z"] * 5000)})
    assert max(psi(pinned[name]["shares"], same[name]) for name in pinned) < 0.02
    assert min(psi(pinned[name]["shares"], moved[name]) for name in pinned) > 0.5


def test_quantile_bins_hold_equal_shares() -> None:
    described = profile({"x": np.arange(1000.0)}, bins=10)["x"]
    assert len(described["edges"]) == 9
    np.testing.assert_allclose(described["shares"][:-1], 0.1, atol=0.002)


def test_few_values_have_a_bin_each_and_a_constant_one_has_three() -> None:
    assert profile({"x": np.array([0.0, 1.0, 1.0, 1.0])})["x"]["shares"][:2] == [0.25, 0.75]
    pinned = profile({"x": np.full(100, 5.0)})
    assert shares(pinned, {"x": np.full(10, 5.0)})["x"][1] == 1.0
    assert shares(pinned, {"x": np.full(10, 6.0)})["x"][2] == 1.0


def test_missing_values_have_their_own_bucket() -> None:
    pinned = profile({"x": np.array([1.0, 2.0, 3.0, np.nan]), "s": text("a", None, "a", "b")})
    assert (pinned["x"]["missing"], pinned["x"]["shares"][-1]) == (0.25, 0.25)
    assert (pinned["s"]["missing"], pinned["s"]["shares"][-1]) == (0.25, 0.25)
    assert shares(pinned, {"x": np.full(2, np.nan), "s": text(None, None)})["x"][-1] == 1.0


def test_rare_and_new_categories_share_the_other_bucket() -> None:
    values = [f"c{i:02}" for i in range(40) for _ in range(40 - i)]
    pinned = profile({"s": text(*values)})
    assert len(pinned["s"]["categories"]) == 30
    assert shares(pinned, {"s": text("c39", "new")})["s"][-2] == 1.0


def test_empty_and_all_missing_columns_are_described_too() -> None:
    pinned = profile({"x": np.full(3, np.nan), "s": text(None, None), "e": np.array([])})
    assert pinned["x"]["shares"] == [EPSILON, 1.0]
    assert shares(pinned, {"x": np.array([1.0]), "s": text("a"), "e": np.array([])})["x"] == [1.0, EPSILON]
    json.dumps(pinned, allow_nan=False)


def test_timestamps_have_no_profile_and_unknown_columns_no_shares() -> None:
    pinned = profile({"t": np.array(["2024-01-01"], dtype="datetime64[us]"), "x": np.array([1.0])})
    assert list(pinned) == ["x"]
    assert shares(pinned, {"y": np.array([1.0])}) == {}


def test_infinite_values_fall_into_the_outer_bins() -> None:
    pinned = profile({"x": np.arange(100.0)})
    assert shares(pinned, {"x": np.array([np.inf, -np.inf])})["x"][0] == pytest.approx(0.5)
