"""What is known of a taxi trip when it begins, for the minutes that it takes.

Zones are TLC's location ids. `route` is the pair of zones as one number, pickup * 1000 + dropoff, so that params.yaml
can ask for its `target_encoding`: what trips between these two zones usually take.

All that depends on the clock is looked up by the minute of the week, which is faster than computing it for each row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

INPUTS = {
    "pickup_datetime": "timestamp",
    "trip_distance": "float",
    "pickup_location_id": "int",
    "dropoff_location_id": "int",
    "vendor_id": "int",
    "passenger_count": "int",
    "rate_code_id": "int",
}

JFK, LA_GUARDIA, NEWARK = 132, 138, 1
RUSH_HOURS = (7, 8, 9, 16, 17, 18, 19)

_WEEKDAY, _MINUTE = np.divmod(np.arange(7 * 1440), 1440)  # Monday is 0
_HOUR = _MINUTE // 60
_WEEKEND = _WEEKDAY >= 5
_BY_MINUTE_OF_WEEK = {
    "hour": _HOUR * 1.0,
    "minute_of_day": _MINUTE * 1.0,
    "hour_sine": np.sin(_HOUR * (2 * np.pi / 24)),
    "hour_cosine": np.cos(_HOUR * (2 * np.pi / 24)),
    "weekday": _WEEKDAY * 1.0,
    "hour_of_week": _WEEKDAY * 24.0 + _HOUR,
    "weekend": _WEEKEND * 1.0,
    "rush_hour": (np.isin(_HOUR, RUSH_HOURS) & ~_WEEKEND) * 1.0,
}
_EPOCH = 3 * 1440  # 1970-01-01 was a Thursday


def features(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One column for each thing that a dispatcher would look at: how far, between where, and when."""
    pickup, dropoff, distance = columns["pickup_location_id"], columns["dropoff_location_id"], columns["trip_distance"]
    time = columns["pickup_datetime"]
    minute_of_week = (time.view(np.int64) // 60_000_000 + _EPOCH) % 10_080
    when = {name: values[minute_of_week] for name, values in _BY_MINUTE_OF_WEEK.items()}
    if (unknown := np.isnat(time)).any():
        when = {name: np.where(unknown, np.nan, values) for name, values in when.items()}
    return {
        **when,
        "trip_distance": distance,
        "log_distance": np.log1p(np.maximum(distance, 0.0)),
        "pickup_location_id": pickup,
        "dropoff_location_id": dropoff,
        "route": pickup * 1000.0 + dropoff,
        "same_zone": pickup == dropoff,
        "airport": (pickup == JFK)
        | (dropoff == JFK)
        | (pickup == LA_GUARDIA)
        | (dropoff == LA_GUARDIA)
        | (dropoff == NEWARK),
        "vendor_id": columns["vendor_id"],
        "passenger_count": columns["passenger_count"],
        "rate_code_id": columns["rate_code_id"],
    }
