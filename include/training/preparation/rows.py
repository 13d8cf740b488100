"""A feature version's rows: what is computed with, the target, and a fingerprint of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from include import schemas
from include.features.columns import ColumnType, from_arrow, select, types_of
from include.features.feature_set import FeatureSet
from include.settings import Model
from include.training.preparation import target as targets
from include.training.preparation.target import Untrainable

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """The rows that are learned from and judged on, all with a target; n of them."""

    table: pa.Table
    """As they were stored."""
    raw: dict[str, np.ndarray]
    """Inputs of a request, each (n,)."""
    computed: dict[str, np.ndarray]
    """Columns of the features, before anything is learned from them, each (n,)."""
    target: np.ndarray
    """Numbers for a regression, else labels, (n,)."""
    times: np.ndarray | None
    """datetime64 (n,) of the rows, where the model has a time column."""
    entity: np.ndarray | None
    """What each row is about, (n,)."""
    partitions: list[str]

    def __len__(self) -> int:
        return len(self.target)

    def where(self, mask: np.ndarray) -> Rows:
        """The rows for which a mask (n,) is true."""
        import pyarrow as pa

        return replace(
            self,
            table=self.table.filter(pa.array(mask)),
            raw=select(self.raw, mask),
            computed=select(self.computed, mask),
            target=self.target[mask],
            times=None if self.times is None else self.times[mask],
            entity=None if self.entity is None else self.entity[mask],
        )


def read(
    model: str, entry: Model, features: Path, feature_set: FeatureSet, *, time_column: str | None, window: int | None
) -> Rows:
    """The rows of a folder of feature files, of the newest `window` partitions, without those that have no target.

    Raises:
        Untrainable: there are none, or their partitions do not go together.
    """
    files = sorted(features.glob("*.parquet"))[-window if window else None :]
    table = read_partitions(files, model)
    found = types_of(table.schema)
    kinds: dict[str, ColumnType] = {
        name: "string" if kind == "string" else "float" for name, kind in feature_set.kinds.items()
    }
    types: dict[str, ColumnType] = {**kinds, **feature_set.inputs}
    extra = [c for c in (time_column, entry.entity) if c and c in found]
    columns = from_arrow(table, {**types, **{c: found[c] for c in extra}})
    rows = Rows(
        table=table,
        raw={name: columns[name] for name in feature_set.inputs},
        computed={name: columns[name] for name in feature_set.kinds},
        target=targets.read(table, entry, found),
        times=columns[time_column] if time_column in extra else None,
        entity=columns[entry.entity] if entry.entity in extra else None,
        partitions=[file.stem for file in files],
    )
    known = targets.present(model, entry, rows.target)
    return rows if known.all() else rows.where(known)


def read_partitions(files: list[Path], model: str) -> pa.Table:
    """The rows of feature files as one table."""
    import pyarrow.parquet as pq

    if not files:
        raise Untrainable(f"{model}: the feature version holds no partition; run features_{model} first")
    try:
        return schemas.concat([(file.stem, pq.read_table(file)) for file in files]).combine_chunks()
    except schemas.SchemaError as error:
        raise Untrainable(
            f"{model}: the partitions of this feature version do not go together: {error}; declare the type under the"
            f" source's `types`, ingest the partition again with `replace`, then run features_{model}"
        ) from error


def fingerprints(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """One uint64 for each row, the same on every machine for equal rows, and in practice only for these."""
    from pandas.util import hash_array

    total = np.zeros(len(next(iter(columns.values()))), dtype=np.uint64)
    for name in sorted(columns):
        values = columns[name]
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]").view(np.int64)
        elif values.dtype.kind == "O":
            values = np.array(
                ["\0" if v is None else f"{type(v).__name__[0]}{v}" for v in values.tolist()], dtype=object
            )
        else:
            values = np.asarray(values, np.float64) + 0.0  # -0.0 is 0.0
            values = np.where(np.isnan(values), np.nan, values)  # one NaN for all
        salt = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") | 1)
        mixed = (hash_array(values, categorize=True) ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        total = (total ^ (mixed ^ (mixed >> np.uint64(31)))) * np.uint64(0xD6E8FEB86659FD93)
    return total
