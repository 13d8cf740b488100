"""Where data comes from: one module per `type` in params.yaml, all with the same four functions.

    columns(source)     the columns and their types; cheap: at most the head of one file is read
    read(source, keys, known)  (key, table) for each partition; a file that holds many days is read once
    newest(source)      a table of the newest rows, and whether those are all that there are; at most one file is read
    days(source, today) the days there seems to be data for, of a source with time
    health(source)      whether the source can be reached now

To add a type of source: a class in `include/settings.py`, and a module here named like its `type`.
A table that `read` yields may carry the column `_reason`: rows that have one do not belong to the partition, and
are quarantined with that reason. Where a file covers several days, the tables' metadata may hold the share of its rows
that belong to none of them (`ASTRAY`).
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa

from include.schemas import Types
from include.schemas import type_of as column_type
from include.settings import ColumnType, Source
from include.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["column_type"]

REASON = "_reason"
ASTRAY = b"astray"


class SourceError(RuntimeError):
    """Data could not be had; the message names the place and the remedy."""


class SourceUnavailable(SourceError):
    """The source did not answer after bounded retries. Trying later may help."""


class UnreadablePartitions(SourceError):
    """What was found for some partitions cannot be read as data. A retry reads the same bytes again.

    Attributes:
        keys: the partitions it concerns; the others can be read by asking for them alone.
    """

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class NothingFound(UnreadablePartitions):
    """No file holds these partitions."""


@dataclass(frozen=True)
class Health:
    """Whether a source can be reached, and what was seen."""

    ok: bool
    message: str


class SourceType(Protocol):
    """What a module of this package provides."""

    def columns(self, source: Any) -> dict[str, ColumnType]:
        """The columns and their types."""

    def read(self, source: Any, keys: Sequence[str], known: Types) -> Iterator[tuple[str, pa.Table]]:
        """Each of the partitions, once, derived columns included; `known` are the columns' types in earlier ones."""

    def newest(self, source: Any) -> tuple[pa.Table, bool]:
        """The newest rows, and whether they are all."""

    def days(self, source: Any, today: dt.date) -> list[dt.date]:
        """The days there seems to be data for, up to `today`, oldest first."""

    def health(self, source: Any) -> Health:
        """Whether the source can be reached."""


def of_type(name: str) -> SourceType:
    """The module of a type of source."""
    return cast(SourceType, importlib.import_module(f"include.ingestion.sources.{name}"))


def columns_of(source: Source) -> dict[str, ColumnType]:
    """The columns of a source's partitions, those it derives included.

    Raises:
        SourceError: the source cannot be read.
        FormulaError: a derived column's formula is wrong, or names a column that is not there.
    """
    found = of_type(source.type).columns(source)
    if source.derive:
        sample = {name: _empty(kind) for name, kind in found.items()}
        for name, text in source.derive.items():
            values = _evaluate(name, text, sample)
            sample[name] = values
            found[name] = _kind(values)
    return found


def read_partitions(source: Source, keys: Sequence[str], known: Types | None = None) -> Iterator[tuple[str, pa.Table]]:
    """Read partitions, with the derived columns added.

    `known` are the types that the columns have in the partitions that are published: text that looks like numbers stays
    text where the column is text. Without it the earliest file decides.

    Raises:
        SourceUnavailable: after retries.
        UnreadablePartitions: naming the partitions; ask for the others again.
    """
    yield from of_type(source.type).read(source, keys, known or {})


def newest_rows(source: Source) -> tuple[pa.Table, bool]:
    """A table of the source's newest rows, with the derived columns, and whether those are all that there are.

    Raises:
        SourceError: the source cannot be read; what extraction would raise.
    """
    return of_type(source.type).newest(source)


def days_of(source: Source, today: dt.date) -> list[dt.date]:
    """The days, up to `today`, that a source with time seems to have data for, oldest first.

    Raises:
        SourceError: the source cannot be read.
    """
    return of_type(source.type).days(source, today)


def health_of(source: Source) -> Health:
    """Whether the source can be reached now; never raises."""
    try:
        return of_type(source.type).health(source)
    except SourceError as error:
        return Health(False, str(error))


# ------------------------------------------------------------------------------------------------ derived


def with_derived(table: pa.Table, formulas: Mapping[str, str]) -> pa.Table:
    """The table with the columns that formulas compute from it.

    A derived column is left out of a table that lacks what it is computed from, or holds it in another type; validation
    then shows the difference.
    """
    from include.formulas import Formula, FormulaError

    for name, text in formulas.items():
        needed = Formula(text).columns
        if not needed <= set(table.column_names):
            continue
        values = {column: to_numpy(table[column]) for column in needed}
        try:
            result = _evaluate(name, text, values, rows=table.num_rows)
        except (FormulaError, TypeError, ValueError):
            if all(array.dtype != object for array in values.values()):
                raise
            continue  # text where numbers or times are expected: validation names the column and its type
        array = pa.array(result, from_pandas=True)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, array)
        else:
            table = table.append_column(name, array)
    return table


def _evaluate(name: str, text: str, columns: dict[str, NDArray[Any]], rows: int = 0) -> NDArray[Any]:
    from include.formulas import Formula, FormulaError

    formula = Formula(text)
    if missing := formula.columns - set(columns):
        wrong = sorted(missing)[0]
        raise FormulaError(f"derive.{name}: the source has no column {wrong!r}{did_you_mean(wrong, columns)}")
    with np.errstate(all="ignore"):
        values = np.asarray(formula.evaluate(columns))
    if values.dtype == bool or np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.float64)
    return values if values.ndim else np.full(rows, values)


def _empty(kind: ColumnType) -> NDArray[Any]:
    return np.empty(0, {"string": "object", "timestamp": "M8[us]", "date": "M8[us]"}.get(kind, "f8"))


def _kind(values: NDArray[Any]) -> ColumnType:
    return {"O": "string", "U": "string", "M": "timestamp"}.get(values.dtype.kind, "float")  # type: ignore[return-value]


def to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as the formulas take it: float64 with NaN, object with None, or datetime64[us] with NaT."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), dtype="M8[us]")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
