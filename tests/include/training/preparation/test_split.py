"""Which rows are held out: by time, by class, by entity; and what small tables mean for the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from include.settings import Split
from include.training.preparation import split
from tests.include.training.conftest import entry_for


def parts(rule: Split, rows: int, **columns: Any) -> np.ndarray:
    values = {
        "times": None,
        "y": None,
        "groups": np.arange(rows, dtype=np.uint64),
        "entity": None,
        "seed": 7,
        **columns,
    }
    return split.assign_parts(rule, rows, **values)


def share(part: np.ndarray) -> dict[str, float]:
    return {name: float((part == name).mean()) for name in ("train", "validation", "test")}


def test_a_split_by_time_holds_the_newest_out_whatever_the_order_of_the_rows() -> None:
    times = np.random.default_rng(1).permutation(
        np.datetime64("2024-01-01", "us") + np.arange(1000) * np.timedelta64(60, "s")
    )
    part = parts(Split(), 1000, times=times)
    assert times[part == "train"].max() < times[part == "validation"].min()
    assert times[part == "validation"].max() < times[part == "test"].min()
    assert share(part) == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.002)


def test_rows_of_one_moment_stay_on_one_side() -> None:
    times = np.repeat(np.datetime64("2024-01-01", "us") + np.arange(10) * np.timedelta64(60, "s"), 13)
    part = parts(Split(), 130, times=times)
    assert all(len(set(part[times == moment])) == 1 for moment in np.unique(times))


def test_with_many_days_a_part_begins_with_a_day() -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(3000) * np.timedelta64(1800, "s")
    part = parts(Split(), 3000, times=times)
    days = times.astype("datetime64[D]")
    assert all(len(set(part[days == day])) == 1 for day in np.unique(days))
    assert share(part)["train"] == pytest.approx(0.7, abs=0.02)


def test_a_stratified_split_keeps_the_share_of_each_class() -> None:
    y = np.array([1.0] * 60 + [0.0] * 540)
    part = parts(Split(), 600, y=y)
    for name in ("train", "validation", "test"):
        assert y[part == name].mean() == pytest.approx(0.1, abs=0.02)
    assert (part == parts(Split(), 600, y=y)).all()


def test_equal_rows_and_rows_of_one_entity_stay_on_one_side() -> None:
    """Promise 22."""
    groups = np.repeat(np.arange(100, dtype=np.uint64), 4)
    entity = np.repeat(np.array([f"patient {n}" for n in range(50)], dtype=object), 8)
    for columns in ({"groups": groups}, {"groups": groups, "y": groups % 2}, {"entity": entity}):
        part = parts(Split(), 400, **columns)
        code = columns.get("entity", groups)
        assert all(
            len(set(part[code == c])) == 1 for c in np.unique(code.astype(str) if code.dtype == object else code)
        )


@pytest.mark.parametrize(
    ("rows", "changes", "test"),
    [
        (400, {}, 0.15),
        (334, {}, 0.15),
        (200, {}, 53 / 200),
        (159, {}, 53 / 159),
        (158, {}, 0.15),
        (200, {"split": {"train": 0.7, "validation": 0.15, "test": 0.15}}, 0.15),
        (100, {"gate": {"minimum_rows": 20}}, 23 / 100),
    ],
)
def test_a_small_table_holds_out_as_many_rows_as_its_gate_needs_unless_the_split_is_declared(
    rows: int, changes: dict[str, Any], test: float
) -> None:
    entry = entry_for("binary", **changes)
    rule = split.rule_for(entry, rows, ["early", "late"])
    assert rule.test == pytest.approx(test)
    y = np.arange(rows) % 3 == 0
    part = parts(rule, rows, y=y * 1.0)
    enough = int((part == "test").sum()) >= entry.gate.minimum_rows
    assert enough == (rows * test >= entry.gate.minimum_rows)
    warnings = split.warnings_of(entry, rule, part, np.where(y, "late", "early").astype(object), None)
    assert bool(warnings) == (rule.test != 0.15 or not enough)


def test_the_warning_of_a_table_that_is_too_small_has_the_numbers_and_the_remedy() -> None:
    entry = entry_for("binary")
    part = parts(entry.split, 120)
    (warning,) = split.warnings_of(entry, entry.split, part, np.array(["a", "b"] * 60, dtype=object), None)
    assert "18 of 120 rows are held out, and the gate needs 50: its verdict will be HOLD" in warning
    assert "train on at least 334 rows, or declare a `split` with test: 0.43 or more" in warning
