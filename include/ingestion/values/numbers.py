"""Text as numbers: signs, separators and affixes as the source declares them."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.values.column import Column
from include.schemas import SchemaError, cast_column
from include.settings import ColumnType, FilesSource


def numbers_of(
    column: Column, text: pa.ChunkedArray, kind: ColumnType, *, strict: bool = False
) -> pa.ChunkedArray | None:
    """Text as numbers; None where a value is none (an error, if `strict`)."""
    try:
        text = _digits(column.source, text)
        if kind == "float":
            return text.cast(pa.float64())
        try:
            return _whole(text)
        except pa.ArrowInvalid:
            if column.source.types.get(column.name) != "int":
                raise
            return cast_column(text.cast(pa.float64()), "int")  # 5.0, as pandas writes it
    except (pa.ArrowInvalid, SchemaError):
        if strict:
            raise
        return None


def _whole(text: pa.ChunkedArray) -> pa.ChunkedArray:
    if pc.any(pc.starts_with(text, "+")).as_py():
        text = pc.replace_substring_regex(text, r"^\+", "")
    numbers = text.cast(pa.int64())
    if any(pc.any(pc.match_substring(text, x)).as_py() for x in "xX"):
        raise pa.ArrowInvalid("hexadecimal")  # which Arrow reads
    return numbers


def padded(text: pa.ChunkedArray) -> bool:
    """Whether a number begins with a zero that is not its value, as codes do."""
    begins = pc.starts_with(text, "0")
    for sign in ("-0", "+0"):
        begins = pc.or_(begins, pc.starts_with(text, sign))
    return bool(pc.any(pc.match_substring_regex(text.filter(begins), r"^[+-]?0\d")).as_py())


def _digits(source: FilesSource, text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as the program writes them.

    Raises:
        ArrowInvalid: a group of digits is not of three, or the wrong separator is there.
    """
    for affix in source.affixes:
        escaped = re.escape(affix)
        text = pc.replace_substring_regex(text, rf"^([+-]?)\s*{escaped}\s*|\s*{escaped}$", r"\1")
    if source.thousands:
        group, point = re.escape(source.thousands), re.escape(source.decimal)
        if source.thousands == " ":
            group = "[ \u00a0\u202f]"
        plain = rf"^[+-]?\d*({point}\d*)?([eE][+-]?\d+)?$"
        grouped = rf"^[+-]?\d{{1,3}}({group}\d{{3}})+({point}\d*)?$"
        if not pc.all(pc.match_substring_regex(text, f"{plain}|{grouped}")).as_py():
            raise pa.ArrowInvalid("groups of digits")
        text = pc.replace_substring_regex(text, group, "")
    if source.decimal == ",":
        if pc.any(pc.match_substring(text, ".")).as_py():
            raise pa.ArrowInvalid("a point where the decimal separator is a comma")
        text = pc.replace_substring(text, ",", ".")
    return text
