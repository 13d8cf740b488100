"""What an expectation of Great Expectations means for a partition: one file for each family of its classes.

A family is a module of this package with the names of `Family`; it is found by its file's name. An expectation belongs
to the family that names its class, else the nearest of its base classes: names such as "distinct values" or "value
lengths" mislead. `aggregate` names the base of all, so an expectation of no other family is about the partition as a
whole: it passes or fails, and blames no row.

Great Expectations takes seconds to import: only `family_of` and what it leads to do.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

COLUMN_KEYS = ("column", "column_A", "column_B")


@dataclass(frozen=True)
class Rule:
    """One expectation of a suite, as the platform acts on it."""

    id: str
    type: str
    kwargs: Mapping[str, Any]
    severity: str
    description: str | None
    family: Family | None = None
    """None where the suite was read without Great Expectations, whose class decides it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        named = [self.kwargs[key] for key in COLUMN_KEYS if key in self.kwargs]
        return (*named, *self.kwargs.get("column_list", ()))

    @property
    def about_rows(self) -> bool:
        """Whether single rows keep or break it."""
        return self.family is not None and self.family.ABOUT_ROWS

    @property
    def text(self) -> str:
        """The reason that a row or a partition gets that breaks it."""
        if self.description:
            return self.description
        what = re.sub(r"^expect_(column_values_to_|column_pair_values_|column_|table_)?", "", self.type).replace(
            "_", " "
        )
        detail = ", ".join(
            f"{k} {v}" for k, v in self.kwargs.items() if k not in COLUMN_KEYS and not isinstance(v, dict)
        )
        return f"{', '.join(self.columns) or 'table'}: must {what}" + (f" ({detail[:120]})" if detail else "")


class Family(Protocol):
    """What each file of this package offers at module level."""

    ABOUT_ROWS: bool
    """Whether single rows keep or break it: Great Expectations counts and names them, and they can go to quarantine."""
    OF_ONE_PARTITION: bool
    """Whether what holds for each partition need not hold for several together."""
    FRAME: Callable[[pa.Table], Any]
    """The frame of include/ingestion/frames.py on which Great Expectations judges a table exactly."""

    def classes(self) -> tuple[type, ...]:
        """The classes of Great Expectations whose expectations, with those of their subclasses, are of this family."""

    def expected_types(self, rule: Rule) -> dict[str, str]:
        """Column → the type that the rule demands; empty for a rule that is not about types."""

    def causes(self, rule: Rule, result: Any, schema: Mapping[str, Any]) -> list[str]:
        """Why a failed critical expectation refuses the partition, in its own words.

        Args:
            rule: the expectation.
            result: Great Expectations' own.
            schema: what is different about the columns: `missing`, `unknown`, `renamed`, `retyped`.
        """


def names() -> list[str]:
    """The families that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Family:
    """The family in include/ingestion/expectations/<name>.py."""
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))


def family_of(expectation: type) -> Family:
    """The family of a class of Great Expectations."""
    owners = _owners()
    return next(owners[base] for base in expectation.__mro__ if base in owners)


@functools.cache
def _owners() -> dict[type, Family]:
    return {owned: family for family in map(load, names()) for owned in family.classes()}


# ------------------------------------------------------------------------------------ what families have in common


def unexpected_rows(result: Any) -> np.ndarray:
    """The rows that Great Expectations names: what an expectation about rows blames."""
    return np.asarray((result.result or {}).get("unexpected_index_list") or (), dtype=np.int64)


def unexpected_count(result: Any) -> int:
    """How many rows Great Expectations counts that break an expectation about rows."""
    return int((result.result or {}).get("unexpected_count", 0))


def described(rule: Rule, found: str, schema: Mapping[str, Any]) -> list[str]:
    """The rule's own text as the cause; nothing where a column's type is wrong, which says more."""
    if set(rule.columns) & set(schema.get("retyped", ())):
        return []
    return [rule.text + (f" ({found})" if found else "")]


def observed(result: Any) -> float | int | str | None:
    """The value that Great Expectations compared, if any, as JSON takes it."""
    value = (result.result or {}).get("observed_value") if result is not None else None
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return shown(value)


def shown(value: Any) -> str:
    """A value as text that PostgreSQL's JSON takes, which knows no NUL."""
    return str(value)[:120].replace("\0", "\u2400")
