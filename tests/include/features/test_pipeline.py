"""What was learned, applied: the order and the names of the columns, layouts, batches, unknown categories."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.features.categories import UnknownCategory
from include.features.codes import codes_of, with_codes
from include.features.pipeline import BATCH_ROWS, Pipeline
from tests.include.features.tables import apply, fit, text


def test_numbers_pass_as_they_are_and_missing_stays_missing() -> None:
    _, X, pipeline = fit({}, {"x": np.array([1.0, np.nan])})
    np.testing.assert_array_equal(X, [[1.0], [np.nan]])
    assert pipeline.names == ["x"]


def test_one_hot_by_default_up_to_thirty_categories_then_target_encoding() -> None:
    few = text(*[f"c{i % 30:02}" for i in range(90)])
    many = text(*[f"c{i % 31:02}" for i in range(93)])
    assert len(fit({}, {"s": few})[2].names) == 30
    assert fit({}, {"s": many})[2].names == ["s_target"]


def test_unknown_and_missing_categories_follow_the_policy() -> None:
    declared = {"one_hot": ["h"], "ordinal": {"o": None}, "target_encoding": ["t"]}
    seen = {name: text("a", "b", "a", "b") for name in "hot"}
    _, _, pipeline = fit(declared, seen, y=[0.0, 10.0, 0.0, 10.0])
    assert pipeline.names == ["h=a", "h=b", "o", "t_target"]
    for strange in ("z", None):
        assert apply(pipeline, h=text(strange), o=text(strange), t=text(strange)).tolist() == [[0, 0, -1, 5.0]]
    with pytest.raises(UnknownCategory, match=r"row 1, column 'h'.*'z'") as caught:
        apply(pipeline, "error", h=text("a", "z"), o=text("a", "a"), t=text("a", "a"))
    assert (caught.value.column, caught.value.row) == ("h", 1)
    assert apply(pipeline, "error", h=text(None), o=text("a"), t=text("b"))[0, :2].tolist() == [0, 0], (
        "missing is not unknown"
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40))
def test_a_row_alone_some_rows_and_very_many_have_the_same_bits(seed: int, rows: int) -> None:
    """Also where transforms are mixed, and columns stand in any order."""
    random = np.random.default_rng(seed)

    def columns(count: int, words: str) -> dict[str, np.ndarray]:
        numbers = random.normal(size=(5, count)) * 10.0 ** random.integers(-8, 8, size=(5, 1))
        numbers[random.random(numbers.shape) < 0.1] = np.nan
        whole = random.integers(0, 9, size=count).astype(float)
        written = random.choice([*words, None], size=(3, count))
        named = dict(zip(("x", "scaled", "filled", "bins", "marks"), numbers, strict=True))
        named["marks"] = np.where(random.random(count) < 0.1, np.nan, whole)
        return named | {name: text(*values) for name, values in zip(("hot", "order", "mean"), written, strict=True)}

    declared = {
        "impute": {"filled": "median", "order": "most_frequent"}, "bin": {"bins": 4},
        "one_hot": ["hot", "marks"], "ordinal": {"order": None}, "target_encoding": ["mean"],
        "standard_scaler": ["scaled", "filled", "mean", "order"],
    }  # fmt: skip
    _, _, pipeline = fit(declared, columns(30, "abc"), y=random.normal(size=30))
    asked: dict[str, Any] = columns(rows, "abcd")
    together = apply(pipeline, **asked)
    for row in range(rows):
        alone = apply(pipeline, **{name: values[row : row + 1] for name, values in asked.items()})
        np.testing.assert_array_equal(alone[0], together[row], strict=True)
    many: dict[str, Any] = {name: np.concatenate([values] * (BATCH_ROWS // rows + 1)) for name, values in asked.items()}
    np.testing.assert_array_equal(apply(pipeline, **many)[:rows], together, strict=True)


def test_text_that_is_not_declared_has_a_layout_of_codes_that_says_the_same() -> None:
    """From the matrix or from rows, alone, few or many; what is declared one_hot, or cross-fitted, stays as it was."""
    random = np.random.default_rng(5)
    rows = BATCH_ROWS + 50
    columns = {
        "x": random.normal(size=rows),
        "free": np.array([*"abcd", None] * rows, dtype=object)[:rows],
        "wanted": np.array(["u", "v", "w"] * rows, dtype=object)[:rows],
        "many": np.array([f"m{n % 40}" for n in range(rows)], dtype=object),
    }
    kinds = {name: "number" if name == "x" else "string" for name in columns}
    fitted, X, _ = fit({"one_hot": ["wanted"], "standard_scaler": "all"}, columns, y=random.normal(size=rows))
    coded = with_codes(fitted, ["wanted"])
    assert coded is not None
    pipeline = Pipeline(json.loads(json.dumps(coded)), kinds)
    assert pipeline.names == ["x", "free", "wanted=u", "wanted=v", "wanted=w", "many_target"]
    assert pipeline.coded == [False, True, False, False, False, False]
    made = codes_of(fitted, coded, X)
    np.testing.assert_array_equal(made[:, 1], [0, 1, 2, 3, 4] * (rows // 5) + [0, 1, 2, 3, 4][: rows % 5])
    np.testing.assert_array_equal(made[:, [0, 2, 3, 4, 5]], X[:, [0, 6, 7, 8, 9]])  # the last one is cross-fitted
    others = {**columns, "free": np.where(np.arange(rows) % 9 == 0, "new", columns["free"])}
    whole = pipeline.transform(others, rows, "other")
    assert np.isnan(whole[::9, 1]).all()
    np.testing.assert_array_equal(
        whole[:, 1], codes_of(fitted, coded, Pipeline(fitted, kinds).transform(others, rows, "other"))[:, 1]
    )
    few = pipeline.transform({name: values[:7] for name, values in others.items()}, 7, "other")
    alone = [
        pipeline.transform({name: values[n : n + 1] for name, values in others.items()}, 1, "other") for n in range(7)
    ]
    np.testing.assert_array_equal(few, whole[:7])
    np.testing.assert_array_equal(np.concatenate(alone), whole[:7])
    with pytest.raises(UnknownCategory):
        pipeline.transform(others, rows, "error")


def test_without_categories_there_is_no_layout_of_codes() -> None:
    fitted, _, _ = fit({"one_hot": ["s"]}, {"s": text("a", "b"), "x": np.array([1.0, 2.0])})
    assert with_codes(fitted, ["s"]) is None


def test_equal_names_are_told_apart() -> None:
    _, _, pipeline = fit({"one_hot": ["s", "s="]}, {"s": text("=a", "b"), "s=": text("a", "b")})
    assert len(set(pipeline.names)) == len(pipeline.names) == 4


def test_an_unknown_category_far_down_a_table_is_named_with_its_row() -> None:
    _, _, pipeline = fit({"one_hot": ["s"]}, {"s": text("a", "b")})
    values = text(*["a"] * (2 * BATCH_ROWS), "z")
    with pytest.raises(UnknownCategory) as refused:
        apply(pipeline, "error", s=values)
    assert (refused.value.column, refused.value.row, refused.value.value) == ("s", 2 * BATCH_ROWS, "z")
