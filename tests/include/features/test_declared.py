"""What params.yaml can declare: learned as plain data, applied exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.features.declared import (
    FEW_ROWS,
    Categories,
    FitError,
    Plan,
    Steps,
    UnknownCategory,
    codes_of,
    fit_target_encoding,
    with_codes,
)


def fit(
    declared: dict[str, Any], columns: dict[str, np.ndarray], y: Any = None, task: str = "regression"
) -> tuple[Any, np.ndarray, Plan]:
    kinds = {name: "string" if values.dtype.kind == "O" else "number" for name, values in columns.items()}
    target = np.arange(len(next(iter(columns.values()))), dtype=float) if y is None else np.asarray(y)
    fitted, X = Steps(declared, kinds).fit(columns, target, task=task, seed=3)
    fitted = json.loads(json.dumps(fitted, allow_nan=False))
    return fitted, X, Plan(fitted)


def text(*values: str | None) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def apply(plan: Plan, unknown: str = "other", **columns: np.ndarray) -> np.ndarray:
    return plan.transform(columns, len(next(iter(columns.values()))), unknown)


def test_numbers_pass_as_they_are_and_missing_stays_missing() -> None:
    _, X, plan = fit({}, {"x": np.array([1.0, np.nan])})
    np.testing.assert_array_equal(X, [[1.0], [np.nan]])
    assert plan.names == ["x"]


@pytest.mark.parametrize(("how", "value"), [("mean", 3.0), ("median", 2.0), ("most_frequent", 2.0), (-1, -1.0)])
def test_impute_fills_what_is_missing(how: Any, value: float) -> None:
    x = np.array([2.0, 2.0, 5.0, np.nan]) if how != "mean" else np.array([1.0, 2.0, 6.0, np.nan])
    _, X, plan = fit({"impute": {"x": how}}, {"x": x})
    assert X[3, 0] == value
    assert apply(plan, x=np.array([np.nan]))[0, 0] == value


def test_impute_fills_text_too() -> None:
    _, _, plan = fit({"impute": {"s": "most_frequent"}, "one_hot": ["s"]}, {"s": text("b", "a", "b", None)})
    assert plan.names == ["s=a", "s=b"]
    assert apply(plan, s=text(None)).tolist() == [[0, 1]]


def test_scaling_is_float64_by_the_training_part_and_a_constant_stays_finite() -> None:
    x = np.array([1.0, 2.0, 4.0, np.nan])
    _, X, plan = fit({"standard_scaler": "all"}, {"x": x, "c": np.full(4, 7.0)})
    np.testing.assert_array_equal(X[:, 0], (x - np.nanmean(x)) / np.nanstd(x))
    assert X[:, 1].tolist() == [0, 0, 0, 0]
    assert apply(plan, x=np.array([4.0]), c=np.array([8.0])).tolist() == [[X[2, 0], 1.0]]


def test_scale_all_leaves_encodings_alone() -> None:
    fitted, _, _ = fit(
        {"standard_scaler": "all", "bin": {"b": 2}}, {"x": np.arange(4.0), "b": np.arange(4.0), "s": text(*"abab")}
    )
    assert [entry["column"] for entry in fitted["columns"] if "scale" in entry] == ["x"]


def test_bins_are_quantiles_of_the_training_part_or_given() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    _, X, plan = fit({"bin": {"x": 4}}, {"x": x})
    np.testing.assert_array_equal(X[:, 0], [0, 1, 2, 3, np.nan])
    assert apply(plan, x=np.array([-100.0, 100.0]))[:, 0].tolist() == [0, 3]
    _, X, _ = fit({"bin": {"x": (2.0, 3.5)}}, {"x": x})
    np.testing.assert_array_equal(X[:, 0], [0, 1, 1, 2, np.nan])


def test_one_hot_by_default_up_to_thirty_categories_then_target_encoding() -> None:
    few = text(*[f"c{i % 30:02}" for i in range(90)])
    many = text(*[f"c{i % 31:02}" for i in range(93)])
    assert len(fit({}, {"s": few})[2].names) == 30
    assert fit({}, {"s": many})[2].names == ["s_target"]


def test_unknown_and_missing_categories_follow_the_policy() -> None:
    declared = {"one_hot": ["h"], "ordinal": {"o": None}, "target_encoding": ["t"]}
    seen = {name: text("a", "b", "a", "b") for name in "hot"}
    _, _, plan = fit(declared, seen, y=[0.0, 10.0, 0.0, 10.0])
    assert plan.names == ["h=a", "h=b", "o", "t_target"]
    for strange in ("z", None):
        assert apply(plan, h=text(strange), o=text(strange), t=text(strange)).tolist() == [[0, 0, -1, 5.0]]
    with pytest.raises(UnknownCategory, match=r"row 1, column 'h'.*'z'") as caught:
        apply(plan, "error", h=text("a", "z"), o=text("a", "a"), t=text("a", "a"))
    assert (caught.value.column, caught.value.row) == ("h", 1)
    assert apply(plan, "error", h=text(None), o=text("a"), t=text("b"))[0, :2].tolist() == [0, 0], (
        "missing is not unknown"
    )


def test_a_missing_category_that_training_had_is_one_of_its_own() -> None:
    _, X, plan = fit({"one_hot": ["s"]}, {"s": text("a", None, "a")})
    assert plan.names == ["s=a", "s=missing"]
    assert X.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_ordinal_keeps_the_given_order() -> None:
    _, X, _ = fit({"ordinal": {"s": ("low", "mid", "high")}}, {"s": text("high", "low", "mid", "other")})
    assert X[:, 0].tolist() == [2, 0, 1, -1]
    _, X, _ = fit({"ordinal": {"n": ("10", "5")}}, {"n": np.array([5.0, 10.0])})
    assert X[:, 0].tolist() == [1, 0]


def test_numeric_categories_are_found_among_many_and_alone() -> None:
    known = Categories([230.0, 1.5, None])
    assert known.places(np.array([1.5, 230.0, 7.0, np.nan])).tolist() == [1, 0, -1, 2]
    assert [known.places(np.array([v])).tolist() for v in (1.5, 7.0, np.nan)] == [[1], [-1], [2]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40))
def test_a_row_alone_some_rows_and_very_many_have_the_same_bits(seed: int, rows: int) -> None:
    """They take three ways through a plan; what was trained with one is answered with another."""
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
    _, _, plan = fit(declared, columns(30, "abc"), y=random.normal(size=30))
    asked = columns(rows, "abcd")
    together = apply(plan, **asked)
    for row in range(rows):
        alone = apply(plan, **{name: values[row : row + 1] for name, values in asked.items()})
        np.testing.assert_array_equal(alone[0], together[row], strict=True)
    many = {name: np.concatenate([values] * (FEW_ROWS // rows + 1)) for name, values in asked.items()}
    np.testing.assert_array_equal(apply(plan, **many)[:rows], together, strict=True)


def test_text_that_is_not_declared_has_a_layout_of_codes_that_says_the_same() -> None:
    """From the matrix or from rows, alone, few or many; what is declared one_hot, or cross-fitted, stays as it was."""
    random = np.random.default_rng(5)
    rows = FEW_ROWS + 50
    columns = {
        "x": random.normal(size=rows),
        "free": np.array([*"abcd", None] * rows, dtype=object)[:rows],
        "wanted": np.array(["u", "v", "w"] * rows, dtype=object)[:rows],
        "many": np.array([f"m{n % 40}" for n in range(rows)], dtype=object),
    }
    fitted, X, _ = fit({"one_hot": ["wanted"], "standard_scaler": "all"}, columns, y=random.normal(size=rows))
    coded = with_codes(fitted, ["wanted"])
    assert coded is not None
    plan = Plan(json.loads(json.dumps(coded)))
    assert plan.names == ["x", "free", "wanted=u", "wanted=v", "wanted=w", "many_target"]
    assert plan.coded == [False, True, False, False, False, False]
    made = codes_of(fitted, coded, X)
    np.testing.assert_array_equal(made[:, 1], [0, 1, 2, 3, 4] * (rows // 5) + [0, 1, 2, 3, 4][: rows % 5])
    np.testing.assert_array_equal(made[:, [0, 2, 3, 4, 5]], X[:, [0, 6, 7, 8, 9]])  # the last one is cross-fitted
    others = {**columns, "free": np.where(np.arange(rows) % 9 == 0, "new", columns["free"])}
    whole = plan.transform(others, rows, "other")
    assert np.isnan(whole[::9, 1]).all()
    np.testing.assert_array_equal(
        whole[:, 1], codes_of(fitted, coded, Plan(fitted).transform(others, rows, "other"))[:, 1]
    )
    few = plan.transform({name: values[:7] for name, values in others.items()}, 7, "other")
    alone = [plan.transform({name: values[n : n + 1] for name, values in others.items()}, 1, "other") for n in range(7)]
    np.testing.assert_array_equal(few, whole[:7])
    np.testing.assert_array_equal(np.concatenate(alone), whole[:7])
    with pytest.raises(UnknownCategory):
        plan.transform(others, rows, "error")


def test_without_categories_there_is_no_layout_of_codes() -> None:
    fitted, _, _ = fit({"one_hot": ["s"]}, {"s": text("a", "b"), "x": np.array([1.0, 2.0])})
    assert with_codes(fitted, ["s"]) is None


def test_more_marks_than_a_table_holds_are_set_all_the_same() -> None:
    words = [f"w{n:02}" for n in range(90)]
    _, X, plan = fit({"one_hot": ["s"]}, {"s": text(*words)})
    np.testing.assert_array_equal(X, np.eye(90))
    asked = text(words[7], None, "unseen")
    assert [np.flatnonzero(row).tolist() for row in apply(plan, s=asked)] == [[7], [], []]


def test_target_encoding_shrinks_rare_categories_more() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(20), [1, *[50] * 19])
    targets = (places * 1.0 + rng.normal(0, 5, len(places))).reshape(-1, 1)
    targets[0] = 100.0
    means, prior = fit_target_encoding(places, 20, targets)
    assert abs(means[0, 0] - prior[0]) < 0.8 * abs(100 - prior[0])
    raw = targets[places == 19].mean()
    assert abs(means[19, 0] - raw) < 0.1 * abs(raw - prior[0])


def test_target_encoding_never_shows_a_training_row_its_own_target() -> None:
    """With one row per category the encoding of the training part knows nothing of the target."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=400)
    _, X, plan = fit({"target_encoding": ["s"]}, {"s": text(*[f"c{i}" for i in range(400)])}, y)
    assert abs(np.corrcoef(X[:, 0], y)[0, 1]) < 0.2
    again = fit({"target_encoding": ["s"]}, {"s": text(*[f"c{i}" for i in range(400)])}, y)[1]
    assert np.array_equal(X, again), "the folds are seeded"
    assert plan.names == ["s_target"]


def test_target_encoding_of_classes() -> None:
    s = text("a", "a", "b", "b")
    _, _, plan = fit({"target_encoding": ["s"]}, {"s": s}, ["no", "no", "yes", "yes"], "binary")
    assert plan.names == ["s_target"]
    assert apply(plan, s=s)[0, 0] < 0.5 < apply(plan, s=s)[3, 0]
    _, _, plan = fit({"target_encoding": ["s"]}, {"s": s}, ["x", "y", "z", "z"], "multiclass")
    assert plan.names == ["s_target_y", "s_target_z"]
    with pytest.raises(FitError, match="multiclass"):
        fit({}, {"s": s}, ["x", "y", "z", "z"], "binary")


def test_principal_components_replace_their_columns_and_have_one_sign() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=50)
    columns = {"a": a, "b": -2 * a + rng.normal(size=50) * 0.01, "c": rng.normal(size=50)}
    declared = {"pca": {"p": {"columns": ["a", "b"], "components": 1}}}
    fitted, X, plan = fit(declared, columns)
    assert plan.names == ["c", "p_0"]
    vector = fitted["pca"][0]["vectors"][0]
    assert max(vector, key=abs) > 0
    assert abs(np.corrcoef(X[:, 1], a)[0, 1]) > 0.999
    alone = np.concatenate([apply(plan, **{n: v[i : i + 1] for n, v in columns.items()}) for i in range(50)])
    assert np.array_equal(alone, X), "one row gives the bits it gives among many"
    with pytest.raises(FitError, match=r"impute: {a: median}"):
        fit(declared, {**columns, "a": np.where(a > 1, np.nan, a)})


def test_equal_names_are_told_apart() -> None:
    _, _, plan = fit({"one_hot": ["s", "s="]}, {"s": text("=a", "b"), "s=": text("a", "b")})
    assert len(set(plan.names)) == len(plan.names) == 4


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"impute": {"s": "mean"}}, "needs numbers"),
        ({"impute": {"e": "median"}}, "has no value"),
        ({"bin": {"x": 1}}, "at least 2 bins"),
        ({"bin": {"x": (3.0, 1.0)}}, "must rise"),
        ({"one_hot": ["x"]}, "target_encoding"),
        ({"ordinal": {"x": ("low", "high")}}, "must be numbers"),
    ],
)
def test_what_cannot_be_learned_names_the_column_and_the_remedy(declared: dict[str, Any], message: str) -> None:
    columns = {"x": np.arange(600.0), "s": text(*["a"] * 600), "e": np.full(600, np.nan)}
    with pytest.raises(FitError, match=message):
        fit(declared, columns)
