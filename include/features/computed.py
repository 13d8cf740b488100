"""Computed features: raw columns → feature columns, without memory, the same for one row and for five million.

    definition → derived → date_parts

They are what the feature stage writes, and what the transforms learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from include.features.columns import Columns, ColumnType
from include.features.definition import Definition
from include.formulas import Formula, date_part


class ComputedFeatures:
    """What computes a model's feature columns.

    Attributes:
        inputs: the raw columns that a request carries, with their types.
        spec: plain data that describes the feature set whole, together with `definition`.
        definition: the source text of the Python definition, if there is one.
        kinds: the computed feature columns, `number` or `string`, in order.
    """

    def __init__(self, spec: Mapping[str, Any], definition: str | None = None) -> None:
        self.spec, self.definition = dict(spec), definition
        self.inputs: dict[str, ColumnType] = dict(spec["inputs"])
        self.kinds: dict[str, str] = dict(spec["kinds"])
        self._passed: list[str] = list(spec["passed"])
        self._derived = [(name, Formula(text)) for name, text in spec["derived"].items()]
        self._parts = [
            (f"{column}_{part}", column, part) for column, parts in spec["date_parts"].items() for part in parts
        ]
        self._definition = None if definition is None else Definition(definition, str(spec["definition"]))

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], definition: str | None = None) -> Self:
        """What was stored as `spec` and `definition`."""
        return cls(spec, definition)

    @property
    def outputs(self) -> dict[str, ColumnType]:
        """The types of the computed feature columns: how to read them back from parquet."""
        return {name: "string" if kind == "string" else "float" for name, kind in self.kinds.items()}

    def compute(self, columns: Columns) -> dict[str, np.ndarray]:
        """Raw columns → feature columns (float64 or text); each row independent of the others.

        Raises:
            FeatureError: the definition fails on these columns, or returns something else than columns.
        """
        found: dict[str, np.ndarray] = {}
        if self._definition is not None:
            found = self._definition.compute(columns)
        for name in self._passed:
            if name not in found:
                found[name] = columns[name]
        if self._derived or self._parts:
            known = {**columns, **found}
            for name, formula in self._derived:
                found[name] = known[name] = formula.evaluate(known)
            for name, column, part in self._parts:
                found[name] = date_part(part, known[column])
        return found
