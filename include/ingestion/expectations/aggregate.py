"""Any other fact of a column or a table as a whole: a mean, a maximum, a count, a share, the rows' number.

It names the base class of all expectations, so it is also the rule for one that no other family names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule, described, observed

ABOUT_ROWS = False
OF_ONE_PARTITION = True
FRAME = frames.of_values


def classes() -> tuple[type, ...]:
    """The base of all."""
    from great_expectations.expectations.expectation import Expectation

    return (Expectation,)


def expected_types(rule: Rule) -> dict[str, str]:
    """None."""
    return {}


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """Its text, and the value that was found."""
    value = observed(result)
    return described(rule, "" if value is None else f"found {value}", schema)
