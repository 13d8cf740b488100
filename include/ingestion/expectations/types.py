"""A column's type: a fact of the table and not of its rows, although Great Expectations has two as maps over values.

So the frame has one row, which holds a value of each column's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule

ABOUT_ROWS = False
OF_ONE_PARTITION = False
FRAME = frames.of_types


def classes() -> tuple[type, ...]:
    """The three that read a type."""
    from great_expectations.expectations import core

    return (core.ExpectColumnValuesToBeOfType, core.ExpectColumnValuesToBeInTypeList, core.ExpectColumnTypeToBe)


def expected_types(rule: Rule) -> dict[str, str]:
    """The column's, as the suite writes it; one of several as `int64 or float64`."""
    expected = rule.kwargs.get("type_") or " or ".join(map(str, rule.kwargs.get("type_list") or ()))
    return dict.fromkeys(rule.columns, str(expected))


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """The type that was found, and the one that was expected."""
    types = {column: schema["retyped"][column] for column in rule.columns}
    return [f"column {column} is {found['found']}, expected {found['expected']}" for column, found in types.items()]
