"""Files on local disk or any fsspec URL: csv, json lines (both also gzipped) and parquet.

`path` may hold globs and the date parts `{yyyy}`, `{mm}`, `{dd}`, which name the period that a file covers: a
monthly file is read once for all its days, and its rows from outside the month come with a reason for
quarantine, attached to the first day of the period. Without date parts the time column alone decides; rows that
have no time are attached to the first day. A day is one of the source's `timezone`; times are stored in UTC.

What is declared under `types` must parse, or the file is refused with row and column. What is not declared is what
the column is in earlier partitions, or, in the first, in the earliest file, so that a day of round prices or an empty
column does not change a column's type; a column that really became another type is passed on as it is, for validation
to show. Derived columns are computed before rows are assigned to days, so that one of them may be the time column.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as papq
import tenacity

from include import schemas
from include.ingestion import formats
from include.ingestion import values as values_of
from include.ingestion.formats import Raw
from include.ingestion.sources import (
    ASTRAY,
    REASON,
    Health,
    NothingFound,
    SourceError,
    SourceUnavailable,
    UnreadablePartitions,
    column_type,
    with_derived,
)
from include.ingestion.values import Column, Unreadable
from include.schemas import Types
from include.settings import ROOT, ColumnType, FilesSource
from include.text import did_you_mean, nearest

ATTEMPTS = 4
FIRST_WAIT = 0.5
"""Seconds before the second attempt to reach a store; doubled for each further one."""

_SAMPLE_BYTES = 1 << 27
"""Bytes of a file up to which a look at the newest rows reads all of it."""
_T = TypeVar("_T")


# -------------------------------------------------------------------------------------------- the protocol


def columns(source: FilesSource) -> dict[str, ColumnType]:
    """The columns of the earliest file, from its first megabyte (a parquet file's footer)."""
    files = _all_files(source)
    if not files:
        raise NothingFound(f"no file matches {source.path}; check sources.<name>.path in params.yaml", [])
    return _columns_of_file(source, files[0])


def read(source: FilesSource, keys: Sequence[str], known: Types) -> Iterator[tuple[str, pa.Table]]:
    """Each asked-for partition once; every file is opened once."""
    hints: dict[str, ColumnType] | None = None
    for period in _periods(source, keys):
        files = _files_of(source, period)
        if not files:
            raise NothingFound(f"no file matches {period.pattern}{_nearest(source, period.pattern)}", period.keys)
        try:
            if hints is None:
                hints = {**_known_types(source), **known}
            tables = [(file, _read_file(source, file, hints)) for file in files]
            table = _derived(source, _joined(tables), ", ".join(files))
            parts = _split(source, table, period, ", ".join(files))
        except (Unreadable, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UnreadablePartitions(str(error), period.keys) from error
        yield from parts


def newest(source: FilesSource) -> tuple[pa.Table, bool]:
    """The last file by name; of one that is very large its beginning."""
    files = _all_files(source)
    if not files:
        raise NothingFound(f"no file matches {source.path}; check sources.<name>.path in params.yaml", [])
    file, known = files[-1], _known_types(source)
    filesystem, path = _filesystem(source, file)
    try:
        if _reach(lambda: int(filesystem.size(path) or 0), file) <= _SAMPLE_BYTES:
            return _derived(source, _read_file(source, file, known), file), len(files) == 1
        return _derived(source, _read_beginning(source, file, known, _SAMPLE_BYTES, 1 << 20), file), False
    except (Unreadable, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UnreadablePartitions(str(error), []) from error


def days(source: FilesSource, today: dt.date) -> list[dt.date]:
    """By the dates in the files' names; without any, by the time column, for which the files are read."""
    files = _all_files(source)
    if not files:
        raise NothingFound(f"no file matches {source.path}; check sources.<name>.path in params.yaml", [])
    if re.search(r"\{(yyyy|mm|dd)\}", source.path):
        found = {day for file in files for day in _days_of_name(source, file)}
    else:
        found, problem = set(), ""
        known = _known_types(source)
        for file in files:
            try:
                times = _derived(source, _read_file(source, file, known), file)[source.time_column or ""].drop_null()
                found |= set(np.unique(_days(times, source.timezone)).tolist())
            except (Unreadable, pa.ArrowInvalid) as error:
                problem = problem or str(error)  # of the partitions which it holds
            except KeyError:
                problem = problem or f"{file}: the time column {source.time_column!r} is missing"
        if not found and problem:
            raise UnreadablePartitions(problem, [])
    return sorted(day for day in found if day <= today)


def _joined(tables: list[tuple[str, pa.Table]]) -> pa.Table:
    """The rows of all files of a period."""
    try:
        return schemas.concat(tables)
    except schemas.SchemaError as error:
        raise Unreadable(f"{error}; declare the column's type under the source's `types`, or correct a file") from error


def _derived(source: FilesSource, table: pa.Table, files: str) -> pa.Table:
    """The table with its derived columns; times that a formula makes are those of the source's zone, as in a file."""
    table = with_derived(table, source.derive)
    for name, formula in source.derive.items():
        if re.search(r"\btimestamp\(", formula) and name in table.column_names:
            column = Column(source, files, name, 1, is_text=False)
            place = table.column_names.index(name)
            table = table.set_column(place, name, values_of.read(column, table[name], None))
    return table


def health(source: FilesSource) -> Health:
    """Whether the store answers and holds at least one file."""
    files = _all_files(source)
    if not files:
        return Health(False, f"no file matches {source.path}")
    return Health(True, f"{len(files)} files, {Path(files[0]).name} to {Path(files[-1]).name}")


# ------------------------------------------------------------------------------------- which file holds which day


@dataclass(frozen=True)
class _Period:
    """The asked-for days that one filled-in path covers; `first` is the period's first day, asked for or not."""

    pattern: str
    keys: tuple[str, ...]
    name: str | None = None
    first: str | None = None


def _path(source: FilesSource) -> str:
    path = source.path
    if "://" not in path:
        path = str(ROOT / Path(path).expanduser())
    return path


def _periods(source: FilesSource, keys: Sequence[str]) -> list[_Period]:
    path = _path(source)
    if not source.time_column or not re.search(r"\{(yyyy|mm|dd)\}", path):
        return [_Period(path, tuple(keys))]
    found: dict[str, _Period] = {}
    for key in keys:
        day = dt.date.fromisoformat(key)
        pattern = path.replace("{yyyy}", f"{day:%Y}").replace("{mm}", f"{day:%m}").replace("{dd}", f"{day:%d}")
        if "{dd}" in path:
            name, first = key, day
        elif "{mm}" in path:
            name, first = key[:7], day.replace(day=1)
        else:
            name, first = key[:4], day.replace(month=1, day=1)
        seen = found.get(pattern)
        found[pattern] = _Period(pattern, (*(seen.keys if seen else ()), key), name, first.isoformat())
    return list(found.values())


def _all_files(source: FilesSource) -> list[str]:
    return _glob(source, re.sub(r"\{(yyyy|mm|dd)\}", "*", _path(source)))


def _files_of(source: FilesSource, period: _Period) -> list[str]:
    return _glob(source, period.pattern)


def _nearest(source: FilesSource, pattern: str) -> str:
    names = _all_files(source)
    close = nearest(pattern, names, cutoff=0)
    return f"; the nearest of {len(names)} files there is {close}" if close else "; no file is there at all"


def _glob(source: FilesSource, pattern: str) -> list[str]:
    filesystem, path = _filesystem(source, pattern)

    def list_files() -> list[str]:
        filesystem.invalidate_cache()
        if "*" in path:  # nothing else is a pattern: a folder may be called [new]
            listed = filesystem.glob(re.sub(r"[\[?]", r"[\g<0>]", path), detail=True)
            return sorted(str(found) for found, facts in listed.items() if _is_data(found, path, facts))
        if "://" not in pattern and filesystem.isdir(path):
            raise SourceError(f"path: {path} is a folder; name the files in it, as in {path.rstrip('/')}/*.csv")
        return [path] if filesystem.exists(path) else []

    found = _reach(list_files, pattern)
    protocol = "" if "://" not in pattern else pattern.split("://", 1)[0] + "://"
    return [name if "://" in name else protocol + name for name in found]


def _is_data(found: str, pattern: str, facts: dict[str, Any]) -> bool:
    """Whether what a pattern found is a file, and none that a program hides (`._a.csv`, `.~lock.a.csv#`)."""
    hidden = Path(found).name.startswith(".") and not Path(pattern).name.startswith(".")
    return facts.get("type") != "directory" and not hidden


def _days_of_name(source: FilesSource, file: str) -> list[dt.date]:
    """The days of the period that a file's name says."""
    pattern = re.escape(_path(source).split("://")[-1]).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    for part, digits in (("yyyy", 4), ("mm", 2), ("dd", 2)):
        pattern = pattern.replace(rf"\{{{part}\}}", rf"(?P<{part}>\d{{{digits}}})", 1)
        pattern = pattern.replace(rf"\{{{part}\}}", rf"(?P={part})")
    named = re.search(pattern + "$", file)
    try:
        year, month, day = ((int(named[part]) if part in named.re.groupindex else 1) for part in ("yyyy", "mm", "dd"))  # type: ignore[index,union-attr]
        first = dt.date(year, month, day)
    except (TypeError, ValueError):
        return []
    if "{dd}" in source.path:
        return [first]
    after = first.replace(year=year + 1) if "{mm}" not in source.path else (first + dt.timedelta(31)).replace(day=1)
    return [first + dt.timedelta(count) for count in range((after - first).days)]


# ------------------------------------------------------------------------------------------- reaching the store


def _filesystem(source: FilesSource, url: str) -> tuple[Any, str]:
    options: dict[str, Any] = {}
    if url.startswith(("s3://", "s3a://")):
        options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 1}}
        if source.endpoint_url:
            options["endpoint_url"] = source.endpoint_url
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{url}: {error}") from error
    return filesystem, str(path)


def _reach(action: Callable[[], _T], url: str) -> _T:
    """Do it, again after a pause when the network failed, a bounded number of times."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT, max=10),
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return retrying(action)
    except FileNotFoundError as error:
        raise NothingFound(f"{url}: there is no such file or bucket ({error})", []) from error
    except PermissionError as error:
        who = "the credentials in the environment" if "://" in url else "who may read the file and its folders"
        raise SourceError(f"{url}: access was refused ({error}); check {who}") from error
    except Exception as error:
        if not _may_pass(error):
            raise
        raise SourceUnavailable(
            f"{url}: no answer after {ATTEMPTS} attempts ({type(error).__name__}: {error})"
        ) from error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | SourceError):
        return False
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OSError) or bool(
        names & {"ClientError", "BotoCoreError", "HTTPClientError", "FSTimeoutError"}
    )


def _bytes(source: FilesSource, file: str) -> bytes:
    filesystem, path = _filesystem(source, file)
    return _reach(lambda: bytes(filesystem.cat_file(path)), file)


# -------------------------------------------------------------------------------------------------- one file


def _known_types(source: FilesSource) -> dict[str, ColumnType]:
    """What the values of the earliest file suggest; nothing when that file itself is damaged."""
    try:
        files = _all_files(source)
        return {**(schemas.types_of(_beginning(source, files[0])) if files else {}), **source.types}
    except UnreadablePartitions:
        return dict(source.types)


def _columns_of_file(source: FilesSource, file: str) -> dict[str, ColumnType]:
    table = _beginning(source, file)
    return {name: source.types.get(name) or column_type(table[name].type) for name in table.column_names}


def _beginning(source: FilesSource, file: str) -> pa.Table:
    """The columns of a file as its first rows have them."""
    try:
        table = _read_beginning(source, file, {}, formats.HEAD, 10_000)
    except (Unreadable, pa.ArrowInvalid) as error:
        raise UnreadablePartitions(str(error) if file in str(error) else f"{file}: {error}", []) from error
    _refuse_unknown(source, table.column_names, file)
    return table


def _read_beginning(source: FilesSource, file: str, known: Types, size: int, rows: int) -> pa.Table:
    """The first bytes of a text file, or the first rows of a parquet file, and nothing more of it."""
    if formats.format_of(source, file) == "parquet":
        raw = Raw(_first_rows(source, file, rows), 1, is_text=False)
    else:
        raw = formats.parse(source, file, _head(source, file, size), known, whole=False)
    return _typed(source, file, raw, known)


def _first_rows(source: FilesSource, file: str, rows: int) -> pa.Table:
    filesystem, path = _filesystem(source, file)

    def take() -> pa.Table:
        with filesystem.open(path, "rb") as stream:
            formats.recognise(source, file, bytes(stream.read(16)), "parquet")
            stream.seek(0)
            parquet = papq.ParquetFile(stream)
            batch = next(parquet.iter_batches(rows), None)
            table = pa.Table.from_batches([batch] if batch is not None else [], parquet.schema_arrow)
            return formats.named(source, file, formats.without_index(table))

    return _reach(take, file)


def _refuse_unknown(source: FilesSource, names: Sequence[str], file: str) -> None:
    dated = set(source.date_format) if isinstance(source.date_format, dict) else set()
    for key, unknown in (
        ("types", set(source.types) - set(names)),
        ("rename", set(source.rename.values()) - set(names) - set(source.exclude)),
        ("date_format", dated - set(names)),
    ):
        if unknown:
            wrong = sorted(unknown)[0]
            new = f" to call {wrong!r}" if key == "rename" else ""
            wrong = next(old for old, name in source.rename.items() if name == wrong) if key == "rename" else wrong
            hint = did_you_mean(wrong, names) or f"; it has {list(names)}"
            raise SourceError(f"{key}: {file} has no column {wrong!r}{new}{hint}")


def _head(source: FilesSource, file: str, size: int) -> bytes:
    filesystem, path = _filesystem(source, file)

    def take() -> bytes:
        with filesystem.open(path, "rb") as stream:
            return bytes(stream.read(size))

    return _reach(take, file)


def _read_file(source: FilesSource, file: str, known: Types) -> pa.Table:
    return _typed(source, file, formats.parse(source, file, _bytes(source, file), known), known)


def _typed(source: FilesSource, file: str, raw: Raw, known: Types) -> pa.Table:
    """A file's columns in the six types."""
    fields = []
    for name in raw.table.column_names:
        column = Column(source, file, name, raw.first_row, raw.is_text)
        values = values_of.read(column, raw.table[name], known.get(name))
        kind = known.get(name)
        if kind is not None and name not in source.types and values.type != schemas.arrow_type(kind):
            with contextlib.suppress(schemas.SchemaError):  # what does not fit is for validation to show
                values = schemas.cast_column(values, kind)
        fields.append(values)
    return pa.table(fields, names=raw.table.column_names)


# ---------------------------------------------------------------------------------------------------- days


def _split(source: FilesSource, table: pa.Table, period: _Period, files: str) -> list[tuple[str, pa.Table]]:
    if source.time_column is None:
        return [(key, table) for key in period.keys]
    if source.time_column not in table.column_names:
        close = nearest(source.time_column, table.column_names)
        hint = f"; did {close!r} take its place?" if close else "."
        raise Unreadable(
            f"{files}: the time column {source.time_column!r} is missing{hint} It has {table.column_names}"
        )
    time = table[source.time_column]
    if not pa.types.is_timestamp(time.type) and not pa.types.is_date(time.type):
        raise Unreadable(f"{files}: the time column {source.time_column!r} is of type {time.type}, not timestamp")
    return _by_day(table, _days(time, source.timezone), period, source.time_column)


def _days(time: pa.ChunkedArray, zone: str) -> Any:
    """The day of each moment, in the source's zone, as datetime64[D]."""
    if pa.types.is_timestamp(time.type) and zone != "UTC":
        time = pc.local_timestamp(time.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz=zone)))
    return np.asarray(time.cast(pa.timestamp("us")).to_numpy()).astype("M8[D]")


def _by_day(table: pa.Table, days: Any, period: _Period, time_column: str) -> list[tuple[str, pa.Table]]:
    missing = np.isnat(days)
    stray = missing.copy()
    if period.name is not None:
        unit = {4: "M8[Y]", 7: "M8[M]", 10: "M8[D]"}[len(period.name)]
        stray |= days.astype(unit) != np.datetime64(period.name)
        first = period.first
    else:
        first = None if missing.all() else str(np.nanmin(days.view("i8")[~missing]).astype("M8[D]"))
    inside = np.flatnonzero(~stray)
    inside = inside[np.argsort(days[inside], kind="stable")]
    ordered = days[inside]
    parts = []
    for key in period.keys:
        low, high = (
            np.searchsorted(ordered, np.datetime64(key), "left"),
            np.searchsorted(ordered, np.datetime64(key), "right"),
        )
        part = table.take(pa.array(inside[low:high]))
        if key == first and stray.any():
            part = _with_strays(part, table, np.flatnonzero(stray), missing, period, time_column)
        if stray.any() and len(period.name or "") < len("YYYY-MM-DD"):
            part = part.replace_schema_metadata({ASTRAY: str(stray.mean())})
        parts.append((key, part))
    return parts


def _with_strays(
    part: pa.Table, table: pa.Table, rows: Any, missing: Any, period: _Period, time_column: str
) -> pa.Table:
    reasons = [
        f"{time_column} is missing" if missing[row] else f"{time_column} lies outside the file's period {period.name}"
        for row in rows
    ]
    part = part.append_column(REASON, pa.nulls(part.num_rows, pa.string()))
    return pa.concat_tables([part, table.take(pa.array(rows)).append_column(REASON, pa.array(reasons, pa.string()))])
