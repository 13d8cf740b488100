"""Bundled data: scikit-learn's breast-cancer table, and taxi trips that are GENERATED, not recorded.

The trips have the columns, the daily rhythm and the dirt of New York's yellow cabs, but no row of them ever
happened: a zone has a made-up place, distances and speeds come from distributions fitted by eye to the TLC's
published trips of 2018. A day is a pure function of (seed, day, rows_per_day, incidents): ask for it twice and
get the same rows.

Incidents can be switched on by date in params.yaml:

    changed_column   trip_distance is renamed, fare_amount comes as text, mta_tax is gone: validation refuses the day
    poisoned_day     absurd distances and fares in a third of the rows, no passenger counts: validation refuses the day
    shift            slow traffic, other zones, other hours: clean data that an old model gets wrong
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.ingestion.sources import Health, with_derived
from include.schemas import Types
from include.settings import ColumnType, SampleSource

TRIP_COLUMNS: dict[str, ColumnType] = {
    "vendor_id": "int",
    "pickup_datetime": "timestamp",
    "dropoff_datetime": "timestamp",
    "passenger_count": "int",
    "trip_distance": "float",
    "rate_code_id": "int",
    "store_and_fwd_flag": "string",
    "pickup_location_id": "int",
    "dropoff_location_id": "int",
    "payment_type": "int",
    "fare_amount": "float",
    "extra": "float",
    "mta_tax": "float",
    "tip_amount": "float",
    "tolls_amount": "float",
    "improvement_surcharge": "float",
    "total_amount": "float",
    "congestion_surcharge": "float",
}

_MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
CELL_COLUMNS: dict[str, ColumnType] = {
    **{f"mean_{name}": "float" for name in _MEASURES},
    **{f"{name}_error": "float" for name in _MEASURES},
    **{f"worst_{name}": "float" for name in _MEASURES},
    "diagnosis": "string",
}

_ARROW = {"int": pa.int64(), "float": pa.float64(), "string": pa.string(), "timestamp": pa.timestamp("us")}


def columns(source: SampleSource) -> dict[str, ColumnType]:
    """The columns of the chosen table; nothing is generated or loaded for it."""
    return dict(TRIP_COLUMNS if source.dataset == "taxi_trips" else CELL_COLUMNS)


def read(source: SampleSource, keys: Sequence[str], known: Types) -> Iterator[tuple[str, pa.Table]]:
    """Generate the trips of each day, or give the cells as the one partition `all`."""
    for key in keys:
        table = cells() if source.dataset == "breast_cancer" else _with_incidents(source, dt.date.fromisoformat(key))
        yield key, with_derived(table, source.derive)


def newest(source: SampleSource) -> tuple[pa.Table, bool]:
    """A day of trips, or the cells."""
    if source.dataset == "breast_cancer":
        return with_derived(cells(), source.derive), True
    return with_derived(_with_incidents(source, source.start or dt.date(2024, 1, 1)), source.derive), False


def days(source: SampleSource, today: dt.date) -> list[dt.date]:
    """A month from the source's start; the last one where it has none."""
    first = source.start or today - dt.timedelta(31)
    return [day for day in (first + dt.timedelta(count) for count in range(31)) if day <= today]


def health(source: SampleSource) -> Health:
    """Bundled data is always there."""
    return Health(True, f"{source.dataset} comes with the platform")


def cells() -> pa.Table:
    """scikit-learn's breast-cancer table: 569 rows, 30 measures of cell nuclei, and `diagnosis`."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = list(CELL_COLUMNS)[:-1]
    table = {name: pa.array(data.data[:, index]) for index, name in enumerate(names)}
    table["diagnosis"] = pa.array(np.asarray(data.target_names)[data.target].tolist(), pa.string())
    return pa.table(table)


# ------------------------------------------------------------------------------------- the city that is made up

ZONES = 265
UNKNOWN_ZONES = (264, 265)
_NEWARK, _JFK, _LAGUARDIA = 1, 132, 138
# Zones with the most pickups in the TLC's data of 2018, the busiest first.
_BUSY = (
    *(237, 236, 161, 162, 186, 230, 170, 48, 234, 142, 79, 163, 239, 164, 107, 141, 68, 100, 249, 263),
    *(229, 238, 90, 231, 140, 113, 43, 246, 148, 114, 233, 137, 262, 143, 144, 158, 13, 151, 50, 87),
    *(211, 75, 125, 261, 166, 74, 88, 41, 24, 224, 45, 209, 4, 42, 232),
)
# Miles per hour of a trip of 1.6 miles, hour by hour.
_WEEKDAY_SPEED = np.array(
    (
        *(14.0, 15.1, 15.2, 16.3, 17.9, 17.2, 13.9, 10.6, 8.4, 7.7, 7.7, 7.5),
        *(7.5, 8.0, 8.0, 8.0, 8.5, 8.5, 8.6, 9.3, 10.5, 11.1, 11.7, 12.3),
    )
)
_WEEKEND_SPEED = np.array(
    (
        *(11.6, 12.4, 13.2, 14.2, 15.7, 17.9, 17.7, 15.9, 13.9, 12.8, 11.7, 10.5),
        *(10.2, 9.8, 9.6, 9.6, 9.8, 9.5, 9.4, 9.7, 10.4, 11.0, 11.2, 11.9),
    )
)
_WEEKDAY_DEMAND = np.array(
    [
        2.4,
        1.3,
        0.8,
        0.6,
        0.6,
        1.0,
        2.6,
        4.3,
        5.4,
        5.0,
        4.8,
        4.9,
        5.0,
        5.0,
        5.6,
        5.4,
        4.8,
        5.7,
        6.7,
        6.4,
        5.8,
        6.0,
        5.5,
        4.4,
    ]
)
_WEEKEND_DEMAND = np.array(
    [
        5.4,
        4.5,
        3.4,
        2.5,
        1.7,
        0.7,
        1.1,
        1.7,
        2.4,
        3.7,
        4.5,
        5.2,
        5.8,
        5.6,
        5.4,
        5.5,
        5.4,
        5.6,
        6.0,
        5.6,
        4.8,
        4.6,
        4.6,
        4.2,
    ]
)
_DAY_OF_WEEK_DEMAND = np.array([0.94, 0.98, 1.03, 1.05, 1.06, 1.02, 0.92])  # Monday first
# In a shift people travel late, from other places, through streets that hardly move.
_SHIFTED_DEMAND = np.roll(_WEEKEND_DEMAND, -3)
_SHIFTED_SPEED = 0.55
_CONGESTION_SURCHARGE_FROM = dt.date(2019, 2, 1)


class _City:
    """Where the zones lie, how busy they are, and where one goes from each: the same in every run."""

    def __init__(self) -> None:
        rng = np.random.default_rng(265)
        place = rng.normal(0, 6.5, (ZONES + 1, 2))  # miles, east and north
        weight = np.exp(rng.normal(-4.2, 0.8, ZONES + 1))
        for rank, zone in enumerate(_BUSY):  # a long, narrow island
            north = rng.uniform(-3.6, 4.6)
            place[zone] = (rng.uniform(-0.9, 0.9), north)
            weight[zone] = 40 * np.exp(-rank / 18)
        place[_JFK], place[_LAGUARDIA], place[_NEWARK] = (12.5, -8.0), (7.0, 3.5), (-11.5, -6.0)
        weight[_JFK], weight[_LAGUARDIA], weight[_NEWARK] = 25, 28, 0.3
        weight[0] = 0
        weight[list(UNKNOWN_ZONES)] = 0
        self.place = place
        self.quick = np.clip(0.82 + 0.03 * np.hypot(*place.T), 0.8, 1.35) * np.exp(rng.normal(0, 0.07, ZONES + 1))
        self.pickup = _cumulative(weight)
        outer = weight.copy()
        outer[list(_BUSY)] *= 0.001
        outer[[_JFK, _LAGUARDIA]] *= 0.005
        self.pickup_shifted = _cumulative(outer)
        distance = np.abs(place[:, None, :] - place[None, :, :]).sum(axis=2)
        attraction = weight**0.8 * np.exp(-distance / 1.35)
        attraction[:, [_JFK, _LAGUARDIA]] += (0.016 * attraction.sum(axis=1))[:, None]
        attraction[[_JFK, _LAGUARDIA]] = weight**0.7
        attraction[:, 0] = 0
        attraction[0, 1] = 1
        self.dropoff = np.cumsum(attraction / attraction.sum(axis=1, keepdims=True), axis=1)


def _cumulative(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.cumsum(weight / weight.sum()), dtype=np.float64)


@cache
def _city() -> _City:
    return _City()


# ----------------------------------------------------------------------------------------- one day of trips


def generate_day(day: dt.date, *, rows: int, seed: int, shifted: bool = False) -> pa.Table:
    """One day of GENERATED taxi trips, in order of pickup, dirt included.

    Args:
        day: the date of every pickup.
        rows: how many trips an average day has; weekday and chance vary it.
        seed: equal seeds give equal trips.
        shifted: whether traffic, zones and hours are those of the incident `shift`.
    """
    rng = np.random.default_rng([seed, day.toordinal()])
    city, weekend = _city(), day.weekday() >= 5
    n = max(1, round(rows * _DAY_OF_WEEK_DEMAND[day.weekday()] * float(np.exp(rng.normal(0, 0.04)))))

    demand = _SHIFTED_DEMAND if shifted else _WEEKEND_DEMAND if weekend else _WEEKDAY_DEMAND
    hour = np.sort(_pick(_cumulative(demand), rng.random(n)))
    second = hour * 3600 + rng.integers(0, 3600, n)
    second.sort()
    start = _pick(city.pickup_shifted if shifted else city.pickup, rng.random(n))
    end = (city.dropoff[start] < rng.random(n)[:, None]).sum(axis=1)

    crow = np.abs(city.place[start] - city.place[end]).sum(axis=1)
    distance = crow * 0.88 * np.exp(rng.normal(0, 0.10, n)) + 0.5 * np.exp(rng.normal(0, 0.6, n))
    speed = (_WEEKEND_SPEED if weekend else _WEEKDAY_SPEED)[hour] * 1.22 * (distance / 1.6) ** 0.36
    chance, todays = rng.normal(0, 0.20, n), rng.normal(0, 0.025)
    speed *= np.sqrt(city.quick[start] * city.quick[end]) * np.exp(chance + todays)
    if shifted:
        speed *= _SHIFTED_SPEED
    minutes = 0.8 + distance / np.clip(speed, 1.5, 55) * 60

    columns = _fares(rng, day, hour, start, end, distance, minutes, weekend)
    columns |= {
        "pickup": np.datetime64(day, "us") + second.astype("timedelta64[s]"),
        "seconds": np.rint(minutes * 60).astype(np.int64),
        "start": start,
        "end": end,
        "distance": np.round(distance, 2),
    }
    _soil(rng, columns)
    return _table(rng, columns)


def _pick(cumulative: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum(np.searchsorted(cumulative, chance), len(cumulative) - 1)


def _fares(
    rng: np.random.Generator,
    day: dt.date,
    hour: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    distance: NDArray[np.float64],
    minutes: NDArray[np.float64],
    weekend: bool,
) -> dict[str, NDArray[np.generic]]:
    n = len(hour)
    rate = np.where(
        end == _NEWARK, 3, np.where((start == _JFK) & (distance > 11) | (end == _JFK) & (distance > 11), 2, 1)
    )
    rate = np.where(rng.random(n) < 0.005, 5, rate)
    slow = np.clip(minutes - distance * 5, 0, None)  # minutes below 12 miles an hour are charged by time
    fare = np.select([rate == 2, rate == 3], [52.0, 17.5 + 2.5 + 2.5 * distance], 2.5 + 2.5 * distance + 0.5 * slow)
    fare = np.round(fare * 2) / 2
    rush = (hour >= 16) & (hour < 20) & (not weekend)
    night = (hour >= 20) | (hour < 6)
    extra = np.where(rate == 2, 4.5 * rush, np.where(rush, 1.0, np.where(night, 0.5, 0.0)))
    tolls = np.where(
        ((rate == 2) & (rng.random(n) < 0.5)) | (np.isin(end, (_LAGUARDIA,)) & (rng.random(n) < 0.4)), 5.76, 0.0
    )
    payment = np.asarray([1, 2, 3, 4])[_pick(_cumulative(np.array([0.70, 0.292, 0.006, 0.002])), rng.random(n))]
    surcharge = np.full(n, np.nan)
    if day >= _CONGESTION_SURCHARGE_FROM:
        surcharge = np.where(rng.random(n) < 0.92, 2.5, 0.0)
    tax = np.where(rate == 3, 0.0, 0.5)
    before_tip = fare + extra + tax + 0.3 + tolls + np.nan_to_num(surcharge)
    tip = np.where(
        (payment == 1) & (rng.random(n) < 0.95), np.round(before_tip * rng.normal(0.19, 0.05, n).clip(0), 2), 0.0
    )
    return {
        "rate": rate,
        "fare": fare,
        "extra": extra,
        "tax": tax,
        "tip": tip,
        "tolls": tolls,
        "improvement": np.full(n, 0.3),
        "congestion": surcharge,
        "total": np.round(before_tip + tip, 2),
        "payment": payment,
    }


def _soil(rng: np.random.Generator, trip: dict[str, NDArray[np.generic]]) -> None:
    """The dirt of real trips, in the shares of the TLC's data of 2018."""
    n = len(trip["start"])

    def some(share: float) -> NDArray[np.intp]:
        return np.flatnonzero(rng.random(n) < share)

    seconds = trip["seconds"]
    seconds[some(0.0008)] = 0
    hit = some(0.007)
    seconds[hit] = rng.integers(1, 59, len(hit))
    hit = some(0.0020)  # a meter that ran on until midnight
    seconds[hit] = rng.integers(22 * 3600, 86_340, len(hit))
    trip["distance"][some(0.006)] = 0.0
    hit = some(0.0007)  # refunds
    for column in ("fare", "extra", "tax", "improvement", "total"):
        trip[column][hit] = -np.abs(trip[column][hit])
    trip["tip"][hit] = 0.0
    trip["rate"][some(0.00005)] = 99
    hit = some(0.0145)
    trip["start"][hit] = rng.choice(UNKNOWN_ZONES, len(hit), p=(0.93, 0.07))
    hit = hit[rng.random(len(hit)) < 0.8]
    trip["end"][hit] = 264
    trip["end"][some(0.003)] = 265


def _table(rng: np.random.Generator, trip: dict[str, NDArray[np.generic]]) -> pa.Table:
    n = len(trip["start"])
    vendor = np.asarray([1, 2, 4])[_pick(_cumulative(np.array([0.40, 0.595, 0.005])), rng.random(n))]
    people = _pick(_cumulative(np.array([0.009, 0.711, 0.146, 0.043, 0.020, 0.044, 0.027])), rng.random(n))
    flag = np.where(rng.random(n) < 0.005, "Y", "N")
    unknown = rng.random(n) < 0.0015  # a record whose meter told nothing of the ride
    values = {
        "vendor_id": pa.array(vendor, mask=unknown),
        "pickup_datetime": trip["pickup"],
        "dropoff_datetime": trip["pickup"] + trip["seconds"].astype("timedelta64[s]"),
        "passenger_count": pa.array(people, mask=unknown),
        "trip_distance": trip["distance"],
        "rate_code_id": pa.array(trip["rate"], mask=unknown),
        "store_and_fwd_flag": pa.array(flag.tolist(), pa.string(), mask=unknown),
        "pickup_location_id": trip["start"],
        "dropoff_location_id": trip["end"],
        "payment_type": pa.array(trip["payment"], mask=unknown),
        "fare_amount": trip["fare"],
        "extra": trip["extra"],
        "mta_tax": trip["tax"],
        "tip_amount": trip["tip"],
        "tolls_amount": trip["tolls"],
        "improvement_surcharge": trip["improvement"],
        "total_amount": trip["total"],
        "congestion_surcharge": trip["congestion"],
    }
    arrays = [pa.array(values[name], from_pandas=True).cast(_ARROW[kind]) for name, kind in TRIP_COLUMNS.items()]
    return pa.table(arrays, names=list(TRIP_COLUMNS))


# ---------------------------------------------------------------------------------------------- incidents


def _with_incidents(source: SampleSource, day: dt.date) -> pa.Table:
    kinds = {i.kind for i in source.incidents if i.start <= day <= (i.end or dt.date.max)}
    table = generate_day(day, rows=source.rows_per_day, seed=source.seed, shifted="shift" in kinds)
    if "poisoned_day" in kinds:
        table = _poisoned(table, np.random.default_rng([source.seed, day.toordinal(), 1]))
    if "changed_column" in kinds:
        table = _changed(table)
    return table


def _poisoned(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    hit = rng.random(table.num_rows) < 0.3
    for name, factor in {"trip_distance": 1609.344, "fare_amount": 100.0, "total_amount": 100.0}.items():
        values = table[name].to_numpy()
        table = _replaced(table, name, pa.array(np.where(hit, values * factor, values)))
    return _replaced(table, "passenger_count", pa.nulls(table.num_rows, pa.int64()))


def _changed(table: pa.Table) -> pa.Table:
    fares = [f"${fare:.2f}" for fare in table["fare_amount"].to_pylist()]
    table = _replaced(table, "fare_amount", pa.array(fares, pa.string())).drop_columns(["mta_tax"])
    return table.rename_columns(["trip_miles" if n == "trip_distance" else n for n in table.column_names])


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)
