"""Categories: found, looked up, and refused where they are unknown."""

from __future__ import annotations

import numpy as np
import pytest

from include.features.categories import Categories, Lookup, UnknownCategory, categories_of, label
from tests.include.features.tables import text


def test_numbers_and_texts_have_their_places_and_what_is_missing_its_own() -> None:
    known = Categories([230.0, 1.5, None])
    assert known.places(np.array([1.5, 230.0, 7.0, np.nan])).tolist() == [1, 0, -1, 2]
    assert Categories([1.5]).places(np.array([np.nan, 1.5])).tolist() == [-2, 0]
    assert Categories(["a", None]).places(text("a", None, "z")).tolist() == [0, 1, -1]
    assert Categories(["a"]).places(text(None, "a")).tolist() == [-2, 0]


def test_distinct_values_are_in_order_and_a_missing_one_is_last() -> None:
    assert categories_of(text("b", None, "a", "b")) == ["a", "b", None]
    assert categories_of(np.array([3.0, np.nan, 1.0])) == [1.0, 3.0, None]


def test_a_table_has_a_row_for_each_category_and_one_for_each_columns_absent_ones() -> None:
    lookup = Lookup([{"column": "a", "categories": [1.0, None]}, {"column": "b", "categories": [5.0]}])
    assert (lookup.known, lookup.width) == (3, 5)
    values = np.array([[1.0, np.nan, 9.0], [5.0, np.nan, 9.0]])
    assert lookup(values, "other").tolist() == [[0, 1, 3], [2, 4, 4]]
    assert lookup.table([np.array([10.0, 11.0]), np.array([20.0])], absent=-1).tolist() == [10, 11, 20, -1, -1]


def test_an_unknown_category_is_refused_by_the_columns_own_policy_or_else_the_models() -> None:
    entry = {"column": "a", "categories": ["x"]}
    values = [text("x", None, "z")]
    with pytest.raises(UnknownCategory, match="row 2, column 'a': training did not see the category 'z'"):
        Lookup([entry])(values, "error")
    assert Lookup([{**entry, "unknown": "other"}])(values, "error").tolist() == [[0, 1, 1]]
    with pytest.raises(UnknownCategory):
        Lookup([{**entry, "unknown": "error"}])(values, "other")
    assert Lookup([entry])([text("x", None)], "error").tolist() == [[0, 1]], "missing is not unknown"


def test_a_label_is_a_name_that_estimators_take() -> None:
    assert [label(value) for value in ("a[1]", "<2", 3.0, None)] == ["a(1)", "lt 2", "3", "missing"]
