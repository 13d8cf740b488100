"""Other libraries' forests in XGBoost's own format, so that one C++ library answers and explains all trees.

The format is XGBoost's open JSON schema (its documentation, "Introduction to Model IO"). A forest becomes a booster of
one tree for each tree and target, starting from zero; whether the two are equal is checked before a model is sealed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from include.training.graphs import Tree

VERSION = [3, 2, 0]
_ROOT = 2**31 - 1
"""What XGBoost takes for the parent of a root."""


def of_forest(forest: Sequence[Tree], *, features: int, targets: Sequence[int], fill: np.ndarray) -> bytes:
    """A forest whose rows go left where they are at most the threshold, as XGBoost's binary model.

    Args:
        forest: the trees, with their covers.
        features: k.
        targets: which of the leaves' values are answered, in this order.
        fill: what stands in for a missing value of each feature, float32: each node sends missing ones its way.
    """
    import xgboost

    trees = [_tree(tree, target, features, fill) for tree in forest for target in targets]
    count, width = len(trees), len(targets)
    booster = {
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
        "iteration_indptr": list(range(0, count + 1, width)),
        "tree_info": [number % width for number in range(count)],
        "trees": [{**tree, "id": number} for number, tree in enumerate(trees)],
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": booster, "name": "gbtree"},
        "learner_model_param": {
            "base_score": json.dumps([0.0] * width),
            "boost_from_average": "0",
            "num_class": "0",
            "num_feature": str(features),
            "num_target": str(width),
        },
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    document = json.dumps({"learner": learner, "version": VERSION})
    return bytes(xgboost.Booster(model_file=bytearray(document.encode())).save_raw("ubj"))


def _tree(tree: Tree, target: int, features: int, fill: np.ndarray) -> dict[str, Any]:
    order = _level_by_level(tree)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    leaf = tree.left[order] < 0
    inner = np.flatnonzero(~leaf)
    left, right = (np.where(leaf, -1, place[children[order]]) for children in (tree.left, tree.right))
    parents = np.full(len(order), _ROOT, dtype=np.int64)
    parents[left[inner]] = parents[right[inner]] = inner
    values, threshold = tree.values[order, target].astype(np.float32), tree.threshold[order].astype(np.float32)
    above = np.nextafter(threshold, np.float32(np.inf))  # x <= t is x < the next number
    feature = np.where(leaf, 0, tree.feature[order])
    missing_left = ~leaf & (fill[feature] <= threshold)
    return {
        "base_weights": values.tolist(),
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": missing_left.astype(int).tolist(),
        "left_children": left.tolist(),
        "loss_changes": [0.0] * len(order),
        "parents": parents.tolist(),
        "right_children": right.tolist(),
        "split_conditions": np.where(leaf, values, above).tolist(),
        "split_indices": feature.tolist(),
        "split_type": [0] * len(order),
        "sum_hessian": tree.cover[order].astype(np.float64).tolist(),
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(len(order)),
            "size_leaf_vector": "1",
        },
    }


def _level_by_level(tree: Tree) -> np.ndarray:
    """The nodes in an order in which a right child follows the left one, the only one whose place XGBoost reads."""
    order = [0]
    for node in order:
        if tree.left[node] >= 0:
            order += [int(tree.left[node]), int(tree.right[node])]
    return np.array(order)
