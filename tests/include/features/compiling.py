"""A source, and feature sets that are compiled for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.features.columns import ColumnType
from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet
from include.settings import ROOT, Features

SOURCE: dict[str, ColumnType] = {
    "age": "float", "city": "string", "member": "bool", "since": "timestamp", "seen": "timestamp",
    "paid": "float", "id": "string",
}  # fmt: skip


def compiled(
    root: Path = ROOT, target: str = "paid", derive: dict[str, str] | None = None, known: Any = None, **features: Any
) -> FeatureSet:
    return compile_features(
        Features.model_validate(features),
        source_columns=SOURCE, target=target, entity="id", time_column="seen", root=root, derive=derive, known=known,
    )  # fmt: skip
