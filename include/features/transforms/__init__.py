"""One file per transform that params.yaml can declare: its declaration, what it learns, how it applies.

A transform is a module of this package with the functions of `Transform` (of several columns at once: `Projection`). It
is found by its file's name, so that adding one is adding one file. Rows go through the stages in this order:

    BOUND        numbers are moved within bounds
    FILL         missing values are replaced
    DISCRETIZE   a number becomes the index of its bin
    ENCODE       a category becomes numbers; at most one encoding for a column
    SCALE        numbers are brought to one scale
    PROJECT      several columns are replaced by others

What is learned comes from the training rows alone, and is plain data (JSON) under the keys that the module names in
`LEARNS`. It is applied to `Values`: columns side by side, each with any number of rows. What a row becomes depends on
this row alone, by the same operations however many rows there are: it has the same bits alone, in a batch, and in the
table that the model was trained on.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from include.features.columns import Values
from include.features.definition import FeatureError
from include.text import did_you_mean

Learned = dict[str, Any]
"""What a transform learned of a column, as plain data."""

Apply = Callable[[Values, str], Values]
"""Columns → columns, with what is done with an unknown category, `other` or `error`. It may overwrite its argument."""


class FitError(ValueError):
    """What is declared cannot be learned from these rows; the message names the column and the remedy."""


class Stage(enum.IntEnum):
    """When a transform applies."""

    BOUND = 1
    FILL = 2
    DISCRETIZE = 3
    ENCODE = 4
    SCALE = 5
    PROJECT = 6


BEFORE_ENCODING = (Stage.BOUND, Stage.FILL, Stage.DISCRETIZE)
NUMBER = "number"
"""The encoding of a column that stays a number."""


@dataclass(frozen=True)
class Column:
    """A feature column, as the check of a declaration sees it."""

    kind: Literal["number", "string"]
    encoding: str | None = None
    """The transform of the stage ENCODE that is declared for it; None: text is encoded by what training sees."""
    discretized: bool = False


@dataclass(frozen=True)
class Training:
    """What a transform may learn from apart from the values of its column."""

    targets: np.ndarray
    """(rows, targets): the number that is predicted, or an indicator of each class but the first."""
    classes: list[Any]
    """In order; empty for a regression."""
    seed: int


class Transform(Protocol):
    """What the file of a transform of single columns offers, at module level.

    An encoding that learns from the target also has `cross_fit(values, learned, training)`: the columns (k, rows) that
    the training rows become, each row by what was learned without it.
    """

    STAGE: Stage
    LEARNS: tuple[str, ...]
    """The keys of what it learns, in a column's entry of the feature set's state."""
    Declaration: Any
    """The type of its value in params.yaml; the docstring below it is its line in docs/params.md."""

    def check(self, declared: Any, columns: Mapping[str, Column]) -> None:
        """Refuse what does not fit the columns.

        Raises:
            FeatureError: with the key, what is wrong, and the remedy.
        """

    def chosen(self, declared: Any, columns: Mapping[str, Column]) -> dict[str, Any]:
        """The columns that it applies to, each with what is declared for it."""

    def fit(self, values: Values, how: Any, column: str, training: Training) -> Learned:
        """Learn from the training rows of one column, (1, rows); of the stage SCALE, all that became of it, (k, rows).

        An encoding that gives other columns than one of the same name lists theirs under `names`.

        Raises:
            FitError: it cannot be learned from these rows.
        """

    def ready(self, learned: Sequence[Mapping[str, Any]]) -> Apply:
        """What applies to the values of several columns at once; `learned` are their entries, in order."""


class Projection(Protocol):
    """What the file of a transform offers that replaces several columns by others."""

    STAGE: Stage
    LEARNS: tuple[str, ...]
    Declaration: Any
    """A mapping of the new columns' common name to how they are made, with the attribute `columns`."""

    def check(self, declared: Any, columns: Mapping[str, Column]) -> None:
        """As `Transform.check`."""

    def fit(self, values: np.ndarray, how: Mapping[str, Any], name: str, columns: Sequence[str]) -> Learned:
        """Learn from the training rows (k, rows); `columns` are the names of the k, for messages.

        Returns:
            What was learned, with the `names` of the columns that replace them.

        Raises:
            FitError: it cannot be learned from these rows.
        """

    def ready(self, learned: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
        """What makes the new columns (m, rows) of the values (k, rows)."""


# ------------------------------------------------------------------------------------------------ which there are


@functools.cache
def names() -> tuple[str, ...]:
    """The transforms in the order in which they apply."""
    folder = Path(__file__).parent
    return tuple(sorted((file.stem for file in folder.glob("[a-z]*.py")), key=lambda name: (_module(name).STAGE, name)))


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def load(name: str) -> Transform:
    """The transform in include/features/transforms/<name>.py.

    Raises:
        FeatureError: there is no such file.
    """
    if name not in names():
        raise FeatureError(f"no file include/features/transforms/{name}.py{did_you_mean(name, names())}")
    return cast(Transform, _module(name))


def projection(name: str) -> Projection:
    """As `load`, of a transform of the stage PROJECT."""
    return cast(Projection, load(name))


def at(*stages: Stage) -> list[str]:
    """The transforms of some stages, in order."""
    return [name for name in names() if load(name).STAGE in stages]


# ------------------------------------------------------------------------------------------------ declarations


def columns_of(kinds: Mapping[str, str], declared: Mapping[str, Any]) -> dict[str, Column]:
    """The feature columns with what is declared for them; `kinds` are number or string."""
    encodings = {column: name for name in at(Stage.ENCODE) for column in declared.get(name, ())}
    discretized = {column for name in at(Stage.DISCRETIZE) for column in declared.get(name, ())}
    return {
        column: Column("string" if kind == "string" else "number", encodings.get(column), column in discretized)
        for column, kind in kinds.items()
    }


def read(name: str, value: Any) -> Any:
    """What params.yaml declares for a transform, as the type that its file names.

    Raises:
        FeatureError: it is of another type; the first mistake, with its key.
    """
    from pydantic import ValidationError, create_model

    from include.settings.diagnostics import Lines, described

    fields: dict[str, Any] = {name: (load(name).Declaration, ...)}
    model = create_model("Declared", **fields)
    try:
        return getattr(model.model_validate({name: value}), name)
    except ValidationError as error:
        _, path, message = described(error, {name: value}, Lines(""), model)[0]
        raise FeatureError(f"{'.'.join(('features', *path))}: {message}") from error


def as_data(name: str, declared: Any) -> Any:
    """A declaration as plain data, to be stored."""
    from pydantic import TypeAdapter

    return TypeAdapter(load(name).Declaration).dump_python(declared, mode="json")


def mentioned(name: str, declared: Any) -> Iterator[tuple[str, str]]:
    """The columns that a declaration names, each with its key in params.yaml."""
    key = f"features.{name}"
    if load(name).STAGE is Stage.PROJECT:
        yield from ((column, f"{key}.{made}.columns") for made, how in declared.items() for column in how.columns)
    elif isinstance(declared, Mapping):
        yield from ((column, f"{key}.{column}") for column in declared)
    elif not isinstance(declared, str):
        yield from ((column, key) for column in declared)


def as_mapping(declared: Any, columns: Mapping[str, Column]) -> dict[str, Any]:
    """`chosen` of a transform that is declared as a mapping of columns, or as a list of them."""
    return dict(declared) if isinstance(declared, Mapping) else dict.fromkeys(declared)


def need_numbers(name: str, declared: Any, columns: Mapping[str, Column]) -> None:
    """The check of a transform that takes numbers only.

    Raises:
        FeatureError: one of its columns is text.
    """
    for column in declared:
        if columns[column].kind == "string":
            raise FeatureError(
                f"features.{name}: {column!r} is text; declare it under one_hot, ordinal or target_encoding"
            )
