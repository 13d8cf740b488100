"""What became of judged partitions: accepted rows and quarantine are written, and a row of `partitions` for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from include import storage
from include.database import partitions as rows_of
from include.ingestion import partitions
from include.ingestion.judgement import Judgement
from include.ingestion.sources import REASON


@dataclass(frozen=True)
class Judged:
    """A partition's delivered rows, those that do not belong to it, and the judgement on the others."""

    table: pa.Table | None
    strays: pa.Table | None
    judgement: Judgement

    @property
    def reasons(self) -> Counter[str]:
        """Why rows are in quarantine, with how many."""
        found = Counter(self.judgement.reasons)
        if self.strays is not None:
            found.update(self.strays[REASON].to_pylist())
        return found


@dataclass(frozen=True)
class Outcome:
    """One partition, judged and written."""

    refused: str | None
    rows: int
    """Accepted ones; of a refused partition, those that were delivered."""
    quarantined: int
    quality: float
    sha256: str | None
    report: dict[str, Any]


def store(name: str, key: str, judged: Judged, *, data_url: str, run_id: str) -> Outcome:
    """Write what was judged: accepted rows beside the staged file, the others to quarantine."""
    report = {
        **judged.judgement.report,
        "reasons": dict(judged.reasons.most_common()),
        "message": judged.judgement.refused or "",
    }
    table, row_reasons = judged.table, judged.judgement.row_reasons
    if judged.judgement.refused is not None or table is None or row_reasons is None:
        return _store_refused(name, key, judged, report, data_url)
    return _store_accepted(name, key, judged, table, row_reasons, report, data_url, run_id)


def _store_refused(name: str, key: str, judged: Judged, report: dict[str, Any], data_url: str) -> Outcome:
    """The whole partition in quarantine, each row with its reason; its bad rows of an earlier delivery stay."""
    judgement, table, strays = judged.judgement, judged.table, judged.strays
    delivered = sum(part.num_rows for part in (table, strays) if part is not None)
    if table is not None:
        texts = pa.repeat(judgement.refused or "", table.num_rows)
        if judgement.row_reasons is not None:
            own = pc.fill_null(pc.binary_join_element_wise("", judgement.row_reasons, " | "), "")
            texts = pc.binary_join_element_wise(texts, own, "")
        storage.write_table(_whole_url(name, key, data_url), _with_reasons(table, texts, strays))
    return Outcome(judgement.refused or "", delivered, delivered, judgement.quality, None, report)


def _store_accepted(
    name: str,
    key: str,
    judged: Judged,
    table: pa.Table,
    row_reasons: pa.Array,
    report: dict[str, Any],
    data_url: str,
    run_id: str,
) -> Outcome:
    """The good rows beside the staged file, the bad ones in quarantine; an earlier refusal is over."""
    rows_url = storage.join(data_url, "quarantine", name, f"{key}.parquet")
    storage.delete(_whole_url(name, key, data_url))
    bad, count = row_reasons.is_valid(), table.num_rows - row_reasons.null_count
    astray = judged.strays.num_rows if judged.strays is not None else 0
    if count or astray:
        storage.write_table(rows_url, _with_reasons(table.filter(bad), row_reasons.filter(bad), judged.strays))
    else:
        storage.delete(rows_url)
    accepted = table.filter(pc.invert(bad)) if count else table
    stored = storage.write_table(partitions.staging_url(data_url, name, run_id, f"{key}.accepted.parquet"), accepted)
    report = report | {"infinite": _infinite(accepted)}
    return Outcome(None, accepted.num_rows, count + astray, judged.judgement.quality, stored.sha256, report)


def _whole_url(name: str, key: str, data_url: str) -> str:
    return storage.join(data_url, "quarantine", name, f"{key}.whole.parquet")


def _with_reasons(table: pa.Table, texts: pa.Array, strays: pa.Table | None) -> pa.Table:
    table = table.append_column(REASON, texts)
    return table if strays is None else pa.concat_tables([table, strays.select(table.column_names)])


def _infinite(table: pa.Table) -> dict[str, dict[str, int]]:
    """Column → how many of the rows are infinite in it, and the first, counted from 1."""
    found = {}
    for name in table.column_names:
        if pa.types.is_floating(table[name].type):
            endless = pc.is_inf(table[name])
            if rows := pc.sum(endless).as_py():
                found[name] = {"rows": rows, "first_row": pc.index(endless, True).as_py() + 1}
    return found


def infinite_columns(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Column → how many rows of the accepted partitions are infinite in it, and which is the first."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for key, outcome in outcomes.items():
        for column, found in outcome.report.get("infinite", {}).items():
            counts[column] += found["rows"]
            first.setdefault(column, f"row {found['first_row']} of {key}")
    return {column: f"{rows:,} of the rows, the first is {first[column]}" for column, rows in counts.items()}


def record(engine: sa.Engine, name: str, outcomes: Mapping[str, Outcome], *, run_id: str) -> None:
    """In one transaction: a candidate for each accepted partition, the refusal of each other.

    What is published stays published.
    """
    with engine.begin() as connection:
        for key, outcome in outcomes.items():
            row, addition = _row(name, key, outcome, run_id)
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


def _row(name: str, key: str, outcome: Outcome, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of a partition that is not published yet, and what is added to the report of one that is."""
    facts = {
        "rows": 0 if outcome.refused is not None else outcome.rows,
        "quarantined_rows": outcome.quarantined,
        "quality": outcome.quality,
    }
    row = {"source": name, "key": key, "run_id": run_id, "sha256": None, **facts}
    if outcome.refused is not None:
        refused = {"delivered": outcome.quarantined, "quality": outcome.quality, **outcome.report}
        addition = {"refused_replacement": {"run_id": run_id, **refused}, "candidate": None}
        return row | {"status": "quarantined", "report": outcome.report}, addition
    candidate = {"run_id": run_id, "sha256": outcome.sha256, "report": outcome.report, **facts}
    addition = {"candidate": candidate}
    return row | {"status": "validated", "report": {**outcome.report, **addition}}, addition
