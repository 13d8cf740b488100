"""What dvc.yaml runs: validated partitions in, one parquet file of features for each out.

`python -m include.features.stage MODEL` works in the current folder, a private workspace that versions.py has
laid out:

    inputs/<model>/partitions.json   the partitions and the SHA-256 that validation recorded for each
    inputs/<model>/features.json     the compiled feature set, target, time and entity columns
    inputs/<model>/definition.py     the model's Python features, where it has some
    run.json                         where the validated partitions lie in this installation; not an input
    features/<model>/                the output: <key>.parquet, feature_set.json, index.json
    result.json                      what was computed, or why not; read by versions.py

Only partitions whose content or features changed since index.json was written are computed; one that is no
longer asked for is removed. Each file appears whole or not at all. A partition is read by its hash: what was
swapped after validation fails. Memory is bounded by the largest partition's compressed bytes and a few batches
of rows.

A feature file holds the raw inputs, time and entity columns, the target and the computed features. Rows without
a target are left out and counted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include import schemas, storage
from include.features import columns as cols
from include.features.columns import ColumnError, is_missing
from include.features.feature_set import FeatureError, FeatureSet
from include.formulas import FormulaError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 17
LARGEST = float(np.finfo(np.float32).max)
"""Estimators compute in 32 or 64 bits: what the smaller cannot hold becomes infinite there."""
AHEAD = 2
"""Batches that are made while one is written: what memory is bounded by."""
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
"""For the process that runs the stage: glibc keeps the memory of a batch for the next one, a tenth of the CPU."""
OWNER_LOCK = "owner.lock"
RESULT = "result.json"
INDEX = "index.json"
FEATURE_SET = "feature_set.json"


class StageError(ValueError):
    """The features of a partition cannot be used; the message names the partition, the column and what to do."""


@dataclass(frozen=True)
class Plan:
    """What one run of the stage is to make."""

    model: str
    partitions: dict[str, str]
    """key → SHA-256 of the validated file."""
    source: str
    feature_set: FeatureSet
    target: str
    kept: tuple[str, ...]
    """Raw columns that a feature file holds, target last."""
    fingerprint: str
    """Of features, types and code: another one means that everything is computed again."""
    types: schemas.Types = field(default_factory=dict)
    """Column → type of the source, in which each partition is read, whatever it holds itself."""


def code_fingerprint() -> str:
    """The hash of the code that computes features, so that results of two states of it are never mixed."""
    root = Path(__file__).resolve().parent
    files = (
        root.parent / "formulas.py",
        root.parent / "schemas.py",
        root / "columns.py",
        root / "feature_set.py",
        root / "stage.py",
    )
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_plan(workspace: Path, model: str) -> Plan:
    """The plan that versions.py has laid out in a workspace."""
    folder = workspace / "inputs" / model
    wanted = json.loads((folder / "partitions.json").read_bytes())
    described = json.loads((folder / "features.json").read_bytes())
    definition = folder / "definition.py"
    source = definition.read_text(encoding="utf-8") if definition.exists() else None
    feature_set = FeatureSet.from_spec(described["spec"], source)
    apart = [c for c in (described["time_column"], described["entity"]) if c and c not in feature_set.inputs]
    text = json.dumps([described, feature_set.definition], sort_keys=True)
    return Plan(
        model=model,
        partitions=dict(wanted["partitions"]),
        source=wanted["source"],
        feature_set=feature_set,
        target=described["target"],
        kept=(*feature_set.inputs, *dict.fromkeys(apart), described["target"]),
        types=described.get("types", {}),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def run(plan: Plan, output: Path, data_url: str) -> dict[str, Any]:
    """Bring `output` to the plan: compute what changed, keep what did not, remove what is not asked for.

    Returns:
        `computed`, the keys; `reused`, how many; `rows`; `dropped`, the rows without a target.

    Raises:
        storage.ChangedFile: a partition is not the one that validation recorded.
        StageError: the features of a partition cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    known = _known(output, plan.fingerprint)
    index: dict[str, dict[str, Any]] = {}
    computed: list[str] = []
    for key, sha256 in plan.partitions.items():
        file = output / f"{key}.parquet"
        entry = known.get(key)
        if entry and entry["input"] == sha256 and file.is_file() and file.stat().st_size == entry["bytes"]:
            index[key] = entry
            continue
        content = storage.read_bytes(storage.join(data_url, "validated", plan.source, f"{key}.parquet"), sha256)
        index[key] = {"input": sha256, **build_partition(plan, key, content, file)}
        computed.append(key)
    _refuse_empty_features(plan, index)
    stored = {
        "spec": plan.feature_set.spec,
        "definition": plan.feature_set.definition,
        "target": plan.target,
        "types": plan.types,
    }
    storage.write_bytes(str(output / FEATURE_SET), _json(stored))
    storage.write_bytes(str(output / INDEX), _json({"fingerprint": plan.fingerprint, "partitions": index}))
    wanted = {FEATURE_SET, INDEX, *(f"{key}.parquet" for key in index)}
    for file in output.iterdir():
        if file.name not in wanted:
            file.unlink()
    return {
        "computed": computed,
        "reused": len(index) - len(computed),
        "rows": sum(entry["rows"] for entry in index.values()),
        "dropped": sum(entry["dropped"] for entry in index.values()),
    }


def _known(output: Path, fingerprint: str) -> dict[str, dict[str, Any]]:
    """What index.json says was computed before by the same features and code."""
    try:
        index = json.loads((output / INDEX).read_bytes())
        return dict(index["partitions"]) if index["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):  # absent or broken: everything is computed
        return {}


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
    if lacking := [c for c in plan.kept if c not in parquet.schema_arrow.names]:
        raise StageError(
            f"partition {key} of {plan.source} has no column {lacking[0]!r}, which {plan.model} needs; if the file has"
            " it now, ingest it again with `replace`; if the source has the column only since then, let the model's"
            " `window` begin there, or leave the column out of the features"
        )
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    writer: pq.ParquetWriter | None = None
    rows = read = 0
    filled: dict[str, int] = {}
    raw_filled = dict.fromkeys(plan.feature_set.inputs, 0)
    batches = parquet.iter_batches(BATCH_ROWS, columns=list(plan.kept))
    try:
        for table, counts, raw_counts, seen in _ahead(_compute(batch, plan, key) for batch in batches):
            read += seen
            rows += table.num_rows
            _add(filled, counts)
            _add(raw_filled, raw_counts)
            if not table.num_rows:
                continue
            if writer is None:
                dictionaries, others = _encodings(table)
                writer = pq.ParquetWriter(
                    temporary,
                    table.schema,
                    compression="lz4",
                    use_dictionary=dictionaries,
                    column_encoding=others,
                    write_statistics=False,
                )
            writer.write_table(table, row_group_size=BATCH_ROWS)
        if writer is None:
            raise StageError(
                f"partition {key} of {plan.source}: none of its {read} rows has a value of the target {plan.target!r};"
                " quarantine it by an expectation on that column"
            )
        writer.close()
        _refuse_empty(plan, key, filled, raw_filled, rows)
        size = temporary.stat().st_size
        temporary.replace(file)  # no fsync: the folder is private, and DVC's hashes tell what a power cut spoilt
    except _Beyond as found:
        (column,) = found.args
        raise _beyond(plan, key, column, parquet.read([column]).column(column)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return {"rows": rows, "dropped": read - rows, "bytes": size, "filled": filled}


_Piece = tuple["pa.Table", dict[str, int], dict[str, int], int]


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
        batch = schemas.cast_table(batch.select(plan.kept), plan.types)
    except schemas.SchemaError as error:
        raise StageError(schemas.outdated(plan.source, key, error)) from error
    missing = is_missing(_plain_values(batch, plan.target))
    if missing.any():
        batch = batch.filter(pa.array(~missing))
    names, arrays = list(batch.schema.names), list(batch.columns)
    counts: dict[str, int] = {}
    if not batch.num_rows:
        return pa.Table.from_batches([batch]).slice(0, 0), counts, {}, seen
    try:
        raw = cols.from_arrow(batch, plan.feature_set.inputs)
        with np.errstate(all="ignore"):
            computed = plan.feature_set.compute(raw)
    except (ColumnError, FeatureError, FormulaError) as error:
        raise StageError(f"partition {key} of {plan.source}: {error}") from error
    _refuse_infinite(raw, _plain_values(batch, plan.target), plan)
    for name, values in computed.items():
        array, present = _to_array(values, name, plan, key)
        counts[name] = present
        if name not in plan.feature_set.inputs:
            names.append(name)
            arrays.append(array)
    raw_counts = {name: batch.num_rows - batch.column(name).null_count for name in plan.feature_set.inputs}
    return pa.Table.from_arrays(arrays, names=names), counts, raw_counts, seen


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


def _add(totals: dict[str, int], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count


def _refuse_empty(plan: Plan, key: str, filled: dict[str, int], raw_filled: dict[str, int], rows: int) -> None:
    """A computed feature without any value, from inputs that have values, is a fault of the features."""
    if rows < 20 or not all(raw_filled.values()):
        return
    for name, count in filled.items():
        if not count and name not in plan.feature_set.inputs:
            raise StageError(
                f"partition {key} of {plan.source}: the feature {name!r} has no value in any of {rows} rows, although"
                " all inputs have some; correct its formula or definition"
            )


def _refuse_empty_features(plan: Plan, index: dict[str, dict[str, Any]]) -> None:
    """A feature without a value in any partition cannot be learned from."""
    rows = sum(entry["rows"] for entry in index.values())
    for name in plan.feature_set.kinds:
        if index and not any(entry["filled"].get(name) for entry in index.values()):
            raise StageError(
                f"the feature {name!r} of {plan.model} has no value in any of {rows} rows of {len(index)} partitions;"
                f" leave it out with `exclude: [{name}]`, or correct what makes it"
            )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


# ------------------------------------------------------------------------------------------------ as a process


def end_with_owner(lock: Path) -> None:
    """End this process as soon as the owner of the workspace is dead, however it died.

    The owner holds an exclusive lock on the file, which the kernel frees with the process; a thread waits for
    just that. Without such a file there is no owner.
    """
    if not lock.exists():
        return

    def wait() -> None:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            os._exit(70)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run the stage in the current folder; the exit status is 1 when result.json holds an error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m include.features.stage MODEL, in a workspace of include.features.versions\n")
        return 2
    workspace = Path.cwd()
    end_with_owner(workspace / OWNER_LOCK)
    (model,) = arguments
    try:
        location = json.loads((workspace / "run.json").read_bytes())
        plan = read_plan(workspace, model)
        result = run(plan, workspace / "features" / model, location["data_url"])
    except (StageError, FeatureError, storage.StorageError) as error:
        sys.stderr.write(f"{error}\n")
        storage.write_bytes(str(workspace / RESULT), _json({"error": str(error), "kind": type(error).__name__}))
        return 1
    storage.write_bytes(str(workspace / RESULT), _json(result))
    if sys.stdout.isatty():  # for who runs `dvc repro` by hand; a task says it in its own line
        sys.stdout.write(
            f"{model}: {len(result['computed'])} partitions computed, {result['reused']} unchanged,"
            f" {result['rows']} rows, {result['dropped']} without a target\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
