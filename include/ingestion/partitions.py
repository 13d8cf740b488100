"""Atomic, idempotent partitions: one parquet file per day of a source, or `all` for a source without time.

    extract   the source → staging/<source>/<run>/<key>.parquet: what was delivered, not yet validated
    validate  staging → accepted rows beside it, their SHA-256 in PostgreSQL; the rest → quarantine
    publish   the accepted bytes → validated/<source>/<key>.parquet, and the partition's row says so
    read      what was published, by the hash that validation recorded

Every step can be killed and run again: equal data gives equal bytes under equal names.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from include import schema_record, schemas, storage
from include.database import advisory_lock, connected
from include.database import partitions as rows_of
from include.ingestion import data_docs, sources
from include.settings import ColumnType, Source

ALL = "all"
MAXIMUM_DAYS = 3660


class NotExtracted(RuntimeError):
    """A partition has not been through the step before; the message says which step to run."""


class NotAccepted(RuntimeError):
    """A partition is not, or no longer, accepted by validation; it is not published."""


@dataclass(frozen=True)
class Extracted:
    """What `extract` did: the keys now staged, those that were published before and left alone, and rows by key."""

    keys: list[str]
    skipped: list[str]
    rows: dict[str, int]


@dataclass(frozen=True)
class Published:
    """What `publish` made visible, and the version of all that the source has published."""

    source: str
    keys: list[str]
    rows: int
    version: str


@dataclass(frozen=True)
class Partition:
    """A published partition, as validation recorded it."""

    source: str
    key: str
    sha256: str
    rows: int
    quality: float
    types: schemas.Types = field(default_factory=dict, compare=False, repr=False)
    """Column → type, of the source as it is now: what the rows are read in."""


# ------------------------------------------------------------------------------------------------------ keys


def keys_between(source: Source, start: dt.date | None, end: dt.date | None) -> list[str]:
    """The keys of the days from `start` to `end`, both included; `["all"]` for a source without time.

    Without `start` the range begins at the source's own `start`; without `end` it is one day.

    Raises:
        ValueError: there is no first day, or the range is reversed or longer than ten years.
    """
    if source.time_column is None:
        return [ALL]
    first = start or source.start
    if first is None:
        raise ValueError("no first day: give `from`, or declare `start` for the source in params.yaml")
    last = end or first
    days = (last - first).days + 1
    if days < 1:
        raise ValueError(f"from {first} to {last} is no range: `from` lies after `to`")
    if days > MAXIMUM_DAYS:
        raise ValueError(f"from {first} to {last} are {days} days; ask for at most {MAXIMUM_DAYS} at once")
    return [(first + dt.timedelta(day)).isoformat() for day in range(days)]


def check_key(key: str) -> str:
    """The key itself, when it is one.

    Raises:
        ValueError: it is neither `all` nor a day as YYYY-MM-DD.
    """
    if key == ALL:
        return key
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", key):
        raise ValueError(f"{key!r} is no partition: write a day as YYYY-MM-DD, or `all`")
    dt.date.fromisoformat(key)
    return key


# --------------------------------------------------------------------------------------------- where things lie


def staging_url(data_url: str, name: str, run_id: str, *file: str) -> str:
    """The folder of one run, or a file in it; a run id is made safe for a file's name."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id)
    if safe != run_id or not safe.strip("."):  # `.` and `..` are names of other folders
        safe = f"{safe[:80]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return storage.join(data_url, "staging", name, safe, *file)


def published_url(data_url: str, name: str, key: str) -> str:
    """Where a published partition lies."""
    return storage.join(data_url, "validated", name, f"{check_key(key)}.parquet")


def refusal(data_url: str, name: str, run_id: str, key: str) -> str | None:
    """Why the partition could not even be read, if so."""
    url = staging_url(data_url, name, run_id, f"{key}.refused.json")
    return str(json.loads(storage.read_bytes(url))["reason"]) if storage.exists(url) else None


def noted_astray(data_url: str, name: str, run_id: str, key: str) -> float | None:
    """The share of astray rows in the file that a partition comes from, where that file covers several days."""
    url = staging_url(data_url, name, run_id, f"{key}.astray.json")
    return float(json.loads(storage.read_bytes(url))["share"]) if storage.exists(url) else None


# --------------------------------------------------------------------------------------------------- extract


def extract(
    name: str,
    source: Source,
    keys: Sequence[str],
    *,
    data_url: str,
    run_id: str,
    database_url: str,
    replace: bool,
) -> Extracted:
    """Read partitions from the source into the run's staging folder.

    Published partitions are left alone unless `replace`. A partition whose file cannot be read (a truncated
    gzip, a wrong encoding) does not stop the others: its reason is staged in its place, and validation
    quarantines it.

    Raises:
        SourceUnavailable: the source, by name, after bounded retries; nothing published was touched.
        NothingFound: the source has no file for any of the keys.
        StorageError: the disk is full; nothing half-written is left.
    """
    chosen = [check_key(key) for key in dict.fromkeys(keys)]
    if any((key == ALL) != (source.time_column is None) for key in chosen):
        kind = "the one partition `all`" if source.time_column is None else "a partition a day"
        raise ValueError(f"source {name!r} has {kind}; {chosen} do not fit")
    if storage.is_local(data_url):
        storage.ensure_space(storage.local_path(data_url))
    already = set() if replace else {p.key for p in published(database_url, name)}
    known = known_types(name, source, chosen, data_url=data_url, database_url=database_url)
    skipped = [key for key in chosen if key in already]
    pending = [key for key in chosen if key not in already]
    expected = len(pending)
    rows: dict[str, int] = {}
    missing: list[str] = []
    while pending:
        try:
            for key, table in sources.read_partitions(source, pending, known):
                storage.delete(staging_url(data_url, name, run_id, f"{key}.refused.json"))
                _note_astray(staging_url(data_url, name, run_id, f"{key}.astray.json"), table)
                storage.write_table(staging_url(data_url, name, run_id, f"{key}.parquet"), table)
                rows[key] = table.num_rows
            pending = []
        except sources.UnreadablePartitions as error:
            if not error.keys:
                raise type(error)(f"source {name!r}: {error}", []) from error
            if isinstance(error, sources.NothingFound):
                missing.extend(error.keys)
                if len(missing) == expected:
                    raise sources.NothingFound(f"source {name!r}: {error}", error.keys) from error
            for key in error.keys:
                _stage_refusal(data_url, name, run_id, key, str(error))
                rows[key] = 0
            pending = [key for key in pending if key not in rows]
        except sources.SourceError as error:
            raise type(error)(f"source {name!r}: {error}") from error
    return Extracted([key for key in chosen if key in rows], skipped, rows)


def _note_astray(url: str, table: pa.Table) -> None:
    share = (table.schema.metadata or {}).get(sources.ASTRAY)
    if share is None:
        storage.delete(url)
    else:
        storage.write_bytes(url, json.dumps({"share": float(share)}).encode())


def known_types(
    name: str, source: Source, keys: Sequence[str], *, data_url: str, database_url: str
) -> dict[str, ColumnType]:
    """The types that the columns of some partitions must have: the declared ones, and those that other published
    partitions have. What is only in partitions that are about to be replaced decides nothing.

    Raises:
        SchemaError: published partitions hold types of one column that cannot be united.
    """
    with connected(database_url) as engine:
        learned = schema_record.known_without(engine, name, data_url, keys, declared(source))
    return {**learned, **declared(source)}


def declared(source: Source) -> dict[str, ColumnType]:
    """The types that params.yaml fixes."""
    return dict(getattr(source, "types", {}))


def _stage_refusal(data_url: str, name: str, run_id: str, key: str, reason: str) -> None:
    storage.delete(staging_url(data_url, name, run_id, f"{key}.parquet"))
    url = staging_url(data_url, name, run_id, f"{key}.refused.json")
    storage.write_bytes(url, json.dumps({"reason": reason}).encode())


# --------------------------------------------------------------------------------------------------- publish


def publish(name: str, keys: Sequence[str], *, data_url: str, run_id: str, database_url: str) -> Published:
    """Make accepted partitions visible: the very bytes that validation recorded, then the row that names them.

    Raises:
        ChangedFile: an accepted file was changed since it was validated.
        NotAccepted: validation refused it, did not see it, or another run has validated it since.
    """
    total = 0
    with connected(database_url) as engine, advisory_lock(engine, f"publish:{name}"):
        _sweep(data_url, name)
        for key in keys:
            total += _publish_one(engine, name, check_key(key), data_url=data_url, run_id=run_id)
        version = _version(engine, name)
    data_docs.write_index(name, reports(database_url, name, MAXIMUM_DAYS), data_url=data_url)
    storage.delete(staging_url(data_url, name, run_id))
    return Published(name, list(keys), total, version)


def _sweep(data_url: str, name: str) -> None:
    """Remove what a killed publisher left half-written; under the lock nobody else is writing."""
    folder = storage.join(data_url, "validated", name)
    if storage.is_local(folder):
        for leftover in storage.local_path(folder).glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _publish_one(engine: sa.Engine, name: str, key: str, *, data_url: str, run_id: str) -> int:
    here = (rows_of.c.source == name) & (rows_of.c.key == key)
    with engine.begin() as connection:
        row = connection.execute(sa.select(rows_of).where(here).with_for_update()).mappings().first()
        candidate = (row["report"] if row else {}).get("candidate")
        if row and candidate is None and row["status"] == "published" and row["run_id"] == run_id:
            return int(row["rows"])  # an earlier attempt came this far
        if candidate is None:
            raise NotAccepted(f"{name} {key}: not accepted by validation; run `validate` first, or see its report")
        if candidate["run_id"] != run_id:
            raise NotAccepted(
                f"{name} {key}: validated since by the run {candidate['run_id']!r}; that one publishes it"
            )
        staged = staging_url(data_url, name, run_id, f"{key}.accepted.parquet")
        storage.write_bytes(published_url(data_url, name, key), storage.read_bytes(staged, candidate["sha256"]))
        try:
            schema_record.record(connection, name, key, *_types_of(candidate))
        except schemas.SchemaError as error:
            raise NotAccepted(f"{name} {key}: {error}") from error
        connection.execute(
            sa.update(rows_of)
            .where(here)
            .values(
                status="published",
                sha256=candidate["sha256"],
                rows=candidate["rows"],
                quarantined_rows=candidate["quarantined_rows"],
                quality=candidate["quality"],
                report=candidate["report"],
                run_id=run_id,
            )
        )
        return int(candidate["rows"])


def _types_of(candidate: dict[str, Any]) -> tuple[schemas.Types, schemas.Types]:
    """The types that validation stored a partition in, and those that were recorded then."""
    return candidate["report"].get("types", {}), candidate["report"].get("types_before", {})


def _version(engine: sa.Engine, name: str) -> str:
    content = [(p.key, p.sha256) for p in _published(engine, name)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------ read


def published(database_url: str, name: str) -> list[Partition]:
    """The published partitions of a source, in the order of their keys."""
    with connected(database_url) as engine:
        return _published(engine, name)


def _published(engine: sa.Engine, name: str) -> list[Partition]:
    columns = (rows_of.c.source, rows_of.c.key, rows_of.c.sha256, rows_of.c.rows, rows_of.c.quality)
    query = sa.select(*columns).where(rows_of.c.source == name, rows_of.c.status == "published").order_by(rows_of.c.key)
    with engine.connect() as connection:
        types = schema_record.recorded(connection, name)
        return [Partition(r.source, r.key, r.sha256, r.rows, r.quality, types) for r in connection.execute(query)]


def read(data_url: str, partition: Partition, columns: list[str] | None = None) -> pa.Table:
    """The rows of a published partition, in the types of its source.

    Raises:
        ChangedFile: the file is not the one that was validated.
        SchemaError: it holds a value that the source's type of now cannot hold.
    """
    url = published_url(data_url, partition.source, partition.key)
    try:
        return schemas.cast_table(storage.read_table(url, columns, partition.sha256), partition.types)
    except schemas.SchemaError as error:
        raise schemas.SchemaError(schemas.outdated(partition.source, partition.key, error)) from error


def reports(database_url: str, name: str, limit: int = 400) -> list[dict[str, Any]]:
    """The newest partitions' state, quality and report, newest key first, for pages and summaries."""
    query = sa.select(rows_of).where(rows_of.c.source == name).order_by(rows_of.c.key.desc()).limit(limit)
    with connected(database_url) as engine, engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
