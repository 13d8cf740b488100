"""The set of columns that a partition has. A column that is missing is named as such whatever the suite says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.ingestion import frames
from include.ingestion.expectations import Rule

ABOUT_ROWS = False
OF_ONE_PARTITION = True
FRAME = frames.of_values


def classes() -> tuple[type, ...]:
    """The one that names the columns without their order."""
    from great_expectations.expectations import core

    return (core.ExpectTableColumnsToMatchSet,)


def expected_types(rule: Rule) -> dict[str, str]:
    """None: it names columns, not their types."""
    return {}


def causes(rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
    """The columns that are unknown; where some are missing those are the cause, named elsewhere."""
    return [] if schema.get("missing") else ["unknown columns: " + ", ".join(schema.get("unknown", ()))]
