"""Files on local disk or any fsspec URL: csv, json lines (both also gzipped) and parquet.

`path` may hold globs and the date parts `{yyyy}`, `{mm}`, `{dd}`, which name the period that a file covers: a
monthly file is read once for all its days, and its rows from outside the month come with a reason for
quarantine, attached to the first day of the period. Without date parts the time column alone decides; rows that
have no time are attached to the first day.

What is declared under `types` must parse, or the file is refused with row and column. What is not declared is
inferred as the earliest file suggests, so that a day of round prices or an empty column does not change a
column's type; a column that really became another type is passed on as it is, for validation to show.
"""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as papq
import tenacity

from include.ingestion.sources import (
    REASON,
    Health,
    NothingFound,
    SourceError,
    SourceUnavailable,
    UnreadablePartitions,
    column_type,
)
from include.schemas import SchemaError, Types, cast_column
from include.settings import ROOT, ColumnType, FilesSource

ATTEMPTS = 4
FIRST_WAIT = 0.5
"""Seconds before the second attempt to reach a store; doubled for each further one."""

_HEAD = 1 << 20
_CHUNK = 1 << 24
_LOOK = 1 << 27
"""Bytes of a file up to which a look at the newest rows reads all of it."""
_TIME_FORMATS = [
    pacsv.ISO8601,
    *(
        f"{date}{time}"
        for date in ("%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y")
        for time in (" %H:%M:%S", " %H:%M", " %I:%M:%S %p", "")
    ),
]
_ARROW: dict[ColumnType, pa.DataType] = {
    "float": pa.float64(),
    "int": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
    "date": pa.date32(),
}
_T = TypeVar("_T")


class _Unreadable(ValueError):
    """A file's bytes are not the data that was declared."""


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
            tables = [_read_file(source, file, hints) for file in files]
            table = pa.concat_tables(tables, promote_options="permissive")
            parts = _split(source, table, period, ", ".join(files))
        except (_Unreadable, pa.ArrowInvalid, pa.ArrowTypeError) as error:
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
        if _reach(lambda: int(filesystem.size(path) or 0), file) <= _LOOK:
            return _read_file(source, file, known), len(files) == 1
        return _read_beginning(source, file, known), False
    except (_Unreadable, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UnreadablePartitions(str(error), []) from error


def days(source: FilesSource, today: dt.date) -> list[dt.date]:
    """By the dates in the files' names; without any, by the time column, for which the files are read."""
    files = _all_files(source)
    if not files:
        raise NothingFound(f"no file matches {source.path}; check sources.<name>.path in params.yaml", [])
    if re.search(r"\{(yyyy|mm|dd)\}", source.path):
        found = {day for file in files for day in _days_of_name(source, file)}
    else:
        found = set()
        known = _known_types(source)
        for file in files:
            try:
                times = _read_file(source, file, known)[source.time_column or ""].drop_null().cast(pa.timestamp("us"))
            except (_Unreadable, pa.ArrowInvalid, KeyError):
                continue  # its error is that of the partitions which it holds
            found |= set(np.unique(np.asarray(times.to_numpy()).astype("M8[D]")).tolist())
    return sorted(day for day in found if day <= today)


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
    close = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
    return f"; the nearest of {len(names)} files there is {close[0]}" if close else "; no file is there at all"


def _glob(source: FilesSource, pattern: str) -> list[str]:
    filesystem, path = _filesystem(source, pattern)

    def look() -> list[str]:
        filesystem.invalidate_cache()
        if re.search(r"[*?\[]", path):
            return sorted(str(found) for found in filesystem.glob(path))
        return [path] if filesystem.exists(path) else []

    found = _reach(look, pattern)
    protocol = "" if "://" not in pattern else pattern.split("://", 1)[0] + "://"
    return [name if "://" in name else protocol + name for name in found]


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
        raise SourceError(f"{url}: access was refused ({error}); check the credentials in the environment") from error
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


def _format(source: FilesSource, file: str) -> str:
    if source.format != "auto":
        return source.format
    suffixes = [s.lower() for s in Path(file).suffixes if s.lower() not in (".gz", ".gzip")]
    last = suffixes[-1] if suffixes else ""
    known = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
    known |= {".parquet": "parquet", ".pq": "parquet"}
    if last not in known:
        raise SourceError(
            f"{file}: the name does not tell the format; add `format: csv | jsonl | parquet` to the source"
        )
    return known[last]


def _known_types(source: FilesSource) -> dict[str, ColumnType]:
    """What the earliest file suggests; nothing when that file itself is damaged."""
    try:
        return columns(source)
    except UnreadablePartitions:
        return dict(source.types)


def _columns_of_file(source: FilesSource, file: str) -> dict[str, ColumnType]:
    try:
        if _format(source, file) == "parquet":
            filesystem, path = _filesystem(source, file)

            def footer() -> pa.Schema:
                with filesystem.open(path) as stream:
                    return papq.read_schema(stream)

            schema = _reach(footer, file)
        else:
            head = _decoded(source, file, _head(source, file), whole=False)
            head = head[: head.rfind(b"\n") + 1] or head
            schema = _parse(source, file, head, {}).schema
    except (_Unreadable, pa.ArrowInvalid) as error:
        raise UnreadablePartitions(f"{file}: {error}" if file not in str(error) else str(error), []) from error
    names = [source.rename.get(name, name) for name in schema.names]
    _refuse_unknown(source, names, file)
    found = {name: source.types.get(name) or column_type(kind) for name, kind in zip(names, schema.types, strict=True)}
    if found.get(source.time_column or "") == "string":
        found[source.time_column or ""] = "timestamp"  # it is parsed as one when it is read
    return found


def _refuse_unknown(source: FilesSource, names: Sequence[str], file: str) -> None:
    for key, unknown in (
        ("types", set(source.types) - set(names)),
        ("rename", set(source.rename.values()) - set(names)),
    ):
        if unknown:
            wrong = sorted(unknown)[0]
            new = "" if key == "types" else f" to call {wrong!r}"
            wrong = wrong if key == "types" else next(old for old, name in source.rename.items() if name == wrong)
            close = difflib.get_close_matches(wrong, names, n=1)
            raise SourceError(
                f"{key}: {file} has no column {wrong!r}{new}"
                + (f"; did you mean {close[0]!r}?" if close else f"; it has {list(names)}")
            )


def _head(source: FilesSource, file: str, size: int = _HEAD) -> bytes:
    filesystem, path = _filesystem(source, file)

    def take() -> bytes:
        with filesystem.open(path, "rb") as stream:
            return bytes(stream.read(size))

    return _reach(take, file)


def _read_file(source: FilesSource, file: str, known: dict[str, ColumnType]) -> pa.Table:
    raw = _bytes(source, file)
    if _format(source, file) == "parquet":
        try:
            table = papq.read_table(pa.BufferReader(raw))
        except (pa.ArrowInvalid, OSError) as error:
            raise _Unreadable(f"{file}: not a whole parquet file ({error})") from error
    else:
        table = _parse(source, file, _decoded(source, file, raw, whole=True), known)
    return _settled(source, file, table, known)


def _settled(source: FilesSource, file: str, table: pa.Table, known: dict[str, ColumnType]) -> pa.Table:
    """A file's table with the source's names and types."""
    table = table.rename_columns([source.rename.get(name, name) for name in table.column_names])
    if len(set(table.column_names)) < len(table.column_names):
        twice = next(name for name in table.column_names if table.column_names.count(name) > 1)
        raise _Unreadable(f"{file}: the column {twice!r} is there twice")
    fields = [_plain(source, file, name, table[name], known.get(name)) for name in table.column_names]
    return pa.table(fields, names=table.column_names)


def _read_beginning(source: FilesSource, file: str, known: dict[str, ColumnType]) -> pa.Table:
    """The first rows of a file: a parquet file's first row group, a text's first bytes."""
    if _format(source, file) == "parquet":
        filesystem, path = _filesystem(source, file)

        def first() -> pa.Table:
            with filesystem.open(path) as stream:
                return papq.ParquetFile(stream).read_row_group(0)

        return _settled(source, file, _reach(first, file), known)
    head = _decoded(source, file, _head(source, file, _LOOK), whole=False)
    return _settled(source, file, _parse(source, file, head[: head.rfind(b"\n") + 1] or head, known), known)


def _decoded(source: FilesSource, file: str, raw: bytes, *, whole: bool) -> bytes:
    """Unzipped UTF-8 text. Of a `whole` file every byte must be right; of a head, the part that came."""
    if raw[:2] == b"\x1f\x8b":
        if whole:
            try:
                raw = gzip.decompress(raw)
            except EOFError as error:
                raise _Unreadable(
                    f"{file}: the gzip is truncated: the file was not delivered whole; fetch it again"
                ) from error
            except (OSError, zlib.error) as error:
                raise _Unreadable(f"{file}: the gzip is corrupt ({error}); fetch it again") from error
        else:
            try:
                raw = zlib.decompressobj(wbits=31).decompress(raw, _HEAD)
            except zlib.error as error:
                raise _Unreadable(f"{file}: the gzip is corrupt ({error}); fetch it again") from error
    return _as_utf8(source.encoding, file, raw, whole=whole)


def _as_utf8(encoding: str, file: str, raw: bytes, *, whole: bool) -> bytes:
    try:
        utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise SourceError(
            f"encoding: {encoding!r} is not known; write one that Python knows, such as utf-8 or latin-1"
        ) from error
    out = io.BytesIO()
    for begin in range(0, len(raw), _CHUNK):
        chunk = raw[begin : begin + _CHUNK]
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=whole and begin + _CHUNK >= len(raw))
        except UnicodeDecodeError as error:
            at = max(begin - pending + error.start, 0)
            row = raw.count(b"\n", 0, at) + 1
            raise _Unreadable(
                f"{file}: row {row}: byte 0x{raw[at]:02x} is not {encoding}; declare the `encoding`, such as latin-1"
            ) from error
        if not utf8:
            out.write(text.encode())
    return raw.removeprefix(codecs.BOM_UTF8) if utf8 else out.getvalue().removeprefix(codecs.BOM_UTF8)


def _parse(source: FilesSource, file: str, data: bytes, known: dict[str, ColumnType]) -> pa.Table:
    if not data.strip():
        raise _Unreadable(f"{file}: the file is empty")
    if _format(source, file) == "jsonl":
        try:
            return pajson.read_json(io.BytesIO(data), read_options=pajson.ReadOptions(block_size=max(len(data), _HEAD)))
        except pa.ArrowInvalid as error:
            raise _Unreadable(f"{file}: not json lines: {_one_line(error)}") from error
    return _parse_csv(source, file, data)


def _parse_csv(source: FilesSource, file: str, data: bytes) -> pa.Table:
    original = {new: old for old, new in source.rename.items()}
    declared = {original.get(name, name): _ARROW[kind] for name, kind in source.types.items()}
    options = {
        "parse_options": pacsv.ParseOptions(delimiter=source.delimiter, newlines_in_values=b'"' in data),
        "convert_options": pacsv.ConvertOptions(
            column_types=declared,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            timestamp_parsers=_TIME_FORMATS,
        ),
    }
    try:
        return pacsv.read_csv(io.BytesIO(data), **options)
    except pa.ArrowInvalid as first:
        try:  # one thread, to learn the row
            pacsv.read_csv(io.BytesIO(data), read_options=pacsv.ReadOptions(use_threads=False), **options)
        except pa.ArrowInvalid as error:
            _explain_csv(source, file, data, error)
        raise _Unreadable(f"{file}: {_one_line(first)}") from first


def _explain_csv(source: FilesSource, file: str, data: bytes, error: pa.ArrowInvalid) -> NoReturn:
    text = _one_line(error)
    cell = re.search(
        r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([\w\[\]]+): invalid value '(.*)'", text
    )
    if cell:
        header = data.split(b"\n", 1)[0].decode(errors="replace").strip().split(source.delimiter)
        index = int(cell[1])
        name = header[index].strip('"') if index < len(header) else f"#{index}"
        name = source.rename.get(name, name)
        where = f"row {cell[2]}, " if cell[2] else ""
        raise _Unreadable(
            f"{file}: {where}column {name}: {cell[4]!r} is not a {source.types.get(name, cell[3])};"
            " correct the file, or the source's `types`"
        ) from error
    ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if ragged:
        raise _Unreadable(
            f"{file}: row {ragged[1]} has {ragged[3]} fields, the header {ragged[2]};"
            f" is the `delimiter` {source.delimiter!r}?"
        ) from error
    raise _Unreadable(f"{file}: {text}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


# ------------------------------------------------------------------------------------------------- plain types


def _plain(
    source: FilesSource, file: str, name: str, values: pa.ChunkedArray, known: ColumnType | None
) -> pa.ChunkedArray:
    """A column in one of the six types: as declared, else as found, made equal across files where nothing is lost."""
    values = _simple(values)
    declared = source.types.get(name)
    untyped = pa.types.is_null(values.type) or column_type(values.type) == "string"
    if declared is None and name == source.time_column and untyped:
        declared = "timestamp"
    if declared is not None:
        return _cast(file, name, values, declared)
    if pa.types.is_null(values.type):
        return values.cast(_ARROW[known or "float"])
    if known == "float" and pa.types.is_integer(values.type):
        with contextlib.suppress(SchemaError):  # beyond 2^53: validation refuses it by name
            return cast_column(values, known)
    return values


def _simple(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if pa.types.is_timestamp(kind):
        return values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.timestamp("us"))
    if pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64())
    if pa.types.is_date(kind):
        return values.cast(pa.date32())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_nested(kind):
        return pa.chunked_array(
            [[None if v is None else json.dumps(v, default=str) for v in values.to_pylist()]], pa.string()
        )
    if (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_time(kind)
        or pa.types.is_duration(kind)
    ):
        return values.cast(pa.string())
    return values


def _cast(file: str, name: str, values: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    target = _ARROW[kind]
    if values.type == target:
        return values
    if kind in ("timestamp", "date") and pa.types.is_string(values.type):
        return _times(file, name, values).cast(target)
    try:
        return values.cast(target, safe=kind != "float")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = _first_bad(values, partial(pc.cast, target_type=target))
        found = (
            f"row {row + 1}, column {name}: {values[row].as_py()!r}"
            if row is not None
            else f"column {name}, of type {values.type},"
        )
        raise _Unreadable(f"{file}: {found} is not a {kind}; correct the file, or the source's `types`") from error


def _times(file: str, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    for zone in (None, "UTC"):
        try:
            return values.cast(pa.timestamp("us", tz=zone)).cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            continue
    for form in _TIME_FORMATS[1:]:
        try:
            return pc.strptime(values, format=form, unit="us")
        except pa.ArrowInvalid:
            continue
    row = _first_bad(values, partial(pc.cast, target_type=pa.timestamp("us"))) or 0
    raise _Unreadable(f"{file}: row {row + 1}, column {name}: {values[row].as_py()!r} is not a timestamp")


def _first_bad(values: pa.ChunkedArray, cast: Callable[[Any], Any]) -> int | None:
    """The index of the first value that does not cast, by halving."""
    low, high = 0, len(values)
    try:
        cast(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        while high - low > 1:
            middle = (low + high) // 2
            try:
                cast(values.slice(low, middle - low))
                low = middle
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                high = middle
        return low
    return None


# ---------------------------------------------------------------------------------------------------- days


def _split(source: FilesSource, table: pa.Table, period: _Period, files: str) -> list[tuple[str, pa.Table]]:
    if source.time_column is None:
        return [(key, table) for key in period.keys]
    if source.time_column not in table.column_names:
        close = difflib.get_close_matches(source.time_column, table.column_names, n=1)
        hint = f"; did {close[0]!r} take its place?" if close else ""
        raise _Unreadable(
            f"{files}: the time column {source.time_column!r} is missing{hint} It has {table.column_names}"
        )
    time = table[source.time_column]
    if not pa.types.is_timestamp(time.type) and not pa.types.is_date(time.type):
        raise _Unreadable(f"{files}: the time column {source.time_column!r} is of type {time.type}, not timestamp")
    days = np.asarray(time.cast(pa.timestamp("us")).to_numpy()).astype("M8[D]")
    return _by_day(table, days, period, source.time_column)


def _by_day(table: pa.Table, days: Any, period: _Period, time_column: str) -> list[tuple[str, pa.Table]]:
    missing = np.isnat(days)
    stray = missing.copy()
    if period.name is not None:
        unit = {4: "M8[Y]", 7: "M8[M]", 10: "M8[D]"}[len(period.name)]
        stray |= days.astype(unit) != np.datetime64(period.name)
        first = period.first
    else:
        first = None if missing.all() else str(np.nanmin(days.view("i8")[~missing]).astype("M8[D]"))
    kept = np.flatnonzero(~stray)
    kept = kept[np.argsort(days[kept], kind="stable")]
    ordered = days[kept]
    parts = []
    for key in period.keys:
        low, high = (
            np.searchsorted(ordered, np.datetime64(key), "left"),
            np.searchsorted(ordered, np.datetime64(key), "right"),
        )
        part = table.take(pa.array(kept[low:high]))
        if key == first and stray.any():
            part = _with_strays(part, table, np.flatnonzero(stray), missing, period, time_column)
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
