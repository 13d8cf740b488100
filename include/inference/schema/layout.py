"""What a version's manifest makes of its inputs: their order in columns, their bounds and policies; compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from include.inference.json_path import LARGEST_NUMBER, NUMERIC, ORDER, Field, Fields

Columns = dict[str, np.ndarray]
Row = Any
"""An instance of the type that a Decoder makes of the inputs: a msgspec.Struct."""
Logged = Literal["all", "none"] | tuple[str, ...]
"""Which inputs the prediction log keeps: names, or all, or none."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What training saw of the numeric fields, and the policy beyond it: each a column, (fields, 1)."""

    low: np.ndarray
    high: np.ndarray
    erring: np.ndarray
    """Where a number beyond is refused."""
    clipping: np.ndarray
    """Where it is clipped."""

    @classmethod
    def of(cls, numbers: Sequence[Field]) -> Bounds:
        """The bounds of numeric fields; where there is none, that of what can be computed with."""

        def column(values: Sequence[Any], dtype: type) -> np.ndarray:
            return np.array(values, dtype=dtype).reshape(-1, 1)

        return cls(
            column([-LARGEST_NUMBER if f.minimum is None else f.minimum for f in numbers], float),
            column([LARGEST_NUMBER if f.maximum is None else f.maximum for f in numbers], float),
            column([f.out_of_range == "error" for f in numbers], bool),
            column([f.out_of_range == "clip" for f in numbers], bool),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields in the order of columns: whole numbers, other numbers, truth values, texts, times."""

    known: Fields
    fields: list[Field]
    entity: str | None
    """A field that names what a row is about, whether or not it is an input."""

    @classmethod
    def of(cls, inputs: Sequence[Mapping[str, Any]], entity: str | None, *, extra: bool) -> Layout:
        """The layout of `manifest["inputs"]`; `extra`: whether fields that the model does not know are ignored."""
        known = {str(entry["name"]): Field.of(entry) for entry in inputs}
        fields = sorted(known.values(), key=lambda field: ORDER.index(field.kind))
        return cls(Fields(known, entity, extra=extra), fields, entity)

    @property
    def names(self) -> list[str]:
        """Of the inputs."""
        return [field.name for field in self.fields]

    @property
    def numeric(self) -> int:
        """How many are numbers or truth values; they come first."""
        return sum(field.kind in NUMERIC for field in self.fields)

    @property
    def texts(self) -> list[int]:
        """Positions of texts."""
        return [n for n, field in enumerate(self.fields) if field.kind == "string"]

    @property
    def entity_apart(self) -> bool:
        """Whether the entity is no input: it then comes after them."""
        return self.entity is not None and self.entity not in self.known.inputs

    @property
    def entity_at(self) -> int | None:
        """The entity's position; None: there is none."""
        if self.entity is None:
            return None
        return len(self.fields) if self.entity_apart else self.names.index(self.entity)

    @property
    def attributes(self) -> dict[str, str]:
        """A decoded row's attributes → names: `f0`, `f1` …, as names in JSON need not be Python's."""
        names = [*self.names, str(self.entity)] if self.entity_apart else self.names
        return {f"f{n}": name for n, name in enumerate(names)}

    @property
    def optional(self) -> list[int]:
        """Positions of what a row may leave out."""
        found = [n for n, field in enumerate(self.fields) if not field.required]
        return [*found, len(self.fields)] if self.entity_apart else found
