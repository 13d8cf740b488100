"""What is in a file: CSV, JSON lines or Parquet, recognised by its name and first bytes, as columns for values.py.

Text may be packed with gzip, bzip2, xz or zstd: the first bytes count, those of the file and of what is in it.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as papq

from include.ingestion.sources import REASON, SourceError
from include.ingestion.values import Unreadable
from include.schemas import EXACT, Types
from include.settings import FilesSource
from include.text import trim

HEAD = 1 << 20
_CHUNK = 1 << 24
_SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".data": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_PACKING_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".zip")
_FOREIGN = (
    (rb"PK\x03\x04", "a zip archive; unpack it, or pack each file with gzip"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook (or Word document); save the sheet as CSV"),
    (rb"7z\xbc\xaf", "a 7z archive; unpack it"),
    (rb"%PDF-\d", "a PDF document; its tables must be exported as CSV"),
    (rb"SQLite format 3\0", "a SQLite database; export the table as CSV or Parquet"),
    (rb"ARROW1\0", "an Arrow (Feather) file; write it as Parquet"),
    (rb"ORC", "an ORC file; write it as Parquet"),
    (rb"\x89HDF", "an HDF5 file; write the table as Parquet"),
    (rb"\x93NUMPY", "a NumPy array; write it as CSV or Parquet, with names for its columns"),
    (rb"\x80[\x04\x05]", "a Python pickle, which is never opened; write it as Parquet"),
    (rb"PAR1", "a Parquet file; name it .parquet, or declare `format: parquet`"),
)
"""How other formats begin. Where that are letters only, a header line may begin so too: see `_is_text`."""


@dataclass(frozen=True)
class Raw:
    """A file's columns under the names that its source has for them.

    Attributes:
        table: as the format holds them; text of a CSV file is only text.
        first_row: the number of the first row, as a person counts in the file.
        is_text: whether the format knows no types.
    """

    table: pa.Table
    first_row: int
    is_text: bool


def format_of(source: FilesSource, file: str) -> str:
    """`csv`, `jsonl` or `parquet`: as declared, else by the file's name.

    Raises:
        SourceError: neither says it.
    """
    if source.format != "auto":
        return source.format
    suffixes = [s.lower() for s in Path(file).suffixes if s.lower() not in _PACKING_SUFFIXES]
    last = suffixes[-1] if suffixes else ""
    if last in (".xls", ".xlsx", ".xlsm", ".ods"):
        raise SourceError(f"{file}: a spreadsheet; save the sheet as CSV")
    if last not in _SUFFIXES:
        raise SourceError(
            f"{file}: the name does not tell the format; add `format: csv | jsonl | parquet` to the source"
        )
    return _SUFFIXES[last]


def parse(source: FilesSource, file: str, content: bytes, known: Types, *, whole: bool = True) -> Raw:
    """The columns of a file, or (not `whole`) of the head of one.

    Raises:
        Unreadable: the bytes are something else, damaged, or have no usable header.
    """
    kind = format_of(source, file)
    if kind != "parquet":
        content = _unpacked(file, content, whole=whole)
    recognise(source, file, content, kind)
    if kind == "parquet":
        raw = Raw(_parquet(file, content), 1, is_text=False)
    else:
        text = _as_utf8(source.encoding, file, content, whole=whole)
        if not whole:
            text = text[: text.rfind(b"\n") + 1] or text
        if not text.strip():
            raise Unreadable(f"{file}: the file is empty")
        raw = _csv(source, file, text) if kind == "csv" else Raw(_jsonl(source, file, text, known), 1, is_text=False)
    return Raw(named(source, file, raw.table), raw.first_row, raw.is_text)


def recognise(source: FilesSource, file: str, content: bytes, kind: str) -> None:
    """Refuse what the first bytes show to be something else than the name says.

    Raises:
        Unreadable: with what it is, and what to do.
    """
    if not content:
        raise Unreadable(f"{file}: the file is empty")
    begin = content[:16]
    if begin[:4] == b"PK\x03\x04" and re.search(rb"xl/|\[Content_Types\]|mimetypeapplication/vnd", content[:4096]):
        raise Unreadable(f"{file}: this is an Excel workbook (or another office document); save the sheet as CSV")
    if kind == "parquet":
        if begin[:4] == b"PAR1":
            return
        packing = _packing_of(begin)
        what = f"{packing.name}: unpack it, Parquet is packed inside" if packing else f"it begins with {begin[:4]!r}"
        foreign = next((f"this is {what}" for magic, what in _FOREIGN if re.match(magic, begin)), None)
        raise Unreadable(f"{file}: {foreign or f'not a Parquet file ({what})'}")
    for magic, what in _FOREIGN:
        if re.match(magic, begin) and not _is_text(content):
            raise Unreadable(f"{file}: this is {what}")
    if re.match(rb"\s*<(!doctype|html|\?xml)", content[:64].lower()):
        raise Unreadable(f"{file}: this is a web page or XML, not data; was it an error that was downloaded?")
    _refuse_utf16(source, file, content)


def _is_text(content: bytes) -> bool:
    """Whether what begins like another format is text nevertheless: the header `ORCID,name` is one."""
    return not content.startswith(b"%PDF-") and not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", content[:4096])


def _refuse_utf16(source: FilesSource, file: str, content: bytes) -> None:
    try:
        declared = codecs.lookup(source.encoding).name
    except LookupError as error:
        raise SourceError(
            f"encoding: {source.encoding!r} is not known; write one that Python knows, such as utf-8 or latin-1"
        ) from error
    if declared.startswith(("utf-16", "utf-32")):
        return
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable(f"{file}: this is text in UTF-16; declare `encoding: utf-16`")
    if content[:1000].count(0) * 5 > len(content[:1000]):
        order = "be" if content[:1000:2].count(0) > content[1:1000:2].count(0) else "le"
        raise Unreadable(
            f"{file}: every other byte is zero: text in UTF-16? Then declare `encoding: utf-16-{order}`;"
            " else this is no text file"
        )


# ------------------------------------------------------------------------------------------------------- names


def named(source: FilesSource, file: str, table: pa.Table) -> pa.Table:
    """The columns under the source's names, without those that it excludes.

    Raises:
        Unreadable: a name is blank, or there twice.
    """
    names = []
    for place, found in enumerate(table.column_names, start=1):
        plain = trim(found) if source.trim else found
        name = source.rename.get(found, source.rename.get(plain, plain))
        if not trim(name):
            raise Unreadable(
                f"{file}: the column {plain!r} has no name, at place {place}"
                + (" (pandas writes its index so: use `index=False`)" if place == 1 else "")
                + _spare(table.column(place - 1))
                + '; name it in the file, or by `rename: {"": name}` of the source'
            )
        if (name == REASON or "\0" in name) and name not in source.exclude:
            what = "a NUL in its name" if "\0" in name else "the name under which quarantine keeps a row's reason"
            raise Unreadable(
                f"{file}: the column {name!r} has {what}; `rename: {{{json.dumps(name)}: another}}` at the source"
            )
        names.append(name)
    table = table.rename_columns(names)
    kept = [place for place, name in enumerate(names) if name not in source.exclude]
    table = table.select(kept)
    if len(set(table.column_names)) < len(table.column_names):
        twice = next(name for name in table.column_names if table.column_names.count(name) > 1)
        places = " and ".join(str(place) for place, name in enumerate(names, start=1) if name == twice)
        raise Unreadable(
            f"{file}: the column {twice!r} is there twice, at places {places}; name them apart in the file"
        )
    return table


def _spare(values: pa.ChunkedArray) -> str:
    """What a nameless column without values is: each line ends with a delimiter."""
    if values.null_count < len(values) or not len(values):
        return ""
    return ' and no value (each line ends with a delimiter? `rename: {"": spare}` and `exclude: [spare]` leave it out)'


# ------------------------------------------------------------------------------------------------------- bytes


@dataclass(frozen=True)
class _Packing:
    """A program that packs a file: how what it makes begins, and how all of it, or the part that came, is unpacked."""

    name: str
    magic: bytes
    whole: Callable[[bytes], bytes]
    head: Callable[[bytes], bytes]


def _zstd(raw: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
        return bytes(stream.read())


def _zstd_head(raw: bytes) -> bytes:
    out = io.BytesIO()
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream, contextlib.suppress(OSError):
        while out.tell() < HEAD and (chunk := stream.read(1 << 16)):  # until what came ends
            out.write(chunk)
    return out.getvalue()


_PACKINGS = (
    _Packing("gzip", rb"\x1f\x8b", gzip.decompress, lambda raw: zlib.decompressobj(wbits=31).decompress(raw, HEAD)),
    _Packing("bzip2", rb"BZh[1-9]1AY&SY", bz2.decompress, lambda raw: bz2.BZ2Decompressor().decompress(raw, HEAD)),
    _Packing("xz", rb"\xfd7zXZ\0", lzma.decompress, lambda raw: lzma.LZMADecompressor().decompress(raw, HEAD)),
    _Packing("zstd", rb"\x28\xb5\x2f\xfd", _zstd, _zstd_head),
)


def _packing_of(raw: bytes) -> _Packing | None:
    return next((packing for packing in _PACKINGS if re.match(packing.magic, raw)), None)


def _unpacked(file: str, raw: bytes, *, whole: bool) -> bytes:
    """What is packed in a file, or the file itself. Of a `whole` file every byte must be right; of a head, the part
    that came."""
    packing = _packing_of(raw)
    if packing is None:
        return raw
    try:
        found = packing.whole(raw) if whole or len(raw) < HEAD else packing.head(raw)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, EOFError) or re.search("ended before|[Tt]runcated", str(error)):
            raise Unreadable(
                f"{file}: the {packing.name} is truncated: the file was not delivered whole; fetch it again"
            ) from error
        raise Unreadable(f"{file}: the {packing.name} is corrupt ({_one_line(error)}); fetch it again") from error
    if twice := _packing_of(found):
        raise Unreadable(f"{file}: packed twice, with {packing.name} and inside with {twice.name}; unpack it once")
    return found


def _as_utf8(encoding: str, file: str, raw: bytes, *, whole: bool) -> bytes:
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    decoder = codecs.getincrementaldecoder(encoding)()
    out = io.BytesIO()
    for begin in range(0, len(raw), _CHUNK):
        chunk = raw[begin : begin + _CHUNK]
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=whole and begin + _CHUNK >= len(raw))
        except UnicodeDecodeError as error:
            at = max(begin - pending + error.start, 0)
            row = raw.count(b"\n", 0, at) + 1
            raise Unreadable(
                f"{file}: row {row}: byte 0x{raw[at]:02x} is not {encoding}; declare the `encoding`, such as latin-1"
            ) from error
        if not utf8:
            out.write(text.encode())
    return raw.removeprefix(codecs.BOM_UTF8) if utf8 else out.getvalue().removeprefix(codecs.BOM_UTF8)


# ------------------------------------------------------------------------------------------------------- parquet


def _parquet(file: str, content: bytes) -> pa.Table:
    try:
        parquet = papq.ParquetFile(pa.BufferReader(content))
        return without_index(parquet.read())
    except (pa.ArrowInvalid, OSError) as error:
        raise Unreadable(f"{file}: not a whole parquet file ({_one_line(error)}); fetch it again") from error
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise Unreadable(f"{file}: a column cannot be read ({_one_line(error)})") from error


def without_index(table: pa.Table) -> pa.Table:
    """Without what pandas notes in the file to be a nameless index, no column."""
    written = (table.schema.metadata or {}).get(b"pandas")
    index = json.loads(written).get("index_columns", []) if written else []
    nameless = [name for name in index if isinstance(name, str) and re.fullmatch(r"__index_level_\d+__", name)]
    return table.drop_columns([name for name in nameless if name in table.column_names])


# ------------------------------------------------------------------------------------------------------- csv


def _csv(source: FilesSource, file: str, data: bytes) -> Raw:
    tabs = re.search(r"\.(tsv|tab)(\.(gz|gzip|bz2|xz|zstd?))?$", file, re.IGNORECASE)
    delimiter = source.delimiter or ("\t" if tabs else ",")
    _refuse_excel_instruction(file, data)
    data = _without_lines(file, data, source.skip_lines)
    _refuse_escaped_quote(source, file, data, delimiter)
    width = len(_first_record(source, file, data, delimiter))
    names = [f"c{place}" for place in range(width)]
    options: dict[str, Any] = {
        "parse_options": pacsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=b'"' in data, escape_char=source.escape or False
        ),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    }
    try:
        table = pacsv.read_csv(io.BytesIO(data), read_options=_options(names, data, threads=True), **options)
    except pa.ArrowInvalid:
        try:  # one thread and one block, to learn the row
            table = pacsv.read_csv(io.BytesIO(data), read_options=_options(names, data, threads=False), **options)
        except pa.ArrowInvalid as error:
            _explain(source, file, data, delimiter, error)
    skipped = source.skip_lines
    if source.columns is not None:
        if len(source.columns) != width:
            raise Unreadable(
                f"{file}: row {skipped + 1} has {width} fields, the source's `columns` name {len(source.columns)}"
            )
        return Raw(table.rename_columns(list(source.columns)), skipped + 1, is_text=True)
    header = [table[name][0].as_py() or "" for name in names]
    table = table.slice(1).rename_columns(header)
    _refuse_wrong_delimiter(file, header, delimiter)
    _refuse_header_again(file, header, table, skipped + 2)
    _refuse_data_as_header(source, file, header, table)
    return Raw(table, skipped + 2, is_text=True)


def _refuse_excel_instruction(file: str, data: bytes) -> None:
    found = re.match(rb'"?sep=(.)"?\r?\n', data)
    if found:
        separator = found[1].decode(errors="replace")
        raise Unreadable(
            f"{file}: the first line is an instruction to Excel, sep={separator}; declare `skip_lines: 1`"
            + ("" if separator == "," else f" and `delimiter: {separator!r}`")
        )


def _refuse_escaped_quote(source: FilesSource, file: str, data: bytes, delimiter: str) -> None:
    """A field in quotation marks that goes on after its closing one: with a backslash before it, the mark was meant.

    Doubled marks are how CSV writes them (RFC 4180); read so, `"5\\" pipe"` would silently lose and gain marks.
    """
    if source.escape or b'\\"' not in data:
        return
    between = re.escape(delimiter.encode())
    found = re.search(rb'(?:^|[\n\r]|%b)"(?:[^"]|"")*?\\"(?=[^"\r\n])(?!%b)' % (between, between), data)
    if found:
        row = data.count(b"\n", 0, found.end()) + source.skip_lines + 1
        raise Unreadable(
            f"{file}: row {row}: a quotation mark within a field is written \\\"; declare `escape: '\\'` (or write it"
            ' twice, "", in the file)'
        )


def _without_lines(file: str, data: bytes, count: int) -> bytes:
    begin = 0
    for _ in range(count):
        end = data.find(b"\n", begin)
        if end < 0:
            raise Unreadable(f"{file}: it has no more than the {count} lines that `skip_lines` leaves out")
        begin = end + 1
    return data[begin:]


def _options(names: Sequence[str], data: bytes, *, threads: bool) -> pacsv.ReadOptions:
    size = {} if threads else {"block_size": _block(data)}
    return pacsv.ReadOptions(column_names=list(names), use_threads=threads, **size)


def _block(data: bytes) -> int:
    return min(max(len(data), HEAD), 2**31 - 1)  # more is no number that Arrow takes


def _first_record(source: FilesSource, file: str, data: bytes, delimiter: str) -> list[str]:
    lines = io.StringIO(data[:HEAD].decode(errors="replace").lstrip("\r\n"), newline="")
    try:
        return next(csv.reader(lines, delimiter=delimiter, escapechar=source.escape or None), [""])
    except csv.Error as error:
        raise Unreadable(
            f"{file}: the first line is no header ({error}): is a quotation mark in it not closed, or is the whole file"
            " one line?"
        ) from error


def _explain(source: FilesSource, file: str, data: bytes, delimiter: str, error: pa.ArrowInvalid) -> NoReturn:
    text = _one_line(error)
    ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if not ragged:
        raise Unreadable(f"{file}: {text}") from error
    row, header, fields = (int(ragged[place]) for place in (1, 2, 3))
    before = _lines_before_header(data, delimiter)
    if before and (header == 1 or before > 1):  # one field less than the rows have: names of rows, without a header
        raise Unreadable(
            f"{file}: row {source.skip_lines + before + 1} is the first with as many fields as most have; if it is the"
            f" header line, declare `skip_lines: {source.skip_lines + before}`"
        ) from error
    raise Unreadable(
        f"{file}: row {row + source.skip_lines} has {fields} fields, the header {header}; correct the row (a field with"
        f" {delimiter!r} in it must be quoted), or declare the `delimiter`, if it is not {delimiter!r}"
    ) from error


def _lines_before_header(data: bytes, delimiter: str) -> int:
    """How many lines come before the first that has as many fields as most of the first ones."""
    lines = data[:HEAD].decode(errors="replace").splitlines()[:60]
    widths = [len(next(csv.reader([line[:10_000]], delimiter=delimiter), [])) for line in lines]
    if len(widths) < 5:
        return 0
    usual, often = Counter(widths).most_common(1)[0]
    return widths.index(usual) if usual > 1 and often > len(widths) / 2 else 0


def _refuse_wrong_delimiter(file: str, header: Sequence[str], delimiter: str) -> None:
    if len(header) != 1:
        return
    for other in (";", "\t", "|", ","):
        if other != delimiter and header[0].count(other) > 0:
            shown = "'\\t'" if other == "\t" else repr(other)
            raise Unreadable(
                f"{file}: the header is one column, {header[0][:80]!r}; if {shown} separates the fields, declare"
                f" `delimiter: {shown}`"
            )


_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_LOOK = 1000
"""Rows that are looked at to tell a header line from data."""
_DATED = r"\d{4}-\d{2}(-\d{2}.*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*"


def _refuse_data_as_header(source: FilesSource, file: str, header: Sequence[str], table: pa.Table) -> None:
    """A first line is no header where every column of numbers or dates has one for its name, or every name is also a
    value of its own column."""
    named = {*source.rename, *source.rename.values(), *source.types, source.time_column}
    if set(header) & named:
        return
    whole = [int(name) for name in header if re.fullmatch(r"\d+", name)]
    if whole and len(whole) == len(header) and whole == list(range(whole[0], whole[0] + len(whole))):
        return  # pandas' 0, 1, 2; years
    head = table.slice(0, _LOOK)
    columns = zip(header, head.columns, strict=True)
    typed = [trim(name) for name, values in columns if _all_match(values, f"{_NUMBER}|{_DATED}")]
    repeated = len(header) > 1 and all(
        pc.any(pc.equal(values, name)).as_py() for name, values in zip(header, head.columns, strict=True)
    )
    as_values = typed and all(re.fullmatch(f"{_NUMBER}|{_DATED}", name) for name in typed)
    if as_values and _are_periods(typed) and not _name_is_value(header, head, typed):
        return  # country, 2019, 2020, 2021
    if repeated or as_values:
        raise Unreadable(
            f"{file}: the first line ({', '.join(header)[:80]}) is data, not a header; add a header line, or name the"
            " columns by `columns: [...]` of the source; if it is a header, say so by the type of one of its columns"
            f" under `types`: `{{{json.dumps(header[0], ensure_ascii=False)}: string}}`"
        )


def _all_match(values: pa.ChunkedArray, form: str) -> bool:
    present = values.drop_null()
    return bool(len(present) and pc.all(pc.match_substring_regex(present, f"^\\s*({form})\\s*$")).as_py())


def _are_periods(names: Sequence[str]) -> bool:
    """Whether names are years in equal steps, or months or days that follow each other."""
    if len(names) < 2:
        return False
    if all(re.fullmatch(r"(1[5-9]|2[01])\d\d", name) for name in names):
        return len({int(after) - int(before) for before, after in itertools.pairwise(names)} - {0}) == 1
    return all(re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", name) for name in names) and list(names) == sorted(set(names))


def _name_is_value(header: Sequence[str], head: pa.Table, typed: Sequence[str]) -> bool:
    """Whether a column of text has its own name for a value, as where the first line is data."""
    others = [(name, values) for name, values in zip(header, head.columns, strict=True) if trim(name) not in typed]
    return any(pc.any(pc.equal(values, name)).as_py() for name, values in others)


def _refuse_header_again(file: str, header: Sequence[str], table: pa.Table, first_row: int) -> None:
    """The header line once more among the rows: files that were joined as they are."""
    if len(header) < 2 or not table.num_rows:
        return
    same = pc.fill_null(pc.equal(table.column(0), header[0]), False)
    if not pc.any(same).as_py():
        return
    for place in range(1, len(header)):
        same = pc.and_(same, pc.fill_null(pc.equal(table.column(place), header[place]), False))
    row = pc.index(same, True).as_py()
    if row < 0:
        return
    others = table.filter(pc.invert(same)).slice(0, _LOOK)
    numbers = any(
        _all_match(values, _NUMBER) and not re.fullmatch(_NUMBER, name)
        for name, values in zip(header, others.columns, strict=True)
    )
    if numbers or row >= _LOOK:  # else the first line may be data
        raise Unreadable(
            f"{file}: row {row + first_row} is the header line again: were files joined as they are? Remove the line,"
            " or let the source's `path` name each file"
        )


# ------------------------------------------------------------------------------------------------------- json lines


def _jsonl(source: FilesSource, file: str, data: bytes, known: Types) -> pa.Table:
    if data.lstrip()[:1] == b"[":
        raise Unreadable(f"{file}: a JSON list; write one object a line (json lines)")
    original = {new: old for old, new in source.rename.items()}
    texts = [name for name, kind in {**known, **source.types}.items() if kind == "string"]
    dated = [name for name in [source.time_column] if name and source.date_format_of(name)]
    wished = {spelled for name in (*texts, *dated) for spelled in (name, original.get(name, name))}
    explicit = pa.schema([(name, pa.string()) for name in sorted(wished) if json.dumps(name).encode() in data])
    try:
        table = pajson.read_json(
            io.BytesIO(data),
            read_options=pajson.ReadOptions(block_size=_block(data)),
            parse_options=pajson.ParseOptions(explicit_schema=explicit),
        )
    except pa.ArrowInvalid:
        return _by_row(source, file, data, wished)
    for name in table.column_names:
        large = (
            pa.types.is_floating(table[name].type)
            and pc.any(pc.greater_equal(pc.abs(table[name]), float(EXACT))).as_py()
        )
        if large or pa.types.is_nested(table[name].type):  # a nested value is the text it is, whatever others hold
            return _by_row(source, file, data, wished)
    order = list(_object(file, 1, data.lstrip().split(b"\n", 1)[0]))
    return table.select(sorted(table.column_names, key=lambda name: order.index(name) if name in order else len(order)))


def _by_row(source: FilesSource, file: str, data: bytes, texts: set[str]) -> pa.Table:
    """Slowly, to find the row that is wrong, or values of several types in a column that is declared text."""
    columns: dict[str, list[Any]] = {}
    rows = 0
    for line_number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _object(file, line_number, line)
        for name, value in row.items():
            if isinstance(value, int) and not isinstance(value, bool) and name not in texts and abs(value) >= 2**63:
                raise Unreadable(
                    f"{file}: row {line_number}, column {name}: {value} is beyond 64 bits; declare"
                    f" `types: {{{source.rename.get(name, name)}: string}}`"
                )
            as_text = isinstance(value, dict | list) or (name in texts and not isinstance(value, str | None))
            plain = json.dumps(value) if as_text else value
            columns.setdefault(name, [None] * rows).append(plain)
        rows += 1
        for values in columns.values():
            if len(values) < rows:
                values.append(None)
    return pa.table({name: _array(file, name, values, name in texts) for name, values in columns.items()})


def _object(file: str, number: int, line: bytes) -> Mapping[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise Unreadable(f"{file}: row {number}: the key {twice!r} is there twice")
        return found

    try:
        row = json.loads(line, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{file}: row {number} is not JSON: {error}; correct the line") from error
    if not isinstance(row, dict):
        raise Unreadable(f"{file}: row {number} is a JSON {type(row).__name__}, not an object with the columns' names")
    return row


def _array(file: str, name: str, values: list[Any], is_text: bool) -> pa.Array:
    kinds: dict[str, int] = {}
    for row, value in enumerate(values, start=1):
        if value is not None:
            kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
            kinds.setdefault(kind, row)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise Unreadable(
            f"{file}: column {name} is a {one} in row {first} and a {other} in row {second}; correct it, or declare"
            f" `types: {{{name}: string}}`"
        )
    if "number" in kinds and any(isinstance(value, float) for value in values):
        for row, value in enumerate(values, start=1):
            if isinstance(value, int) and abs(value) > EXACT:
                raise Unreadable(
                    f"{file}: row {row}, column {name}: {value} is a whole number beyond what a float holds exactly;"
                    f" declare `types: {{{name}: string}}`"
                )
        values = [None if value is None else float(value) for value in values]
    if "str" in kinds:
        return _text_array(file, name, values, is_text)
    return pa.array(values)


def _text_array(file: str, name: str, values: list[str | None], is_text: bool) -> pa.Array:
    """Text of JSON: where no text was declared, dates are recognised, as Arrow does where it reads a file at once."""
    try:
        text = pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        row = next(row for row, value in enumerate(values, start=1) if value and re.search(r"[\ud800-\udfff]", value))
        raise Unreadable(
            f"{file}: row {row}, column {name}: half of a surrogate pair, which is no character; correct the file"
        ) from error
    if is_text:
        return text
    lines = "".join(json.dumps({"text": value}) + "\n" for value in values).encode()
    found = pajson.read_json(io.BytesIO(lines), read_options=pajson.ReadOptions(block_size=_block(lines)))
    return found.column("text").combine_chunks()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
