from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include import settings
from include.features.compiler import compile_features
from include.features.profile import profile
from include.monitoring import drift
from include.settings import ColumnType

ROOT = Path(__file__).resolve().parents[3]


def measure(then, now, **changes):
    found = drift.find(profile(then), now, **{"by": "psi", "warn": 0.1, "critical": 0.2, **changes})
    return {f.subject: f for f in found}


def normal(seed, mean=0.0, rows=5000):
    return np.random.default_rng(seed).normal(mean, 1, rows)


def texts(seed, shares, rows=5000):
    return np.random.default_rng(seed).choice(np.array(list(shares), dtype=object), rows, p=list(shares.values()))


@pytest.mark.parametrize(("shift", "level"), [(0.0, "ok"), (0.4, "warn"), (1.0, "critical")])
def test_a_number_that_moves_is_found(shift, level):
    found = measure({"x": normal(1)}, {"x": normal(2, shift)})["x"]
    assert found.level == level
    assert found.message.startswith(f"x: PSI {found.value:.2f}")


def test_the_index_is_the_one_of_the_textbook():
    """10 equal bins, of which two have changed places with 5 and 15 per cent: 0.05 ln(1.5) - 0.05 ln(0.5)."""
    then = np.repeat(np.arange(10.0), 1000)
    counts = [500, 1500] + [1000] * 8
    now = np.repeat(np.arange(10.0), counts)
    assert measure({"x": then}, {"x": now})["x"].value == pytest.approx(
        0.05 * np.log(1.5) - 0.05 * np.log(0.5), rel=1e-6
    )


def test_a_category_that_grows_is_found_and_a_new_one_is_named_as_such():
    then = {"c": texts(1, {"a": 0.5, "b": 0.5})}
    assert measure(then, {"c": texts(2, {"a": 0.5, "b": 0.5})})["c"].level == "ok"
    assert measure(then, {"c": texts(2, {"a": 0.9, "b": 0.1})})["c"].level == "critical"
    assert (
        "40% in categories that were rare or unknown"
        in measure(then, {"c": np.repeat(["a", "z"], [60, 40]).astype(object)})["c"].message
    )


def test_an_empty_column_is_a_finding_and_no_crash():
    """Promise 43."""
    then = {"x": normal(1), "c": texts(1, {"a": 1.0})}
    found = measure(then, {"x": np.full(100, np.nan), "c": np.full(100, None, dtype=object)})
    assert {f.level for f in found.values()} == {"critical"}
    assert found["x"].message.endswith("all values are missing")


def test_a_column_that_was_always_empty_has_not_drifted():
    empty = np.full(500, np.nan)
    assert measure({"x": empty}, {"x": empty})["x"].level == "ok"


def test_more_missing_values_than_before_are_told():
    now = np.where(np.arange(5000) % 2, np.nan, normal(2))
    found = measure({"x": normal(1)}, {"x": now})["x"]
    assert (found.level, found.message.split(", ")[1]) == ("critical", "50% missing (0% at training)")


def test_a_new_column_is_no_matter_of_the_champions():
    """Promise 43."""
    assert set(measure({"x": normal(1)}, {"x": normal(2), "new": normal(3)})) == {"x"}


def test_a_constant_that_changes_is_found():
    assert measure({"x": np.ones(500)}, {"x": np.full(500, 2.0)})["x"].level == "critical"


@pytest.mark.parametrize("rows", [100, 300, 2000])
def test_chance_alone_does_not_warn(rows):
    """Thirty categories and a hundred rows have a PSI of 0.3 by chance."""
    categories = {f"c{i}": 1 / 30 for i in range(30)}
    then = {"x": normal(0, rows=20_000), "c": texts(0, categories, 20_000)}
    levels = [
        f.level
        for seed in range(1, 60)
        for f in measure(then, {"x": normal(seed, rows=rows), "c": texts(seed, categories, rows)}).values()
    ]
    assert sum(level != "ok" for level in levels) <= 2


# ------------------------------------------------------------------------------------ the clock is no drift


def trips(rows=400, day="2024-01-07"):
    random = np.random.default_rng(1)
    return {
        "pickup_datetime": np.datetime64(day, "us") + (np.arange(rows) * 200).astype("timedelta64[s]"),
        "trip_distance": random.gamma(2, 1.5, rows),
        **{name: random.integers(1, 200, rows).astype(float) for name in ("pickup_location_id", "dropoff_location_id")},
        **{
            name: random.integers(1, 3, rows).astype(float) for name in ("vendor_id", "passenger_count", "rate_code_id")
        },
        "duration_minutes": random.gamma(2, 5, rows),
    }


def feature_set(features, columns):
    types: dict[str, ColumnType] = {"pickup_datetime": "timestamp"}
    return compile_features(
        features,
        source_columns={name: types.get(name, "float") for name in columns},
        target="duration_minutes", entity=None, time_column="pickup_datetime", root=ROOT,
    )  # fmt: skip


def test_features_that_only_tell_the_time_are_known_by_trying():
    columns = trips()
    features = feature_set(settings.Features(definition="trip_duration"), columns)
    found = drift.calendar_columns(features, columns, "pickup_datetime")
    assert {"hour", "weekday", "minute_of_day", "hour_of_week", "weekend", "rush_hour"} <= found
    assert not found & {"trip_distance", "log_distance", "pickup_location_id", "route", "vendor_id", "rate_code_id"}


def test_declared_date_parts_of_the_rows_time_are_found_too():
    columns = trips()
    features = feature_set(
        settings.Features(
            columns=("trip_distance",),
            date_parts={"pickup_datetime": ("hour", "weekday", "month")},
            derived={"per_hour": "trip_distance * hour(pickup_datetime)"},
        ),
        columns,
    )
    found = drift.calendar_columns(features, columns, "pickup_datetime")
    assert found == {"pickup_datetime_hour", "pickup_datetime_weekday", "pickup_datetime_month"}


def test_without_a_time_column_nothing_is_excused():
    columns = trips()
    features = feature_set(settings.Features(definition="trip_duration"), columns)
    assert drift.calendar_columns(features, columns, None) == set()


def test_a_calendar_column_is_measured_and_not_judged():
    found = measure({"weekday": np.tile(np.arange(7.0), 700)}, {"weekday": np.full(2000, 6.0)}, calendar={"weekday"})
    assert found["weekday"].value > 1
    assert found["weekday"].level == "ok"
