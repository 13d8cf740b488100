"""CSV: fields between delimiters, all of them text, with the row in every refusal."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv as pacsv

from include.ingestion.formats.header import refuse_data_as_header, refuse_header_again, refuse_wrong_delimiter
from include.ingestion.formats.raw import HEAD, Raw, block, one_line
from include.ingestion.values import Unreadable
from include.settings import FilesSource


def read(source: FilesSource, file: str, data: bytes) -> Raw:
    """The columns of a file, by its header line or the source's `columns`.

    Raises:
        Unreadable: a row has other fields than the header, or the first line is no header.
    """
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
    refuse_wrong_delimiter(file, header, delimiter)
    refuse_header_again(file, header, table, skipped + 2)
    refuse_data_as_header(source, file, header, table)
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
    size = {} if threads else {"block_size": block(data)}
    return pacsv.ReadOptions(column_names=list(names), use_threads=threads, **size)


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
    text = one_line(error)
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
