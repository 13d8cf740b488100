"""The README's edit for the real TLC files, with real trips: what is learned from January to June holds in July."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from include.features import columns
from tests.conftest import ROOT
from tests.integration.chain import Platform

pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.timeout(900)]

TLC_NAMES = {
    "vendor_id": "VendorID",
    "pickup_datetime": "tpep_pickup_datetime",
    "dropoff_datetime": "tpep_dropoff_datetime",
    "rate_code_id": "RatecodeID",
    "pickup_location_id": "PULocationID",
    "dropoff_location_id": "DOLocationID",
}


def month(taxi_data: Path, name: str) -> pa.Table:
    return csv.read_csv(taxi_data / f"yellow_tripdata_sample_{name}.csv.gz")


@pytest.fixture
def tlc_files(taxi_data: Path, tmp_path: Path) -> Path:
    """Monthly parquet files under the names, of files and columns, that TLC publishes."""
    folder = tmp_path / "tlc"
    folder.mkdir()
    for number in range(1, 8):
        table = month(taxi_data, f"2018-{number:02d}")
        table = table.rename_columns([TLC_NAMES.get(name, name) for name in table.column_names])
        pq.write_table(table, folder / f"yellow_tripdata_2018-{number:02d}.parquet")
    return folder


@pytest.fixture
def platform(tlc_files: Path, tmp_path: Path, database_url: str, optuna_url: str, mlflow_url: str) -> Platform:
    readme = (ROOT / "README.md").read_text()
    edit = re.search(r"^## Use the real TLC data.*?```yaml\n(.*?)```", readme, re.DOTALL | re.MULTILINE)
    assert edit
    lines = edit[1].rstrip("\n").splitlines()
    assert len(lines) == 4
    shipped = (ROOT / "params.yaml").read_text()
    generated = re.search(r"    type: sample\n    dataset: taxi_trips\n    rows_per_day: \d+\n", shipped)
    assert generated
    edited = shipped.replace(generated[0], "\n".join(lines).replace("/data/tlc", str(tlc_files)) + "\n")
    params = tmp_path / "params.yaml"
    params.write_text(edited)
    return Platform(
        params_path=params,
        home=tmp_path / "var",
        data_url=str(tmp_path / "var" / "data"),
        remote_url=str(tmp_path / "var" / "remote"),
        database_url=database_url,
        optuna_url=optuna_url,
        mlflow_url=mlflow_url,
    )


def test_the_champion_of_january_to_june_misses_july_by_less_than_3_3_minutes(
    platform: Platform, taxi_data: Path, tmp_path: Path
) -> None:
    """Issue 2's "done when" 2: trips of 1 to 120 minutes and under 60 miles, none left out for another reason."""
    validated = platform.ingest("trips", dt.date(2018, 1, 1), dt.date(2018, 6, 30))
    assert validated.rejected == {}
    assert len(validated.accepted) == 181
    assert validated.rows + validated.quarantined == 60_000  # each row is published or in quarantine, with a reason
    assert sum(validated.reasons.values()) >= validated.quarantined
    built = platform.build("trip_duration")
    assert built.rows == validated.rows
    candidate = platform.train("trip_duration")
    platform.deploy(candidate)

    july = month(taxi_data, "2018-07")
    taken = pc.divide(pc.cast(pc.subtract(july["dropoff_datetime"], july["pickup_datetime"]), pa.int64()), 60.0)
    asked = pc.and_(pc.and_(pc.greater_equal(taken, 1), pc.less_equal(taken, 120)), pc.less(july["trip_distance"], 60))
    predictor = platform.predictor(candidate, tmp_path / "form")
    types = {entry["name"]: entry["type"] for entry in predictor.manifest["inputs"]}
    rows = columns.from_arrow(july.filter(asked), types)
    miss = np.abs(predictor.predict(rows) - taken.filter(asked).to_numpy())
    reasons = "\n".join(f"  {count:>6} {reason}" for reason, count in validated.reasons.items())
    print(f"\nMAE on July 2018: {miss.mean():.3f} minutes over {len(miss)} trips")
    print(f"quarantined of January to June: {validated.quarantined} of 60000\n{reasons}")
    assert miss.mean() < 3.3
