"""The matrices of a study in each layout: categories as 0/1 columns, and as codes for estimators that know categories.

The folder `work` of a training holds the first; its folder `codes` the second, where there is a text that became
one_hot without being declared so:

    X_train.npy X_validation.npy X_test.npy     float64; an unknown category is NaN
    preprocessing.json columns.json             what was learned, with codes; which columns hold codes
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from include.features.feature_set import FeatureSet
from include.training import documents
from include.training.estimators import Layout

PARTS = ("train", "validation", "test")


def write_codes(work: Path, feature_set: FeatureSet, fitted: dict[str, Any], X: Mapping[str, np.ndarray]) -> None:
    """Write the second layout, if there is one; `X` are the matrices of the first, by part."""
    coded = feature_set.with_codes(fitted)
    if coded is None:
        return
    folder = work / "codes"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        np.save(folder / f"X_{part}.npy", feature_set.codes_of(fitted, coded, X[part]), allow_pickle=False)
    described = {"preprocessing": coded, "columns": {"coded": feature_set.coded(coded)}}
    for name, document in described.items():
        documents.write(folder / f"{name}.json", document)


def find(work: Path, layout: Layout) -> tuple[Path, list[bool] | None]:
    """Where the matrices of a layout are, and which of their columns hold codes.

    Without categories there is one layout, which is both.
    """
    folder = work / "codes"
    if layout == "codes" and folder.is_dir():
        return folder, documents.read(folder / "columns.json")["coded"]
    return work, None


def preprocessing(work: Path, layout: Layout) -> dict[str, Any]:
    """What the features learned, as a layout applies it."""
    folder, _ = find(work, layout)
    learned: dict[str, Any] = documents.read(folder / "preprocessing.json")
    return learned
