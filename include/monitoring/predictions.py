"""The prediction log in PostgreSQL: counted by day, joined with its labels, kept for as long as declared, forgotten.

Days are UTC's throughout; each is a partition of the table `predictions`, which the service's drain makes on demand
and `make_partitions` ahead.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa

from include import storage
from include.database import labels, predictions, spool_positions
from include.serving.prediction_log import segments
from include.serving.prediction_log.shipper import COLUMNS
from include.text import did_you_mean

DAYS_AHEAD = 7
LOCK_SECONDS = 3
"""How long a partition's removal waits for whoever reads; everybody else waits behind it meanwhile."""
LOCK_ATTEMPTS = 5
CLOCKS = dt.timedelta(days=1)
"""How far a label's time of arrival may lie before its prediction's, by clocks that differ."""

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
_PARTITION = re.compile(r"predictions_(\d{4})(\d\d)(\d\d)")
_TABLE = re.compile(r"predictions_\d+|labels")
UNFINISHED = "unfinished.json"
"""In the spool: PostgreSQL's tables whose files may have rows that were deleted to be forgotten."""
_SCANS = (
    "set local jit = off; set local enable_seqscan = off; set local random_page_cost = 1.1;"
    " set local parallel_setup_cost = 0; set local parallel_tuple_cost = 0;"
    " set local min_parallel_table_scan_size = 0; set local min_parallel_index_scan_size = 0"
)
"""The index holds all that is counted; each day is one worker's job."""


# ------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Count:
    """What an arm of a model answered on a day."""

    day: dt.date
    version: int
    arm: str
    rows: int
    mean: float | None
    """Of the predictions that are numbers, or of the positive class's probabilities."""


@dataclass(frozen=True)
class Total:
    """What a model answered on a day, all arms together."""

    day: dt.date
    model: str
    rows: int
    mean: float | None


def counts(engine: sa.Engine, model: str, first: dt.date | None = None, last: dt.date | None = None) -> list[Count]:
    """The predictions of a model by day, version and arm, between two days, both included."""
    query = (
        "select date '{day}' as day, version, arm, count(*), avg(prediction) from {table}"
        " where model = :model group by version, arm"
    )
    found = _of_each_day(engine, query, first, last, model=model)
    return sorted((Count(*row) for row in found), key=lambda count: (count.day, count.version, count.arm))


def totals(engine: sa.Engine, first: dt.date | None = None, last: dt.date | None = None) -> list[Total]:
    """The predictions of all models by day, between two days, both included."""
    query = "select date '{day}' as day, model, count(*), avg(prediction) from {table} group by model"
    found = _of_each_day(engine, query, first, last)
    return sorted((Total(*row) for row in found), key=lambda total: (total.day, total.model))


def _of_each_day(
    engine: sa.Engine, query: str, first: dt.date | None, last: dt.date | None, **parameters: object
) -> list[sa.Row[tuple[object, ...]]]:
    with engine.connect() as connection:
        days = [
            day for day in partitions(connection) if (first is None or day >= first) and (last is None or day <= last)
        ]
        if not days:
            return []
        connection.execute(sa.text(_SCANS))
        parts = [query.format(day=day.isoformat(), table=_table(day)) for day in days]
        return list(connection.execute(sa.text(" union all ".join(parts)), parameters))


def partitions(connection: sa.Connection) -> list[dt.date]:
    """The days that have a partition, in order."""
    names = connection.execute(
        sa.text("select inhrelid::regclass::text from pg_inherits where inhparent = 'predictions'::regclass")
    ).scalars()
    return sorted(dt.date(*map(int, match.groups())) for name in names if (match := _PARTITION.fullmatch(name)))


def _table(day: dt.date) -> str:
    return f"predictions_{day:%Y%m%d}"


# ------------------------------------------------------------------------------------------------ labels


def labelled(model: str, *, since: dt.datetime, until: dt.datetime, now: dt.datetime) -> sa.Select[tuple[object, ...]]:
    """A query for the predictions of a model from `since` to before `until`, each with the label that counts for it.

    Its columns are those of `predictions`, then `label`, `label_at` and `label_received_at`, which are null without a
    label. No prediction comes twice, and no label is used for two answers:

    - A label by prediction id is that prediction's, whenever it came. One for an id that is not (yet) known is kept,
      and joined once the prediction is there.
    - A label by entity is the entity's last prediction's that was made before the label became true (`at`).
    - Of several labels of a prediction, repeated or conflicting, the one that was received last counts.
    - A label from the future (`at` after `now`) is kept, and joined when its time has come.

    A shadow's prediction has the id of the answer that it stands beside, and so its label. Nothing changes a label
    afterwards: to correct one, send another.
    """
    label, p = labels.alias("told"), predictions.alias("answered")
    told = sa.and_(label.c.model == model, label.c.at <= now)
    direct = sa.select(label.c.prediction_id, label.c.id, label.c.label, label.c.at, label.c.received_at).where(
        told, label.c.prediction_id.is_not(None), label.c.received_at >= since - CLOCKS
    )
    last = (
        sa.select(p.c.id)
        .where(
            p.c.model == label.c.model,
            p.c.entity == label.c.entity,
            p.c.at <= label.c.at,
            p.c.at >= since,
            p.c.arm != "shadow",
        )
        .order_by(p.c.at.desc(), p.c.id.desc())
        .limit(1)
        .lateral("last")
    )
    of_entities = (
        sa.select(last.c.id.label("prediction_id"), label.c.id, label.c.label, label.c.at, label.c.received_at)
        .select_from(label.join(last, sa.true()))
        .where(told, label.c.entity.is_not(None), label.c.at >= since)
    )
    both = sa.union_all(direct, of_entities).subquery("both")
    counting = (
        sa.select(both)
        .distinct(both.c.prediction_id)
        .order_by(both.c.prediction_id, both.c.received_at.desc(), both.c.id.desc())
        .subquery("counting")
    )
    return (
        sa.select(
            predictions,
            counting.c.label,
            counting.c.at.label("label_at"),
            counting.c.received_at.label("label_received_at"),
        )
        .select_from(predictions.outerjoin(counting, predictions.c.id == counting.c.prediction_id))
        .where(predictions.c.model == model, predictions.c.at >= since, predictions.c.at < until)
    )


# ------------------------------------------------------------------------------------------------ keeping


@dataclass(frozen=True)
class Retention:
    """What a night's retention did, or would do."""

    dropped: list[str]
    """Days of which nothing is left."""
    deleted: dict[str, int]
    """Model → its rows that were deleted from days of which another model keeps its own."""

    @property
    def summary(self) -> str:
        """In one line."""
        rows = "; ".join(f"{count:,} rows of {model}" for model, count in self.deleted.items())
        days = f"{len(self.dropped)} days" + (f" ({self.dropped[0]} to {self.dropped[-1]})" if self.dropped else "")
        return f"older than is kept: {days}" + (f", and {rows}" if rows else "")


def make_partitions(engine: sa.Engine, today: dt.date, days: int = DAYS_AHEAD) -> list[str]:
    """Make the partitions of today and of the days after it; returns those that were missing."""
    made = []
    for day in (today + dt.timedelta(n) for n in range(days + 1)):
        with engine.begin() as connection:
            if connection.execute(sa.text("select make_prediction_partition(:day)"), {"day": day}).scalar_one():
                made.append(day.isoformat())
    return made


def retain(
    engine: sa.Engine, keep_days: Mapping[str, int], today: dt.date, *, default: int, dry_run: bool = False
) -> Retention:
    """Delete predictions that are older than their model's `keep_days`, whole days at a time; labels stay.

    A day of which no model keeps anything is dropped as a whole; from others the rows of those models are deleted
    that keep less. Runs again after a failure as if for the first time.

    Args:
        engine: the platform's database.
        keep_days: model → days.
        today: the day in UTC.
        default: for models that params.yaml no longer names.
        dry_run: only say what would be done.
    """
    dropped: list[str] = []
    deleted: dict[str, int] = {}
    shortest = min([default, *keep_days.values()])
    with engine.connect() as connection:
        days = [day for day in partitions(connection) if day < today - dt.timedelta(shortest)]
    for day in days:
        with engine.connect() as connection:
            count = sa.text(f"select model, count(*) from {_table(day)} group by model")  # noqa: S608
            found = dict(connection.execute(count).tuples().all())
        past = {
            model: rows for model, rows in found.items() if day < today - dt.timedelta(keep_days.get(model, default))
        }
        if past == found and (dry_run or _drop(engine, day, past)):
            dropped.append(day.isoformat())
        elif past:
            deleted = {model: deleted.get(model, 0) + past.get(model, 0) for model in {**deleted, **past}}
            if not dry_run:
                _delete(engine, day, past)
    return Retention(dropped, deleted)


def _delete(engine: sa.Engine, day: dt.date, models: Collection[str]) -> None:
    with engine.begin() as connection:
        query = sa.text(f"delete from {_table(day)} where model = any(:models)")  # noqa: S608
        connection.execute(query, {"models": list(models)})


def settle(engine: sa.Engine, today: dt.date, days: int = 2) -> list[str]:
    """Vacuum and analyse the days before today, so that counting them reads the index alone; returns them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        closed = [day for day in partitions(connection) if today - dt.timedelta(days) <= day < today]
        for day in closed:
            connection.execute(sa.text(f"vacuum (analyze) {_table(day)}"))
    return [day.isoformat() for day in closed]


def _drop(engine: sa.Engine, day: dt.date, past: Collection[str]) -> bool:
    """Drop a day unless rows of other models than those that are past have come; returns whether it did."""
    others = sa.text(f"select exists (select from {_table(day)} where model <> all(:models))")  # noqa: S608
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                connection.execute(sa.text(f"set local lock_timeout = '{LOCK_SECONDS}s'"))
                connection.execute(sa.text("lock table only predictions in access exclusive mode"))
                if connection.execute(others, {"models": list(past)}).scalar_one():
                    return False
                connection.execute(sa.text(f"drop table {_table(day)}"))
                return True
        except sa.exc.OperationalError as error:
            if attempt == LOCK_ATTEMPTS or getattr(error.orig, "pgcode", None) != "55P03":
                raise
            time.sleep(LOCK_SECONDS)  # those who waited behind come first
    return False


# ------------------------------------------------------------------------------------------------ forgetting


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

    What queries find is deleted in one transaction. Then the text goes: what the spool keeps (refused lines, drained
    segments, the segments that are being written: see `spool.erase` and `spool.let_go`), and what PostgreSQL's files
    keep of deleted rows. Rows that the service has not copied yet come after: see `wait_until_copied`. It may be run
    again, and goes on where it was stopped.

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
    p, told = predictions, labels
    of_subject = p.c.entity == entity if one is None else p.c.id == one
    ids = sa.select(p.c.id).where(p.c.model == model, of_subject)
    refused = _refused_ids(folder, model, entity) if one is None else {one}
    mine = sa.or_(
        told.c.prediction_id.in_(ids),
        told.c.prediction_id.in_(refused),
        *([told.c.entity == entity] if entity is not None else []),
    )
    table: sa.ColumnElement[str] = sa.literal_column("predictions.tableoid::regclass::text")
    with engine.begin() as connection:
        labels_gone = connection.execute(told.delete().where(told.c.model == model, mine).returning(told.c.id)).all()
        deletion = p.delete().where(p.c.model == model, p.c.id.in_(ids)).returning(p.c.id, table)
        deleted = [
            (str(found), str(where)) for found, where in connection.execute(deletion)
        ]  # a shadow's id comes twice
        gone = {found for found, _ in deleted}
        tables = {*(where for _, where in deleted), *(["labels"] if labels_gone else []), *_unfinished(folder)}
        _note_unfinished(folder, tables)  # before it is committed: a repeated call finds no row to say where
        last = connection.execute(sa.text("select pg_current_xact_id()::xid::text")).scalar_one()
    lines = _erase(engine, folder, model, entity, refused | gone)
    waiting = segments.let_go(folder, seconds)
    remains = [
        f"the service still writes to what has the text ({slot}): see that it runs and reaches PostgreSQL (`mlops"
        " status`), or stop it"
        for slot in waiting
    ]
    if tables and (why := _write_anew(engine, tables, last, seconds)):
        remains.append(why)
    else:
        _note_unfinished(folder, set())
    return Forgotten(len(deleted), len(labels_gone), lines, tuple(remains), tuple(sorted(tables)))


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
            there = sa.text("select to_regclass(:table) is not null")
            for table in sorted(tables):
                if connection.execute(there, {"table": table}).scalar_one():  # else its day has ended meanwhile
                    connection.execute(sa.text(f"vacuum (full, analyze) {table}"))
            connection.execute(sa.text("select pg_switch_wal()"))
            connection.execute(sa.text("checkpoint"))
        except sa.exc.DBAPIError as error:
            if (code := getattr(error.orig, "pgcode", None)) not in ("55P03", "42501"):
                raise
            return (
                "a table is read at this moment (pg_stat_activity), so that its file could not be written anew"
                if code == "55P03"
                else "PostgreSQL does not let this role write a checkpoint, so that its log of changes (WAL) may have"
                " the rows: grant it pg_checkpoint and pg_switch_wal() (`make up` does), or have it done"
            )
        finally:
            connection.execute(sa.text("reset lock_timeout"))
    return ""


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
