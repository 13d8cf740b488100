"""JSON lines: an object a line; a nested value is its text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from include.ingestion.formats.raw import block
from include.ingestion.values import Unreadable
from include.schemas import EXACT, Types
from include.settings import FilesSource


def read(source: FilesSource, file: str, data: bytes, known: Types) -> pa.Table:
    """The columns of a file, in the order of its first object.

    Raises:
        Unreadable: a line is no object, or a column has values of several types.
    """
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
            read_options=pajson.ReadOptions(block_size=block(data)),
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
    found = pajson.read_json(io.BytesIO(lines), read_options=pajson.ReadOptions(block_size=block(lines)))
    return found.column("text").combine_chunks()
