"""Several columns of a row compared: equal, greater, unique together. A row breaks it; a missing partner does, too.

Great Expectations takes the truth of such a comparison before it drops what is missing, hence a frame of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule, described, unexpected_count

ABOUT_ROWS = True
OF_ONE_PARTITION = False
FRAME = frames.of_records


def classes() -> tuple[type, ...]:
    """The bases of all expectations about two or more columns of a row."""
    from great_expectations.expectations.expectation import ColumnPairMapExpectation, MulticolumnMapExpectation

    return (ColumnPairMapExpectation, MulticolumnMapExpectation)


def expected_types(rule: Rule) -> dict[str, str]:
    """None: a comparison says nothing of a column's type."""
    return {}


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """Its text, and how many rows break it."""
    return described(rule, f"{unexpected_count(result)} rows", schema)
