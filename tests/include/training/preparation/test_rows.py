"""Rows of a feature version: fingerprints."""

from __future__ import annotations

import numpy as np

from include.training.preparation.rows import fingerprints

PINNED = 15627194990155169028


def test_fingerprints_are_equal_for_equal_rows_only_and_the_same_on_every_machine() -> None:
    columns = {
        "a": np.array([1.0, 1.0, 2.0, np.nan, 0.0, -0.0]),
        "b": np.array(["x", "x", "x", None, "y", "y"], dtype=object),
        "t": np.array(["2024-01-01"] * 6, dtype="datetime64[us]"),
    }
    found = fingerprints(columns)
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert len(set(found.tolist())) == 4
    assert fingerprints({"a": np.array([1.0])}).tolist() == [PINNED]
    swapped = fingerprints({"a": np.array([1.0]), "b": np.array([2.0])})
    assert swapped != fingerprints({"a": np.array([2.0]), "b": np.array([1.0])})
