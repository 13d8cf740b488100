"""The newest published partitions, as the champion sees them: its own features, its own predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from include.features import columns as feature_columns
from include.features.feature_set import FeatureSet, UnknownCategory
from include.inference.predictor import NotComputable, Predictor
from include.inference.served_form import ServedForm
from include.ingestion import partitions
from include.ingestion.partitions import Partition

if TYPE_CHECKING:
    import pyarrow as pa

DEFINITION = "definition.py"

Columns = Mapping[str, np.ndarray]


class MissingColumn(ValueError):
    """The newest partitions lack a column that the champion needs, so that nothing can be compared."""


@dataclass(frozen=True)
class Window:
    """Rows of some partitions, computed as for the champion."""

    keys: list[str]
    rows: int
    inputs: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    target: np.ndarray | None
    """The outcome, where the source brings it."""


def newest(database_url: str, source: str, count: int) -> tuple[list[Partition], list[Partition]]:
    """The newest `count` published partitions of a source, and all of them."""
    published = partitions.published(database_url, source)
    return published[-count:], published


def feature_set(form: ServedForm) -> FeatureSet:
    """The champion's own features, from its served form."""
    path = form.directory / DEFINITION
    definition = path.read_text(encoding="utf-8") if path.exists() else None
    return FeatureSet.from_spec(form.manifest["features"], definition)


def collect(data_url: str, chosen: Sequence[Partition], features: FeatureSet, target: str) -> Window:
    """Read partitions, check their bytes, and compute the champion's features on them.

    Raises:
        MissingColumn: naming what the partitions lack.
        ChangedFile: a partition is not the one that was validated.
    """
    tables = [partitions.read(data_url, partition) for partition in chosen]
    for partition, table in zip(chosen, tables, strict=True):
        if missing := [name for name in features.inputs if name not in table.column_names]:
            raise MissingColumn(
                f"{partition.source} {partition.key} has no column {', '.join(map(repr, missing))}, which the champion"
                " needs; nothing was compared. See the schema difference in the partition's report"
            )
    parts = [feature_columns.from_arrow(table, features.inputs) for table in tables]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in features.inputs} if parts else {}
    outcomes = [_outcome(table, target) for table in tables]
    return Window(
        keys=[partition.key for partition in chosen],
        rows=sum(table.num_rows for table in tables),
        inputs=inputs,
        features=features.compute(inputs) if inputs else {},
        target=_joined([o for o in outcomes if o is not None]) if all(o is not None for o in outcomes) else None,
    )


def _outcome(table: pa.Table, target: str) -> np.ndarray | None:
    types = feature_columns.types_of(table.schema)
    return feature_columns.from_arrow(table, {target: types[target]})[target] if target in types else None


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    return np.concatenate(parts) if parts else None


def predict(predictor: Predictor, inputs: Columns) -> np.ndarray:
    """The champion's answer to each row; NaN for a row that it refuses."""
    rows = len(next(iter(inputs.values())))
    width = () if predictor.classes is None else (len(predictor.classes),)
    answers = np.full((rows, *width), np.nan)
    spans = [(start, min(start + 50_000, rows)) for start in range(0, rows, 50_000)]
    while spans:
        start, end = spans.pop()
        try:
            answers[start:end] = predictor.predict({name: values[start:end] for name, values in inputs.items()})
        except (NotComputable, UnknownCategory):
            if end - start > 1:  # look for the row in both halves
                middle = (start + end) // 2
                spans += [(start, middle), (middle, end)]
    return answers
