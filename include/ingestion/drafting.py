"""`mlops suite`: as many days and rows of a source as can be afforded, a suite proposed from them, and judged on them.

What a day of the sample breaks is left out of the suite, and the suite's notes name it: a proposal never refuses
what it was made from.
"""

from __future__ import annotations

import datetime as dt
import itertools
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include import schemas
from include.ingestion import judgement, partitions, sources, suites
from include.ingestion.profile import nearly_typed
from include.ingestion.proposal import Day, propose_suite
from include.settings import Source

DAYS = 31
"""Days that are read, and judged one by one: the newest seven, the others spread over all there are."""
MORE_DAYS = 335
"""Days that are read besides where those days have few rows, spread likewise."""
FEW = 100_000
"""Rows of the first days, up to which the others can be afforded."""
ROWS = 1_000_000
"""Rows that are used of all days together; of a day with more than its part, rows drawn at random."""
_NEWEST = 7


@dataclass(frozen=True)
class Draft:
    """A proposed suite as the content of its file, and what it was made from."""

    suite: dict[str, Any]
    keys: list[str]
    rows: int


@dataclass(frozen=True)
class _Part:
    key: str
    table: pa.Table
    day: Day
    alone: bool = True
    """Whether it is judged by itself, its volume and freshness included."""


def draft(path: Path, source: Source, *, today: dt.date, unbounded: Collection[str] = ()) -> Draft:
    """Propose the suite that is to be written to `path`.

    Args:
        path: the suite's file; its stem is the suite's name.
        source: where the rows come from.
        today: days from it on are not over, and are not read.
        unbounded: columns that get no range and no set of values: targets, entities.

    Raises:
        SourceError: the source cannot be read, or there is not one row to propose from.
    """
    notes: list[str] = []
    found = _sample(source, today, notes)
    if not found:
        raise sources.SourceError("; ".join(["there is not one row to propose from", *notes]))
    parts = _united(found, notes)
    table = pa.concat_tables([part.table for part in parts])
    rows = sum(part.day.rows for part in parts)
    days = [part.day for part in parts]
    proposed = propose_suite(path.stem, table, source.time_column, days=days, unbounded=unbounded)
    proposed["notes"][0] = _origin(path.stem, parts, rows)
    proposed["notes"] += notes + _missing(table)
    proposed["notes"] += [each.message for each in nearly_typed(table, getattr(source, "types", {}))]
    _leave_out_what_breaks(path, proposed, parts, today, source.timezone)
    return Draft(proposed, [part.key for part in parts], rows)


def _missing(table: pa.Table) -> list[str]:
    """What counts as missing, by column: blanks and markers do, and a person should know before a rule allows them."""
    return [
        f"{name}: {count:,} of {table.num_rows:,} values are missing"
        for name, count in ((name, table[name].null_count) for name in table.column_names)
        if count
    ]


def _origin(name: str, parts: Sequence[_Part], rows: int) -> str:
    used = sum(part.table.num_rows for part in parts)
    drawn = f", {used:,} of them drawn at random" if used < rows else ""
    days = f" of {len(parts)} days from {parts[0].key} to {parts[-1].key}" if parts[0].key != partitions.ALL else ""
    return f"Proposed by `mlops suite {name}` from {rows:,} rows{days}{drawn}; read it and tighten it."


# -------------------------------------------------------------------------------------------------- the sample


def _sample(source: Source, today: dt.date, notes: list[str]) -> list[_Part]:
    if source.time_column is None:
        return _read(source, [partitions.ALL], ROWS, notes)
    there = sources.days_of(source, today)
    over = [day for day in there if day < today] or there
    older, newest = over[:-_NEWEST], over[-_NEWEST:]
    first = [*_spread(older, DAYS - _NEWEST), *newest]
    found = _read(source, first, ROWS // len(first), notes) if first else []
    if sum(part.day.rows for part in found) <= FEW and (more := _spread(sorted({*over} - {*first}), MORE_DAYS)):
        found += [replace(part, alone=False) for part in _read(source, more, ROWS // MORE_DAYS, notes)]
    return sorted(found, key=lambda part: part.key)


def _spread(days: Sequence[dt.date], most: int) -> list[dt.date]:
    if len(days) <= most:
        return list(days)
    return [days[round(place)] for place in np.linspace(0, len(days) - 1, most)]


def _read(source: Source, days: Sequence[dt.date | str], most: int, notes: list[str]) -> list[_Part]:
    """Those of the partitions that can be read and have rows, at most so many of each; the others are noted."""
    found = []
    pending = [str(day) for day in days]
    while pending:
        try:
            for key, table in sources.read_partitions(source, list(pending)):
                pending.remove(key)
                if part := _part(key, table, source, most):
                    found.append(part)
        except sources.UnreadablePartitions as error:
            notes += [f"Not looked at: {error}"]
            pending = [key for key in pending if key not in error.keys] if error.keys else []
    return found


def _part(key: str, table: pa.Table, source: Source, most: int) -> _Part | None:
    if sources.REASON in table.column_names:
        table = table.filter(table[sources.REASON].is_null()).drop_columns([sources.REASON])
    rows = table.num_rows
    if not rows:
        return None
    day = Day(rows, _silence(key, table, source))
    if rows > most:
        table = table.take(pa.array(np.sort(np.random.default_rng(0).choice(rows, most, replace=False))))
    return _Part(key, table, day)


def _silence(key: str, table: pa.Table, source: Source) -> dt.timedelta | None:
    """From the newest time to the end of the day, which is that of the source's zone."""
    if source.time_column is None:
        return None
    newest = pc.max(table[source.time_column].cast(pa.timestamp("us"))).as_py()
    end: dt.datetime = judgement.parameters(key, 0.0, dt.date.max, source.timezone)["day_end"]
    return end - newest if newest is not None else None


def _united(parts: list[_Part], notes: list[str]) -> list[_Part]:
    """The parts with the columns that all of them have, each of one type."""
    names = [n for n in parts[0].table.column_names if all(n in part.table.column_names for part in parts)]
    for name in sorted({n for part in parts for n in part.table.column_names} - set(names)):
        days = sum(name in part.table.column_names for part in parts)
        notes.append(f"{name}: in {days} of {len(parts)} days only; no rule.")
    columns: list[list[Any]] = []  # for each part those that are left
    retained = []
    for name in names:
        alone = [(part.key, part.table.select([name])) for part in parts]
        try:
            united = schemas.concat(alone)[name]
        except schemas.SchemaError as error:
            notes.append(f"{error}; no rule.")
            continue
        retained.append(name)
        begins = np.cumsum([0, *(part.table.num_rows for part in parts)]).tolist()
        columns.append([united.slice(low, high - low) for low, high in itertools.pairwise(begins)])
    return [
        replace(part, table=pa.table([column[place] for column in columns], names=retained))
        for place, part in enumerate(parts)
    ]


# ------------------------------------------------------------------------------------------------ its judgement


def _leave_out_what_breaks(
    path: Path, proposed: dict[str, Any], parts: Sequence[_Part], today: dt.date, timezone: str = "UTC"
) -> None:
    suite = suites.parse(path, proposed)
    usual = statistics.median(part.day.rows for part in parts)
    alone = [part for part in parts if part.alone]
    judged = [
        (part.table, judgement.parameters(part.key, usual * part.table.num_rows / part.day.rows, today, timezone))
        for part in alone
    ]
    keys = [part.key for part in alone]
    if others := [part for part in parts if not part.alone]:
        judged.append((pa.concat_tables([part.table for part in others]), judged[0][1]))
        keys.append("other days")
    broken: dict[str, str] = {}
    of_days = {rule.id for rule in suite.rules if rule.family and rule.family.OF_ONE_PARTITION}
    for key, rule_ids in zip(keys, judgement.broken_rules(suite, judged), strict=True):
        for rule_id in rule_ids:
            if key != "other days" or rule_id not in of_days:
                broken.setdefault(rule_id, key)
    for rule in suite.rules:
        if rule.id in broken:
            where = "" if broken[rule.id] == partitions.ALL else f" of {broken[rule.id]}"
            proposed["notes"].append(f"Left out, because rows{where} break it: {rule.text}.")
    retained = [e for e, rule in zip(proposed["expectations"], suite.rules, strict=True) if rule.id not in broken]
    proposed["expectations"] = retained
