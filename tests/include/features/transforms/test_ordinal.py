"""ordinal: a category becomes its place in an order."""

from __future__ import annotations

import numpy as np

from tests.include.features.tables import apply, fit, text


def test_the_given_order_is_kept() -> None:
    _, X, _ = fit({"ordinal": {"s": ["low", "mid", "high"]}}, {"s": text("high", "low", "mid", "other")})
    assert X[:, 0].tolist() == [2, 0, 1, -1]
    _, X, _ = fit({"ordinal": {"n": ["10", "5"]}}, {"n": np.array([5.0, 10.0])})
    assert X[:, 0].tolist() == [1, 0]


def test_without_an_order_categories_are_sorted_and_missing_ones_are_unknown() -> None:
    _, _, pipeline = fit({"ordinal": ["s"]}, {"s": text("b", "a", None)})
    assert apply(pipeline, s=text("a", "b", None, "z"))[:, 0].tolist() == [0, 1, -1, -1]
