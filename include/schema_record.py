"""The types of each source's columns in PostgreSQL: learned from what is published, with every change of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from include import storage
from include.database import lock_in_transaction, source_schemas
from include.database import partitions as partitions_table
from include.schemas import SchemaError, Types, largest, type_of, types_of, wider
from include.settings import ColumnType


def recorded(connection: sa.Connection, source: str) -> dict[str, ColumnType]:
    """Column → type, as the source's published partitions have taught."""
    table = source_schemas
    query = sa.select(table.c.column, table.c.type).where(table.c.source == source)
    return {name: cast(ColumnType, kind) for name, kind in connection.execute(query)}


def learned(engine: sa.Engine, source: str, data_url: str, declared: Types) -> dict[str, ColumnType]:
    """`recorded`, with what partitions teach that were published without a note of their types, before there was one.

    Such a partition is read once, and its types are noted then. Declared types are taken as they are.

    Raises:
        SchemaError: published partitions hold types of one column that cannot be united.
    """
    with engine.begin() as connection:
        lock_in_transaction(connection, f"schema:{source}")
        types = recorded(connection, source)
        origin = dict.fromkeys(types, "the others")
        for key in [key for key, noted in _published(connection, source).items() if noted is None]:
            found = types_of(storage.read_table(_url(data_url, source, key)))
            for name, kind in found.items():
                known = types.get(name)
                common = declared.get(name) or (kind if known is None else wider(known, kind))
                if common is None:
                    raise SchemaError(
                        f"source {source}: column {name} is {known} in {origin[name]} and {kind} in {key};"
                        " declare it under the source's `types`, and ingest these partitions again with `replace`"
                    )
                if common != known:
                    _set(connection, source, name, common, key, known)
                    types[name], origin[name] = common, key
            _note(connection, source, key, found)
        return types


def _note(connection: sa.Connection, source: str, key: str, types: Types) -> None:
    table = partitions_table
    addition = sa.cast({"types": dict(types)}, table.c.report.type)
    here = (table.c.source == source) & (table.c.key == key)
    connection.execute(sa.update(table).where(here).values(report=table.c.report.op("||")(addition)))


def known_without(
    engine: sa.Engine, source: str, data_url: str, replaced: Iterable[str], declared: Types
) -> dict[str, ColumnType]:
    """The recorded types that other published partitions than `replaced` stand for.

    Raises:
        SchemaError: as `learned`.
    """
    types = learned(engine, source, data_url, declared)
    without = frozenset(replaced)
    with engine.connect() as connection:
        noted = _published(connection, source)
    supported = {name for key, kinds in noted.items() if key not in without for name in kinds or ()}
    return {name: kind for name, kind in types.items() if name in supported}


def largest_published(engine: sa.Engine, source: str, data_url: str, column: str, without: Collection[str]) -> int:
    """The largest absolute value of a column of whole numbers in the published partitions, `without` some."""
    beyond = 0
    with engine.connect() as connection:
        keys = [key for key in _published(connection, source) if key not in without]
    for key in keys:
        table = storage.read_table(_url(data_url, source, key))
        if column in table.column_names and type_of(table[column].type) == "int":
            beyond = max(beyond, largest(table[column]))
    return beyond


def record(connection: sa.Connection, source: str, key: str, decided: Types, before: Types) -> None:
    """Note the types that a partition was stored in, in the transaction that publishes it.

    Args:
        connection: inside a transaction.
        source: its name.
        key: the partition.
        decided: column → type, of the columns that have values.
        before: column → type as it was recorded when the partition was judged.

    Raises:
        SchemaError: another run has since recorded a type that does not go with it.
    """
    now = recorded(connection, source)
    for name, kind in decided.items():
        known = now.get(name)
        if known == kind:
            continue
        new = kind if known == before.get(name) else wider(known, kind) if known else kind
        if new is None:
            raise SchemaError(
                f"column {name} is {kind} here, and has become {known} since; validate the partition again"
            )
        if new != known:
            _set(connection, source, name, new, key, known)


def _set(
    connection: sa.Connection, source: str, name: str, kind: ColumnType, key: str, before: ColumnType | None
) -> None:
    table = source_schemas
    entry = [{"type": kind, "from": before, "partition": key}]
    new = insert(table).values(source=source, column=name, type=kind, history=entry)
    changes = {"type": kind, "history": table.c.history.op("||")(new.excluded.history), "since": sa.func.now()}
    connection.execute(new.on_conflict_do_update(index_elements=["source", "column"], set_=changes))


def _published(connection: sa.Connection, source: str) -> dict[str, dict[str, ColumnType] | None]:
    """Key → the types that were noted when the partition was published; None for one of before."""
    table = partitions_table
    query = (
        sa.select(table.c.key, table.c.report["types"])
        .where(table.c.source == source, table.c.status == "published")
        .order_by(table.c.key)
    )
    return dict(connection.execute(query).tuples().all())


def _url(data_url: str, source: str, key: str) -> str:
    return storage.join(data_url, "validated", source, f"{key}.parquet")
