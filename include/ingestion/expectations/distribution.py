"""A column's histogram against a given one: judged as a whole, on the frame in which a comparison is a truth value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule, described, observed

ABOUT_ROWS = False
OF_ONE_PARTITION = False
FRAME = frames.of_records


def classes() -> tuple[type, ...]:
    """The one that compares histograms."""
    from great_expectations.expectations import core

    return (core.ExpectColumnKLDivergenceToBeLessThan,)


def expected_types(rule: Rule) -> dict[str, str]:
    """None."""
    return {}


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """Its text, and the divergence that was found."""
    value = observed(result)
    return described(rule, "" if value is None else f"found {value}", schema)
