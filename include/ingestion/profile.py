"""Columns whose nature is a guess: text that is nearly numbers or dates, and whole numbers that are dates.

One blank, a `-` or a footer makes a column of numbers text, with thousands of "categories". What keeps it from
being numbers is said in a sentence, with the settings that read it as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

ENOUGH = 0.75
"""A column is nearly something when this share of its rows is."""

_NUMBER = r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_FORMS = {  # what is found first counts; each with how it is described
    "plain": (rf"^[+-]?{_NUMBER}$", ""),
    "thousands": (r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$", "with a comma between thousands"),
    "decimal": (r"^[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+$", "with a decimal comma"),
    "spaced": (r"^[+-]?\d{1,3}([ '\x{00a0}\x{202f}]\d{3})+([.,]\d+)?$", "with a space between thousands"),
    "unit": (r"^[+-]?[$€£¥]\s?[\d.,]*\d$|^[+-]?[\d.,]*\d\s?[$€£¥%]$", "with a currency or percent sign"),
    "marker": (r"^(?i:-+|\?+|\.|n/?a|n\.a\.?|null|none|nil|nan|missing|unknown)$", "for missing"),
}
_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATES = {
    "%Y-%m-%d": r"^\d{4}-\d{2}-\d{2}([ T].*)?$",
    "%d/%m/%Y": r"^\d{1,2}/\d{1,2}/\d{4}( .*)?$",
    "%d.%m.%Y": r"^\d{1,2}\.\d{1,2}\.\d{4}( .*)?$",
    "%d-%m-%Y": r"^\d{1,2}-\d{1,2}-\d{4}( .*)?$",
    "%d %b %Y": rf"^\d{{1,2}}[ -]{_MONTH}[ -]\d{{4}}( .*)?$",
    "%b %d, %Y": rf"^{_MONTH} \d{{1,2}},? \d{{4}}( .*)?$",
    "%Y%m%d": r"^(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$",
}


@dataclass(frozen=True)
class Nearly:
    """A column that is perhaps not what its type says."""

    column: str
    kind: Literal["numbers", "dates"]
    share: float
    """Of its rows, the blank ones included."""
    message: str


def nearly_typed(table: pa.Table, declared: Collection[str] = ()) -> list[Nearly]:
    """The columns of a table that are nearly numbers or dates, without those whose type was declared."""
    found = []
    for name in table.column_names:
        values = table[name]
        if name in declared or not table.num_rows:
            continue
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            found.append(_text(name, values))
        elif pa.types.is_integer(values.type):
            found.append(_integers(name, values))
    return [each for each in found if each is not None]


def percent(share: float) -> str:
    """A share as a percentage with one digit, rounded down: only all of it is 100 %."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"


# ---------------------------------------------------------------------------------------------------- columns


class _Counted:
    """The distinct values of a text column, trimmed, and how often each is there."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        trimmed = pc.utf8_trim_whitespace(pc.fill_null(values, ""))
        counts = pc.value_counts(trimmed)
        self.rows = len(values)
        self.values, self._often = counts.field("values"), counts.field("counts")

    def take(self, regex: str) -> tuple[int, str]:
        """How many rows match, and an example; what was taken is not found again."""
        hit = pc.match_substring_regex(self.values, regex)
        taken, often = self.values.filter(hit), self._often.filter(hit)
        self.values, self._often = self.values.filter(pc.invert(hit)), self._often.filter(pc.invert(hit))
        return int(pc.sum(often).as_py() or 0), taken[0].as_py() if len(taken) else ""

    def rest(self) -> tuple[int, str]:
        """How many rows no expression took, and an example."""
        return int(pc.sum(self._often).as_py() or 0), self.values[0].as_py() if len(self.values) else ""


def _text(name: str, values: pa.ChunkedArray) -> Nearly | None:
    dates = _dates(name, values)
    return dates or _numbers(name, values)


def _numbers(name: str, values: pa.ChunkedArray) -> Nearly | None:
    counted = _Counted(values)
    if pc.any(pc.match_substring_regex(counted.values, r"^[+-]?0\d")).as_py():
        return None  # 00007 is a code
    blank, _ = counted.take(r"^$")
    found = {form: counted.take(regex) for form, (regex, _) in _FORMS.items()}
    text, example = counted.rest()
    marked = found.pop("marker")
    numbers = sum(count for count, _ in found.values())
    share = numbers / counted.rows
    if share < ENOUGH:
        return None
    parts = [f"{percent(share)} numbers"]
    parts += [
        f"{count:,} {_FORMS[form][1]} ({example!r})"
        for form, (count, example) in found.items()
        if count and form != "plain"
    ]
    parts += [_are(blank, "blank")] if blank else []
    parts += [f"{_are(marked[0], repr(marked[1]))} or the like"] if marked[0] else []
    parts += [_are(text, f"text ({example[:40]!r})")] if text else []
    settings = [f"`types: {{{name}: float}}`"]
    settings += ["`null_values`"] if blank or marked[0] or text else []
    settings += ["`decimal: ','`"] if found["decimal"][0] else []
    settings += ["`thousands`"] if found["thousands"][0] or found["spaced"][0] else []
    settings += ["`affixes`"] if found["unit"][0] else []
    remedy = f"declare {' and '.join(settings)} at the source, or `types: {{{name}: string}}` if it is text"
    return Nearly(name, "numbers", share, f"{name}: {', '.join(parts)}; {remedy}")


def _are(count: int, what: str) -> str:
    return f"{count:,} {'is' if count == 1 else 'are'} {what}"


def _dates(name: str, values: pa.ChunkedArray) -> Nearly | None:
    for form, regex in _DATES.items():
        counted = _Counted(values)
        counted.take(r"^$")
        count, example = counted.take(regex)
        if count / len(values) >= ENOUGH:
            text, other = counted.rest()
            return _date(name, values, form, count, example, f", {_are(text, repr(other[:40]))}" if text else "")
    return None


def _date(name: str, values: pa.ChunkedArray, form: str, count: int, example: str, rest: str) -> Nearly:
    share = count / len(values)
    seen = f"{name}: {percent(share)} dates ({example!r}){rest}"
    if form == "%d/%m/%Y":
        form = _order(values)
        if form == "":
            seen += ", and no row says whether day or month comes first"
            form = "%d/%m/%Y` or `%m/%d/%Y"
    remedy = f"declare `types: {{{name}: date}}` and `date_format: {form}` at the source"
    return Nearly(name, "dates", share, f"{seen}; {remedy}, or `types: {{{name}: string}}` if it is text")


def _order(values: pa.ChunkedArray) -> str:
    """The format of dates with slashes, by a part that is no month; "" where all may be both."""
    if pc.any(pc.match_substring_regex(values, r"^\s*(1[3-9]|2\d|3[01])/")).as_py():
        return "%d/%m/%Y"
    if pc.any(pc.match_substring_regex(values, r"^\s*\d{1,2}/(1[3-9]|2\d|3[01])/")).as_py():
        return "%m/%d/%Y"
    return ""


def _integers(name: str, values: pa.ChunkedArray) -> Nearly | None:
    """Whole numbers such as 20200131."""
    present = pc.unique(values.drop_null())
    if len(present) < 3 or pc.min(present).as_py() < 19_000_101 or pc.max(present).as_py() > 21_001_231:
        return None
    text = present.cast(pa.string())
    if not pc.all(pc.match_substring_regex(text, _DATES["%Y%m%d"])).as_py():
        return None
    message = (
        f"{name}: whole numbers that are dates ({text[0].as_py()}); declare `types: {{{name}: date}}` and"
        f" `date_format: %Y%m%d` at the source, or `types: {{{name}: int}}` if they are numbers"
    )
    return Nearly(name, "dates", len(values.drop_null()) / len(values), message)
