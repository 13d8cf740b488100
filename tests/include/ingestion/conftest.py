"""What the tests of ingestion share: sources, and one call that takes partitions through the three steps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.ingestion import partitions, validation
from include.settings import ROOT, FilesSource, SampleSource, Source

SUITES = ROOT / "great_expectations" / "expectations"
TODAY = dt.date(2026, 11, 1)
DURATION = {"duration_minutes": "minutes(dropoff_datetime - pickup_datetime)"}


def generated(**given: Any) -> SampleSource:
    """The shipped source of generated trips, smaller."""
    settings = {"rows_per_day": 300, "quarantine_share": 0.1, "derive": DURATION, **given}
    return SampleSource(type="sample", dataset="taxi_trips", **settings)


def files(path: Path | str, **given: Any) -> FilesSource:
    return FilesSource(type="files", path=str(path), **given)


@dataclass
class Ingest:
    """Extract, validate and publish with one call, for a source named `trips`."""

    data_url: str
    database_url: str

    def extract(self, source: Source, keys: Sequence[str], run_id: str = "r1", replace: bool = True) -> Any:
        return partitions.extract(
            "trips",
            source,
            keys,
            data_url=self.data_url,
            run_id=run_id,
            database_url=self.database_url,
            replace=replace,
        )

    def validate(
        self, source: Source, keys: Sequence[str], run_id: str = "r1", suite: Path | None = None, today: dt.date = TODAY
    ) -> validation.Validation:
        return validation.validate(
            "trips",
            source,
            keys,
            data_url=self.data_url,
            run_id=run_id,
            suite_path=suite or SUITES / "trips.json",
            database_url=self.database_url,
            today=today,
        )

    def publish(self, keys: Sequence[str], run_id: str = "r1") -> partitions.Published:
        return partitions.publish("trips", keys, data_url=self.data_url, run_id=run_id, database_url=self.database_url)

    def __call__(self, source: Source, keys: Sequence[str], run_id: str = "r1", **given: Any) -> validation.Validation:
        self.extract(source, keys, run_id)
        found = self.validate(source, keys, run_id, **given)
        if found.accepted:
            self.publish(found.accepted, run_id)
        return found

    def published(self) -> list[partitions.Partition]:
        return partitions.published(self.database_url, "trips")

    def path(self, *parts: str) -> Path:
        return Path(self.data_url, *parts)


@pytest.fixture
def ingest(tmp_path: Path, database_url: str) -> Ingest:
    """Ingestion into a folder and a database of the test's own."""
    return Ingest(str(tmp_path / "data"), database_url)


@pytest.fixture
def days() -> Callable[[int], list[str]]:
    """The keys of the first days of 2018."""
    return lambda count: [(dt.date(2018, 1, 1) + dt.timedelta(day)).isoformat() for day in range(count)]
