"""What this platform registered, in PostgreSQL: what MLflow holds counts only as far as it agrees with this record.

Write access to MLflow is enough to register a version there, and to set its tags. A version without a record here, or
with other content than was recorded, is neither judged nor packed nor tried.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database


@dataclass(frozen=True)
class Anchor:
    """A registered version, as it was when its files had been read back."""

    model: str
    version: int
    content_hash: str
    evidence_hash: str | None
    """SHA-256 of the evidence's split.json; None for versions from before it was recorded."""
    run_id: str | None
    feature_version: str | None


class NotAnchored(RuntimeError):
    """This platform did not register the version, or not with this content."""


def record(engine: sa.Engine, anchor: Anchor) -> None:
    """Note a registered version; the same again changes nothing.

    Raises:
        NotAnchored: it was recorded before, with other content.
    """
    table = database.registered_versions
    with engine.begin() as connection:
        connection.execute(postgresql.insert(table).values(**asdict(anchor)).on_conflict_do_nothing())
        known = _read(connection, anchor.model, anchor.version)
    if known is None or known.content_hash != anchor.content_hash:
        raise NotAnchored(
            f"{anchor.model} version {anchor.version} was registered before with other content; MLflow's database is"
            " not the one that this platform's PostgreSQL belongs to, or was set back. Start a new training"
        )


def recorded(database_url: str, model: str, version: int) -> Anchor:
    """The record of a version.

    Raises:
        NotAnchored: there is none.
    """
    with database.connected(database_url) as engine, engine.connect() as connection:
        found = _read(connection, model, version)
    if found is None:
        raise NotAnchored(
            f"{model} version {version} was not registered by this platform: PostgreSQL has no record of it, whatever"
            f" MLflow says. If train_{model} was interrupted, clear its task `register`; else delete the version in"
            " MLflow"
        )
    return found


def versions(database_url: str, model: str) -> list[int]:
    """The versions of a model that are recorded, in order."""
    table = database.registered_versions
    with database.connected(database_url) as engine, engine.connect() as connection:
        query = sa.select(table.c.version).where(table.c.model == model).order_by(table.c.version)
        return list(connection.execute(query).scalars())


def _read(connection: sa.Connection, model: str, version: int) -> Anchor | None:
    table = database.registered_versions
    columns = [table.c[name] for name in Anchor.__dataclass_fields__]
    query = sa.select(*columns).where(table.c.model == model, table.c.version == version)
    row = connection.execute(query).one_or_none()
    return Anchor(**row._mapping) if row else None
