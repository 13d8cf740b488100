"""One table judged by a suite: accepted, rows for quarantine, or refused whole. Nothing is read or written.

A table is refused when it has no rows, lacks a column or holds it in another type, breaks a critical expectation, or
has more rows that break row-level expectations than may. What an expectation means is its family's (expectations/).

Rows **astray** (without a time, or outside of what their file covers) are in no partition. They are judged by the
expectations about single rows of the time column, and count as bad rows.

**Quality** is the smaller of two shares: that of rows which did not go to quarantine, and the weighted mean over the
suite's expectations of what passed: a share of rows for an expectation about rows, 0 or 1 for any other; critical
weighs 3, warning 2, info 1. An expectation that could not run because its column is missing counts as 0; a table
without rows is worth 0.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from include.ingestion import frames, partitions, runner, suites
from include.ingestion.expectations import Rule, observed, shown, unexpected_count, unexpected_rows
from include.ingestion.runner import NotValidated, Runner, raised
from include.ingestion.sources import REASON
from include.text import nearest

WEIGHTS = {"critical": 3.0, "warning": 2.0, "info": 1.0}
LARGE = 100_000
"""Rows from which on an expectation gets a frame of its own columns."""


@dataclass(frozen=True)
class Judgement:
    """One partition, judged; nothing was written."""

    refused: str | None
    row_reasons: pa.Array | None = None
    """For each row why it goes to quarantine, null where it does not; None where no row was judged."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    quality: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Any, ...] = ()
    """Great Expectations' results, in the order of the suite."""


@dataclass(frozen=True)
class Astray:
    """Rows of a partition's file that belong to no partition.

    Attributes:
        rows: those that come with this partition, each with its `REASON`; None where there are none.
        share: of all rows of the file.
        time_column: what dates a row.
    """

    rows: pa.Table | None
    share: float
    time_column: str | None

    def reasons(self) -> list[str]:
        """Why they are astray, with counts."""
        if self.rows is None:
            return ["rows of the file without a time, or outside of what it covers"] if self.share else []
        return [f"{reason} ({count})" for reason, count in Counter(self.rows[REASON].to_pylist()).most_common(3)]


NONE_ASTRAY = Astray(None, 0.0, None)


def parameters(key: str, usual_rows: float, today: dt.date, timezone: str = "UTC") -> dict[str, Any]:
    """What a suite's `$PARAMETER` expressions can name.

    `usual_rows`: the median size of the newest published partitions. With time also `day_start`, `day_end`, and
    `due`: the moment up to which data must have come, the end of the day, or, for a day that is not over, its
    beginning. A day is one of the source's time zone; moments are in UTC, as times are stored.
    """
    found: dict[str, Any] = {"usual_rows": usual_rows}
    if key != partitions.ALL:
        day = dt.date.fromisoformat(key)
        start, end = (_midnight(date, timezone) for date in (day, day + dt.timedelta(days=1)))
        found |= {"day_start": start, "day_end": end, "due": end if day < today else start}
    return found


def _midnight(day: dt.date, timezone: str) -> dt.datetime:
    """When a day begins in a time zone, in UTC and without one."""
    local = dt.datetime.combine(day, dt.time(), zoneinfo.ZoneInfo(timezone))
    return local.astimezone(dt.UTC).replace(tzinfo=None)


def judge(table: pa.Table, suite: suites.Suite, *, quarantine_share: float, given: Mapping[str, Any]) -> Judgement:
    """Judge one table by a suite; `given` are the values of its `$PARAMETER` names.

    Raises:
        NotValidated: Great Expectations itself failed.
    """
    with runner.started() as run:
        return judge_by(run, table, suite, quarantine_share, given)


def broken_rules(suite: suites.Suite, tables: Iterable[tuple[pa.Table, Mapping[str, Any]]]) -> Iterator[list[str]]:
    """For each table, with the values of the suite's `$PARAMETER` names: the ids of the rules that it breaks, or that
    cannot be evaluated on it."""
    with runner.started() as run:
        for table, given in tables:
            found = Subject(run, table, suite, given).evaluate(suite.rules, "BOOLEAN_ONLY")
            yield [rule.id for rule in suite.rules if not found[rule.id].success]


def judge_by(
    run: Runner,
    table: pa.Table,
    suite: suites.Suite,
    quarantine_share: float,
    given: Mapping[str, Any],
    astray: Astray = NONE_ASTRAY,
) -> Judgement:
    """As `judge`, by a runner that is there already, and with the rows of the file that are astray."""
    if table.num_rows == 0:
        return Judgement("; ".join(["0 rows", *astray.reasons()]), report={"message": "0 rows"})
    subject = Subject(run, table, suite, given, astray)
    able = [rule for rule in suite.rules if set(rule.columns) <= set(table.column_names)]
    results = subject.evaluate([rule for rule in able if rule.about_rows], "BOOLEAN_ONLY")
    results |= subject.evaluate([rule for rule in able if not rule.about_rows], "BASIC")
    retyped = _retyped(able, results)
    for rule in able:
        _refuse_to_guess(rule, results[rule.id], table, retyped)
    failed = [rule for rule in able if not results[rule.id].success and not raised(results[rule.id])]
    results |= subject.evaluate(failed, "COMPLETE")
    counts = _counts(failed, results)
    row_reasons = _row_reasons(failed, results, subject.delivered.num_rows).slice(0, table.num_rows)
    share = 1 - row_reasons.null_count / table.num_rows * (1 - astray.share)
    schema = _schema_difference(table, suite, retyped)
    causes = _causes(suite, results, schema)
    if share > quarantine_share:
        causes.append(_too_many_bad_rows(share, quarantine_share, failed, counts, astray))
    checks = [_check(rule, results.get(rule.id), counts.get(rule.id)) for rule in suite.rules]
    return Judgement(
        refused="; ".join(causes) or None,
        row_reasons=row_reasons,
        reasons={r.text: counts[r.id] for r in failed if r.severity == "warning" and counts.get(r.id)},
        quality=round(min(_quality(suite, results, counts, table.num_rows), 1 - share), 6),
        report={"schema": schema, "checks": checks},
        results=tuple(results[rule.id] for rule in suite.rules if rule.id in results),
    )


# ------------------------------------------------------------------------------------------------ evaluating


class Subject:
    """A table under judgement, with its frames for Great Expectations, each made when a rule first needs it.

    It filters whole frames, for every expectation anew. So those of a large table have only the columns of the rules
    that are run on them; of a small one, a run costs more than the filters.
    """

    def __init__(
        self,
        run: Runner,
        table: pa.Table,
        suite: suites.Suite,
        given: Mapping[str, Any],
        astray: Astray = NONE_ASTRAY,
    ) -> None:
        self._run, self._suite, self._given = run, suite, given
        self._time_column = astray.time_column
        self._frames = _Frames(table)
        self.delivered = table
        """The table, and after it the rows astray."""
        self._delivered_frames = self._frames
        if astray.rows is not None:
            self.delivered = pa.concat_tables([table, astray.rows.select(table.column_names)])
            self._delivered_frames = _Frames(self.delivered)

    def evaluate(self, rules: Sequence[Rule], result_format: str) -> dict[str, Any]:
        """Results by rule id, each rule on the frame that is exact for it.

        A rule about the time of single rows is evaluated on those that are astray, too.
        """
        timed = [rule for rule in rules if rule.about_rows and self._time_column in rule.columns]
        others = [rule for rule in rules if rule not in timed]
        found: dict[str, Any] = {}
        for of_table, chosen in ((self._frames, others), (self._delivered_frames, timed)):
            for frame, together in of_table.groups(chosen):
                found |= self._run(frame, self._suite, together, self._given, result_format)
        return found


_Which = tuple[Callable[[pa.Table], Any], tuple[str, ...] | None]
"""A frame: how it is made, and of which columns; None: of all."""


class _Frames:
    """The frames of one table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._made: dict[_Which, Any] = {}

    def groups(self, rules: Sequence[Rule]) -> list[tuple[Any, list[Rule]]]:
        """Frames, each with the rules for which it is exact."""
        found: dict[_Which, list[Rule]] = {}
        for rule in rules:
            assert rule.family is not None  # noqa: S101  a suite that was loaded to be run has it
            make, columns = rule.family.FRAME, None
            filtered = make is not frames.of_types  # which has one row
            if self._table.num_rows >= LARGE and filtered and "row_condition" not in rule.kwargs:
                columns = tuple(dict.fromkeys(rule.columns))
            found.setdefault((make, columns), []).append(rule)
        return [(self._frame(which), chosen) for which, chosen in found.items()]

    def _frame(self, which: _Which) -> Any:
        if which not in self._made:
            make, columns = which
            if columns == ():
                self._made[which] = frames.of_shape(self._table)
            else:
                self._made[which] = make(self._table if columns is None else self._table.select(list(columns)))
        return self._made[which]


def _retyped(rules: Sequence[Rule], results: Mapping[str, Any]) -> dict[str, str]:
    """The columns of another type than the suite demands, each with the expected one."""
    return {
        column: expected
        for rule in rules
        if rule.family is not None and not results[rule.id].success
        for column, expected in rule.family.expected_types(rule).items()
    }


def _refuse_to_guess(rule: Rule, result: Any, table: pa.Table, retyped: Mapping[str, str]) -> None:
    """An expectation that raised says nothing of the data, unless its column is known to be of the wrong type."""
    message = raised(result)
    if message is None or set(rule.columns) & set(retyped):
        return
    types = ", ".join(f"{column} is {table.schema.field(column).type}" for column in rule.columns)
    raise NotValidated(
        f"{rule.type} could not be evaluated ({' '.join(message.split())[:300]}){f'; {types}' if types else ''}."
        " Correct the suite, or add an expectation on the column's type"
    )


# ------------------------------------------------------------------------------------------------ concluding


def _counts(failed: Sequence[Rule], results: Mapping[str, Any]) -> dict[str, int]:
    """Rule id → how many rows break it, for those about rows."""
    return {rule.id: unexpected_count(results[rule.id]) for rule in failed if rule.about_rows}


def _row_reasons(failed: Sequence[Rule], results: Mapping[str, Any], rows: int) -> pa.Array:
    """Each row's reasons as one text. Rows share few combinations of reasons: each row holds the number of its own."""
    combinations: list[str | None] = [None]
    which = np.zeros(rows, dtype=np.int64)
    for rule in failed:
        if rule.severity != "warning" or not rule.about_rows:
            continue
        hit = unexpected_rows(results[rule.id])
        before, place = np.unique(which[hit], return_inverse=True)
        after = np.arange(len(combinations), len(combinations) + len(before))
        combinations += [_joined(combinations[number], rule.text) for number in before]
        which[hit] = after[place]
    return pa.array(combinations, pa.string()).take(pa.array(which))


def _joined(before: str | None, text: str) -> str:
    if before is None:
        return text
    return before if text in before.split("; ") else f"{before}; {text}"


def _schema_difference(table: pa.Table, suite: suites.Suite, retyped: Mapping[str, str]) -> dict[str, Any]:
    present = set(table.column_names)
    needed = {column for rule in suite.rules if rule.severity != "info" for column in rule.columns}
    expected = suite.column_set
    missing = sorted((needed | (expected or set())) - present)
    unknown = sorted(present - expected) if expected is not None else []
    difference: dict[str, Any] = {}
    if missing:
        difference["missing"] = missing
    if unknown:
        difference["unknown"] = unknown
    if missing and unknown:
        pairs = {old: nearest(old, unknown, cutoff=0.5) for old in missing}
        if renamed := {old: new for old, new in pairs.items() if new is not None}:
            difference["renamed"] = renamed
    if retyped:
        difference["retyped"] = {
            column: {"expected": expected_type, "found": str(table.schema.field(column).type)}
            for column, expected_type in sorted(retyped.items())
        }
    return difference


def _causes(suite: suites.Suite, results: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Why the whole partition is refused, the shares of single rows left aside."""
    renamed = schema.get("renamed", {})
    causes = [
        f"column {column} is missing" + (f" (renamed to {renamed[column]}?)" if column in renamed else "")
        for column in schema.get("missing", ())
    ]
    for rule in suite.rules:
        result = results.get(rule.id)
        if rule.severity == "critical" and rule.family is not None and result is not None and not result.success:
            causes += rule.family.causes(rule, result, schema)
    return causes


def _too_many_bad_rows(
    share: float, allowed: float, failed: Sequence[Rule], counts: Mapping[str, int], astray: Astray
) -> str:
    """The cause, with the rules that most rows break."""
    broken = ((counts[rule.id], rule.text) for rule in failed if rule.severity == "warning" and rule.id in counts)
    worst = sorted(broken, reverse=True)[:4]
    why = "; ".join([*(f"{text} ({count})" for count, text in worst), *astray.reasons()])
    also = " or are astray" if astray.share else ""
    return f"{share:.1%} of the rows break row-level expectations{also}, {allowed:.1%} may: {why}"


def _check(rule: Rule, result: Any, rows: int | None) -> dict[str, Any]:
    """What is recorded of one expectation, for the data docs."""
    outcome, examples = "not evaluated", ()
    if result is not None and not raised(result):
        outcome = "passed" if result.success else "failed"
        examples = ((result.result or {}).get("partial_unexpected_list") or ()) if rule.about_rows else ()
    return {
        "type": rule.type,
        "columns": list(rule.columns),
        "severity": rule.severity,
        "text": rule.text,
        "outcome": outcome,
        "rows": rows,
        "found": observed(result),
        "examples": list(dict.fromkeys(map(shown, examples)))[:5],
    }


def _quality(suite: suites.Suite, results: Mapping[str, Any], counts: Mapping[str, int], rows: int) -> float:
    passed = total = 0.0
    for rule in suite.rules:
        weight = WEIGHTS[rule.severity]
        total += weight
        result = results.get(rule.id)
        if result is None or raised(result):
            continue
        passed += weight * (1.0 if result.success else 1 - counts[rule.id] / rows if rule.id in counts else 0.0)
    return round(passed / total, 6)
