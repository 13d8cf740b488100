"""clip: numbers stay within two quantiles of the training rows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.include.features.tables import apply, fit


def test_bounds_are_quantiles_of_the_training_rows_and_missing_stays_missing() -> None:
    x = np.array([*np.arange(101.0), np.nan])
    fitted, X, pipeline = fit({"clip": {"x": [0.1, 0.8]}}, {"x": x})
    assert fitted["columns"][0]["bounds"] == [10.0, 80.0]
    np.testing.assert_array_equal(X[:, 0], np.clip(x, 10, 80))
    found = apply(pipeline, x=np.array([-1e9, 10.0, 42.5, 1e9, np.nan]))
    np.testing.assert_array_equal(found[:, 0], [10, 10, 42.5, 80, np.nan])


def test_other_rows_do_not_move_the_bounds() -> None:
    _, _, pipeline = fit({"clip": {"x": [0.0, 1.0]}}, {"x": np.array([1.0, 2.0, 3.0])})
    for rows in (1, 3000):
        assert set(apply(pipeline, x=np.full(rows, 99.0))[:, 0]) == {3.0}


def test_what_is_imputed_and_scaled_is_learned_of_clipped_numbers() -> None:
    x = np.array([*np.zeros(49), *np.ones(49), 1e6, np.nan])
    declared = {"clip": {"x": [0.0, 0.98]}, "impute": {"x": "mean"}, "standard_scaler": ["x"]}
    fitted, _, pipeline = fit(declared, {"x": x})
    assert fitted["columns"][0]["bounds"] == [0.0, 1.0]
    assert fitted["columns"][0]["fill"] == pytest.approx(50 / 99)
    assert apply(pipeline, x=np.array([1e9])) == apply(pipeline, x=np.array([1.0]))


def test_a_constant_for_missing_values_is_not_clipped() -> None:
    x = np.array([5.0, 6.0, 7.0, np.nan])
    _, X, _ = fit({"clip": {"x": [0.0, 1.0]}, "impute": {"x": -1}}, {"x": x})
    assert X[:, 0].tolist() == [5, 6, 7, -1]
