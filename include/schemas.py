"""One type for each column of a source, whatever a single partition holds.

A type is declared under the source's `types`, else learned from the first partition that has values (and recorded:
schema_record.py). A partition whose values fit is stored in that type: 3.0 in a column
of whole numbers, 3 in one of floats. Where they do not, the column becomes wider if nothing is lost by it, for all
partitions alike:

    int → float       where no value on either side is beyond 2^53, up to which floats hold every whole number
    date → timestamp

Anything else is refused, by name. What was published before is not written again: whoever reads a partition gets it in
the source's types of now (`cast`). Missing values fit everywhere, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    import pyarrow as pa

    from include.settings import ColumnType

EXACT = 2**53
"""The largest of the whole numbers up to which every one is exactly a float64."""

Types: TypeAlias = "Mapping[str, ColumnType]"
_WIDER: dict[frozenset[str], ColumnType] = {
    frozenset({"int", "float"}): "float",
    frozenset({"date", "timestamp"}): "timestamp",
}
_Table = TypeVar("_Table", "pa.Table", "pa.RecordBatch")


class SchemaError(ValueError):
    """Values do not fit a column's type; the message names the column, the value or partition, and the remedy.

    Attributes:
        column: the column, where it is known.
    """

    def __init__(self, message: str, column: str = "") -> None:
        super().__init__(message)
        self.column = column


# ------------------------------------------------------------------------------------------------ types and values


def arrow_type(kind: ColumnType) -> pa.DataType:
    """How values of a type are stored."""
    import pyarrow as pa

    return {
        "float": pa.float64(),
        "int": pa.int64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us"),
        "date": pa.date32(),
    }[kind]


def type_of(kind: pa.DataType) -> ColumnType:
    """The settings' name of an Arrow type; text for whatever has none of its own."""
    import pyarrow.types as at

    if at.is_boolean(kind):
        return "bool"
    if at.is_integer(kind):
        return "int"
    if at.is_floating(kind) or at.is_decimal(kind) or at.is_null(kind):
        return "float"
    if at.is_timestamp(kind):
        return "timestamp"
    return "date" if at.is_date(kind) else "string"


def types_of(table: pa.Table) -> dict[str, ColumnType]:
    """The types of a table's columns, without those in which every value is missing."""
    columns = ((name, table.column(name)) for name in table.column_names)
    return {name: type_of(values.type) for name, values in columns if values.null_count < len(values)}


def wider(one: ColumnType, other: ColumnType) -> ColumnType | None:
    """The type that holds the values of both, if there is one."""
    return one if one == other else _WIDER.get(frozenset({one, other}))


def cast_column(values: Any, kind: ColumnType) -> Any:
    """A column (an Arrow array, chunked or not) in a type that holds all of its values exactly.

    Raises:
        SchemaError: with the first value that the type cannot hold.
    """
    target = arrow_type(kind)
    if values.type == target:
        return values
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count == len(values):
        return _nulls(values, target)
    have = type_of(values.type)
    if {have, kind} == {"int", "float"}:
        plain = values.cast(pa.int64() if have == "int" else pa.float64())
        if have == "float":
            plain = pc.if_else(pc.is_nan(plain), pa.scalar(None, pa.float64()), plain)
        wrong = pc.or_(pc.greater(plain, EXACT), pc.less(plain, -EXACT))
        if have == "float":
            wrong = pc.or_(wrong, pc.not_equal(plain, pc.trunc(plain)))
        _refuse_first(values, wrong, kind)
        return plain.cast(target)
    if have == "timestamp" and kind == "date":
        days = values.cast(pa.timestamp("us")).cast(target, safe=False)
        _refuse_first(values, pc.not_equal(days.cast(pa.timestamp("us")), values.cast(pa.timestamp("us"))), kind)
        return days
    if have == kind or (have == "date" and kind == "timestamp"):
        return values.cast(target)
    first = pc.index(values.is_valid(), True).as_py()
    raise SchemaError(f"{values[first].as_py()!r} is {have}, not {kind}")


def _nulls(values: Any, target: pa.DataType) -> Any:
    import pyarrow as pa

    nulls = pa.nulls(len(values), target)
    return pa.chunked_array([nulls]) if isinstance(values, pa.ChunkedArray) else nulls


def _refuse_first(values: Any, wrong: Any, kind: ColumnType) -> None:
    import pyarrow.compute as pc

    place = pc.index(wrong, True).as_py()
    if place >= 0:
        raise SchemaError(f"{values[place].as_py()} cannot be held exactly as {kind}")


def cast_table(table: _Table, types: Types) -> _Table:
    """The same rows, each column that `types` names in its type; other columns stay as they are.

    Raises:
        SchemaError: a column holds a value that its type cannot hold.
    """
    changed = {}
    for name, kind in types.items():
        if name in table.schema.names and table.schema.field(name).type != arrow_type(kind):
            try:
                changed[name] = cast_column(table.column(name), kind)
            except SchemaError as error:
                raise SchemaError(f"column {name}: {error}", name) from error
    if not changed:
        return table
    columns = [changed.get(name, table.column(name)) for name in table.schema.names]
    return cast("_Table", type(table).from_arrays(columns, names=table.schema.names))


# ------------------------------------------------------------------------------------------------------ to unite


@dataclass(frozen=True)
class United:
    """A table in the types of its source.

    Attributes:
        table: its columns cast, except those in `conflicts`.
        types: column → type, of the source from now on; the columns of this table that have values.
        changes: column → what became of its type, in words: `int → float`.
        conflicts: column → why its values do not fit, in words.
    """

    table: pa.Table
    types: dict[str, ColumnType]
    changes: dict[str, str]
    conflicts: dict[str, str]


def unite(table: pa.Table, known: Types, *, fixed: Collection[str] = (), largest: Callable[[str], int]) -> United:
    """A table in the known types, or in wider ones where that loses nothing.

    Args:
        table: rows of one partition.
        known: column → type so far.
        fixed: columns whose type is declared, and is not widened.
        largest: column → the largest absolute value that its whole numbers have elsewhere.
    """
    import pyarrow as pa

    columns, types = [], {}
    changes: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for name in table.column_names:
        values, kind = table[name], known.get(name)
        have = None if values.null_count == len(values) else type_of(values.type)
        decided = kind or have
        try:
            if kind is not None and have is not None:
                decided = kind if _fits(values, kind) else _widen(name, values, kind, name in fixed, largest)
            if decided is not None:
                values = cast_column(values, decided)
        except SchemaError as reason:
            conflicts[name], decided = str(reason), kind
        else:
            if kind is not None and decided != kind:
                changes[name] = f"{kind} → {decided}"
        columns.append(values)
        if decided is not None and have is not None:
            types[name] = decided
    return United(pa.table(columns, names=table.column_names), types, changes, conflicts)


def _fits(values: Any, kind: ColumnType) -> bool:
    try:
        cast_column(values, kind)
    except SchemaError:
        return False
    return True


def _widen(name: str, values: Any, kind: ColumnType, fixed: bool, largest: Callable[[str], int]) -> ColumnType:
    """The wider type that holds the column's values here and elsewhere."""
    found = None if fixed else wider(kind, type_of(values.type))
    if found in (None, kind):
        cast_column(values, kind)  # raises: nothing is wider
    elif kind == "int" and (beyond := largest(name)) > EXACT:
        raise SchemaError(f"earlier partitions hold whole numbers up to {beyond}, which {found} cannot hold exactly")
    return found or kind


def concat(parts: Sequence[tuple[str, pa.Table]]) -> pa.Table:
    """The rows of some tables in order, columns united by name and type; one that a table lacks is missing in its rows.

    Args:
        parts: (name, table); the names stand in errors.

    Raises:
        SchemaError: with the column, both tables and both types.
    """
    import pyarrow as pa

    types: dict[str, ColumnType] = {}
    origin: dict[str, str] = {}
    for part, table in parts:
        for name, have in types_of(table).items():
            known = types.get(name)
            common = have if known is None else wider(known, have)
            if common is None:
                raise SchemaError(f"column {name} is {known} in {origin[name]} and {have} in {part}")
            if common != known:
                types[name], origin[name] = common, part
    cast_parts = []
    for part, table in parts:
        try:
            cast_parts.append(cast_table(table, types))
        except SchemaError as error:
            raise SchemaError(f"{part}: {error}, which {origin[error.column]} needs", error.column) from error
    return pa.concat_tables(cast_parts, promote_options="default")


def largest(values: Any) -> int:
    """The largest absolute value of a column of whole numbers."""
    import pyarrow.compute as pc

    bounds = pc.min_max(values).as_py()
    return int(max(abs(bounds["min"] or 0), abs(bounds["max"] or 0)))


def outdated(source: str, key: str, error: SchemaError) -> str:
    """What to do about a published partition that does not fit its source's types."""
    return f"source {source}, partition {key}: {error}; ingest the partition again with `replace`"
