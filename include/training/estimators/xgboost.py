"""Gradient-boosted trees by XGBoost: early stopping, pruning, one quantised matrix for all trials of a process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from include.settings import Choices, Range, Task
from include.training import evaluation, graphs
from include.training.estimators import Data, Layout, Parameter, Progress

LINKS: dict[str, graphs.Link] = {
    "reg:squarederror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "count:poisson": "exp",
    "binary:logistic": "sigmoid",
    "multi:softprob": "softmax",
}
DEFAULT_OBJECTIVE = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}
RUNGS = tuple(round(10 * 2 ** (n / 2)) for n in range(22))
"""Where a trial reports, in iterations at a learning rate of 0.1: at half that rate it takes twice as many to the
same rung."""
PATIENCE, DISTANCE = 20, 2.5
"""Early stopping waits so many iterations, and at a low rate for so much of iterations x rate: 50 at 0.05."""


@dataclass(frozen=True)
class Fitted:
    """A booster cut at its best iteration."""

    booster: Any
    objective: str
    features: int
    classes: int
    threads: int


def parameters(task: Task) -> dict[str, Parameter]:
    """XGBoost's own names; early stopping is the limit, `n_estimators` the most that it allows."""
    objectives = tuple(
        o for o in LINKS if o.startswith({"binary": "binary:", "multiclass": "multi:"}.get(task, ("reg:", "count:")))
    )
    return {
        "objective": Parameter(
            DEFAULT_OBJECTIVE[task],
            choices=objectives,
            # Which of the two ends with the smaller absolute error depends on the noise; the second costs more.
            search_for={"mae": Choices(choices=("reg:squarederror", "reg:absoluteerror"))},
        ),
        "n_estimators": Parameter(10_000, low=1, high=100_000, integer=True),
        "learning_rate": Parameter(0.1, low=1e-5, high=1, search=Range(low=0.02, high=0.3, scale="log")),
        "max_depth": Parameter(6, low=1, high=20, integer=True, search=Range(low=3, high=10, scale="int")),
        "min_child_weight": Parameter(1.0, low=0, search=Range(low=1.0, high=30.0, scale="log")),
        "subsample": Parameter(1.0, low=0.05, high=1, search=Range(low=0.6, high=1.0)),
        "colsample_bytree": Parameter(1.0, low=0.05, high=1, search=Range(low=0.5, high=1.0)),
        "reg_lambda": Parameter(1.0, low=0, search=Range(low=0.1, high=30.0, scale="log")),
        "reg_alpha": Parameter(0.0, low=0),
        "gamma": Parameter(0.0, low=0),
        "max_bin": Parameter(256, low=8, high=1024, integer=True),
        "early_stopping_rounds": Parameter("auto", low=1, choices=("auto",), integer=True),
        # Codes are split by sets; where params.yaml searches this, both are tried. Columns declared one_hot stay so.
        "categories": Parameter("native", choices=("native", "one_hot")),
        **({"scale_pos_weight": Parameter(1.0, low=0)} if task == "binary" else {}),
    }


def starts(task: Task, metric: str) -> list[dict[str, Any]]:
    """A low rate with deep, middling and shallow trees; for an absolute error also its own objective."""
    low, sampled = {"learning_rate": 0.05}, {"subsample": 0.8, "colsample_bytree": 0.8}
    points: list[dict[str, Any]] = [
        {**low, "max_depth": 8},
        {**low, **sampled, "max_depth": 4},
        {**low, **sampled, "max_depth": 6},
    ]
    if task == "regression" and metric == "mae":
        points.append({**low, "max_depth": 8, "objective": "reg:absoluteerror"})
    return points


def layout(params: Mapping[str, Any]) -> Layout:
    """Categories as codes, unless the parameter `categories` is one_hot."""
    return "codes" if params.get("categories") == "native" else "one_hot"


def fit(params: Mapping[str, Any], data: Data, *, seed: int, threads: int, progress: Progress | None) -> Fitted:
    """Boost until the validation part stops gaining; without one, for exactly `n_estimators`."""
    import xgboost

    params = {key: value for key, value in params.items() if key != "categories"}
    rounds, patience = int(params.pop("n_estimators")), _patience(params.pop("early_stopping_rounds"), params)
    loss = _loss(data)
    settings = {
        **params,
        "tree_method": "hist",
        "eval_metric": loss,
        "seed": seed,
        "nthread": threads,
        "verbosity": 0,
        **({"num_class": data.classes} if data.task == "multiclass" else {}),
    }
    train, validation = _matrices(data, int(params["max_bin"]), threads)
    callbacks = []
    if validation is not None:
        callbacks.append(
            xgboost.callback.EarlyStopping(rounds=patience, metric_name=loss, data_name="validation", save_best=True)
        )
        if progress is not None:
            callbacks.append(_reporting(progress, data, validation, float(params["learning_rate"])))
    booster = xgboost.train(
        settings,
        train,
        num_boost_round=rounds,
        evals=[(validation, "validation")] if validation is not None else [],
        callbacks=callbacks,
        verbose_eval=False,
    )
    return Fitted(booster, str(params["objective"]), data.X.shape[1], data.classes, threads)


def _patience(declared: int | str, params: Mapping[str, Any]) -> int:
    """Iterations without a gain after which boosting ends: the lower the rate, the less each of them can gain."""
    if declared != "auto":
        return int(declared)
    return max(PATIENCE, math.ceil(DISTANCE / float(params["learning_rate"])))


def _loss(data: Data) -> str:
    """What iterations are judged by: smooth, and always better when smaller, whatever the study's metric is."""
    if data.task == "regression":
        return "mae" if data.metric == "mae" else "rmse"
    return "logloss" if data.task == "binary" else "mlogloss"


def _matrices(data: Data, max_bin: int, threads: int) -> tuple[Any, Any]:
    """The quantised matrices: built once, used by every trial of this process that has as many bins."""
    import xgboost

    key = ("quantile", max_bin)
    if key not in data.shared:
        how: dict[str, Any] = {"max_bin": max_bin, "nthread": threads}
        if data.coded is not None:
            how |= {"feature_types": ["c" if code else "q" for code in data.coded], "enable_categorical": True}
        train = xgboost.QuantileDMatrix(data.X, data.y, **how)
        validation = None
        if data.X_val is not None:
            validation = xgboost.QuantileDMatrix(data.X_val, data.y_val, ref=train, **how)
        data.shared[key] = train, validation
    matrices: tuple[Any, Any] = data.shared[key]
    return matrices


def _reporting(progress: Progress, data: Data, validation: Any, learning_rate: float) -> Any:
    import xgboost

    class Reporting(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # XGBoost is imported late
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            before, now = epoch * learning_rate * 10, (epoch + 1) * learning_rate * 10
            passed = [rung for rung in RUNGS if before < rung <= now]
            if passed:
                answer = _columns(model.predict(validation), data.classes)  # the library remembers earlier trees' sums
                progress.report(passed[-1], evaluation.score(data.metric, data.task, np.asarray(data.y_val), answer))
            return progress.time_is_up()

    return Reporting()


def settled(params: Mapping[str, Any], fitted: Fitted) -> dict[str, Any]:
    """With as many trees as early stopping kept."""
    return {**params, "n_estimators": fitted.booster.num_boosted_rounds()}


def predict(fitted: Fitted, X: np.ndarray) -> np.ndarray:
    """Numbers, or probabilities."""
    fitted.booster.set_param({"nthread": fitted.threads})
    return _columns(fitted.booster.inplace_predict(X.astype(np.float32)), fitted.classes)


def _columns(answer: Any, classes: int) -> np.ndarray:
    """XGBoost's answer as the platform has it: of two classes both probabilities."""
    answer = np.asarray(answer, dtype=np.float64)
    return np.column_stack([1 - answer, answer]) if classes == 2 else answer


def to_onnx(fitted: Fitted) -> bytes:
    """The booster's own trees and base score, read from its open JSON format."""
    learner = json.loads(fitted.booster.save_raw("json"))["learner"]
    model = learner["gradient_booster"]["model"]
    width = fitted.classes if fitted.classes > 2 else 1
    link = LINKS[fitted.objective]
    return graphs.trees(
        [_tree(tree) for tree in model["trees"]],
        model["tree_info"],
        features=fitted.features,
        width=width,
        mode="BRANCH_LT",
        base=_base(learner["learner_model_param"]["base_score"], link, width),
        link=link,
    )


def to_booster(fitted: Fitted) -> bytes:
    """The booster as it is."""
    return bytes(fitted.booster.save_raw("ubj"))


def explanation(fitted: Fitted) -> dict[str, Any]:
    """By its trees, on the scale on which they are added up."""
    return {"method": "trees", "scale": graphs.SCALES[LINKS[fitted.objective]]}


def _base(text: str, link: graphs.Link, width: int) -> np.ndarray:
    """The score before the first tree; XGBoost keeps it on the scale of the prediction."""
    value = np.broadcast_to(np.atleast_1d(np.asarray(json.loads(text.lower()), np.float64)), (width,))
    if link == "exp":
        return np.log(value)
    return np.log(value / (1 - value)) if link == "sigmoid" else value


def _tree(tree: dict[str, Any]) -> graphs.Tree:
    count = len(tree["left_children"])
    found = graphs.Tree(
        left=np.asarray(tree["left_children"]),
        right=np.asarray(tree["right_children"]),
        feature=np.asarray(tree["split_indices"]),
        threshold=np.asarray(tree["split_conditions"], np.float32),
        missing_left=np.asarray(tree["default_left"], bool),
        values=np.asarray(tree["split_conditions"], np.float32)[:, None],
        cover=np.asarray(tree["sum_hessian"]),
        equal=np.zeros(count, bool),
    )
    categories, segments = np.asarray(tree["categories"]), tree["categories_segments"]
    sets = {
        int(node): categories[begin : begin + size]
        for node, begin, size in zip(tree["categories_nodes"], segments, tree["categories_sizes"], strict=True)
    }
    return _with_equalities(found, sets) if sets else replace(found, equal=None)


def _with_equalities(tree: graphs.Tree, sets: Mapping[int, np.ndarray]) -> graphs.Tree:
    """A node that sends a set of categories to the right, as a chain of nodes that each compare with one of them.

    All nodes of a chain lead to the same child where they find their category: onnxruntime reads that as a set.
    """
    links = [(node, category, place) for node, found in sets.items() for place, category in enumerate(found)]
    first = np.array([place == 0 for _, _, place in links])
    source = np.array([node for node, _, _ in links])
    at = np.where(first, source, 0)
    at[~first] = len(tree.left) + np.arange(int((~first).sum()))  # new nodes stand behind the tree's own
    last = np.append(first[1:], True)
    following = np.where(last, tree.left[source], np.append(at[1:], 0))
    grown = {
        name: np.concatenate([values, values[source[~first]]])
        for name in ("left", "right", "feature", "threshold", "missing_left", "values", "cover", "equal")
        if (values := getattr(tree, name)) is not None
    }
    grown["left"][at], grown["right"][at] = tree.right[source], following
    grown["threshold"][at] = [category for _, category, _ in links]
    grown["equal"][at] = True
    # a missing value takes the branch of the categories that are found, or else goes down the chain to its end
    grown["missing_left"][at] = first & ~tree.missing_left[source]
    return graphs.Tree(**grown)


def importance(fitted: Fitted) -> np.ndarray:
    """The share of the gain of all splits."""
    gain = fitted.booster.get_score(importance_type="total_gain")
    shares = np.array([float(gain.get(f"f{i}", 0.0)) for i in range(fitted.features)])
    return np.asarray(shares / max(shares.sum(), 1e-300))
