"""bin: numbers become the indices of their bins."""

from __future__ import annotations

import numpy as np

from tests.include.features.tables import apply, fit


def test_bins_are_quantiles_of_the_training_part_or_given() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    _, X, pipeline = fit({"bin": {"x": 4}}, {"x": x})
    np.testing.assert_array_equal(X[:, 0], [0, 1, 2, 3, np.nan])
    assert apply(pipeline, x=np.array([-100.0, 100.0]))[:, 0].tolist() == [0, 3]
    _, X, _ = fit({"bin": {"x": [2.0, 3.5]}}, {"x": x})
    np.testing.assert_array_equal(X[:, 0], [0, 1, 1, 2, np.nan])


def test_a_bin_can_be_a_category() -> None:
    _, X, pipeline = fit({"bin": {"x": [2.0]}, "one_hot": ["x"]}, {"x": np.array([1.0, 3.0, np.nan])})
    assert pipeline.names == ["x=0", "x=1", "x=missing"]
    assert X.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
