"""The prediction log in PostgreSQL: counted by day, joined with its labels, kept for as long as declared.

Days are UTC's throughout; each is a partition of the table `predictions`, which the service's drain makes on demand
and `make_partitions` ahead.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from include import strategies
from include.database import labels, predictions

DAYS_AHEAD = 7
LOCK_SECONDS = 3
"""How long a partition's removal waits for whoever reads; everybody else waits behind it meanwhile."""
LOCK_ATTEMPTS = 5
CLOCKS = dt.timedelta(days=1)
"""How far a label's time of arrival may lie before its prediction's, by clocks that differ."""

_PARTITION = re.compile(r"predictions_(\d{4})(\d\d)(\d\d)")
_SCANS = (
    "set local jit = off; set local enable_seqscan = off; set local random_page_cost = 1.1;"
    " set local parallel_setup_cost = 0; set local parallel_tuple_cost = 0;"
    " set local min_parallel_table_scan_size = 0; set local min_parallel_index_scan_size = 0"
)
"""The index holds all that is counted; each day is one worker's job."""


# ------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Count:
    """What an arm of a model answered on a day."""

    day: dt.date
    version: int
    arm: str
    rows: int
    mean: float | None
    """Of the predictions that are numbers, or of the positive class's probabilities."""


@dataclass(frozen=True)
class Total:
    """What a model answered on a day, all arms together."""

    day: dt.date
    model: str
    rows: int
    mean: float | None


def counts(engine: sa.Engine, model: str, first: dt.date | None = None, last: dt.date | None = None) -> list[Count]:
    """The predictions of a model by day, version and arm, between two days, both included."""
    query = (
        "select date '{day}' as day, version, arm, count(*), avg(prediction) from {table}"
        " where model = :model group by version, arm"
    )
    found = _of_each_day(engine, query, first, last, model=model)
    return sorted((Count(*row) for row in found), key=lambda count: (count.day, count.version, count.arm))


def totals(engine: sa.Engine, first: dt.date | None = None, last: dt.date | None = None) -> list[Total]:
    """The predictions of all models by day, between two days, both included."""
    query = "select date '{day}' as day, model, count(*), avg(prediction) from {table} group by model"
    found = _of_each_day(engine, query, first, last)
    return sorted((Total(*row) for row in found), key=lambda total: (total.day, total.model))


def _of_each_day(
    engine: sa.Engine, query: str, first: dt.date | None, last: dt.date | None, **parameters: object
) -> list[sa.Row[tuple[object, ...]]]:
    with engine.connect() as connection:
        days = [
            day for day in partitions(connection) if (first is None or day >= first) and (last is None or day <= last)
        ]
        if not days:
            return []
        connection.execute(sa.text(_SCANS))
        parts = [query.format(day=day.isoformat(), table=_table(day)) for day in days]
        return list(connection.execute(sa.text(" union all ".join(parts)), parameters))


def partitions(connection: sa.Connection) -> list[dt.date]:
    """The days that have a partition, in order."""
    names = connection.execute(
        sa.text("select inhrelid::regclass::text from pg_inherits where inhparent = 'predictions'::regclass")
    ).scalars()
    return sorted(dt.date(*map(int, match.groups())) for name in names if (match := _PARTITION.fullmatch(name)))


def _table(day: dt.date) -> str:
    return f"predictions_{day:%Y%m%d}"


# ------------------------------------------------------------------------------------------------ labels


def labelled(model: str, *, since: dt.datetime, until: dt.datetime, now: dt.datetime) -> sa.Select[tuple[object, ...]]:
    """A query for the predictions of a model from `since` to before `until`, each with the label that counts for it.

    Its columns are those of `predictions`, then `label`, `label_at` and `label_received_at`, which are null without a
    label. No prediction comes twice, and no label is used for two answers:

    - A label by prediction id is that prediction's, whenever it came. One for an id that is not (yet) known is kept,
      and joined once the prediction is there.
    - A label by entity is the entity's last prediction's that was made before the label became true (`at`).
    - Of several labels of a prediction, repeated or conflicting, the one that was received last counts.
    - A label from the future (`at` after `now`) is kept, and joined when its time has come.

    A mirrored prediction has the id of the answer that it stands beside, and so its label. Nothing changes a label
    afterwards: to correct one, send another.
    """
    label, p = labels.alias("told"), predictions.alias("answered")
    of_model = sa.and_(label.c.model == model, label.c.at <= now)
    direct = sa.select(label.c.prediction_id, label.c.id, label.c.label, label.c.at, label.c.received_at).where(
        of_model, label.c.prediction_id.is_not(None), label.c.received_at >= since - CLOCKS
    )
    last = (
        sa.select(p.c.id)
        .where(
            p.c.model == label.c.model,
            p.c.entity == label.c.entity,
            p.c.at <= label.c.at,
            p.c.at >= since,
            p.c.arm.not_in(strategies.mirrored_arms()),
        )
        .order_by(p.c.at.desc(), p.c.id.desc())
        .limit(1)
        .lateral("last")
    )
    of_entities = (
        sa.select(last.c.id.label("prediction_id"), label.c.id, label.c.label, label.c.at, label.c.received_at)
        .select_from(label.join(last, sa.true()))
        .where(of_model, label.c.entity.is_not(None), label.c.at >= since)
    )
    both = sa.union_all(direct, of_entities).subquery("both")
    counting = (
        sa.select(both)
        .distinct(both.c.prediction_id)
        .order_by(both.c.prediction_id, both.c.received_at.desc(), both.c.id.desc())
        .subquery("counting")
    )
    return (
        sa.select(
            predictions,
            counting.c.label,
            counting.c.at.label("label_at"),
            counting.c.received_at.label("label_received_at"),
        )
        .select_from(predictions.outerjoin(counting, predictions.c.id == counting.c.prediction_id))
        .where(predictions.c.model == model, predictions.c.at >= since, predictions.c.at < until)
    )


# ------------------------------------------------------------------------------------------------ keeping


@dataclass(frozen=True)
class Retention:
    """What a night's retention did, or would do."""

    dropped: list[str]
    """Days of which nothing is left."""
    deleted: dict[str, int]
    """Model → its rows that were deleted from days of which another model keeps its own."""

    @property
    def summary(self) -> str:
        """In one line."""
        rows = "; ".join(f"{count:,} rows of {model}" for model, count in self.deleted.items())
        days = f"{len(self.dropped)} days" + (f" ({self.dropped[0]} to {self.dropped[-1]})" if self.dropped else "")
        return f"older than is kept: {days}" + (f", and {rows}" if rows else "")


def make_partitions(engine: sa.Engine, today: dt.date, days: int = DAYS_AHEAD) -> list[str]:
    """Make the partitions of today and of the days after it; returns those that were missing."""
    made = []
    for day in (today + dt.timedelta(n) for n in range(days + 1)):
        with engine.begin() as connection:
            if connection.execute(sa.text("select make_prediction_partition(:day)"), {"day": day}).scalar_one():
                made.append(day.isoformat())
    return made


def retain(
    engine: sa.Engine, keep_days: Mapping[str, int], today: dt.date, *, default: int, dry_run: bool = False
) -> Retention:
    """Delete predictions that are older than their model's `keep_days`, whole days at a time; labels stay.

    A day of which no model keeps anything is dropped as a whole; from others the rows of those models are deleted
    that keep less. Runs again after a failure as if for the first time.

    Args:
        engine: the platform's database.
        keep_days: model → days.
        today: the day in UTC.
        default: for models that params.yaml no longer names.
        dry_run: only say what would be done.
    """
    dropped: list[str] = []
    deleted: dict[str, int] = {}
    shortest = min([default, *keep_days.values()])
    with engine.connect() as connection:
        days = [day for day in partitions(connection) if day < today - dt.timedelta(shortest)]
    for day in days:
        with engine.connect() as connection:
            count = sa.text(f"select model, count(*) from {_table(day)} group by model")  # noqa: S608
            found = dict(connection.execute(count).tuples().all())
        past = {
            model: rows for model, rows in found.items() if day < today - dt.timedelta(keep_days.get(model, default))
        }
        if past == found and (dry_run or _drop(engine, day, past)):
            dropped.append(day.isoformat())
        elif past:
            deleted = {model: deleted.get(model, 0) + past.get(model, 0) for model in {**deleted, **past}}
            if not dry_run:
                _delete(engine, day, past)
    return Retention(dropped, deleted)


def _delete(engine: sa.Engine, day: dt.date, models: Collection[str]) -> None:
    with engine.begin() as connection:
        query = sa.text(f"delete from {_table(day)} where model = any(:models)")  # noqa: S608
        connection.execute(query, {"models": list(models)})


def settle(engine: sa.Engine, today: dt.date, days: int = 2) -> list[str]:
    """Vacuum and analyse the days before today, so that counting them reads the index alone; returns them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        closed = [day for day in partitions(connection) if today - dt.timedelta(days) <= day < today]
        for day in closed:
            connection.execute(sa.text(f"vacuum (analyze) {_table(day)}"))
    return [day.isoformat() for day in closed]


def _drop(engine: sa.Engine, day: dt.date, past: Collection[str]) -> bool:
    """Drop a day unless rows of other models than those that are past have come; returns whether it did."""
    others = sa.text(f"select exists (select from {_table(day)} where model <> all(:models))")  # noqa: S608
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                connection.execute(sa.text(f"set local lock_timeout = '{LOCK_SECONDS}s'"))
                connection.execute(sa.text("lock table only predictions in access exclusive mode"))
                if connection.execute(others, {"models": list(past)}).scalar_one():
                    return False
                connection.execute(sa.text(f"drop table {_table(day)}"))
                return True
        except sa.exc.OperationalError as error:
            if attempt == LOCK_ATTEMPTS or getattr(error.orig, "pgcode", None) != "55P03":
                raise
            time.sleep(LOCK_SECONDS)  # those who waited behind come first
    return False
