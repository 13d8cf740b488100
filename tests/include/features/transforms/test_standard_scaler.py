"""standard_scaler: mean 0 and deviation 1, by the training rows."""

from __future__ import annotations

import numpy as np

from tests.include.features.tables import apply, fit, text


def test_scaling_is_float64_by_the_training_part_and_a_constant_stays_finite() -> None:
    x = np.array([1.0, 2.0, 4.0, np.nan])
    _, X, pipeline = fit({"standard_scaler": "all"}, {"x": x, "c": np.full(4, 7.0)})
    np.testing.assert_array_equal(X[:, 0], (x - np.nanmean(x)) / np.nanstd(x))
    assert X[:, 1].tolist() == [0, 0, 0, 0]
    assert apply(pipeline, x=np.array([4.0]), c=np.array([8.0])).tolist() == [[X[2, 0], 1.0]]


def test_all_leaves_bins_and_encodings_alone() -> None:
    declared = {"standard_scaler": "all", "bin": {"b": 2}, "ordinal": ["o"]}
    columns = {"x": np.arange(4.0), "b": np.arange(4.0), "o": np.arange(4.0), "s": text(*"abab")}
    fitted, _, _ = fit(declared, columns)
    assert [entry["column"] for entry in fitted["columns"] if "scale" in entry] == ["x"]


def test_each_column_that_an_encoding_makes_is_scaled_by_itself() -> None:
    s = text(*"abc" * 20)
    declared = {"target_encoding": ["s"], "standard_scaler": ["s"]}
    fitted, X, pipeline = fit(declared, {"s": s}, [*"xyz" * 20], "multiclass")
    assert pipeline.names == ["s_target_y", "s_target_z"]
    assert len(fitted["columns"][0]["scale"]) == 2
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(X.std(axis=0), 1)
