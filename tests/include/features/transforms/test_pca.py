"""pca: columns are replaced by their first principal components."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.include.features.tables import apply, fit, text


def test_components_replace_their_columns_and_have_one_sign() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=50)
    columns: dict[str, Any] = {"a": a, "b": -2 * a + rng.normal(size=50) * 0.01, "c": rng.normal(size=50)}
    fitted, X, pipeline = fit({"pca": {"p": {"columns": ["a", "b"], "components": 1}}}, columns)
    assert (pipeline.names, pipeline.origins) == (["c", "p_0"], ["c", "p_0"])
    vector = fitted["pca"][0]["vectors"][0]
    assert max(vector, key=abs) > 0
    assert abs(np.corrcoef(X[:, 1], a)[0, 1]) > 0.999
    assert np.array_equal(apply(pipeline, **columns), X)


def test_components_are_made_of_what_is_scaled_and_stand_behind_all_else() -> None:
    rng = np.random.default_rng(2)
    columns = {"a": rng.normal(5, 9, 50), "s": text(*["u", "v"] * 25), "b": rng.normal(size=50)}
    declared = {"standard_scaler": ["a", "b"], "pca": {"p": {"columns": ["a", "b"], "components": 2}}}
    _, X, pipeline = fit(declared, columns)
    assert pipeline.names == ["s=u", "s=v", "p_0", "p_1"]
    assert np.ptp(X[:, 2:].sum(axis=0)) < 1e-9
    np.testing.assert_allclose(X[:, 2:].var(axis=0).sum(), 2)
