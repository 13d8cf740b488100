"""ONNX graphs built by hand: from one input `X` (n, k) to one output `prediction`, exactly as the estimator does.

Converters round where a person would not look (stack.md names the traps); three shapes of graph are all we need, and
here every number that goes into one is visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Link = Literal["identity", "exp", "sigmoid", "softmax", "probabilities"]
"""How a score becomes a prediction: `sigmoid` gives two columns, 1 - p and p; `probabilities` takes it as it is."""
SCALES: dict[Link, str] = {
    "identity": "prediction",
    "exp": "log",
    "sigmoid": "log_odds",
    "softmax": "log_odds",
    "probabilities": "prediction",
}
"""What a score is called where it is explained."""

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8


@dataclass(frozen=True)
class Tree:
    """One decision tree as arrays over its nodes, the root first."""

    left: np.ndarray
    """The child taken when the comparison holds; -1 for a leaf."""
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    """float32."""
    missing_left: np.ndarray
    """bool: whether NaN takes the left child."""
    values: np.ndarray
    """What a node adds to each target when it is a leaf: float32 (nodes, targets)."""
    cover: np.ndarray
    """The weight of the training rows that reached it: explanations take expectations by it."""
    equal: np.ndarray | None = None
    """bool: nodes that compare by equality with `threshold`, whatever the others do; None: there are none."""


def constant(values: np.ndarray, features: int) -> bytes:
    """The same answer for every row: (n,) of one number, else (n, classes) of probabilities."""
    single = values.size == 1
    nodes = [
        _node("Shape", ["X"], "rows", end=1),
        *([] if single else [_node("Concat", ["rows", "width"], "shape", axis=0)]),
        _node("Expand", ["answer", "rows" if single else "shape"], "prediction"),
    ]
    initial = {"answer": values.astype(np.float64)} | ({} if single else {"width": np.array([values.size], np.int64)})
    return _model(nodes, initial, features, np.float64, None if single else values.size)


def linear(weights: np.ndarray, bias: np.ndarray, fill: np.ndarray, link: Link) -> bytes:
    """`link(where(isnan(X), fill, X) @ weights + bias)` in double precision; weights (k, targets)."""
    nodes = [
        _node("IsNaN", ["X"], "missing"),
        _node("Where", ["missing", "fill", "X"], "filled"),
        _node("MatMul", ["filled", "weights"], "product"),
        _node("Add", ["product", "bias"], _score(link)),
    ]
    initial = {"fill": fill.astype(np.float64), "weights": weights.astype(np.float64), "bias": bias.astype(np.float64)}
    links, more, width = _link(link, weights.shape[1], np.float64)
    return _model(nodes + links, initial | more, len(fill), np.float64, width)


def trees(
    forest: Sequence[Tree],
    targets: Sequence[int] | None,
    *,
    features: int,
    width: int,
    mode: Literal["BRANCH_LT", "BRANCH_LEQ"],
    base: np.ndarray,
    link: Link,
    fill: np.ndarray | None = None,
) -> bytes:
    """`link(base + the sum of the leaves that a row reaches)` with float32 input, as tree libraries compare.

    Args:
        forest: the trees.
        targets: for each tree the one target it adds to (its `values` then have one column); None: to all.
        features: k.
        width: the number of targets.
        mode: whether a row goes left when it is less than the threshold, or at most equal to it.
        base: the score before the first tree, (width,). It goes into the first tree's leaves: float32 then adds up in
            the very order in which XGBoost adds, to the same bits.
        link: how the score becomes the prediction.
        fill: what stands in for a missing value of each feature; None: the trees know the missing's way.
    """
    entry = "X" if fill is None else "filled"
    nodes = (
        [] if fill is None else [_node("IsNaN", ["X"], "missing"), _node("Where", ["missing", "fill", "X"], "filled")]
    )
    ensemble = _node(
        "TreeEnsembleRegressor",
        [entry],
        _score(link),
        domain="ai.onnx.ml",
        n_targets=width,
        aggregate_function="SUM",
        post_transform="NONE",
        **_ensemble(_with_base(forest, targets, base.astype(np.float32)), targets, mode),
    )
    links, more, columns = _link(link, width, np.float32)
    initial = more if fill is None else {**more, "fill": fill.astype(np.float32)}
    return _model([*nodes, ensemble, *links], initial, features, np.float32, columns)


def _with_base(forest: Sequence[Tree], targets: Sequence[int] | None, base: np.ndarray) -> list[Tree]:
    """The forest with each target's base added to the leaves of its first tree."""
    trees, known = list(forest), set()
    for number, tree in enumerate(forest):
        target = None if targets is None else targets[number]
        if target not in known:
            known.add(target)
            added = base if target is None else base[target]
            trees[number] = replace(tree, values=(tree.values + added).astype(np.float32))
    return trees


def _ensemble(forest: Sequence[Tree], targets: Sequence[int] | None, mode: str) -> dict[str, Any]:
    """The attributes of a TreeEnsembleRegressor."""
    sizes = [len(tree.left) for tree in forest]
    tree_ids = np.repeat(np.arange(len(forest)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    left = np.concatenate([tree.left for tree in forest])
    right = np.concatenate([tree.right for tree in forest])
    equal = np.concatenate([np.zeros(len(tree.left), bool) if tree.equal is None else tree.equal for tree in forest])
    leaf = left < 0
    values = np.concatenate([tree.values for tree in forest])[leaf]
    per_leaf = values.shape[1]
    if targets is None:
        target_ids = np.tile(np.arange(per_leaf), len(values))
    else:
        target_ids = np.repeat(np.asarray(targets), sizes)[leaf]
    return {
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.where(leaf, 0, np.concatenate([tree.feature for tree in forest])).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", np.where(equal, "BRANCH_EQ", mode)).tolist(),
        "nodes_values": np.where(leaf, 0, np.concatenate([tree.threshold for tree in forest]))
        .astype(np.float32)
        .tolist(),
        "nodes_truenodeids": np.where(leaf, 0, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, right).tolist(),
        "nodes_missing_value_tracks_true": np.where(
            leaf, 0, np.concatenate([tree.missing_left for tree in forest]).astype(np.int64)
        ).tolist(),
        "target_treeids": np.repeat(tree_ids[leaf], per_leaf).tolist(),
        "target_nodeids": np.repeat(node_ids[leaf], per_leaf).tolist(),
        "target_ids": target_ids.tolist(),
        "target_weights": values.astype(np.float32).ravel().tolist(),
    }


def _score(link: Link) -> str:
    """What the score's node puts out: the prediction itself, where nothing is to be done (a node costs a row 3 µs)."""
    return "prediction" if link in ("identity", "probabilities") else "score"


def _link(link: Link, width: int, dtype: type) -> tuple[list[Any], dict[str, np.ndarray], int]:
    """Nodes from `score` to `prediction`, their constants, and the output's columns."""
    if link in ("identity", "probabilities"):
        return [], {}, width
    if link == "exp":
        return [_node("Exp", ["score"], "prediction")], {}, width
    if link == "softmax":
        return [_node("Softmax", ["score"], "prediction", axis=1)], {}, width
    nodes = [
        _node("Sigmoid", ["score"], "positive"),
        _node("Sub", ["one", "positive"], "negative"),
        _node("Concat", ["negative", "positive"], "prediction", axis=1),
    ]
    return nodes, {"one": np.array([1], dtype)}, 2


def _node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)


def _model(nodes: list[Any], constants: dict[str, np.ndarray], features: int, dtype: type, width: int | None) -> bytes:
    import onnx
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "estimator",
        [helper.make_tensor_value_info("X", kind, ["n", features])],
        [helper.make_tensor_value_info("prediction", kind, ["n"] if width is None else ["n", width])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mlops")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
