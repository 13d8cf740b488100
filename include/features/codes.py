"""Codes: text that became one_hot without being declared so, as one column, for estimators that know categories.

A code is the place of the category; unknown and missing ones, where training had none missing, are NaN. No order is
meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.features import transforms
from include.features.categories import Lookup
from include.features.columns import Values
from include.features.transforms import Apply, Stage

ENCODING = "code"
Fitted = dict[str, Any]


def ready(learned: Sequence[Mapping[str, Any]]) -> Apply:
    """The code of each value, as `Transform.ready` of an encoding."""
    lookup = Lookup(learned)
    codes = lookup.table([np.arange(len(entry["categories"]), dtype=np.float64) for entry in learned], absent=np.nan)

    def apply(values: Values, unknown: str) -> Values:
        found: np.ndarray = codes[lookup(values, unknown)]
        return found

    return apply


def with_codes(fitted: Fitted, declared_one_hot: Sequence[str]) -> Fitted | None:
    """The same with one column of codes for each text that became one_hot by itself; None where there is none."""
    entries = [
        {**entry, "encoding": ENCODING, "names": [entry["column"]]}
        if entry["encoding"] == "one_hot" and "scale" not in entry and entry["column"] not in declared_one_hot
        else entry
        for entry in fitted["columns"]
    ]
    coded = {**fitted, "columns": entries}
    return coded if any(entry["encoding"] == ENCODING for entry in entries) else None


def codes_of(fitted: Fitted, coded: Fitted, X: np.ndarray) -> np.ndarray:
    """The matrix of `coded`, which `with_codes` made of `fitted`, from that of `fitted`.

    Made of the matrix and not of the rows: what is cross-fitted in that of the training rows stays so.
    """
    replaced = replaced_columns(fitted)
    blocks, at = [], 0
    for entry, new in zip(fitted["columns"], coded["columns"], strict=True):
        if entry["column"] in replaced:
            continue
        block = X[:, at : at + len(entry["names"])]
        at += len(entry["names"])
        if new["encoding"] == ENCODING:
            block = np.where(block.any(axis=1), block.argmax(axis=1), np.nan)[:, None]
        blocks.append(block)
    return np.ascontiguousarray(np.concatenate([*blocks, X[:, at:]], axis=1))


def replaced_columns(fitted: Fitted) -> set[str]:
    """The feature columns that projections replace."""
    projections = [made for name in transforms.at(Stage.PROJECT) for made in fitted.get(name, ())]
    return {column for made in projections for column in made["columns"]}
