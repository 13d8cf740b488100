"""The columns that a model of all columns takes: decided with its first feature version, changed by params.yaml alone.

A source gets columns over time: a new fee, an index that a program wrote by mistake. Were "all" whatever the newest
file has, each of them would change what the service demands of its callers. So the columns that all partitions of the
first version have are recorded, and later ones are inputs only where params.yaml names them: below the model's
`features`, or as what the source derives or renames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database
from include.features.columns import ColumnType
from include.features.compiler import compile_model
from include.features.feature_set import FeatureError
from include.settings import Model, Params, Source


def takes_all(entry: Model) -> bool:
    """Whether the model's inputs are all columns of its source, rather than those that it lists or defines."""
    return entry.features.columns is None and entry.features.definition is None


def decide(
    engine: sa.Engine, model: str, entry: Model, found: Collection[str], first: Callable[[], Sequence[str]]
) -> list[str]:
    """The columns to take: as recorded, else those that are there now.

    Args:
        engine: the platform's database.
        model: whose inputs.
        entry: the model's entry in params.yaml.
        found: the columns of the newest partition.
        first: the columns that all partitions have; called where nothing is recorded.
    """
    table = database.model_columns
    query = sa.select(table.c.columns).where(table.c.model == model, table.c.source == entry.source)
    with engine.connect() as connection:
        recorded = connection.execute(query).scalar_one_or_none()
    if recorded is not None:
        return list(recorded)
    shared = set(first())
    return [column for column in found if column in shared]


def require(columns: Collection[str], found: Collection[str], source: Source, entry: Model, partition: str) -> None:
    """Refuse a partition in which a column that the model takes is no longer there.

    Raises:
        FeatureError: with the column, and what can be done in each case.
    """
    edited = {*entry.features.exclude, *getattr(source, "rename", {}), *getattr(source, "exclude", ())}
    for column in columns:
        if column in found or column in edited:
            continue
        raise FeatureError(
            f"features: partition {partition} of {entry.source} has no column {column!r} any more, which is an input."
            f" If the file is at fault, correct it and ingest {partition} again with `replace`; if the column has a new"
            f" name, declare it in the source's `rename`; if it is gone for good, add `exclude: [{column}]`"
        )


def named(columns: Collection[str], source: Source) -> set[str]:
    """The columns to take, with those that params.yaml names at the source."""
    return {*columns, *source.derive, *getattr(source, "rename", {}).values()}


def left_out(
    params: Params, model: str, columns: Collection[str], types: Mapping[str, ColumnType], root: Path
) -> dict[str, str]:
    """The source's columns that are no inputs of a model that takes all, each with the reason, for a page to show.

    Args:
        params: params.yaml.
        model: its name there.
        columns: what was recorded for it.
        types: the columns that its source has by now.
        root: the repository.
    """
    known = named(columns, params.sources[params.models[model].source])
    try:
        return compile_model(params, model, types, root=root, known=known).left_out
    except FeatureError:
        return {}  # what is wrong is the next check's to say


def record(connection: sa.Connection, model: str, source: str, columns: Sequence[str] | None) -> None:
    """Note what was decided; None: the model lists its inputs itself, and nothing is to be remembered."""
    table = database.model_columns
    if columns is None:
        connection.execute(sa.delete(table).where(table.c.model == model))
        return
    values = {"source": source, "columns": list(columns)}
    statement = postgresql.insert(table).values(model=model, **values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["model"],
            set_={**values, "decided_at": sa.func.now()},
            where=table.c.source != source,
        )
    )
