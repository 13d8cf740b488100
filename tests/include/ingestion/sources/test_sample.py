"""The generated trips and the bundled cells."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.ingestion import sources
from include.ingestion.sources import sample
from tests.include.ingestion.conftest import generated

DAY = dt.date(2018, 3, 7)


def _minutes(table: pa.Table) -> np.ndarray:
    difference = table["dropoff_datetime"].to_numpy() - table["pickup_datetime"].to_numpy()
    return difference.astype("m8[s]").astype(float) / 60


def test_a_day_is_a_function_of_its_seed_and_date() -> None:
    a, b = (sample.generate_day(DAY, rows=500, seed=1) for _ in range(2))
    assert a.equals(b)
    assert not a.equals(sample.generate_day(DAY, rows=500, seed=2))
    assert not a.equals(sample.generate_day(DAY + dt.timedelta(7), rows=500, seed=1))


def test_sixty_days_come_in_well_under_two_seconds() -> None:
    keys = [(DAY + dt.timedelta(day)).isoformat() for day in range(60)]
    source = generated(rows_per_day=2000, derive={})
    begin = time.process_time()
    rows = sum(table.num_rows for _, table in sources.read_partitions(source, keys))
    assert time.process_time() - begin < 2
    assert rows == pytest.approx(120_000, rel=0.05)


def test_trips_look_like_those_of_new_york() -> None:
    table = sample.generate_day(DAY, rows=20_000, seed=1)
    minutes, miles = _minutes(table), table["trip_distance"].to_numpy()
    clean = (minutes >= 1) & (minutes <= 120) & (miles > 0)
    assert np.median(minutes[clean]) == pytest.approx(11, abs=3)
    assert np.median(miles[clean]) == pytest.approx(1.7, abs=0.5)
    assert np.corrcoef(np.log(miles[clean]), np.log(minutes[clean]))[0, 1] > 0.7
    assert 0.01 < 1 - clean.mean() < 0.03


def test_trips_are_as_dirty_as_real_ones() -> None:
    table = sample.generate_day(DAY, rows=100_000, seed=1)
    minutes = _minutes(table)
    assert 0 < (minutes == 0).mean() < 0.005
    assert 0 < (minutes > 20 * 60).mean() < 0.005
    assert 0 < pc.mean(pc.less(table["fare_amount"], 0)).as_py() < 0.005
    assert 0 < pc.mean(pc.equal(table["trip_distance"], 0)).as_py() < 0.02
    assert 0 < pc.mean(pc.is_in(table["pickup_location_id"], pa.array([264, 265]))).as_py() < 0.05
    assert pc.min(table["passenger_count"]).as_py() == 0
    assert table["passenger_count"].null_count > 0


def test_rush_hour_is_slower_than_night() -> None:
    table = sample.generate_day(DAY, rows=50_000, seed=1)
    hour = pc.hour(table["pickup_datetime"]).to_numpy()
    speed = table["trip_distance"].to_numpy() / np.maximum(_minutes(table), 1) * 60
    assert np.median(speed[(hour >= 9) & (hour < 18)]) < 0.75 * np.median(speed[hour < 5])


def test_a_shift_changes_the_world_from_its_first_day_to_its_last() -> None:
    source = generated(incidents=[{"kind": "shift", "start": "2018-01-02", "end": "2018-01-03"}], rows_per_day=3000)
    keys = ["2018-01-01", "2018-01-02", "2018-01-03", "2018-01-04"]
    medians = {key: np.median(_minutes(table)) for key, table in sources.read_partitions(source, keys)}
    assert min(medians["2018-01-02"], medians["2018-01-03"]) > 1.4 * max(medians["2018-01-01"], medians["2018-01-04"])


@pytest.mark.slow
def test_a_shift_makes_an_old_model_worse_and_a_few_shifted_days_repair_it() -> None:
    import xgboost

    def day(number: int, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
        table = sample.generate_day(dt.date(2018, 1, 1) + dt.timedelta(number), rows=1500, seed=1, shifted=shifted)
        names = ["trip_distance", "pickup_location_id", "dropoff_location_id"]
        columns = [table[name].to_numpy() for name in names] + [pc.hour(table["pickup_datetime"]).to_numpy()]
        minutes = _minutes(table)
        clean = (minutes >= 1) & (minutes <= 120) & (columns[0] > 0)
        return np.column_stack(columns)[clean], minutes[clean]

    def together(days: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        return np.vstack([x for x, _ in days]), np.concatenate([y for _, y in days])

    def error(train: list[tuple[np.ndarray, np.ndarray]], test: list[tuple[np.ndarray, np.ndarray]]) -> float:
        model = xgboost.XGBRegressor(n_estimators=120, objective="reg:absoluteerror", n_jobs=1, random_state=1)
        model.fit(*together(train))
        x, y = together(test)
        return float(np.abs(model.predict(x) - y).mean())

    before = [day(number, False) for number in range(30)]
    shifted = [day(number, True) for number in range(30, 35)]
    after = [day(number, True) for number in range(35, 37)]
    usual, worse, repaired = error(before[:25], before[25:]), error(before, after), error(before + shifted, after)
    assert worse > 1.15 * usual
    assert repaired < 0.85 * worse


def test_cells_are_the_bundled_table_with_speaking_names() -> None:
    table = sample.cells()
    assert table.num_rows == 569
    assert table.column_names[:2] == ["mean_radius", "mean_texture"]
    assert {"radius_error", "worst_fractal_dimension"} < set(table.column_names)
    counts = {row["values"]: row["counts"] for row in table["diagnosis"].value_counts().to_pylist()}
    assert counts == {"malignant": 212, "benign": 357}
