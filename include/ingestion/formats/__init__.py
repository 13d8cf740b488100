"""What is in a file: CSV, JSON lines or Parquet, recognised by its name and first bytes, as columns for values.py.

packing      text may be packed with gzip, bzip2, xz or zstd: the first bytes count, of the file and of what is in it
delimited    CSV; header: whether its first line is one
json_lines   an object a line
parquet      columns with types
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

import pyarrow as pa

from include.ingestion.formats import delimited, json_lines, packing, parquet
from include.ingestion.formats.parquet import without_index
from include.ingestion.formats.raw import HEAD, Raw
from include.ingestion.sources import REASON, SourceError
from include.ingestion.values import Unreadable
from include.schemas import Types
from include.settings import FilesSource
from include.text import trim

__all__ = ["HEAD", "Raw", "format_of", "named", "parse", "recognise", "without_index"]

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
        content = packing.unpacked(file, content, whole=whole)
    recognise(source, file, content, kind)
    if kind == "parquet":
        raw = Raw(parquet.read(file, content), 1, is_text=False)
    else:
        text = packing.as_utf8(source.encoding, file, content, whole=whole)
        if not whole:
            text = text[: text.rfind(b"\n") + 1] or text
        if not text.strip():
            raise Unreadable(f"{file}: the file is empty")
        raw = (
            delimited.read(source, file, text)
            if kind == "csv"
            else Raw(json_lines.read(source, file, text, known), 1, is_text=False)
        )
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
        packed = packing.packing_of(begin)
        what = f"{packed.name}: unpack it, Parquet is packed inside" if packed else f"it begins with {begin[:4]!r}"
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
    table = table.select([place for place, name in enumerate(names) if name not in source.exclude])
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
