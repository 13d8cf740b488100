"""A small published source of trips for the tests of features."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database, storage
from include.features import versions

PARAMS = """
sources:
  rides: {type: files, path: rides.csv, time_column: pickup_datetime}
  walks: {type: files, path: walks.csv, time_column: pickup_datetime}
models:
  ride:
    source: rides
    target: duration_minutes
    task: regression
    features: {definition: trip_duration, target_encoding: [route]}
  walk:
    source: walks
    target: duration_minutes
    task: regression
    features: {columns: [trip_distance, vendor_id], derived: {longer: trip_distance * 2}}
"""


def day(number: int) -> str:
    return (dt.date(2024, 1, 1) + dt.timedelta(days=number)).isoformat()


def trips(key: str, rows: int = 50, *, slower: float = 1.0) -> pa.Table:
    rng = np.random.default_rng(int(key.replace("-", "")))
    distance = np.round(rng.gamma(2.0, 1.5, rows), 2)
    return pa.table(
        {
            "pickup_datetime": np.datetime64(f"{key}T00:00:00", "us")
            + np.arange(rows) * np.timedelta64(60_000_000, "us"),
            "trip_distance": distance,
            "pickup_location_id": rng.integers(1, 266, rows),
            "dropoff_location_id": rng.integers(1, 266, rows),
            "vendor_id": rng.integers(1, 3, rows),
            "passenger_count": rng.integers(1, 6, rows),
            "rate_code_id": np.ones(rows, dtype=np.int64),
            "duration_minutes": np.round(distance * 3 * slower + rng.gamma(2.0, 2.0, rows), 2),
        }
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """One installation: its database, data and scratch space."""

    database_url: str
    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def remote(self) -> Path:
        return self.root / "remote"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def publish(self, source: str, key: str, table: pa.Table) -> None:
        stored = storage.write_table(storage.join(str(self.data), "validated", source, f"{key}.parquet"), table)
        values = {"status": "published", "sha256": stored.sha256, "rows": table.num_rows, "quarantined_rows": 0}
        values |= {"quality": 1.0, "report": {}, "run_id": "test"}
        statement = postgresql.insert(database.partitions).values(source=source, key=key, **values)
        engine = database.connect(self.database_url)
        with engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["source", "key"], set_=values))
        engine.dispose()

    def withdraw(self, source: str, key: str) -> None:
        engine = database.connect(self.database_url)
        with engine.begin() as connection:
            table = database.partitions
            connection.execute(
                sa.update(table).where(table.c.source == source, table.c.key == key).values(status="quarantined")
            )
        engine.dispose()

    def arguments(self) -> dict[str, object]:
        return {"database_url": self.database_url, "remote_url": str(self.remote), "home": self.home}

    def build(self, model: str = "ride", **other: object) -> versions.FeatureVersion:
        given = {"params_path": self.params, "data_url": str(self.data), **self.arguments(), **other}
        return versions.build(model, **given)  # type: ignore[arg-type]

    def restore(self, version: str, into: Path, model: str = "ride") -> Path:
        return versions.restore(model, version, into, **self.arguments())  # type: ignore[arg-type]


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Place:
    """An installation with three days of rides and no features yet."""
    made = Place(database_url, tmp_path)
    made.params.write_text(PARAMS)
    for number in range(3):
        made.publish("rides", day(number), trips(day(number)))
    return made
