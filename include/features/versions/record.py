"""The record of feature versions in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database
from include.features import known_columns
from include.settings import Model


class FeatureVersionError(RuntimeError):
    """A version cannot be built, pushed or brought back; the message says why and what to do."""


@dataclass(frozen=True)
class RecordedVersion:
    """A version as `feature_versions` has it: `inputs` is partition key → SHA-256 of what was read."""

    model: str
    version: str
    dvc_lock: str
    inputs: dict[str, str] = field(repr=False)
    rows: int


def published(connection: sa.Connection, entry: Model) -> dict[str, str]:
    """The newest published partitions of the model's window, in order: key → SHA-256."""
    table = database.partitions
    query = (
        sa.select(table.c.key, table.c.sha256)
        .where(table.c.source == entry.source, table.c.status == "published")
        .order_by(table.c.key.desc())
        .limit(entry.window)
    )
    return dict(sorted(connection.execute(query).tuples().all()))


def latest(database_url: str, model: str) -> RecordedVersion | None:
    """The newest recorded version of a model's features, if there is one."""
    with database.connected(database_url) as engine:
        return newest(engine, model)


def recorded(database_url: str, model: str, version: str) -> RecordedVersion:
    """A recorded version.

    Raises:
        FeatureVersionError: there is none of that name.
    """
    table = database.feature_versions
    with database.connected(database_url) as engine, engine.connect() as connection:
        query = sa.select(table).where(table.c.model == model, table.c.version == version)
        row = connection.execute(query).one_or_none()
        known = sa.select(table.c.version).where(table.c.model == model).order_by(table.c.sequence.desc()).limit(5)
        if row is None:
            names = ", ".join(connection.execute(known).scalars()) or "none"
            raise FeatureVersionError(f"{model} has no feature version {version!r}; the newest are: {names}")
        return _from_row(row)


def newest(engine: sa.Engine, model: str) -> RecordedVersion | None:
    """As `latest`, of a connected database."""
    table = database.feature_versions
    query = sa.select(table).where(table.c.model == model).order_by(table.c.sequence.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return _from_row(row) if row else None


def _from_row(row: Any) -> RecordedVersion:
    return RecordedVersion(row.model, row.version, row.dvc_lock, dict(row.inputs), row.rows)


def record(engine: sa.Engine, made: RecordedVersion, source: str, columns: Sequence[str] | None) -> None:
    """Make a version the latest, with the columns that it took; one that is it already is left as it is."""
    table = database.feature_versions
    known = newest(engine, made.model)
    values = {"dvc_lock": made.dvc_lock, "inputs": made.inputs, "rows": made.rows}
    statement = postgresql.insert(table).values(model=made.model, version=made.version, **values)
    again = {
        **values,
        "sequence": sa.func.nextval(sa.func.pg_get_serial_sequence(table.name, "sequence")),
        "created_at": sa.func.now(),
    }
    with engine.begin() as connection:
        known_columns.record(connection, made.model, source, columns)
        if known and known.version == made.version and known.inputs == made.inputs:
            return
        connection.execute(statement.on_conflict_do_update(index_elements=["model", "version"], set_=again))
