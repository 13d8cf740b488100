"""A proposed suite accepts what it was proposed from, and tomorrow's rows of the same kind."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.ingestion import judgement, suites

DAY = dt.date(2025, 1, 5)
MISSING = ("none", "null", "nan", "mostly")


def _suite(table: pa.Table, folder: Path, time_column: str | None = None, **more: Any) -> suites.Suite:
    path = folder / "s.json"
    path.write_text(json.dumps(suites.propose_suite("s", table, time_column, **more), allow_nan=False))
    assert suites.check(path, table.column_names) == []
    return suites.load(path)


def _judged(table: pa.Table, suite: suites.Suite, usual: int | None = None, day: str = "all") -> judgement.Judgement:
    values = judgement.parameters(day, usual or table.num_rows, dt.date(2026, 1, 1))
    return judgement.judge(table, suite, quarantine_share=0.0, given=values)


def _bounds(table: pa.Table, column: str, time_column: str | None = None) -> dict[str, Any]:
    proposed = suites.propose_suite("s", table, time_column)["expectations"]
    between = [e for e in proposed if e["type"] == "expect_column_values_to_be_between"]
    found = [e["kwargs"] for e in between if e["kwargs"]["column"] == column]
    return found[0] if found else {}


SCALES: dict[str, tuple[pa.DataType, Callable[[random.Random], Any]]] = {
    "a price": (pa.float64(), lambda r: round(r.lognormvariate(3, 0.5), 2)),
    "a pressure": (pa.float64(), lambda r: round(r.uniform(1013.1, 1013.3), 2)),
    "a latitude": (pa.float64(), lambda r: r.uniform(40.751, 40.753)),
    "a longitude": (pa.float64(), lambda r: r.uniform(-73.99, -73.97)),
    "tiny": (pa.float64(), lambda r: r.uniform(1e-300, 9e-300)),
    "smaller than tiny": (pa.float64(), lambda r: 5e-324 * r.randint(1, 9)),
    "huge": (pa.float64(), lambda r: r.uniform(-1.7e308, 1.7e308)),
    "constant": (pa.float64(), lambda r: 0.1),
    "single precision": (pa.float32(), lambda r: r.uniform(0.1, 0.3)),
    "a count": (pa.int64(), lambda r: r.randint(0, 6)),
    "epoch seconds": (pa.int64(), lambda r: 1_736_035_200 + r.randint(0, 86_399)),
    "epoch milliseconds": (pa.int64(), lambda r: 1_736_035_200_000 + r.randint(0, 86_399_999)),
    "beyond 2^53": (pa.int64(), lambda r: 2**53 + r.randint(1, 20)),
    "the largest": (pa.int64(), lambda r: 2**63 - r.randint(1, 20)),
    "the smallest": (pa.int64(), lambda r: -(2**63) + r.randint(0, 20)),
    "small integers": (pa.int8(), lambda r: r.randint(-128, 127)),
    "a code": (pa.string(), lambda r: r.choice(["00007", "00012", "A1"])),
    "free text": (pa.string(), lambda r: f"<b>{r.random()}</b> é"),
    "a flag": (pa.bool_(), lambda r: r.random() < 0.3),
    "a time": (pa.timestamp("us"), lambda r: dt.datetime(2025, 1, 5) + dt.timedelta(seconds=r.randint(0, 86_399))),
    "a time with a zone": (pa.timestamp("ms", "Europe/Berlin"), lambda r: dt.datetime(2025, 1, 5, r.randint(0, 22))),
    "a date": (pa.date32(), lambda r: dt.date(2025, 1, 1 + r.randint(0, 8))),
}


def _column(kind: str, missing: str, rows: int, seed: int) -> pa.Array:
    arrow, draw = SCALES[kind]
    rng = random.Random(f"{kind} {seed}")
    values = [draw(rng) for _ in range(rows)]
    share = {"none": 0.0, "null": 0.2, "nan": 0.2, "mostly": 0.95}[missing]
    empty = math.nan if missing == "nan" and pa.types.is_floating(arrow) else None
    return pa.array([empty if rng.random() < share else value for value in values], arrow, from_pandas=False)


def _table(rows: int, seed: int, columns: list[tuple[str, str]], day: dt.date = DAY) -> pa.Table:
    start = dt.datetime.combine(day, dt.time())
    step = dt.timedelta(days=1) / rows
    at = pa.array([start + step * row + step / 2 for row in range(rows)], pa.timestamp("us"))
    return pa.table({"at": at, **{f"{k}, {m}": _column(k, m, rows, seed) for k, m in columns}})


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(SCALES)), st.sampled_from(MISSING)), min_size=8, max_size=16, unique=True
    ),
    st.integers(6, 80),
    st.integers(0, 1000),
)
def test_it_accepts_its_own_table_whatever_the_columns(
    tmp_path_factory: pytest.TempPathFactory, columns: list[tuple[str, str]], rows: int, seed: int
) -> None:
    table = _table(rows, seed, columns)
    suite = _suite(table, tmp_path_factory.mktemp("s"), "at")
    judged = _judged(table, suite, day=str(DAY))
    assert (judged.refused, judged.reasons, judged.quality) == (None, {}, 1.0)


def test_it_accepts_every_kind_of_column_today_and_tomorrow(tmp_path: Path) -> None:
    """Numbers whose room is the values' own width: of 300 new rows at most one in a hundred lies outside."""
    columns = [(kind, missing) for kind in SCALES for missing in MISSING]
    today, tomorrow = _table(300, 1, columns), _table(290, 2, columns, DAY + dt.timedelta(1))
    suite = _suite(today, tmp_path, "at")
    judged = _judged(today, suite, day=str(DAY))
    assert (judged.refused, judged.reasons, judged.quality) == (None, {}, 1.0)
    judged = judgement.judge(
        tomorrow,
        suite,
        quarantine_share=0.05,
        given=judgement.parameters(str(DAY + dt.timedelta(1)), 300, dt.date(2026, 1, 1)),
    )
    assert judged.refused is None
    assert sum(judged.reasons.values()) <= 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([40.751, 40.753], pa.float64()),
        ([1013.1, 1013.3], pa.float64()),
        ([-73.98765, -73.98123], pa.float64()),
        ([-1e-9, -1e-12], pa.float64()),
        ([2**53 + 1, 2**53 + 3], pa.int64()),
        ([-5, -5], pa.int64()),
        ([0.1 + 0.2, 0.3], pa.float64()),
    ],
)
def test_bounds_are_rounded_outwards(values: list[Any], kind: pa.DataType) -> None:
    found = _bounds(pa.table({"x": pa.array(values * 20, kind)}), "x")
    assert found["min_value"] < min(values)
    assert max(values) < found["max_value"]


def test_what_is_hardly_above_zero_is_bounded_there() -> None:
    assert _bounds(pa.table({"x": [0.01, 3.0, 30.0] * 20}), "x") == {"column": "x", "min_value": 0, "max_value": 60.0}


def test_an_infinite_value_leaves_its_side_open_and_is_named(tmp_path: Path) -> None:
    table = pa.table({"x": [1.5, 2.5, math.inf, 3.5] * 20, "y": [math.inf, -math.inf] * 40})
    proposed = suites.propose_suite("s", table)
    assert _bounds(table, "x").keys() == {"column", "min_value"}
    assert _bounds(table, "y") == {}
    assert any("x: 20 infinite values" in note for note in proposed["notes"])
    assert _judged(table, _suite(table, tmp_path)).refused is None


def test_nan_is_missing(tmp_path: Path) -> None:
    table = pa.table({"x": [math.nan, 2.5, 1.5, 3.5] * 25})
    suite = _suite(table, tmp_path)
    assert _judged(table, suite).refused is None
    gone = pa.table({"x": pa.array([math.nan] * 100)})
    assert "x is missing too often" in (_judged(gone, suite).refused or "")


def test_what_grows_with_time_has_no_upper_bound() -> None:
    times = [dt.datetime(2025, 1, 5, hour) for hour in range(24)]
    table = pa.table({"at": times, "meter": [1000.0 + hour for hour in range(24)], "day": [20250105] * 24})
    assert "max_value" not in _bounds(table, "meter", "at")


def test_a_target_is_never_bounded() -> None:
    table = pa.table({"price": [1.0, 2.0] * 50, "plan": ["a", "b"] * 50})
    free = suites.propose_suite("s", table, unbounded=["price", "plan"])["expectations"]
    kinds = {e["type"] for e in free}
    assert not kinds & {"expect_column_values_to_be_between", "expect_column_values_to_be_in_set"}
    assert "expect_column_values_to_be_in_type_list" in kinds


def test_a_feed_whose_days_have_no_hours_gets_no_rule_on_freshness(tmp_path: Path) -> None:
    table = pa.table({"on": pa.array([DAY] * 40, pa.date32()), "x": [1.0, 2.0] * 20})
    suite = _suite(table, tmp_path, "on")
    assert "expect_column_max_to_be_between" not in {rule.type for rule in suite.rules}
    assert _judged(table, suite, day=str(DAY)).refused is None


def test_a_feed_that_ends_in_the_morning_gets_the_hours_it_needs(tmp_path: Path) -> None:
    times = [dt.datetime(2025, 1, 5, 0, minute) + dt.timedelta(hours=h) for h in range(10) for minute in range(9)]
    table = pa.table({"at": pa.array(times, pa.timestamp("us"))})
    suite = _suite(table, tmp_path, "at")
    assert _judged(table, suite, day=str(DAY)).refused is None


def test_a_suite_with_infinity_in_its_text_is_no_json(tmp_path: Path) -> None:
    kwargs = {"column": "x", "max_value": math.inf}
    (tmp_path / "s.json").write_text(
        json.dumps({"name": "s", "expectations": [{"type": "expect_column_values_to_be_between", "kwargs": kwargs}]})
    )
    with pytest.raises(suites.SuiteError, match="Infinity is no JSON; leave the bound out"):
        suites.load(tmp_path / "s.json")
