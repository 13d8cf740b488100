"""What is known of a taxi trip when it begins, for the minutes that it takes.

Zones are TLC's location ids. `route` is the pair of zones as one number, pickup * 1000 + dropoff, so that params.yaml
can ask for its `target_encoding`: what trips between these two zones usually take.
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

_MINUTES = np.arange(1440) * (2 * np.pi / 1440)
_SINE, _COSINE = np.sin(_MINUTES), np.cos(_MINUTES)
_RUSH = np.isin(np.arange(24), (7, 8, 9, 16, 17, 18, 19))


def features(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One column for each thing that a dispatcher would look at: how far, between where, and when."""
    pickup, dropoff, distance = columns["pickup_location_id"], columns["dropoff_location_id"], columns["trip_distance"]
    minutes = columns["pickup_datetime"].view(np.int64) // 60_000_000
    days = minutes // 1440
    minute = minutes - days * 1440
    hour = minute // 60
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    weekend = weekday >= 5
    at_airport = (
        (pickup == JFK) | (dropoff == JFK) | (pickup == LA_GUARDIA) | (dropoff == LA_GUARDIA) | (dropoff == NEWARK)
    )
    when = {
        "hour": hour,
        "minute_of_day": minute,
        "minute_sine": _SINE[minute],
        "minute_cosine": _COSINE[minute],
        "weekday": weekday,
        "hour_of_week": weekday * 24 + hour,
        "weekend": weekend,
        "rush_hour": _RUSH[hour] & ~weekend,
    }
    if (unknown := np.isnat(columns["pickup_datetime"])).any():
        when = {name: np.where(unknown, np.nan, values) for name, values in when.items()}
    return {
        **when,
        "distance": distance,
        "log_distance": np.log1p(np.maximum(distance, 0.0)),
        "pickup_zone": pickup,
        "dropoff_zone": dropoff,
        "route": pickup * 1000.0 + dropoff,
        "same_zone": pickup == dropoff,
        "airport": at_airport,
        "vendor": columns["vendor_id"],
        "passengers": columns["passenger_count"],
        "rate_code": columns["rate_code_id"],
    }
