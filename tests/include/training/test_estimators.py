"""One contract for every estimator: whoever adds a file to include/training/estimators is tested by this one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from include.inference import runtimes
from include.inference.explanation import Explainer
from include.settings import TASK_METRICS, Choices, Range, Task, estimator_names
from include.training import estimators, evaluation

TASKS: list[Task] = ["regression", "binary", "multiclass"]
TASK_METRIC: dict[Task, str] = {"regression": "mae", "binary": "roc_auc", "multiclass": "log_loss"}
CASES = [(name, task) for name in estimator_names() for task in TASKS]

EPSILON = float(np.finfo(np.float32).eps)


def data_for(task: Task, *, rows: int = 400, seed: int = 3) -> estimators.Data:
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 5))
    score = 2 * X[:, 0] - X[:, 1] ** 2 + 0.3 * random.normal(size=rows)
    X[random.random(X.shape) < 0.05] = np.nan
    X[:, 4] = np.nan  # a column without any value must not stop a training
    y = score + 10 if task == "regression" else np.digitize(score, [-1] if task == "binary" else [-2, 0]).astype(float)
    cut = rows * 3 // 4
    classes = {"regression": 0, "binary": 2, "multiclass": 3}[task]
    return estimators.Data(X[:cut], y[:cut], X[cut:], y[cut:], task, TASK_METRIC[task], classes)


def fitted_on(name: str, data: estimators.Data, **params: object) -> Any:
    point = {**estimators.defaults(name, {}, data.task), **params}
    return estimators.load(name).fit(point, data, seed=7, threads=1, progress=None)


def served(onnx: bytes, X: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    dtype = np.float32 if session.get_inputs()[0].type == "tensor(float)" else np.float64
    [answer] = session.run(["prediction"], {"X": X.astype(dtype)})
    return answer[:, 0] if answer.shape[1:] == (1,) else answer  # of a regression: (n, 1)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_its_onnx_graph_answers_as_it_does_for_missing_and_extreme_values_too(name: str, task: Task) -> None:
    data = data_for(task)
    assert data.X_val is not None
    estimator, fitted = estimators.load(name), fitted_on(name, data)
    X = np.concatenate([data.X, data.X_val, np.full((1, 5), np.nan), np.full((1, 5), 1e6)])
    expected = estimator.predict(fitted, X)
    assert expected.shape == ((len(X),) if task == "regression" else (len(X), data.classes))
    # of probabilities in 32 bits, the smaller one is only as exact as the larger one that it is the rest of
    np.testing.assert_allclose(served(estimator.to_onnx(fitted), X), expected, rtol=1e-5, atol=EPSILON)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_its_booster_and_its_explanation_answer_as_it_does(name: str, task: Task) -> None:
    data = data_for(task)
    assert data.X_val is not None
    estimator, fitted = estimators.load(name), fitted_on(name, data)
    X = np.concatenate([data.X_val, np.full((1, 5), np.nan), np.full((1, 5), 1e6)])
    expected, model, trees = estimator.predict(fitted, X), estimator.to_booster(fitted), None
    if model is not None:
        booster = runtimes.Booster(model)
        answer, trees = booster.predict(X.astype(np.float32)).astype(np.float64), booster.contributions
        answer = answer if len(answer[0]) > 1 or not data.classes else np.concatenate([1 - answer, answer], axis=1)
        np.testing.assert_allclose(answer.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    names = [f"x{number}" for number in range(5)]
    classes = list(range(data.classes)) or None
    document = json.loads(json.dumps(estimator.explanation(fitted)))
    explained = Explainer(document, columns=names, origins=names, classes=classes, trees=trees).explain(
        X.astype(np.float32)
    )
    size = np.abs(explained.contributions).sum(axis=2).max()
    np.testing.assert_allclose(explained.predictions(), expected, rtol=1e-5, atol=1e-6 * (1 + size))


@pytest.mark.parametrize("name", estimator_names())
def test_its_booster_is_the_same_each_time(name: str) -> None:
    """Promise 19: a model's content hash is that of its files."""
    one, two = (estimators.load(name).to_booster(fitted_on(name, data_for("regression"))) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_same_seed_gives_the_same_model(name: str, task: Task) -> None:
    """Promise 19."""
    data, estimator = data_for(task), estimators.load(name)
    one, two = (estimator.predict(fitted_on(name, data_for(task)), data.X) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_its_settled_parameters_rebuild_it_without_a_validation_part(name: str, task: Task) -> None:
    data, estimator = data_for(task), estimators.load(name)
    params = estimators.defaults(name, {}, task)
    fitted = estimator.fit(params, data, seed=7, threads=1, progress=None)
    alone = estimators.Data(data.X, data.y, None, None, task, data.metric, data.classes)
    again = estimator.fit(estimator.settled(params, fitted), alone, seed=7, threads=1, progress=None)
    np.testing.assert_allclose(estimator.predict(again, data.X), estimator.predict(fitted, data.X), rtol=1e-6)


@pytest.mark.parametrize(("name", "task"), [c for c in CASES if c[0] != "dummy"])
def test_it_finds_what_matters_and_beats_the_baseline(name: str, task: Task) -> None:
    data, estimator = data_for(task), estimators.load(name)
    assert data.X_val is not None
    assert data.y_val is not None
    fitted, baseline = fitted_on(name, data), fitted_on("dummy", data)
    share = estimator.importance(fitted)
    assert share is not None
    assert share.sum() == pytest.approx(1)
    assert share[0] == share.max()

    def error(prediction: np.ndarray) -> float:
        if task == "regression":
            return float(np.abs(prediction - data.y_val).mean())
        return float(-np.log(np.maximum(1e-9, prediction[np.arange(len(prediction)), data.y_val.astype(int)])).mean())

    assert error(estimator.predict(fitted, data.X_val)) < 0.8 * error(
        estimators.load("dummy").predict(baseline, data.X_val)
    )


@pytest.mark.parametrize("name", [n for n in estimator_names() if n != "dummy"])
def test_a_class_that_the_training_part_lacks_still_has_its_column(name: str) -> None:
    data = data_for("multiclass")
    data.y = np.where(data.y == 1, 0.0, data.y)
    fitted, estimator = fitted_on(name, data), estimators.load(name)
    assert data.X_val is not None
    expected = estimator.predict(fitted, data.X_val)
    assert expected.shape == (len(data.X_val), 3)
    np.testing.assert_allclose(served(estimator.to_onnx(fitted), data.X_val), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "objective",
    ["reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:gamma", "reg:tweedie", "count:poisson"],
)
def test_each_of_xgboosts_objectives_is_exported_exactly(objective: str) -> None:
    data = data_for("regression")
    data.y, data.y_val = data.y + 20, data.y_val + 20
    fitted, estimator = fitted_on("xgboost", data, objective=objective), estimators.load("xgboost")
    np.testing.assert_allclose(served(estimator.to_onnx(fitted), data.X), estimator.predict(fitted, data.X), rtol=1e-5)


class Recorded:
    """A study that records, prunes at a step, or has no time left after some iterations."""

    def __init__(self, *, prune_at: float = np.inf, iterations: float = np.inf) -> None:
        self.seen: list[tuple[int, float]] = []
        self._prune_at, self._left = prune_at, iterations

    def report(self, step: int, value: float) -> None:
        self.seen.append((step, value))
        if step >= self._prune_at:
            raise Pruned

    def time_is_up(self) -> bool:
        self._left -= 1
        return self._left <= 0


class Pruned(Exception):
    pass


@pytest.mark.parametrize(
    ("task", "metric"), [("regression", "mae"), ("regression", "r2"), ("binary", "roc_auc"), ("multiclass", "f1")]
)
def test_xgboost_reports_the_studys_own_metric(task: Task, metric: str) -> None:
    data, recorded = data_for(task), Recorded()
    data.metric = metric
    estimator = estimators.load("xgboost")
    point = {**estimators.defaults("xgboost", {}, task), "n_estimators": 10}
    fitted = estimator.fit(point, data, seed=1, threads=1, progress=recorded)
    assert data.X_val is not None
    assert data.y_val is not None
    expected = evaluation.score(metric, task, data.y_val, estimator.predict(fitted, data.X_val))
    [(step, value)] = recorded.seen
    assert step == 10
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("depth", [1, 3, 9])
@pytest.mark.parametrize("task", TASKS)
def test_sets_of_categories_are_served_and_explained_exactly(task: Task, depth: int) -> None:
    """Every category, a missing and an unknown one: by the graph, by the library, and in the explanation."""
    random = np.random.default_rng(4)
    X = np.column_stack([random.normal(size=600), random.integers(0, 17, 600), random.integers(0, 3, 600)])
    X[random.random(600) < 0.05, 1] = np.nan
    score = random.normal(size=17)[np.nan_to_num(X[:, 1]).astype(int)] * X[:, 0] + X[:, 2]
    y = score if task == "regression" else np.digitize(score, [0.5] if task == "binary" else [0, 1]).astype(float)
    metric, classes = TASK_METRIC[task], {"regression": 0, "binary": 2, "multiclass": 3}[task]
    data = estimators.Data(X[:450], y[:450], X[450:], y[450:], task, metric, classes, [False, True, True])
    estimator, fitted = estimators.load("xgboost"), fitted_on("xgboost", data, n_estimators=40, max_depth=depth)
    every = np.array([[x, a, b] for x in (-1.0, 0.5) for a in (*range(17), np.nan) for b in (0, 1, 2, np.nan)])
    rows = np.concatenate([X, every])
    expected = estimator.predict(fitted, rows)
    exact: dict[str, Any] = {"rtol": 1e-5, "atol": EPSILON}
    np.testing.assert_allclose(served(estimator.to_onnx(fitted), rows), expected, **exact)
    booster = runtimes.Booster(estimator.to_booster(fitted) or b"")
    answer = booster.predict(rows.astype(np.float32)).astype(np.float64)
    answer = np.concatenate([1 - answer, answer], axis=1) if task == "binary" else answer.reshape(expected.shape)
    np.testing.assert_allclose(answer, expected, **exact)
    names, labels = ["x", "a", "b"], list(range(classes)) or None
    explainer = Explainer(
        estimator.explanation(fitted), columns=names, origins=names, classes=labels, trees=booster.contributions
    )
    np.testing.assert_allclose(explainer.explain(rows.astype(np.float32)).predictions(), expected, rtol=1e-4, atol=1e-5)


def test_categories_are_compared_by_sets_where_they_have_no_order() -> None:
    """One split tells odd codes from even ones, which of an order would need sixteen."""
    random = np.random.default_rng(4)
    codes = random.integers(0, 17, 400).astype(float)
    y = np.where(codes % 2 == 0, 10.0, 0.0)
    data = estimators.Data(codes[:300, None], y[:300], codes[300:, None], y[300:], "regression", "mae", 0, [True])
    fitted = fitted_on("xgboost", data, n_estimators=200, learning_rate=0.3, max_depth=1)
    error = np.abs(estimators.load("xgboost").predict(fitted, codes[300:, None]) - y[300:]).mean()
    assert error < 0.1


def test_only_xgboost_takes_codes_and_one_hot_can_be_demanded() -> None:
    chosen = {name: estimators.load(name).layout(estimators.defaults(name, {}, "binary")) for name in estimator_names()}
    assert chosen == {"dummy": "one_hot", "linear": "one_hot", "random_forest": "one_hot", "xgboost": "codes"}
    assert estimators.load("xgboost").layout({"categories": "one_hot"}) == "one_hot"


def test_xgboost_can_be_pruned_in_mid_fit() -> None:
    data, recorded = data_for("regression"), Recorded(prune_at=40)
    point = {**estimators.defaults("xgboost", {}, "regression"), "early_stopping_rounds": 1_000}
    with pytest.raises(Pruned):
        estimators.load("xgboost").fit(point, data, seed=1, threads=1, progress=recorded)
    assert [step for step, _ in recorded.seen] == [10, 14, 20, 28, 40]


def test_a_fit_whose_time_is_up_ends_with_the_trees_that_it_has() -> None:
    data = data_for("regression")
    point = {**estimators.defaults("xgboost", {}, "regression"), "learning_rate": 0.01}
    estimator = estimators.load("xgboost")
    fitted = estimator.fit(point, data, seed=1, threads=1, progress=Recorded(iterations=17))
    assert estimator.settled(point, fitted)["n_estimators"] == 17


def test_early_stopping_waits_longer_where_the_rate_is_low() -> None:
    """A fixed patience and a cap on the trees both favour high rates; a declared patience is taken as it is."""
    from include.training.estimators import xgboost

    assert [xgboost._patience("auto", {"learning_rate": rate}) for rate in (0.3, 0.1, 0.05, 0.02)] == [20, 25, 50, 125]
    assert xgboost._patience(7, {"learning_rate": 0.02}) == 7


def test_a_low_rate_is_not_cut_off_where_the_signal_is_rich() -> None:
    """At the lowest rate of the search early stopping ends the fit, not the number of trees."""
    random = np.random.default_rng(1)
    X = random.random((800, 3))
    y = np.sin(6 * X[:, 0]) + X[:, 1] * X[:, 2]
    data = estimators.Data(X[:600], y[:600], X[600:], y[600:], "regression", "rmse", 0)
    low, high = (fitted_on("xgboost", data, learning_rate=rate, max_depth=3) for rate in (0.02, 0.3))
    trees = [f.booster.num_boosted_rounds() for f in (low, high)]
    assert 600 < trees[0] < estimators.defaults("xgboost", {}, "regression")["n_estimators"]
    errors = [
        evaluation.score("rmse", "regression", y[600:], estimators.load("xgboost").predict(f, X[600:]))
        for f in (low, high)
    ]
    assert errors[0] < errors[1]


def test_the_absolute_error_is_searched_with_both_objectives() -> None:
    both = Choices(choices=("reg:squarederror", "reg:absoluteerror"))
    assert estimators.space("xgboost", {}, "regression", "mae")["objective"] == both
    assert estimators.space("xgboost", {}, "regression", "rmse")["objective"] == "reg:squarederror"
    fixed = {"objective": "reg:absoluteerror"}
    assert estimators.space("xgboost", fixed, "regression", "mae")["objective"] == "reg:absoluteerror"


def test_the_first_points_stay_within_params_yaml_and_none_is_tried_twice() -> None:
    fixed = {"learning_rate": 0.3, "max_depth": Range(low=2, high=5, scale="int"), "subsample": 1.0}
    points = estimators.first_points("xgboost", fixed, "regression", "mae")  # type: ignore[arg-type]
    assert {point["learning_rate"] for point in points} == {0.3}
    assert all(2 <= point["max_depth"] <= 5 for point in points)
    assert points[0]["max_depth"] == 5  # of the default 6 the nearest
    assert all(point not in points[:place] for place, point in enumerate(points))


def test_all_trials_of_a_process_share_one_quantised_matrix() -> None:
    data = data_for("regression")
    fitted_on("xgboost", data)
    [matrices] = data.shared.values()
    fitted_on("xgboost", data, max_depth=3)
    assert list(data.shared.values()) == [matrices]


def test_a_misspelt_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        estimators.EstimatorError, match=r"xgboost.max_dept: unknown parameter .* did you mean 'max_depth'"
    ):
        estimators.check("xgboost", {"max_dept": 3}, "regression")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("xgboost", {"max_depth": Range(low=0.5, high=3)}, "whole numbers"),
        ("xgboost", {"learning_rate": 7}, "outside of"),
        ("xgboost", {"objective": "reg:absoluterror"}, "did you mean 'reg:absoluteerror'"),
        ("xgboost", {"objective": "binary:logistic"}, "not one of"),
        ("random_forest", {"max_features": Choices(choices=("sqrt", "cube"))}, "cube"),
        ("linear", {"alpha": True}, "expected a number"),
        ("linear", {"C": 1.0}, "unknown parameter for regression"),
    ],
)
def test_a_value_an_estimator_cannot_take_is_refused(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(estimators.EstimatorError, match=message):
        estimators.check(name, params, "regression")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_its_own_defaults_and_ranges_pass_its_own_check(name: str, task: Task) -> None:
    estimators.check(name, estimators.space(name, {}, task), task)
    estimators.check(name, estimators.defaults(name, {}, task), task)
    for metric in TASK_METRICS[task]:
        estimators.check(name, estimators.space(name, {}, task, metric), task)
        for point in estimators.first_points(name, {}, task, metric):
            estimators.check(name, point, task)


def test_defaults_are_moved_into_the_ranges_of_params_yaml() -> None:
    params: dict[str, Any] = {"max_depth": Range(low=8, high=10, scale="int"), "subsample": 0.7}
    point = estimators.defaults("xgboost", params, "regression")
    assert point["max_depth"] == 8
    assert point["subsample"] == 0.7


def test_checking_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom include.training import estimators\nfrom include.settings import estimator_names\n"
        "[estimators.check(n, {}, 'binary') for n in estimator_names()]\n"
        "print(sorted({'xgboost','sklearn','onnx','optuna','pandas','scipy','mlflow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
