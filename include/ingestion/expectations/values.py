"""Single values of a column: a range, a set, a pattern, not null. A row breaks it by its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule, described, unexpected_count

ABOUT_ROWS = True
OF_ONE_PARTITION = False
FRAME = frames.of_values


def classes() -> tuple[type, ...]:
    """The base of all expectations about values of one column."""
    from great_expectations.expectations.expectation import ColumnMapExpectation

    return (ColumnMapExpectation,)


def expected_types(rule: Rule) -> dict[str, str]:
    """None: a value says nothing of its column's type."""
    return {}


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """Its text, and how many rows break it."""
    return described(rule, f"{unexpected_count(result)} rows", schema)
