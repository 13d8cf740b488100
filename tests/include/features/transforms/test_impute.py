"""impute: what is missing becomes a statistic of the training rows, or a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.include.features.tables import apply, fit, text


@pytest.mark.parametrize(("how", "value"), [("mean", 3.0), ("median", 2.0), ("most_frequent", 2.0), (-1, -1.0)])
def test_a_missing_number_is_filled(how: Any, value: float) -> None:
    x = np.array([2.0, 2.0, 5.0, np.nan]) if how != "mean" else np.array([1.0, 2.0, 6.0, np.nan])
    _, X, pipeline = fit({"impute": {"x": how}}, {"x": x})
    assert X[3, 0] == value
    assert apply(pipeline, x=np.array([np.nan]))[0, 0] == value


def test_a_missing_text_is_filled_before_it_is_encoded() -> None:
    columns = {"s": text("b", "a", "b", None), "t": text("a", "a", "b", None)}
    _, _, pipeline = fit({"impute": {"s": "most_frequent"}, "one_hot": ["s", "t"]}, columns)
    assert pipeline.names == ["s=a", "s=b", "t=a", "t=b", "t=missing"]
    assert apply(pipeline, s=text(None), t=text(None)).tolist() == [[0, 1, 0, 0, 1]]
