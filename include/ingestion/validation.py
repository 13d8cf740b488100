"""Great Expectations on every staged partition: accepted, rows to quarantine, or refused whole.

A partition is refused when it cannot be read, lies in the future, has values that fit no type, or is refused by the
suite (include/ingestion/judgement.py). Refused is not published and nothing downstream sees it; the data and the reason
are in quarantine. When Great Expectations itself fails, the partition is neither accepted nor refused: `NotValidated`
is raised.

Rows astray count in the share and quality of their own day, or, where a file covers several days, in those of each of
its days. A partition that could not be read is worth 0. Quality is shown rounded down: only a partition without a fault
has 100 %.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from include import storage
from include.database import connected
from include.database import partitions as rows_of
from include.ingestion import data_docs, outcomes, partitions, run_schema, runner, suites
from include.ingestion.judgement import Astray, Judgement, judge_by, parameters
from include.ingestion.outcomes import Judged, Outcome
from include.ingestion.runner import NotValidated, Runner
from include.ingestion.sources import REASON
from include.schemas import United
from include.settings import Source

USUAL_OVER = 14
"""How many of the newest published partitions say what size is usual."""


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
    with connected(database_url) as engine:
        schema = run_schema.RunSchema(engine, name, source, keys, data_url)
        usual = _usual_rows(engine, name, staged)
        with runner.started() as run:
            judge = _Judge(run, name, source, suite, schema, usual, today, data_url, run_id)
            found = {
                key: outcomes.store(name, key, judge(key, staged[key]), data_url=data_url, run_id=run_id)
                for key in keys
            }
        outcomes.record(engine, name, found, run_id=run_id)
        reports = partitions.reports(database_url, name, partitions.MAXIMUM_DAYS)
        docs_url = data_docs.build(name, reports, keys, data_url=data_url)
    return _summary(found, docs_url)


def _summary(found: Mapping[str, Outcome], docs_url: str) -> Validation:
    reasons: Counter[str] = Counter()
    for outcome in found.values():
        reasons.update(outcome.report["reasons"])
    accepted = {key: outcome for key, outcome in found.items() if outcome.refused is None}
    return Validation(
        accepted=list(accepted),
        rejected={key: outcome.refused for key, outcome in found.items() if outcome.refused is not None},
        rows=sum(outcome.rows for outcome in found.values()),
        quarantined=sum(outcome.quarantined for outcome in found.values()),
        quality={key: outcome.quality for key, outcome in found.items()},
        reasons=dict(reasons.most_common()),
        docs_url=docs_url,
        types_changed={
            column: change
            for outcome in accepted.values()
            for column, change in outcome.report["types_changed"].items()
        },
        infinite=outcomes.infinite_columns(found),
    )


# ------------------------------------------------------------------------------------------------- what is staged


@dataclass(frozen=True)
class _Staged:
    rows: int
    unreadable: str | None = None


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
    """The median size of the newest published partitions; with fewer than three, the staged ones count too."""
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


# ------------------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class _Judge:
    """What the partitions of one run are judged by."""

    run: Runner
    name: str
    source: Source
    suite: suites.Suite
    schema: run_schema.RunSchema
    usual_rows: float
    today: dt.date
    data_url: str
    run_id: str

    def __call__(self, key: str, staged: _Staged) -> Judged:
        """The judgement on a staged partition, which becomes part of the source's schema if it is accepted."""
        if staged.unreadable is not None:
            return Judged(None, None, Judgement(staged.unreadable, report={"message": staged.unreadable}))
        staged_url = partitions.staging_url(self.data_url, self.name, self.run_id, f"{key}.parquet")
        united = self.schema.unite(storage.read_table(staged_url))
        table, strays = _without_strays(united.table)
        if key != partitions.ALL and dt.date.fromisoformat(key) > self.today:
            refused = f"the day lies after today ({self.today})"
            return Judged(table, strays, Judgement(refused, report={"message": "in the future"}))
        astray = Astray(strays, self._astray_share(table, strays, key), self.source.time_column)
        given = parameters(key, self.usual_rows, self.today, self.source.timezone)
        try:
            judgement = judge_by(self.run, table, self.suite, self.source.quarantine_share, given, astray)
        except NotValidated as error:
            raise NotValidated(f"{self.name} {key}: not validated: {error}") from error
        judgement = _typed(judgement, united, self.schema)
        if judgement.refused is None:
            self.schema.accept(united)
        return Judged(table, strays, judgement)

    def _astray_share(self, table: pa.Table, strays: pa.Table | None, key: str) -> float:
        """The share of the file's rows that is astray: as extraction noted it for several days, else of these rows."""
        noted = partitions.noted_astray(self.data_url, self.name, self.run_id, key)
        if noted is not None:
            return noted
        return strays.num_rows / (table.num_rows + strays.num_rows) if strays is not None else 0.0


def _without_strays(table: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """The rows that belong to the partition, and those that do not, if any."""
    if REASON not in table.column_names:
        return table, None
    astray = table[REASON].is_valid()
    strays = table.filter(astray) if pc.any(astray).as_py() else None
    return table.filter(pc.invert(astray)).drop_columns([REASON]), strays


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
