"""The features of one partition: validated rows in, a parquet file out, whole or not at all.

Memory is bounded by the partition's compressed bytes and a few batches of rows.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include import schemas, storage
from include.features import columns as cols
from include.features.columns import ColumnError, is_missing
from include.features.definition import FeatureError
from include.features.plan import Plan, StageError
from include.formulas import FormulaError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 17
LARGEST = float(np.finfo(np.float32).max)
"""Estimators compute in 32 or 64 bits: what the smaller cannot hold becomes infinite there."""
AHEAD = 2
"""Batches that are made while one is written: what memory is bounded by."""


@dataclass
class _Counts:
    """The rows of a batch, or of all batches so far."""

    read: int = 0
    rows: int = 0
    """With a target."""
    filled: dict[str, int] = field(default_factory=dict)
    """Feature column → the rows that have a value."""
    raw_filled: dict[str, int] = field(default_factory=dict)
    """The same of the inputs."""

    def add(self, other: _Counts) -> None:
        """Add those of one more batch."""
        self.read += other.read
        self.rows += other.rows
        for own, more in ((self.filled, other.filled), (self.raw_filled, other.raw_filled)):
            for name, count in more.items():
                own[name] = own.get(name, 0) + count


_Piece = tuple["pa.Table", _Counts]
"""The features of a batch, and its counts."""


def build_partition(plan: Plan, key: str, content: bytes, file: Path) -> dict[str, Any]:
    """Compute the features of one partition and write them, atomically.

    Args:
        plan: what to make.
        key: the partition's name, for messages.
        content: the validated parquet file.
        file: where the features go.

    Returns:
        `rows`, `dropped`, `bytes` of the file, and `filled`: the rows that have a value, by feature column.

    Raises:
        StageError: the partition lacks a column, or its features are empty or infinite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage.ensure_space(file.parent, 2 * len(content))
    parquet = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
    _refuse_lacking(plan, key, parquet.schema_arrow.names)
    batches = parquet.iter_batches(BATCH_ROWS, columns=list(plan.columns))
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        counts = _write(temporary, _ahead(_compute(batch, plan, key) for batch in batches))
        if not counts.rows:
            raise StageError(
                f"partition {key} of {plan.source}: none of its {counts.read} rows has a value of the target"
                f" {plan.target!r}; quarantine it by an expectation on that column"
            )
        _refuse_empty(plan, key, counts)
        size = temporary.stat().st_size
        temporary.replace(file)  # no fsync: the folder is private, and DVC's hashes tell what a power cut spoilt
    except _Beyond as found:
        (column,) = found.args
        raise _beyond(plan, key, column, parquet.read([column]).column(column)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return {"rows": counts.rows, "dropped": counts.read - counts.rows, "bytes": size, "filled": counts.filled}


def _refuse_lacking(plan: Plan, key: str, names: Iterable[str]) -> None:
    if lacking := [column for column in plan.columns if column not in names]:
        raise StageError(
            f"partition {key} of {plan.source} has no column {lacking[0]!r}, which {plan.model} needs; if the file has"
            " it now, ingest it again with `replace`; if the source has the column only since then, let the model's"
            " `window` begin there, or leave the column out of the features"
        )


def _write(file: Path, pieces: Iterable[_Piece]) -> _Counts:
    """Write the rows of all pieces; there is no file where there are none."""
    import pyarrow.parquet as pq

    counts, writer = _Counts(), None
    try:
        for table, more in pieces:
            counts.add(more)
            if not table.num_rows:
                continue
            if writer is None:
                dictionaries, others = _encodings(table)
                writer = pq.ParquetWriter(
                    file,
                    table.schema,
                    compression="lz4",
                    use_dictionary=dictionaries,
                    column_encoding=others,
                    write_statistics=False,
                )
            writer.write_table(table, row_group_size=BATCH_ROWS)
    finally:
        if writer is not None:
            writer.close()
    return counts


def _ahead(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """The same pieces, in order, a few of them made by a thread while the caller works on the one before."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, pieces, None) for _ in range(AHEAD))
        while (piece := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, pieces, None))
            yield piece


def _compute(batch: pa.RecordBatch, plan: Plan, key: str) -> _Piece:
    """One batch: raw columns as they are, then the features; with the counts of values that are there."""
    import pyarrow as pa

    seen = batch.num_rows
    try:
        batch = schemas.cast_table(batch.select(plan.columns), plan.types)
    except schemas.SchemaError as error:
        raise StageError(schemas.outdated(plan.source, key, error)) from error
    missing = is_missing(_plain_values(batch, plan.target))
    if missing.any():
        batch = batch.filter(pa.array(~missing))
    names, arrays = list(batch.schema.names), list(batch.columns)
    counts = _Counts(read=seen, rows=batch.num_rows)
    if not batch.num_rows:
        return pa.Table.from_batches([batch]), counts
    try:
        raw = cols.from_arrow(batch, plan.feature_set.inputs)
        with np.errstate(all="ignore"):
            computed = plan.feature_set.compute(raw)
    except (ColumnError, FeatureError, FormulaError) as error:
        raise StageError(f"partition {key} of {plan.source}: {error}") from error
    _refuse_infinite(raw, _plain_values(batch, plan.target), plan)
    for name, values in computed.items():
        array, present = _to_array(values, name, plan, key)
        counts.filled[name] = present
        if name not in plan.feature_set.inputs:
            names.append(name)
            arrays.append(array)
    counts.raw_filled = {name: batch.num_rows - batch.column(name).null_count for name in plan.feature_set.inputs}
    return pa.Table.from_arrays(arrays, names=names), counts


def _to_array(values: np.ndarray, name: str, plan: Plan, key: str) -> tuple[pa.Array, int]:
    """A feature column for Arrow, missing values null, and how many are there.

    Raises:
        StageError: a value is infinite.
    """
    import pyarrow as pa

    if values.dtype.kind == "O":
        text = pa.array(values, type=pa.string(), from_pandas=True)
        return text, len(text) - text.null_count
    array = cols.number_array(values)
    with np.errstate(invalid="ignore"):
        beyond = int(np.count_nonzero(np.abs(values) > LARGEST))
    if beyond and name in plan.feature_set.inputs:
        raise _Beyond(name)
    if beyond:
        raise StageError(
            f"partition {key} of {plan.source}: the feature {name!r} is infinite, or too large for 32 bits, in {beyond}"
            f" of {len(values)} rows; guard the division or logarithm that makes it, or bound it, as in"
            " clip(x, 0, 1e6)"
        )
    return array, len(array) - array.null_count


class _Beyond(Exception):
    """A column of the source has numbers that no estimator can take; its argument is the column."""


def _refuse_infinite(raw: cols.Columns, target: np.ndarray, plan: Plan) -> None:
    """Refuse inputs and targets that are infinite; a target also when it is too large for 32 bits."""
    for name, values in raw.items():
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise _Beyond(name)
    with np.errstate(invalid="ignore"):
        if target.dtype.kind == "f" and (np.abs(target) > LARGEST).any():
            raise _Beyond(plan.target)


def _beyond(plan: Plan, key: str, column: str, values: pa.ChunkedArray) -> StageError:
    """The error for a column of the source that holds infinite numbers, with all of them counted."""
    numbers = np.asarray(values.to_numpy(), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero(np.abs(numbers) > LARGEST)
        what = "infinite" if np.isinf(numbers[rows]).any() else "too large for 32 bits"
    role = "target" if column == plan.target else "input"
    return StageError(
        f"partition {key} of {plan.source}: the {role} {column!r} is {what} in {len(rows)} of {len(numbers)} rows,"
        f" first in row {int(rows[0]) + 1} ({numbers[rows[0]]:g}). Correct the source; or let an expectation bound the"
        " column, so that such rows are quarantined; or, where it stands for a missing value, declare it in the"
        " source's `null_values`; then ingest the partition again with `replace`"
    )


def _encodings(table: pa.Table) -> tuple[list[str], dict[str, str]]:
    """How to write each column fast and small, by its first rows: those for a dictionary, and encodings of the others.

    Long runs compress best as they are, values that repeat in a dictionary, the rest as differences or split bytes.
    """
    import pyarrow as pa

    head = table.slice(0, 8192)
    dictionaries, others = [], {}
    for name, kind in zip(head.schema.names, head.schema.types, strict=True):
        floating = pa.types.is_floating(kind)
        if not (floating or pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
            dictionaries.append(name)
            continue
        values = _plain_values(head, name)
        if np.count_nonzero(values[1:] != values[:-1]) * 20 <= len(values):
            others[name] = "PLAIN"
        elif len(np.unique(values)) * 2 <= len(values):
            dictionaries.append(name)
        else:
            others[name] = "BYTE_STREAM_SPLIT" if floating else "DELTA_BINARY_PACKED"
    return dictionaries, others


def _plain_values(table: pa.Table | pa.RecordBatch, name: str) -> np.ndarray:
    part = table.select([name])
    return cols.from_arrow(part, cols.types_of(part.schema))[name]


def _refuse_empty(plan: Plan, key: str, counts: _Counts) -> None:
    """A computed feature without any value, from inputs that have values, is a fault of the features."""
    if counts.rows < 20 or not all(counts.raw_filled.values()):
        return
    for name, count in counts.filled.items():
        if not count and name not in plan.feature_set.inputs:
            raise StageError(
                f"partition {key} of {plan.source}: the feature {name!r} has no value in any of {counts.rows} rows,"
                " although all inputs have some; correct its formula or definition"
            )
