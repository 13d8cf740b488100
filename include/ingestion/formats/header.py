"""Is the first line of a CSV file a header? What shows that it is not, or that another line is one, too."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.values import Unreadable
from include.settings import FilesSource
from include.text import trim


def refuse_wrong_delimiter(file: str, header: Sequence[str], delimiter: str) -> None:
    """One column with another delimiter in its name: the file has that one."""
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
_SAMPLE_ROWS = 1000
"""Rows that are looked at to tell a header line from data."""
_DATED = r"\d{4}-\d{2}(-\d{2}.*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*"


def refuse_data_as_header(source: FilesSource, file: str, header: Sequence[str], table: pa.Table) -> None:
    """A first line is no header where every column of numbers or dates has one for its name, or every name is also a
    value of its own column."""
    named = {*source.rename, *source.rename.values(), *source.types, source.time_column}
    if set(header) & named:
        return
    whole = [int(name) for name in header if re.fullmatch(r"\d+", name)]
    if whole and len(whole) == len(header) and whole == list(range(whole[0], whole[0] + len(whole))):
        return  # pandas' 0, 1, 2; years
    head = table.slice(0, _SAMPLE_ROWS)
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


def refuse_header_again(file: str, header: Sequence[str], table: pa.Table, first_row: int) -> None:
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
    others = table.filter(pc.invert(same)).slice(0, _SAMPLE_ROWS)
    numbers = any(
        _all_match(values, _NUMBER) and not re.fullmatch(_NUMBER, name)
        for name, values in zip(header, others.columns, strict=True)
    )
    if numbers or row >= _SAMPLE_ROWS:  # else the first line may be data
        raise Unreadable(
            f"{file}: row {row + first_row} is the header line again: were files joined as they are? Remove the line,"
            " or let the source's `path` name each file"
        )
