"""A subject forgotten: its predictions and labels in PostgreSQL, and their text on the disk of both."""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa

from include import storage
from include.database import labels, predictions, spool_positions
from include.serving.prediction_log import segments
from include.serving.prediction_log.copy_text import COLUMNS
from include.text import did_you_mean

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
_TABLE = re.compile(r"predictions_\d+|labels")
UNFINISHED = "unfinished.json"
"""In the spool: PostgreSQL's tables whose files may have rows that were deleted to be forgotten."""


@dataclass(frozen=True)
class Forgotten:
    """What was deleted of a subject."""

    predictions: int
    labels: int
    refused: int = 0
    """Lines on the service's disk that PostgreSQL had refused."""
    remains: tuple[str, ...] = field(default=(), compare=False)
    """Where text of such rows may be yet, and why."""
    tables: tuple[str, ...] = field(default=(), compare=False)
    """PostgreSQL's tables that were written anew, since a deleted row stays in their files."""

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to delete."""
        return not (self.predictions or self.labels or self.refused or self.tables)


class NoSubject(ValueError):
    """It is not clear whose rows are to be deleted, or the id is none."""


def forget(
    engine: sa.Engine,
    model: str,
    *,
    entity: str | None = None,
    prediction_id: str | None = None,
    folder: Path,
    seconds: float = 30,
) -> Forgotten:
    """Delete a subject's predictions of a model, and the labels that belong to them, and their text on the disk.

    What queries find is deleted in one transaction. Then the text goes: what the spool has (refused lines, drained
    segments, the segments that are being written: see `segments.erase` and `segments.let_go`), and what PostgreSQL's
    files have of deleted rows. Rows that the service has not copied yet come after: see `wait_until_copied`. It may be
    run again, and goes on where it was stopped.

    Args:
        engine: the platform's database.
        model: the model's name.
        entity: whom the rows are about.
        prediction_id: or which answer: 32 hexadecimal digits, as the service gave it.
        folder: the spool of this machine's service.
        seconds: how long to wait for the service, and for whoever reads PostgreSQL's tables.

    Raises:
        NoSubject: neither or both of entity and prediction id are given, or the id is not one.
    """
    if (entity is None) == (prediction_id is None):
        raise NoSubject("name either an entity or a prediction id, whose rows are to be deleted")
    one = None if prediction_id is None else _id(prediction_id)
    refused = _refused_ids(folder, model, entity) if one is None else {one}
    deleted = _delete_rows(engine, model, entity, one, refused, folder)
    lines = _erase(engine, folder, model, entity, refused | deleted.ids)
    waiting = segments.let_go(folder, seconds)
    remains = [
        f"the service still writes to what has the text ({slot}): see that it runs and reaches PostgreSQL (`mlops"
        " status`), or stop it"
        for slot in waiting
    ]
    if deleted.tables and (why := _write_anew(engine, deleted.tables, deleted.transaction, seconds)):
        remains.append(why)
    else:
        _note_unfinished(folder, set())
    tables = tuple(sorted(deleted.tables))
    return Forgotten(deleted.predictions, deleted.labels, lines, tuple(remains), tables)


@dataclass(frozen=True)
class _Deleted:
    """What one transaction deleted."""

    predictions: int
    labels: int
    ids: set[str]
    """Of the predictions; a shadow has the id of the answer that it stands beside."""
    tables: set[str]
    """Those whose files have the rows yet, those of earlier calls among them."""
    transaction: str


def _delete_rows(
    engine: sa.Engine, model: str, entity: str | None, one: str | None, refused: set[str], folder: Path
) -> _Deleted:
    p, given = predictions, labels
    of_subject = p.c.entity == entity if one is None else p.c.id == one
    ids = sa.select(p.c.id).where(p.c.model == model, of_subject)
    mine = sa.or_(
        given.c.prediction_id.in_(ids),
        given.c.prediction_id.in_(refused),
        *([given.c.entity == entity] if entity is not None else []),
    )
    table: sa.ColumnElement[str] = sa.literal_column("predictions.tableoid::regclass::text")
    with engine.begin() as connection:
        labels_gone = connection.execute(given.delete().where(given.c.model == model, mine).returning(given.c.id)).all()
        deletion = p.delete().where(p.c.model == model, p.c.id.in_(ids)).returning(p.c.id, table)
        gone = [(str(found), str(where)) for found, where in connection.execute(deletion)]
        tables = {*(where for _, where in gone), *(["labels"] if labels_gone else []), *_unfinished(folder)}
        _note_unfinished(folder, tables)  # before it is committed: a repeated call finds no row to say where
        last = connection.execute(sa.text("select pg_current_xact_id()::xid::text")).scalar_one()
    return _Deleted(len(gone), len(labels_gone), {found for found, _ in gone}, tables, last)


def _unfinished(folder: Path) -> list[str]:
    """The tables whose files an earlier call could not write anew."""
    try:
        return [name for name in json.loads((folder / UNFINISHED).read_bytes()) if _TABLE.fullmatch(name)]
    except FileNotFoundError:
        return []


def _note_unfinished(folder: Path, tables: Collection[str]) -> None:
    if tables:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage.write_bytes(str(folder / UNFINISHED), json.dumps(sorted(tables)).encode(), reserve=0)
    else:
        (folder / UNFINISHED).unlink(missing_ok=True)


def _write_anew(engine: sa.Engine, tables: Collection[str], deleted: str, seconds: float) -> str:
    """Write tables' files anew, without what was deleted, and let PostgreSQL's log of changes (WAL) go.

    Args:
        engine: the platform's database.
        tables: their names.
        deleted: the transaction that deleted the rows: who began before it may still read them.
        seconds: how long to wait for those, and for each table.

    Returns:
        Why it could not be done; empty: it was.
    """
    older = sa.text(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_xmin is not null and age(backend_xmin) >= age(cast(:deleted as xid))"
    )
    deadline = time.monotonic() + seconds
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(older, {"deleted": deleted}).scalar_one():
            if time.monotonic() > deadline:
                return "a transaction in PostgreSQL that began before still sees the rows (pg_stat_activity): end it"
            time.sleep(0.1)
        try:
            connection.execute(sa.text(f"set lock_timeout = '{max(1, int(seconds * 1000))}ms'"))
            _vacuum(connection, tables)
        except sa.exc.DBAPIError as error:
            if (why := _REASONS.get(getattr(error.orig, "pgcode", None) or "")) is None:
                raise
            return why
        finally:
            connection.execute(sa.text("reset lock_timeout"))
    return ""


_REASONS = {
    "55P03": "a table is read at this moment (pg_stat_activity), so that its file could not be written anew",
    "42501": (
        "PostgreSQL does not let this role write a checkpoint, so that its log of changes (WAL) may have"
        " the rows: grant it pg_checkpoint and pg_switch_wal() (`make up` does), or have it done"
    ),
}
"""PostgreSQL's code of an error that a later call may not meet → what it means here."""


def _vacuum(connection: sa.Connection, tables: Collection[str]) -> None:
    there = sa.text("select to_regclass(:table) is not null")
    for table in sorted(tables):
        if connection.execute(there, {"table": table}).scalar_one():  # else its day has ended meanwhile
            connection.execute(sa.text(f"vacuum (full, analyze) {table}"))
    connection.execute(sa.text("select pg_switch_wal()"))
    connection.execute(sa.text("checkpoint"))


def _id(text: str) -> str:
    """A prediction id as PostgreSQL writes it."""
    try:
        return str(uuid.UUID(hex=text)) if re.fullmatch(r"[0-9a-fA-F-]{32,36}", text) else _no_id(text)
    except ValueError:
        return _no_id(text)


def _no_id(text: str) -> NoReturn:
    raise NoSubject(f"{text!r} is not a prediction id: it has 32 hexadecimal digits, as `prediction_id` in an answer")


def _fields(table: str, line: bytes) -> dict[str, str | None]:
    """A line of COPY text by its columns' names."""
    names = COLUMNS[table].split(", ")
    values = line.decode("utf-8", "replace").rstrip("\n").split("\t")
    return dict(zip(names, map(_copied, values), strict=False))


def _copied(field: str) -> str | None:
    return None if field == "\\N" else _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), field)


def _refused_ids(folder: Path, model: str, entity: str | None) -> set[str]:
    """The ids of an entity's predictions that PostgreSQL refused: labels may have come for them."""
    found = set()
    for _, table, lines in segments.rejected(folder):
        for line in lines if table == "predictions" else ():
            fields = _fields(table, line)
            if fields.get("model") == model and fields.get("entity") == entity:
                with contextlib.suppress(NoSubject):
                    found.add(_id(fields["id"] or ""))
    return found


def _erase(engine: sa.Engine, folder: Path, model: str, entity: str | None, ids: Collection[str]) -> int:
    plain = {each.replace("-", "") for each in ids}

    def is_subject(table: str, line: bytes) -> bool:
        fields = _fields(table, line)
        about = fields.get("id" if table == "predictions" else "prediction_id") or ""
        mine = entity is not None and fields.get("entity") == entity
        return fields.get("model") == model and (mine or about.replace("-", "").lower() in plain)

    with engine.connect() as connection:
        rows = connection.execute(sa.select(spool_positions)).all()
    return segments.erase(folder, {slot: segments.Position(*at) for slot, *at in rows}, is_subject)


def nearest_entity(engine: sa.Engine, model: str, entity: str) -> str:
    """`; did you mean 'c-17'?` for an entity that is named nearly so in a model's newest predictions, else nothing."""
    p = predictions
    newest = sa.select(p.c.entity).where(p.c.model == model, p.c.entity.is_not(None)).order_by(p.c.at.desc())
    with engine.connect() as connection:
        known = dict.fromkeys(connection.execute(newest.limit(20_000)).scalars())
    return did_you_mean(entity, known)


def wait_until_copied(engine: sa.Engine, folder: Path, seconds: float) -> bool:
    """Wait until what the services of this machine have written to their spool is in PostgreSQL; whether it is."""
    ends = dict(segments.ends(folder))
    deadline = time.monotonic() + seconds
    while ends:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(spool_positions).where(spool_positions.c.slot.in_(list(ends)))).all()
        for slot, segment, position in rows:
            if segments.Position(segment, position) >= ends[slot]:
                del ends[slot]
        if ends and time.monotonic() > deadline:
            return False
        if ends:
            time.sleep(0.1)
    return True
