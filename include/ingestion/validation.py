"""Great Expectations on every partition: accepted, rows to quarantine, or refused whole.

A partition is refused when it cannot be read, has no rows, lacks a column or holds it in another type, breaks a
critical expectation, or has more rows that break row-level expectations than the source's quarantine_share.
Refused is not published and nothing downstream sees it; the data and the reason are kept in quarantine. When
Great Expectations itself fails, the partition is neither accepted nor refused: `NotValidated` is raised.

Rows **astray** (without a time, or outside of what their file covers) are in no partition. They are judged by the
expectations about single rows of the time column, and count as bad rows: in the share and quality of their own day, or,
where a file covers several days, in those of each of its days.

**Quality** is the smaller of two shares: that of rows which did not go to quarantine, and the weighted mean over the
suite's expectations of what passed: a share of rows for an expectation about rows, 0 or 1 for any other; critical
weighs 3, warning 2, info 1. An expectation that could not run because its column is missing counts as 0; a partition
that could not be read or has no rows is worth 0. It is shown rounded down: only a partition without a fault has 100 %.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import statistics
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from include import storage
from include.database import connect
from include.database import partitions as rows_of
from include.ingestion import data_docs, frames, partitions, run_schema, suites
from include.ingestion.sources import REASON
from include.schemas import United
from include.settings import Source
from include.text import nearest

WEIGHTS = {"critical": 3.0, "warning": 2.0, "info": 1.0}
LARGE = 100_000
"""Rows from which on an expectation gets a frame of its own columns."""
USUAL_OVER = 14
"""How many of the newest published partitions say what size is usual."""


class NotValidated(RuntimeError):
    """Great Expectations could not judge a partition: it counts as not validated, never as passed."""


@dataclass(frozen=True)
class Validation:
    """What became of each partition: the accepted ones, the refused with their reason, and what was counted."""

    accepted: list[str]
    rejected: dict[str, str]
    rows: int
    quarantined: int
    quality: dict[str, float]
    reasons: dict[str, int]
    docs_url: str
    types_changed: dict[str, str] = field(default_factory=dict)
    """Column → what became of its type with these partitions: `int → float`."""
    infinite: dict[str, str] = field(default_factory=dict)
    """Column → where accepted rows have infinite numbers in it, of which no features are built."""


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


def validate(
    name: str,
    source: Source,
    keys: Sequence[str],
    *,
    data_url: str,
    run_id: str,
    suite_path: Path,
    database_url: str,
    today: dt.date,
) -> Validation:
    """Judge the run's staged partitions, write accepted rows and quarantine, and record both in PostgreSQL.

    Bad data does not raise: it is in `rejected`. What was published before stays published until `publish`.

    Raises:
        NotValidated: Great Expectations itself failed; nothing was recorded.
        SuiteError: the suite is missing or wrong.
        NotExtracted: a key was not extracted by this run.
    """
    suite = suites.load(suite_path)
    staged = _staged(name, keys, data_url=data_url, run_id=run_id)
    engine = connect(database_url)
    try:
        usual = _usual_rows(engine, name, staged)
        schema = run_schema.RunSchema(engine, name, source, keys, data_url)
        outcomes: dict[str, _Outcome] = {}
        with _engine_room() as run:
            for key in keys:
                judged = _judge_staged(
                    run, schema, name, source, suite, key, staged[key], usual, today, data_url, run_id
                )
                outcomes[key] = _store(name, key, judged, data_url=data_url, run_id=run_id)
        _record(engine, name, outcomes, run_id=run_id)
        reports = partitions.reports(database_url, name, partitions.MAXIMUM_DAYS)
        docs_url = data_docs.build(name, reports, keys, data_url=data_url)
    finally:
        engine.dispose()
    reasons: Counter[str] = Counter()
    for outcome in outcomes.values():
        reasons.update(outcome.report["reasons"])
    return Validation(
        accepted=[key for key, outcome in outcomes.items() if outcome.refused is None],
        rejected={key: outcome.refused for key, outcome in outcomes.items() if outcome.refused is not None},
        rows=sum(outcome.rows for outcome in outcomes.values()),
        quarantined=sum(outcome.quarantined for outcome in outcomes.values()),
        quality={key: outcome.quality for key, outcome in outcomes.items()},
        reasons=dict(reasons.most_common()),
        docs_url=docs_url,
        types_changed={
            column: change
            for outcome in outcomes.values()
            if outcome.refused is None
            for column, change in outcome.report["types_changed"].items()
        },
        infinite=_infinite_columns(outcomes),
    )


def _infinite_columns(outcomes: Mapping[str, _Outcome]) -> dict[str, str]:
    """Column → how many rows of the accepted partitions are infinite in it, and which is the first."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for key, outcome in outcomes.items():
        for column, found in outcome.report.get("infinite", {}).items():
            counts[column] += found["rows"]
            first.setdefault(column, f"row {found['first_row']} of {key}")
    return {column: f"{rows:,} of the rows, the first is {first[column]}" for column, rows in counts.items()}


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


# ------------------------------------------------------------------------------------------------- judging


class _Run:
    """Great Expectations, set up once for many partitions."""

    def __init__(self) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars={"globally": False},
        )
        context = gx.get_context(mode="ephemeral", project_config=config)
        asset = context.data_sources.add_pandas("platform").add_dataframe_asset("partition")
        self._batches = asset.add_batch_definition_whole_dataframe("whole")
        self._suite = gx.ExpectationSuite

    def __call__(
        self,
        frame: Any,
        suite: suites.Suite,
        rules: Sequence[suites.Rule],
        given: Mapping[str, Any],
        result_format: str,
    ) -> dict[str, Any]:
        """Results by rule id."""
        chosen = self._suite(name=suite.name)
        chosen.expectations = [suite.expectations[rule.id] for rule in rules]
        try:
            batch = self._batches.get_batch({"dataframe": frame})
            outcome = batch.validate(chosen, result_format=result_format, expectation_parameters=dict(given))
        except Exception as error:
            message = " ".join(str(error).split())[:400]
            raise NotValidated(f"Great Expectations failed: {type(error).__name__}: {message}") from error
        found = {result.expectation_config.id: result for result in outcome.results}
        if missing := [rule for rule in rules if rule.id not in found]:
            raise NotValidated(f"Great Expectations gave no result for {missing[0].type} of {missing[0].columns}")
        return found


@contextlib.contextmanager
def _engine_room() -> Iterator[_Run]:
    """Great Expectations builds an expectation's configuration anew some 60 times per run; here, once per object.

    Half of its time on a small partition goes there: with 30 expectations 88 ms become 45. It also hashes every frame
    of less than a gigabyte, for a mark that nothing reads; here, none.
    """
    from great_expectations.execution_engine import pandas_execution_engine
    from great_expectations.expectations.expectation import Expectation

    original, hashed = Expectation.configuration, pandas_execution_engine.HASH_THRESHOLD
    kept: dict[int, tuple[Any, Any]] = {}

    def configuration(self: Any) -> Any:
        seen = kept.get(id(self))
        if seen is None or seen[0] is not self:
            if len(kept) > 5000:
                kept.clear()
            seen = kept[id(self)] = (self, original.fget(self))
        return seen[1]

    Expectation.configuration = property(configuration)
    pandas_execution_engine.HASH_THRESHOLD = 0
    try:
        yield _Run()
    finally:
        Expectation.configuration = original
        pandas_execution_engine.HASH_THRESHOLD = hashed


def judge(table: pa.Table, suite: suites.Suite, *, quarantine_share: float, given: Mapping[str, Any]) -> Judgement:
    """Judge one table by a suite; `given` are the values of its `$PARAMETER` names.

    Raises:
        NotValidated: Great Expectations itself failed.
    """
    with _engine_room() as run:
        return _judge(run, table, suite, quarantine_share, given)


def broken_rules(suite: suites.Suite, tables: Iterable[tuple[pa.Table, Mapping[str, Any]]]) -> Iterator[list[str]]:
    """For each table, with the values of the suite's `$PARAMETER` names: the ids of the rules that it breaks, or that
    cannot be evaluated on it."""
    with _engine_room() as run:
        for table, given in tables:
            found = _evaluate(run, _Frames(table), suite, given, suite.rules, "BOOLEAN_ONLY")
            yield [rule.id for rule in suite.rules if not found[rule.id].success]


@dataclass(frozen=True)
class Astray:
    """Rows of a partition's file that belong to no partition.

    Attributes:
        rows: those that are kept with this partition, each with its `REASON`; None where there are none.
        share: of all rows of the file.
        time_column: what dates a row.
    """

    rows: pa.Table | None
    share: float
    time_column: str | None

    def told(self) -> list[str]:
        """Why they are astray, with counts."""
        if self.rows is None:
            return ["rows of the file without a time, or outside of what it covers"] if self.share else []
        return [f"{reason} ({count})" for reason, count in Counter(self.rows[REASON].to_pylist()).most_common(3)]


NONE_ASTRAY = Astray(None, 0.0, None)


def _judge(
    run: _Run,
    table: pa.Table,
    suite: suites.Suite,
    quarantine_share: float,
    given: Mapping[str, Any],
    astray: Astray = NONE_ASTRAY,
) -> Judgement:
    if table.num_rows == 0:
        return Judgement("; ".join(["0 rows", *astray.told()]), report={"message": "0 rows"})
    delivered = table if astray.rows is None else pa.concat_tables([table, astray.rows.select(table.column_names)])
    evaluate = partial(_evaluate_all, run, _Frames(table), _Frames(delivered), astray.time_column, suite, given)
    present = set(table.column_names)
    able = [rule for rule in suite.rules if set(rule.columns) <= present]
    results = evaluate([rule for rule in able if rule.about_rows], "BOOLEAN_ONLY")
    results |= evaluate([rule for rule in able if not rule.about_rows], "BASIC")
    retyped = {
        column: rule
        for rule in able
        if rule.scope == "types" and not results[rule.id].success
        for column in rule.columns
    }
    for rule in able:
        _refuse_to_guess(rule, results[rule.id], table, retyped)
    schema = _schema_difference(table, suite, retyped)
    failed = [rule for rule in able if not results[rule.id].success and not _raised(results[rule.id])]
    details = evaluate(failed, "COMPLETE")
    results |= details
    broken = [rule for rule in failed if rule.about_rows]

    counts = {rule.id: int(details[rule.id].result.get("unexpected_count", 0)) for rule in broken}
    row_reasons = _row_reasons(broken, details, delivered.num_rows).slice(0, table.num_rows)
    share = 1 - row_reasons.null_count / table.num_rows * (1 - astray.share)
    causes = _causes(suite, results, schema, counts)
    if share > quarantine_share:
        worst = sorted(((counts[r.id], r.text) for r in broken if r.severity == "warning"), reverse=True)[:4]
        told = "; ".join([*(f"{text} ({count})" for count, text in worst), *astray.told()])
        also = " or are astray" if astray.share else ""
        causes.append(f"{share:.1%} of the rows break row-level expectations{also}, {quarantine_share:.1%} may: {told}")
    reasons = {rule.text: counts[rule.id] for rule in broken if rule.severity == "warning" and counts[rule.id]}
    report = {
        "schema": schema,
        "checks": [_check(rule, results.get(rule.id), counts.get(rule.id)) for rule in suite.rules],
    }
    return Judgement(
        refused="; ".join(causes) or None,
        row_reasons=row_reasons,
        reasons=reasons,
        quality=round(min(_quality(suite, results, counts, table.num_rows), 1 - share), 6),
        report=report,
        results=tuple(results[rule.id] for rule in suite.rules if rule.id in results),
    )


_FRAME = {"records": frames.of_records, "distribution": frames.of_records, "types": frames.of_types}


class _Frames:
    """A table's frames for Great Expectations, each made when a rule first needs it.

    It filters whole frames, for every expectation anew. So those of a large table have only the columns of the rules
    that are run on them; of a small one, a run costs more than the filters.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._made: dict[tuple[str, tuple[str, ...] | None], Any] = {}

    def groups(self, rules: Sequence[suites.Rule]) -> list[tuple[Any, list[suites.Rule]]]:
        """Frames, each with the rules for which it is exact."""
        found: dict[tuple[str, tuple[str, ...] | None], list[suites.Rule]] = {}
        for rule in rules:
            make = _FRAME.get(rule.scope or "table", frames.of_values)
            columns = None
            if self._table.num_rows >= LARGE and rule.scope != "types" and "row_condition" not in rule.kwargs:
                columns = tuple(dict.fromkeys(rule.columns))
            found.setdefault((make.__name__, columns), []).append(rule)
        return [(self._frame(*which), chosen) for which, chosen in found.items()]

    def _frame(self, make: str, columns: tuple[str, ...] | None) -> Any:
        if (make, columns) not in self._made:
            if columns == ():
                self._made[make, columns] = frames.of_shape(self._table)
            else:
                table = self._table if columns is None else self._table.select(list(columns))
                self._made[make, columns] = getattr(frames, make)(table)
        return self._made[make, columns]


def _evaluate(
    run: _Run,
    of_table: _Frames,
    suite: suites.Suite,
    given: Mapping[str, Any],
    rules: Sequence[suites.Rule],
    result_format: str,
) -> dict[str, Any]:
    """Results by rule id, each rule on the frame that is exact for it."""
    found: dict[str, Any] = {}
    for frame, chosen in of_table.groups(rules):
        found |= run(frame, suite, chosen, given, result_format)
    return found


def _evaluate_all(
    run: _Run,
    of_table: _Frames,
    of_delivered: _Frames,
    time_column: str | None,
    suite: suites.Suite,
    given: Mapping[str, Any],
    rules: Sequence[suites.Rule],
    result_format: str,
) -> dict[str, Any]:
    """As `_evaluate`; a rule about the time of single rows on those that are astray, too."""
    timed = [rule for rule in rules if rule.about_rows and time_column in rule.columns]
    others = [rule for rule in rules if rule not in timed]
    return _evaluate(run, of_table, suite, given, others, result_format) | _evaluate(
        run, of_delivered, suite, given, timed, result_format
    )


def _raised(result: Any) -> str | None:
    """The message of the exception that kept an expectation from being evaluated, if any."""
    info = result.exception_info or {}
    for part in (info, *(value for value in info.values() if isinstance(value, dict))):
        if part.get("raised_exception"):
            return str(part.get("exception_message"))
    return None


def _refuse_to_guess(rule: suites.Rule, result: Any, table: pa.Table, retyped: Mapping[str, Any]) -> None:
    """An expectation that raised says nothing of the data, unless its column is known to be of the wrong type."""
    message = _raised(result)
    if message is None or set(rule.columns) & set(retyped):
        return
    types = ", ".join(f"{column} is {table.schema.field(column).type}" for column in rule.columns)
    raise NotValidated(
        f"{rule.type} could not be evaluated ({' '.join(message.split())[:300]}){f'; {types}' if types else ''}."
        " Correct the suite, or add an expectation on the column's type"
    )


def _schema_difference(table: pa.Table, suite: suites.Suite, retyped: Mapping[str, suites.Rule]) -> dict[str, Any]:
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
            column: {
                "expected": rule.kwargs.get("type_") or " or ".join(map(str, rule.kwargs.get("type_list") or ())),
                "found": str(table.schema.field(column).type),
            }
            for column, rule in sorted(retyped.items())
        }
    return difference


def _row_reasons(broken: Sequence[suites.Rule], details: Mapping[str, Any], rows: int) -> pa.Array:
    """Each row's reasons as one text. Rows share few combinations of reasons: each row holds the number of its own."""
    combinations: list[str | None] = [None]
    which = np.zeros(rows, dtype=np.int64)
    for rule in broken:
        if rule.severity != "warning":
            continue
        hit = np.asarray(details[rule.id].result.get("unexpected_index_list") or (), dtype=np.int64)
        before, place = np.unique(which[hit], return_inverse=True)
        after = np.arange(len(combinations), len(combinations) + len(before))
        combinations += [_joined(combinations[number], rule.text) for number in before]
        which[hit] = after[place]
    return pa.array(combinations, pa.string()).take(pa.array(which))


def _joined(before: str | None, text: str) -> str:
    if before is None:
        return text
    return before if text in before.split("; ") else f"{before}; {text}"


def _causes(
    suite: suites.Suite, results: Mapping[str, Any], schema: Mapping[str, Any], counts: Mapping[str, int]
) -> list[str]:
    """Why the whole partition is refused, the shares of single rows left aside."""
    causes = []
    renamed = schema.get("renamed", {})
    for column in schema.get("missing", ()):
        causes.append(
            f"column {column} is missing" + (f" (renamed to {renamed[column]}?)" if column in renamed else "")
        )
    for rule in suite.rules:
        result = results.get(rule.id)
        if rule.severity != "critical" or result is None or result.success:
            continue
        if rule.scope == "types":
            for column in rule.columns:
                types = schema["retyped"][column]
                causes.append(f"column {column} is {types['found']}, expected {types['expected']}")
        elif rule.type == "expect_table_columns_to_match_set":
            if not schema.get("missing"):
                causes.append("unknown columns: " + ", ".join(schema.get("unknown", ())))
        elif not set(rule.columns) & set(schema.get("retyped", ())):
            observed = _observed(result)
            found = (
                f"{counts[rule.id]} rows" if rule.id in counts else f"found {observed}" if observed is not None else ""
            )
            causes.append(rule.text + (f" ({found})" if found else ""))
    return causes


def _check(rule: suites.Rule, result: Any, rows: int | None) -> dict[str, Any]:
    """What is recorded of one expectation, for the data docs."""
    outcome, examples = "not evaluated", ()
    if result is not None and not _raised(result):
        outcome = "passed" if result.success else "failed"
        examples = ((result.result or {}).get("partial_unexpected_list") or ()) if rule.about_rows else ()
    return {
        "type": rule.type,
        "columns": list(rule.columns),
        "severity": rule.severity,
        "text": rule.text,
        "outcome": outcome,
        "rows": rows,
        "found": _observed(result),
        "examples": list(dict.fromkeys(map(_shown, examples)))[:5],
    }


def _observed(result: Any) -> float | int | str | None:
    value = (result.result or {}).get("observed_value") if result is not None else None
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _shown(value)


def _shown(value: Any) -> str:
    """A value as text that PostgreSQL's JSON takes, which knows no NUL."""
    return str(value)[:120].replace("\0", "\u2400")


def _quality(suite: suites.Suite, results: Mapping[str, Any], counts: Mapping[str, int], rows: int) -> float:
    passed = total = 0.0
    for rule in suite.rules:
        weight = WEIGHTS[rule.severity]
        total += weight
        result = results.get(rule.id)
        if result is None or _raised(result):
            continue
        passed += weight * (1.0 if result.success else 1 - counts[rule.id] / rows if rule.id in counts else 0.0)
    return round(passed / total, 6)


# ------------------------------------------------------------------------------------- staged, stored, recorded


@dataclass(frozen=True)
class _Staged:
    rows: int
    unreadable: str | None = None


@dataclass(frozen=True)
class _Judged:
    """A partition's delivered rows, those that do not belong to it, and the judgement on the others."""

    table: pa.Table | None
    strays: pa.Table | None
    judgement: Judgement


@dataclass(frozen=True)
class _Outcome:
    refused: str | None
    rows: int
    quarantined: int
    quality: float
    sha256: str | None
    report: dict[str, Any]


def _staged(name: str, keys: Sequence[str], *, data_url: str, run_id: str) -> dict[str, _Staged]:
    import pyarrow.parquet as papq

    found = {}
    for key in keys:
        reason = partitions.refusal(data_url, name, run_id, partitions.check_key(key))
        if reason is not None:
            found[key] = _Staged(0, reason)
            continue
        url = partitions.staging_url(data_url, name, run_id, f"{key}.parquet")
        if not storage.exists(url):
            raise partitions.NotExtracted(
                f"{name} {key}: nothing is staged for the run {run_id!r}; run `extract` first"
            )
        if storage.is_local(url):
            rows = papq.read_metadata(storage.local_path(url)).num_rows
        else:
            rows = storage.read_table(url, []).num_rows
        found[key] = _Staged(rows)
    return found


def _usual_rows(engine: sa.Engine, name: str, staged: Mapping[str, _Staged]) -> float:
    """The median size of the newest published partitions; with fewer than three, the staged ones are asked too."""
    query = (
        sa.select(rows_of.c.rows + rows_of.c.quarantined_rows)
        .where(rows_of.c.source == name, rows_of.c.status == "published", rows_of.c.key.not_in(list(staged)))
        .order_by(rows_of.c.key.desc())
        .limit(USUAL_OVER)
    )
    with engine.connect() as connection:
        sizes = [int(size) for size in connection.scalars(query)]
    if len(sizes) < 3:
        sizes += [part.rows for part in staged.values() if part.rows]
    return float(statistics.median(sizes)) if sizes else 0.0


def _judge_staged(
    run: _Run,
    schema: run_schema.RunSchema,
    name: str,
    source: Source,
    suite: suites.Suite,
    key: str,
    staged: _Staged,
    usual: float,
    today: dt.date,
    data_url: str,
    run_id: str,
) -> _Judged:
    if staged.unreadable is not None:
        return _Judged(None, None, Judgement(staged.unreadable, report={"message": staged.unreadable}))
    united = schema.unite(storage.read_table(partitions.staging_url(data_url, name, run_id, f"{key}.parquet")))
    table = united.table
    strays = None
    if REASON in table.column_names:
        astray = table[REASON].is_valid()
        strays = table.filter(astray) if pc.any(astray).as_py() else None
        table = table.filter(pc.invert(astray)).drop_columns([REASON])
    if key != partitions.ALL and dt.date.fromisoformat(key) > today:
        return _Judged(
            table, strays, Judgement(f"the day lies after today ({today})", report={"message": "in the future"})
        )
    astray = Astray(strays, _astray_share(table, strays, name, key, data_url, run_id), source.time_column)
    try:
        judgement = _judge(
            run, table, suite, source.quarantine_share, parameters(key, usual, today, source.timezone), astray
        )
    except NotValidated as error:
        raise NotValidated(f"{name} {key}: not validated: {error}") from error
    judgement = _typed(judgement, united, schema)
    if judgement.refused is None:
        schema.accept(united)
    return _Judged(table, strays, judgement)


def _astray_share(table: pa.Table, strays: pa.Table | None, name: str, key: str, data_url: str, run_id: str) -> float:
    """What share of the file's rows is astray: as extraction noted for a file of several days, else of these rows."""
    noted = partitions.noted_astray(data_url, name, run_id, key)
    if noted is not None:
        return noted
    return strays.num_rows / (table.num_rows + strays.num_rows) if strays is not None else 0.0


def _typed(judgement: Judgement, united: United, schema: run_schema.RunSchema) -> Judgement:
    """The judgement, with what became of the columns' types; values that fit no type refuse the partition."""
    types = {name: kind for name, kind in united.types.items() if name != REASON}
    report = {
        **judgement.report,
        "types": types,
        "types_before": {name: schema.before[name] for name in types if name in schema.before},
        "types_changed": united.changes,
    }
    known = judgement.report.get("schema", {}).get("retyped", {})
    unsaid = {name: reason for name, reason in united.conflicts.items() if name not in known}
    causes = [judgement.refused, run_schema.refusal(replace(united, conflicts=unsaid))]
    return replace(judgement, refused="; ".join(cause for cause in causes if cause) or None, report=report)


def _store(name: str, key: str, judged: _Judged, *, data_url: str, run_id: str) -> _Outcome:
    """Write what was judged: accepted rows beside the staged file, the others to quarantine."""
    judgement, table, strays = judged.judgement, judged.table, judged.strays
    rows_url = storage.join(data_url, "quarantine", name, f"{key}.parquet")
    whole_url = storage.join(data_url, "quarantine", name, f"{key}.whole.parquet")
    reasons = Counter(judgement.reasons)
    if strays is not None:
        reasons.update(strays[REASON].to_pylist())
    astray = strays.num_rows if strays is not None else 0
    delivered = (table.num_rows if table is not None else 0) + astray
    report = {**judgement.report, "reasons": dict(reasons.most_common()), "message": judgement.refused or ""}
    if judgement.refused is not None or table is None or judgement.row_reasons is None:
        if table is not None:
            texts = pa.repeat(judgement.refused or "", table.num_rows)
            if judgement.row_reasons is not None:
                own = pc.fill_null(pc.binary_join_element_wise("", judgement.row_reasons, " | "), "")
                texts = pc.binary_join_element_wise(texts, own, "")
            storage.write_table(whole_url, _with_reasons(table, texts, strays))
        return _Outcome(judgement.refused or "", delivered, delivered, judgement.quality, None, report)
    storage.delete(whole_url)
    reasons_of = judgement.row_reasons
    bad = reasons_of.is_valid()
    count = table.num_rows - reasons_of.null_count
    if count or astray:
        storage.write_table(rows_url, _with_reasons(table.filter(bad), reasons_of.filter(bad), strays))
    else:
        storage.delete(rows_url)
    accepted = table.filter(pc.invert(bad)) if count else table
    stored = storage.write_table(partitions.staging_url(data_url, name, run_id, f"{key}.accepted.parquet"), accepted)
    report["infinite"] = _infinite(accepted)
    return _Outcome(None, accepted.num_rows, count + astray, judgement.quality, stored.sha256, report)


def _infinite(table: pa.Table) -> dict[str, dict[str, int]]:
    """Column → how many of the rows are infinite in it, and the first, counted from 1."""
    found = {}
    for name in table.column_names:
        if pa.types.is_floating(table[name].type):
            endless = pc.is_inf(table[name])
            if rows := pc.sum(endless).as_py():
                found[name] = {"rows": rows, "first_row": pc.index(endless, True).as_py() + 1}
    return found


def _with_reasons(table: pa.Table, texts: pa.Array, strays: pa.Table | None) -> pa.Table:
    table = table.append_column(REASON, texts)
    return table if strays is None else pa.concat_tables([table, strays.select(table.column_names)])


def _record(engine: sa.Engine, name: str, outcomes: Mapping[str, _Outcome], *, run_id: str) -> None:
    """In one transaction: a candidate for each accepted partition, the refusal of each other.

    What is published stays published.
    """
    with engine.begin() as connection:
        for key, outcome in outcomes.items():
            facts = {
                "rows": 0 if outcome.refused is not None else outcome.rows,
                "quarantined_rows": outcome.quarantined,
                "quality": outcome.quality,
            }
            row = {"source": name, "key": key, "run_id": run_id, **facts}
            if outcome.refused is not None:
                refused = {"delivered": outcome.quarantined, "quality": outcome.quality, **outcome.report}
                addition = {"refused_replacement": {"run_id": run_id, **refused}, "candidate": None}
                row |= {"status": "quarantined", "sha256": None, "report": outcome.report}
            else:
                candidate = {"run_id": run_id, "sha256": outcome.sha256, "report": outcome.report, **facts}
                addition = {"candidate": candidate}
                row |= {"status": "validated", "sha256": None, "report": {**outcome.report, **addition}}
            published = rows_of.c.status == "published"
            new = insert(rows_of).values(**row)
            changes: dict[str, Any] = {
                column: sa.case((published, getattr(rows_of.c, column)), else_=new.excluded[column])
                for column in ("status", "sha256", "rows", "quarantined_rows", "quality", "run_id")
            }
            changes["report"] = sa.case(
                (published, rows_of.c.report.op("||")(sa.cast(addition, rows_of.c.report.type))),
                else_=new.excluded.report,
            )
            changes["validated_at"] = sa.func.now()
            connection.execute(new.on_conflict_do_update(index_elements=["source", "key"], set_=changes))
