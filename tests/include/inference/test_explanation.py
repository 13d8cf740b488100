"""What each feature added: exact, adding up to the score, and told as the answer holds it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from include import settings
from include.features.columns import from_rows
from include.features.compiler import compile_features
from include.inference import predictor, runtimes
from include.inference.errors import Refused
from include.inference.explanation import Explainer
from include.inference.predictor import Predictor
from include.settings import estimator_names
from tests.include.serving.crafted import craft
from tests.include.serving.planted import plant, resealed

TASKS = ["regression", "binary", "multiclass"]


# --------------------------------------------------------------------------------- against the definition itself


def expectation(tree: dict[str, Any], x: np.ndarray, known: frozenset[int], node: int = 0) -> float:
    """What a tree gives when only some features are known: else both branches, by the rows that took them."""
    left, right = tree["left_children"][node], tree["right_children"][node]
    if left < 0:
        return float(tree["split_conditions"][node])
    feature = tree["split_indices"][node]
    if feature in known:
        goes_left = (
            bool(tree["default_left"][node]) if np.isnan(x[feature]) else x[feature] < tree["split_conditions"][node]
        )
        return expectation(tree, x, known, left if goes_left else right)
    cover = tree["sum_hessian"]
    both = [expectation(tree, x, known, child) * cover[child] for child in (left, right)]
    return float(sum(both) / cover[node])


def shapley(value: Callable[[frozenset[int]], float], features: int) -> list[float]:
    """L. S. Shapley's formula (A Value for n-Person Games, 1953), over every coalition."""
    found = []
    for feature in range(features):
        others = [f for f in range(features) if f != feature]
        total = 0.0
        for size in range(features):
            weight = math.factorial(size) * math.factorial(features - size - 1) / math.factorial(features)
            for coalition in itertools.combinations(others, size):
                members = frozenset(coalition)
                total += weight * (value(members | {feature}) - value(members))
        found.append(total)
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("estimator", ["xgboost", "random_forest"])
def test_contributions_of_trees_are_shapley_values(tmp_path: Path, estimator: str, task: str) -> None:
    import xgboost

    planted = plant(tmp_path / "form", estimator, task, n_estimators=3, max_depth=3)  # type: ignore[arg-type]
    document = xgboost.Booster(model_file=str(planted.form.directory / "booster.ubj")).save_raw("json")
    model = json.loads(bytes(document))["learner"]["gradient_booster"]["model"]
    rows = planted.matrix[:4].copy()
    rows[0, 1] = np.nan
    booster = runtimes.Booster((planted.form.directory / "booster.ubj").read_bytes())
    contributions = booster.contributions(rows)
    for row, target in itertools.product(range(len(rows)), range(contributions.shape[1])):
        trees = [t for t, which in zip(model["trees"], model["tree_info"], strict=True) if which == target]

        def value(known: frozenset[int], row: int = row, trees: list[dict[str, Any]] = trees) -> float:
            return sum(expectation(tree, rows[row], known) for tree in trees)

        expected = shapley(value, rows.shape[1])
        np.testing.assert_allclose(contributions[row, target, :-1], expected, atol=2e-6 * (1 + np.abs(expected).max()))


def test_the_forest_that_explains_is_the_forest_that_was_trained(tmp_path: Path) -> None:
    """Leaf by leaf, with values missing."""
    import xgboost

    planted = plant(tmp_path / "form", "random_forest")
    booster = xgboost.Booster(model_file=str(planted.form.directory / "booster.ubj"))
    matrix = planted.matrix
    filled = np.where(np.isnan(matrix), planted.fitted.fill, matrix)
    leaves = booster.predict(xgboost.DMatrix(matrix), pred_leaf=True)
    trained = planted.fitted.forest.apply(filled)
    for tree in range(leaves.shape[1]):
        pairs = set(zip(leaves[:, tree].tolist(), trained[:, tree].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 10
    np.testing.assert_allclose(booster.inplace_predict(matrix), planted.fitted.forest.predict(filled), rtol=1e-6)


# ----------------------------------------------------------------------------------------------- what it adds up to


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("estimator", estimator_names())
def test_base_and_contributions_add_up_to_the_prediction(tmp_path: Path, estimator: str, task: str) -> None:
    planted = plant(tmp_path / "form", estimator, task)  # type: ignore[arg-type]
    served = Predictor.load(planted.form)
    explanation = served.explain(planted.first(50))
    np.testing.assert_allclose(explanation.predictions(), served.predict(planted.first(50)), rtol=1e-5, atol=1e-6)
    assert explanation.features == ["a", "b", "c", "kind"]
    assert explanation.columns == ["a", "b", "c", "kind=p", "kind=q", "kind=r"]
    np.testing.assert_allclose(explanation.contributions[..., 3], explanation.by_column[..., 3:].sum(axis=2))
    if estimator == "dummy":
        assert not explanation.contributions.any()
    elif task == "regression":
        sizes = np.abs(explanation.contributions[:, 0]).mean(axis=0)
        assert min(sizes[0], sizes[3]) > 3 * max(sizes[1], sizes[2]), "a and kind matter most"


@pytest.mark.parametrize("objective", ["reg:absoluteerror", "reg:gamma", "count:poisson", "reg:tweedie"])
def test_of_a_log_link_the_contributions_are_factors_logarithms(tmp_path: Path, objective: str) -> None:
    planted = plant(tmp_path / "form", objective=objective)
    served = Predictor.load(planted.form)
    explanation = served.explain(planted.first(50))
    assert explanation.scale == ("prediction" if objective == "reg:absoluteerror" else "log")
    np.testing.assert_allclose(explanation.predictions(), served.predict(planted.first(50)), rtol=1e-5)


def test_a_linear_model_is_explained_by_weight_times_distance_from_the_mean(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form", "linear")
    explanation = Predictor.load(planted.form).explain(planted.first(20))
    fitted, X = planted.fitted, planted.matrix.astype(float)
    filled = np.where(np.isnan(X), fitted.fill, X)
    expected = (filled[:20] - filled.mean(axis=0)) * fitted.weights[:, 0]
    np.testing.assert_allclose(explanation.by_column[:, 0], expected, atol=1e-6)
    assert explanation.base[0] == pytest.approx((filled @ fitted.weights + fitted.bias).mean(), abs=1e-6)


def test_values_that_no_training_saw_are_explained_too(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form")
    columns = planted.first(4)
    columns["a"] = np.array([np.nan, np.inf, -np.inf, 1e300])
    columns["kind"] = np.array([None, "unseen", "p", "q"], dtype=object)
    served = Predictor.load(planted.form)
    np.testing.assert_allclose(served.explain(columns).predictions(), served.predict(columns), rtol=1e-5)


# ----------------------------------------------------------------------------------------------- how it is told


def test_a_regressions_explanation_is_one_object_of_features(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form")
    served = Predictor.load(planted.form)
    told = served.explain(planted.first(3)).row(2)
    assert list(told) == ["scale", "base", "contributions"]
    assert list(told["contributions"]) == ["a", "b", "c", "kind"]
    assert told["base"] + sum(told["contributions"].values()) == pytest.approx(served.predict(planted.first(3))[2])
    assert json.loads(msgspec.json.encode(told)) == told


def test_of_two_classes_the_explanation_is_about_the_second(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form", task="binary")
    served = Predictor.load(planted.form)
    told = served.explain(planted.first(1)).row(0)
    assert (told["scale"], told["class"]) == ("log_odds", "yes")
    score = told["base"] + sum(told["contributions"].values())
    assert 1 / (1 + math.exp(-score)) == pytest.approx(served.predict(planted.first(1))[0, 1], rel=1e-5)
    assert json.loads(msgspec.json.encode(told)) == told


def test_of_several_classes_each_has_its_own(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form", task="multiclass")
    told = Predictor.load(planted.form).explain(planted.first(1)).row(0)
    assert list(told["base"]) == list(told["contributions"]) == ["low", "mid", "top"]
    assert set(told["contributions"]["mid"]) == {"a", "b", "c", "kind"}
    assert json.loads(msgspec.json.encode(told)) == told


def test_principal_components_keep_their_names() -> None:
    types: dict[str, settings.ColumnType] = {"x": "float", "z": "float", "kind": "string", "y": "float"}
    declared = {"one_hot": ["kind"], "pca": {"shape": {"columns": ["x", "z"], "components": 2}}}
    features = compile_features(
        settings.Features.model_validate(declared),
        source_columns=types, target="y", entity=None, time_column=None, root=Path(__file__).parents[3],
    )  # fmt: skip
    rows = [{"x": float(n), "z": float(n * n % 7), "kind": "pq"[n % 2]} for n in range(9)]
    fitted, _ = features.fit(
        features.compute(from_rows(rows, features.inputs)), np.arange(9.0), task="regression", seed=1
    )
    assert features.origins(fitted) == ["kind", "kind", "shape_0", "shape_1"]
    assert len(features.origins(fitted)) == len(features.names(fitted))


# ----------------------------------------------------------------------------------------------- what is refused


def test_a_form_from_before_there_were_explanations_says_so(tmp_path: Path) -> None:
    served = Predictor.load(craft(tmp_path / "form").form)
    columns = served.schema.one(json.dumps(served.golden["rows"][0]).encode())
    with pytest.raises(Refused, match="trained before explanations were") as refused:
        served.explain(columns)
    assert (refused.value.status, refused.value.code) == (422, "not_explainable")


def test_trees_without_a_booster_cannot_be_explained(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form")
    served = Predictor.load(resealed(planted.form, booster_ubj=b"half a file"))
    with pytest.raises(Refused, match=r"cannot use its trees \(the booster is not whole\)"):
        served.explain(planted.first(1))


def test_more_rows_than_can_be_explained_in_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "EXPLAIN_SECONDS", 1e-7)
    planted = plant(tmp_path / "form")
    served = Predictor.load(planted.form)
    assert len(served.explain(planted.first(1)).contributions) == 1
    with pytest.raises(Refused, match="explaining 600 rows would take") as refused:
        served.explain(planted.columns)
    assert (refused.value.status, refused.value.code) == (413, "too_many_rows")


def test_a_method_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no method is called 'tea leaves'"):
        Explainer(
            {"method": "tea leaves", "scale": "log", "base": [1]},
            columns=["x"], origins=["x"], classes=None, trees=None,
        )  # fmt: skip
