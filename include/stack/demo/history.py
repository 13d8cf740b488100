"""Which days `make demo` ingests."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from include import database, settings
from include.ingestion import partitions

HISTORY_DAYS = 60


class DemoError(RuntimeError):
    """The chain stopped before every model was served; the message says where, and ends with the task's log."""


@dataclass(frozen=True)
class History:
    """The days to ingest, both included."""

    first: dt.date
    last: dt.date
    explicit: bool
    """Whether the user named them: then they are ingested even when every model has a champion."""

    def of(self, source: settings.SourceBase) -> tuple[dt.date, dt.date] | None:
        """The days of a source with a time column; None where it begins later than that."""
        first, last = self.first, self.last
        if source.start and not self.explicit:
            if getattr(source, "type", "") == "files":  # files usually end long before today
                first, last = source.start, min(last, source.start + dt.timedelta(HISTORY_DAYS - 1))
            else:
                first = max(first, source.start)
        return (first, last) if first <= last else None


def between(first: str, last: str, *, today: dt.date) -> History:
    """The days between `first` and `last`; by default the 60 that end two days ago: the newest is left to the schedule.

    Raises:
        DemoError: a day is not written as YYYY-MM-DD, or `last` is before `first`.
    """
    try:
        end = dt.date.fromisoformat(last) if last else today - dt.timedelta(2)
        begin = dt.date.fromisoformat(first) if first else end - dt.timedelta(HISTORY_DAYS - 1)
    except ValueError as error:
        raise DemoError(f"FROM and TO are days as YYYY-MM-DD: {error}") from error
    if end < begin:
        raise DemoError(f"TO ({end}) is before FROM ({begin})")
    return History(begin, end, explicit=bool(first or last))


def missing(engine: sa.Engine, name: str, source: settings.Source, history: History) -> dict[str, Any] | None:
    """The form of the run that ingests what is missing; None when nothing is."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(database.partitions.c.key).where(
                database.partitions.c.source == name,
                database.partitions.c.status.in_(["published", "quarantined"]),
            )
        )
        known = set(rows.scalars())
    if source.time_column is None:
        return None if known else {"replace": False}
    days = history.of(source)
    if days is None or known.issuperset(partitions.keys_between(source, *days)):
        return None
    return {"from": str(days[0]), "to": str(days[1]), "replace": False}
