"""one_hot: a category becomes one 0/1 column for each category seen."""

from __future__ import annotations

import numpy as np

from tests.include.features.tables import apply, fit, text


def test_a_missing_category_that_training_had_is_one_of_its_own() -> None:
    _, X, pipeline = fit({"one_hot": ["s"]}, {"s": text("a", None, "a")})
    assert pipeline.names == ["s=a", "s=missing"]
    assert X.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_an_unknown_category_marks_nothing_among_many() -> None:
    words = [f"w{n:02}" for n in range(90)]
    _, X, pipeline = fit({"one_hot": ["s"]}, {"s": text(*words)})
    np.testing.assert_array_equal(X, np.eye(90))
    found = apply(pipeline, s=text(words[7], None, "unseen"))
    assert [np.flatnonzero(row).tolist() for row in found] == [[7], [], []]
