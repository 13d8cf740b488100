"""A first suite from a look at some data: columns, types, missing values, ranges, allowed values, volume, freshness.

It accepts what it was made from, with room for tomorrow's rows; a person reads it and tightens it. What a column's
values do not allow to be said is not said, and the suite's notes name it.
"""

from __future__ import annotations

import datetime as dt
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.ingestion.sources import column_type

CATEGORIES = 30
"""A text column with more values than this is free text: no set of allowed values is proposed."""
_FEW = 50
_EPOCH = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_TYPES = {
    "int": ["int64", "float64"],
    "float": ["float64", "int64"],
    "string": ["str"],
    "bool": ["bool"],
    "timestamp": ["datetime64"],
    "date": ["datetime64"],
}


@dataclass(frozen=True)
class Day:
    """What the rules on volume and freshness need of one partition."""

    rows: int
    silence: dt.timedelta | None = None
    """From its newest time to its end."""


def propose_suite(
    name: str,
    table: pa.Table,
    time_column: str | None = None,
    *,
    days: Sequence[Day] = (),
    unbounded: Collection[str] = (),
) -> dict[str, Any]:
    """Propose a suite for a source, as the content of its JSON file.

    Args:
        name: the source.
        table: rows of it, the more the better.
        time_column: what its days are cut by, if it has days.
        days: the partitions that the rows are from; without it, they are cut by `time_column`.
        unbounded: columns that get no range and no set of values: a model's target, its entity.
    """
    notes = [
        f"Proposed by `mlops suite {name}` from {table.num_rows:,} rows; read it and tighten it.",
        "severity: critical refuses the partition; warning sends rows to quarantine; info is only noted.",
        "description becomes the reason that a quarantined row carries.",
    ]
    if time_column and not days:
        days = _cut(table, time_column)
    days = [day for day in days if day.rows] or [Day(table.num_rows)]
    expectations: list[dict[str, Any]] = [
        _entry("expect_table_columns_to_match_set", "critical", column_set=table.column_names, exact_match=False),
        _volume(days),
    ]
    if time_column:
        expectations.extend(_freshness(time_column, days, notes))
    order = _time_order(table, time_column)
    rows = round(statistics.median(day.rows for day in days))
    for column in table.column_names:
        values = table[column] if order is None else table[column].take(order)
        found = _Column(column, values, rows, unbounded=column in unbounded, in_time=order is not None)
        expectations.extend(found.expectations())
        notes.extend(found.notes)
    return {"name": name, "notes": notes, "expectations": expectations}


def missing_as_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Null where a value is missing: NaN is."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.fill_null(pc.is_nan(values), False), pa.scalar(None, values.type), values)


# ------------------------------------------------------------------------------------------ the table as a whole


def _cut(table: pa.Table, time_column: str) -> list[Day]:
    """The days of a table by its own times; a row without a time belongs to none."""
    times = np.sort(np.asarray(table[time_column].drop_null().cast(pa.timestamp("us")).to_numpy(), "M8[us]"))
    dates, counts = np.unique(times.astype("M8[D]"), return_counts=True)
    newest = times[np.cumsum(counts) - 1]
    silences = (dates + 1).astype("M8[us]") - newest
    return [Day(int(rows), silence.astype(dt.timedelta)) for rows, silence in zip(counts, silences, strict=True)]


def _time_order(table: pa.Table, time_column: str | None) -> pa.Array | None:
    return None if time_column is None else pc.sort_indices(table, [(time_column, "ascending")])


def _volume(days: Sequence[Day]) -> dict[str, Any]:
    usual = statistics.median(day.rows for day in days)
    low = math.floor(1000 * min(0.1, min(day.rows for day in days) / usual / 2)) / 1000
    high = math.ceil(max(5, 2 * max(day.rows for day in days) / usual))
    return _entry(
        "expect_table_row_count_to_be_between",
        "critical",
        f"an unusual number of rows: between {low:g} and {high} times the usual are expected",
        min_value={"$PARAMETER": f"usual_rows * {low:g}"},
        max_value={"$PARAMETER": f"usual_rows * {high}"},
    )


def _freshness(time_column: str, days: Sequence[Day], notes: list[str]) -> list[dict[str, Any]]:
    """Something from the day's last hours; no rule where days are too quiet, or times have no hours, to say so."""
    silences = [day.silence for day in days if day.silence is not None]
    if not silences:
        return []
    fewest = min(day.rows for day in days)
    longest = max(silences) / dt.timedelta(hours=1)
    hours = max(12, math.ceil(longest * 1.5 if longest > 8 else 0), math.ceil(72 / fewest))
    if hours >= 24:
        notes.append(
            f"{time_column}: no rule on freshness: days without a row in their last {longest:.0f} hours occur."
        )
        return []
    return [
        _entry(
            "expect_column_max_to_be_between",
            "critical",
            f"the feed is stale: nothing from the day's last {'twelve' if hours == 12 else hours} hours",
            column=time_column,
            min_value={"$PARAMETER": f"due - timedelta(hours={hours})"},
        )
    ]


# ---------------------------------------------------------------------------------------------------- one column


class _Column:
    """What can be said of one column.

    `rows` is the size of a usual partition; `in_time` says that the values are in the order of time.
    """

    def __init__(self, name: str, values: pa.ChunkedArray, rows: int, *, unbounded: bool, in_time: bool) -> None:
        self.notes: list[str] = []
        self._name, self._type, self._rows = name, values.type, rows
        self._unbounded, self._in_time = unbounded, in_time
        self._values = missing_as_null(values)
        self._present = self._values.drop_null()
        self._kind = column_type(values.type)

    def expectations(self) -> list[dict[str, Any]]:
        found = [*self._of_type(), *self._not_null()]
        if not len(self._present):
            self.notes.append(f"{self._name}: no value was seen; only that the column is there is checked.")
        elif self._unbounded:
            self.notes.append(
                f"{self._name}: without bounds, because a model predicts it, or it names who a row is of."
            )
        elif pa.types.is_integer(self._type) or pa.types.is_floating(self._type):
            found.extend(self._range())
        elif pa.types.is_string(self._type) or pa.types.is_large_string(self._type):
            found.extend(self._set())
        return found

    def _of_type(self) -> list[dict[str, Any]]:
        text = pa.types.is_string(self._type) or pa.types.is_large_string(self._type)
        odd = pa.types.is_decimal(self._type) or pa.types.is_null(self._type) or (self._kind == "string" and not text)
        if odd:
            return []
        listed = list(_TYPES[self._kind])
        if self._kind in ("int", "float"):
            listed = list(dict.fromkeys([np.dtype(self._type.to_pandas_dtype()).name, *listed]))
        kind = "expect_column_values_to_be_in_type_list"
        return [_entry(kind, "critical", column=self._name, type_list=listed)]

    def _not_null(self) -> list[dict[str, Any]]:
        name, count = self._name, len(self._values)
        kind = "expect_column_values_to_not_be_null"
        if not self._values.null_count:
            return [_entry(kind, "warning", f"{name} is missing", column=name)] if count else []
        missing = self._values.null_count / count
        noise = 3 * math.sqrt(missing * (1 - missing) / max(1, min(self._rows, count)))
        mostly = math.floor(100 * (1 - missing - max(missing, noise) - 0.05)) / 100
        if mostly < 0.05:
            return []
        return [_entry(kind, "critical", f"{name} is missing too often", column=name, mostly=mostly)]

    def _set(self) -> list[dict[str, Any]]:
        counts = pc.value_counts(self._present)
        seen, often = counts.field("values"), counts.field("counts").to_numpy()
        few = len(seen) > CATEGORIES or len(seen) > len(self._present) / 5
        unseen = float((often == 1).sum()) / len(self._present)  # Good's estimate of the share of values not yet seen
        if few or len(self._present) < _FEW or unseen > 0.005:
            return []
        text = f"{self._name} has a value that was not seen before"
        kwargs = {"column": self._name, "value_set": sorted(seen.to_pylist())}
        return [_entry("expect_column_values_to_be_in_set", "warning", text, **kwargs)]

    def _range(self) -> list[dict[str, Any]]:
        name = self._name
        floating = pa.types.is_floating(self._type)
        finite = self._present.filter(pc.is_finite(self._present)) if floating else self._present
        endless = len(self._present) - len(finite)
        if endless:
            self.notes.append(f"{name}: {endless:,} infinite values; no bound on the side where they are.")
        if not len(finite) or self._names_rows(finite):
            return []
        low, high = pc.min_max(finite).as_py().values()
        rises = self._in_time and _rises(finite)
        if rises:
            self.notes.append(f"{name}: grows from row to row; no upper bound.")
        epoch = next((unit for unit, per in _EPOCH.items() if _is_epoch(low, high, per)), None)
        if epoch:
            self.notes.append(f"{name}: perhaps a time in {epoch} since 1970; its bounds leave decades.")
        lowest, highest = _with_room(low, high, len(finite), wide=epoch is not None)
        smallest, largest = pc.min_max(self._present).as_py().values()
        bounds = {
            "min_value": None if smallest == -math.inf else _as_bound(lowest, self._type, up=False),
            "max_value": None if rises or largest == math.inf else _as_bound(highest, self._type, up=True),
        }
        bounds = {key: bound for key, bound in bounds.items() if bound is not None}
        if not bounds:
            return []
        text = f"{name} lies outside {bounds.get('min_value', '…')} to {bounds.get('max_value', '…')}"
        return [_entry("expect_column_values_to_be_between", "warning", text, column=name, **bounds)]

    def _names_rows(self, values: pa.ChunkedArray) -> bool:
        """Whether each whole number is there once: it names a row, and tomorrow's are others."""
        return bool(
            pa.types.is_integer(values.type) and len(values) > _FEW and pc.count_distinct(values).as_py() == len(values)
        )


# ------------------------------------------------------------------------------------------------------- numbers


def _rises(values: pa.ChunkedArray) -> bool:
    """Whether numbers in the order of time hardly ever fall, and do rise."""
    array = np.asarray(values.to_numpy())
    before, after = array[:-1], array[1:]
    return len(array) >= 3 and array[-1] > array[0] and bool((after >= before).mean() >= 0.95)


def _is_epoch(low: float, high: float, per_second: int) -> bool:
    """Whether all lie between 1990 and 2100, close together."""
    return 631_152_000 * per_second <= low and high <= 4_102_444_800 * per_second and high < 1.5 * low


def _with_room(low: float, high: float, count: int, *, wide: bool) -> tuple[Decimal, Decimal]:
    """Bounds with as much room on either side as the values are wide (twice of few values), rounded outwards.

    What is hardly above 0 compared with its highest value is not expected below 0.
    """
    with localcontext(prec=900):
        bottom, top = Decimal(low), Decimal(high)
        if wide:
            return bottom / 2, top * 2
        width = top - bottom or abs(top) or Decimal(1)
        room = width if count >= 30 else 2 * width
        lowest = Decimal(0) if 0 <= bottom <= top / 20 else bottom - room
        return _round(lowest, room, ROUND_FLOOR), _round(top + room, room, ROUND_CEILING)


def _round(value: Decimal, scale: Decimal, rounding: str) -> Decimal:
    """To a hundredth of the scale's power of ten: bounds that a person can read."""
    step = Decimal(1).scaleb(scale.adjusted() - 2)
    return (value / step).to_integral_value(rounding) * step


def _as_bound(value: Decimal, kind: pa.DataType, *, up: bool) -> float | int | None:
    """A bound as JSON and Great Expectations hold it, never inside of `value`; None where no number of that type is.

    Great Expectations turns bounds into floats: a whole number beyond 2^53 is given as a float that lies outside.
    """
    if pa.types.is_integer(kind):
        whole = int(value.to_integral_value(ROUND_CEILING if up else ROUND_FLOOR))
        limits = np.iinfo(kind.to_pandas_dtype())
        if not limits.min <= whole <= limits.max:
            return None
        if abs(whole) <= 2**53:
            return whole
    near = float(value)
    with localcontext(prec=900):
        inside = Decimal(near) < value if up else Decimal(near) > value
    near = math.nextafter(near, math.inf if up else -math.inf) if inside else near
    return near if math.isfinite(near) else None


def _entry(kind: str, severity: str, description: str | None = None, **kwargs: Any) -> dict[str, Any]:
    entry = {"type": kind, "kwargs": kwargs, "severity": severity}
    return {**entry, "description": description} if description else entry
