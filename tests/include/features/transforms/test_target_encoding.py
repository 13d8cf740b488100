"""target_encoding: a category becomes the smoothed mean of the target, and no row sees its own."""

from __future__ import annotations

import numpy as np
import pytest

from include.features.feature_set import FitError
from include.features.transforms.target_encoding import smoothed_means
from tests.include.features.tables import apply, fit, text


def test_rare_categories_are_shrunk_more() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(20), [1, *[50] * 19])
    targets = (places * 1.0 + rng.normal(0, 5, len(places))).reshape(-1, 1)
    targets[0] = 100.0
    means, prior = smoothed_means(places, 20, targets)
    assert abs(means[0, 0] - prior[0]) < 0.8 * abs(100 - prior[0])
    raw = targets[places == 19].mean()
    assert abs(means[19, 0] - raw) < 0.1 * abs(raw - prior[0])


def test_a_training_row_never_sees_its_own_target() -> None:
    """With one row per category the encoding of the training part knows nothing of the target."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=400)
    _, X, pipeline = fit({"target_encoding": ["s"]}, {"s": text(*[f"c{i}" for i in range(400)])}, y)
    assert abs(np.corrcoef(X[:, 0], y)[0, 1]) < 0.2
    again = fit({"target_encoding": ["s"]}, {"s": text(*[f"c{i}" for i in range(400)])}, y)[1]
    assert np.array_equal(X, again), "the folds are seeded"
    assert pipeline.names == ["s_target"]


def test_classes_have_a_column_each_but_the_first() -> None:
    s = text("a", "a", "b", "b")
    _, _, pipeline = fit({"target_encoding": ["s"]}, {"s": s}, ["no", "no", "yes", "yes"], "binary")
    assert pipeline.names == ["s_target"]
    assert apply(pipeline, s=s)[0, 0] < 0.5 < apply(pipeline, s=s)[3, 0]
    columns = {"s": s, "t": text("u", "v", "u", "v")}
    _, _, pipeline = fit({"target_encoding": ["s", "t"]}, columns, ["x", "y", "z", "z"], "multiclass")
    assert pipeline.names == ["s_target_y", "s_target_z", "t_target_y", "t_target_z"]
    found = apply(pipeline, s=text("b", "?"), t=text("v", "v"))
    assert found[0, 1] > found[1, 1] > found[0, 0], "class z is where s is b, and class y never is"
    with pytest.raises(FitError, match="multiclass"):
        fit({}, {"s": s}, ["x", "y", "z", "z"], "binary")
