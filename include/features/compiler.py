"""Compile a model's `features` of params.yaml for its source's columns, and find mistakes before anything runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include.features import transforms
from include.features.columns import ColumnType, family, unusable_name
from include.features.definition import Definition, FeatureError, file_of
from include.features.feature_set import FeatureSet
from include.formulas import Formula, FormulaError
from include.text import did_you_mean, nearest, suggest

if TYPE_CHECKING:
    from include import settings


def compile_model(
    params: settings.Params,
    model: str,
    source_columns: Mapping[str, ColumnType],
    *,
    root: Path,
    known: Collection[str] | None = None,
) -> FeatureSet:
    """Compile the features of a model of params.yaml; see `compile_features` for the arguments and errors."""
    entry = params.models[model]
    return compile_features(
        entry.features,
        source_columns=source_columns,
        target=entry.target,
        entity=entry.entity,
        time_column=params.time_column(model),
        root=root,
        derive=params.sources[entry.source].derive,
        known=known,
    )


def compile_features(
    features: settings.Features,
    *,
    source_columns: Mapping[str, ColumnType],
    target: str,
    entity: str | None,
    time_column: str | None,
    root: Path,
    derive: Mapping[str, str] | None = None,
    known: Collection[str] | None = None,
) -> FeatureSet:
    """Check a model's `features` against its source's columns, and compile them.

    Args:
        features: the model's entry in params.yaml.
        source_columns: the source's columns with their types, derived ones included.
        target: the column to predict; never an input.
        entity: the column that names what a row is about, if any; no input by default.
        time_column: the column that dates a row, if any; no input by default.
        root: the folder that holds include/.
        derive: the source's formulas, to see inputs from which the target could be computed.
        known: the columns that a model of all columns takes; what the source has beyond them is an input only where
            the entry names it. Default: all.

    Raises:
        FeatureError: the key below the model's `features`, what is wrong, and the nearest known name.
    """
    columns = _Columns(dict(source_columns), target, features.exclude)
    apart = [c for c in (entity, time_column) if c]
    _check_roles(columns, apart)
    given = features.transforms
    declared = {name: transforms.read(name, given[name]) for name in transforms.names() if name in given}

    definition = None if features.definition is None else _read_definition(columns, features.definition, root)
    spare = [] if definition or features.columns is not None else _spare(columns, apart)
    taken = [c for c in spare if known is None or c in known or c in features.include]
    unused_times = _choose(columns, features, taken)
    used_times = {*_add_derived(columns, features.derived), *_add_date_parts(columns, features.date_parts)}
    _add_mentioned(columns, declared)
    _check_something_is_left(columns, [c for c in unused_times if c not in used_times], spare)
    _check_transforms(columns, declared)
    _check_leakage(columns, dict(derive or {}))

    spec = {
        "definition": features.definition,
        "inputs": dict(columns.inputs),
        "passed": list(columns.passed),
        "derived": dict(features.derived),
        "date_parts": {column: list(parts) for column, parts in features.date_parts.items()},
        "declared": {name: transforms.as_data(name, how) for name, how in declared.items()},
        "kinds": dict(columns.made),
        "unknown_category": features.unknown_category,
    }
    left_out = {c: _why_left_out(c, c in taken) for c in spare if c not in columns.inputs}
    return FeatureSet(spec, definition.text if definition else None, left_out)


@dataclass
class _Columns:
    """The columns of a source, and what has become of them so far."""

    source: dict[str, ColumnType]
    target: str
    excluded: Collection[str]
    inputs: dict[str, ColumnType] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    """Inputs that are features as they are."""
    made: dict[str, str] = field(default_factory=dict)
    """Feature column → `number` or `string`."""

    def is_time(self, name: str) -> bool:
        """Whether the source has a timestamp of this name."""
        return name in self.source and family(self.source[name]) == "time"

    def need(self, name: str, key: str) -> None:
        """Make a column of the source an input.

        Raises:
            FeatureError: it is none that could be.
        """
        if name == self.target:
            raise FeatureError(f"{key}: {name!r} is the target; a feature made from it would know the answer")
        if name not in self.source:
            hint = did_you_mean(name, [*self.source, *self.made])
            raise FeatureError(f"{key}: the source has no column {name!r}{hint}")
        if name in self.excluded:
            raise FeatureError(f"{key}: {name!r} is listed in features.exclude; take it out there, or here")
        _check_name(name, key, "or leave it out with `features.exclude`")
        self.inputs.setdefault(name, self.source[name])

    def pass_on(self, name: str, key: str) -> None:
        """Make a column of the source a feature as it is."""
        self.need(name, key)
        if name not in self.made:
            self.passed.append(name)
            self.made[name] = family(self.source[name])

    def make(self, name: str, kind: str, key: str) -> None:
        """Add a feature column of a new name."""
        if name in self.source or name in self.made:
            raise FeatureError(f"{key}: there is a column of this name already, {name!r}; choose another")
        self.made[name] = kind


# ------------------------------------------------------------------------------------------------ columns


def _check_name(name: str, key: str, otherwise: str = "") -> None:
    """Refuse a column that the service could not take as a field of a request."""
    if why := unusable_name(name):
        raise FeatureError(
            f"{key}: the column {name!r} {why}; give it another with the source's `rename`, as in"
            f" `rename: {{{json.dumps(name)}: a_name}}`" + (f", {otherwise}" if otherwise else "")
        )


def _check_roles(columns: _Columns, apart: Iterable[str]) -> None:
    for key, name in (("target", columns.target), *(("entity or time_column", c) for c in apart)):
        if name not in columns.source:
            raise FeatureError(f"{key}: the source has no column {name!r}{did_you_mean(name, columns.source)}")
        _check_name(name, key)
    for name in columns.excluded:
        # One that the source does not have, or has no longer, is left out as it is; a misspelt one is not.
        if name not in columns.source and (meant := nearest(name, columns.source, cutoff=0.8)):
            raise FeatureError(f"features.exclude: the source has no column {name!r}{suggest(meant)}")


def _spare(columns: _Columns, apart: Collection[str]) -> list[str]:
    """The columns among which a model of all columns takes its inputs."""
    return [c for c in columns.source if c != columns.target and c not in apart and c not in columns.excluded]


def _choose(columns: _Columns, features: settings.Features, taken: Iterable[str]) -> list[str]:
    """Pass on the columns that the model takes as they are; returns the timestamps that the entry lists among them."""
    for column in taken:
        if not columns.is_time(column):
            columns.pass_on(column, "features")
    key = "features.include" if features.columns is None else "features.columns"
    named = features.include if features.columns is None else features.columns
    for column in named:
        if not columns.is_time(column):
            columns.pass_on(column, key)
    return [column for column in named if columns.is_time(column)]


def _why_left_out(column: str, known: bool) -> str:
    """Why a column of the source is no input of a model that takes all."""
    if not known:
        return f"came after the inputs were decided; `features.include: [{column}]` makes it one"
    return f"a timestamp that nothing uses; `features.date_parts: {{{column}: [hour, weekday]}}` makes features of it"


def _check_something_is_left(columns: _Columns, unused_times: list[str], spare: Iterable[str]) -> None:
    if unused_times:
        raise FeatureError(
            f"features: the timestamp {unused_times[0]!r} is used by nothing; declare"
            f" `date_parts: {{{unused_times[0]}: [hour, weekday]}}`, or do not list it"
        )
    if not columns.made:
        time = next((c for c in spare if columns.is_time(c)), None)
        hint = f", or `features.date_parts: {{{time}: [month, weekday]}}`" if time else ""
        raise FeatureError(f"features: no column is left to learn from; name some in features.columns{hint}")


# ------------------------------------------------------------------------------------------------ computed features


def _read_definition(columns: _Columns, name: str, root: Path) -> Definition:
    """Load a definition, and run it on two rows, plain and missing, to learn its columns and to find its faults."""
    folder = root / "include" / "features" / "definitions"
    path = folder / f"{name}.py"
    if not path.is_file():
        hint = did_you_mean(name, [p.stem for p in folder.glob("[a-z]*.py")])
        raise FeatureError(f"features.definition: there is no file {file_of(name)}{hint}")
    definition = Definition(path.read_text(encoding="utf-8"), name)
    for column, kind in definition.inputs.items():
        key = f"{file_of(name)}: INPUTS"
        columns.need(column, key)
        if family(kind) != family(columns.source[column]):
            raise FeatureError(f"{key}[{column!r}] is {kind}, but the source's column is {columns.source[column]}")
        columns.inputs[column] = kind
    rows = example_columns(definition.inputs)
    with np.errstate(all="ignore"):
        found = definition.compute(rows)
    if not found:
        raise FeatureError(f"{file_of(name)}: features() returns no column")
    for column, values in found.items():
        if column in columns.source and (column not in rows or values is not rows[column]):
            raise FeatureError(
                f"{file_of(name)}: features()[{column!r}] has the name of a column of the source but other values;"
                " give it a name of its own"
            )
        columns.made[column] = "string" if values.dtype.kind == "O" else "number"
    return definition


def _add_derived(columns: _Columns, derived: Mapping[str, str]) -> set[str]:
    """Add the formulas' columns; returns the source's columns that they read."""
    used: set[str] = set()
    trial = example_columns(columns.source)
    example = {"number": np.ones(2), "string": np.full(2, "a", dtype=object)}
    trial |= {name: example[kind] for name, kind in columns.made.items() if name not in trial}
    for name, text in derived.items():
        key = f"features.derived.{name}"
        columns.make(name, "number", key)
        try:
            formula = Formula(text)
            formula.check_columns(trial)
            for column in sorted(formula.columns - columns.made.keys()):
                columns.need(column, key)
            values = formula.evaluate(trial)
        except FormulaError as error:
            raise FeatureError(f"{key}: {error}") from error
        if values.dtype.kind == "M":
            raise FeatureError(f"{key}: gives a timestamp; take a part of it, such as hour(…)")
        used |= formula.columns
        trial[name] = values
        columns.made[name] = "string" if values.dtype.kind == "O" else "number"
    return used


def _add_date_parts(columns: _Columns, date_parts: Mapping[str, Iterable[str]]) -> set[str]:
    """Add the parts' columns; returns the timestamps that they are taken of."""
    for column, parts in date_parts.items():
        key = f"features.date_parts.{column}"
        columns.need(column, key)
        if not columns.is_time(column):
            kind = columns.source[column]
            raise FeatureError(f"{key}: {column!r} is {kind}, not a timestamp; set its type in the source's `types`")
        for part in parts:
            columns.make(f"{column}_{part}", "number", key)
    return set(date_parts)


def example_columns(types: Mapping[str, ColumnType]) -> dict[str, np.ndarray]:
    """Two rows of each type, an ordinary one and a missing one."""
    examples = {
        "number": np.array([1.0, np.nan]),
        "time": np.array(["2024-02-29T12:30:00", "NaT"], dtype="datetime64[us]"),
        "string": np.array(["a", None], dtype=object),
    }
    return {name: examples[family(kind)].copy() for name, kind in types.items()}


# ------------------------------------------------------------------------------------------------ transforms


def _add_mentioned(columns: _Columns, declared: Mapping[str, Any]) -> None:
    """A column of the source that only a transform names becomes a feature too."""
    for name, how in declared.items():
        for column, key in transforms.mentioned(name, how):
            if column in columns.made:
                continue
            if column not in columns.source:
                hint = did_you_mean(column, [*columns.made, *columns.source])
                raise FeatureError(f"{key}: there is no column {column!r}{hint}")
            if columns.is_time(column):
                parts = f"`date_parts: {{{column}: [hour, weekday]}}`"
                raise FeatureError(f"{key}: {column!r} is a timestamp; declare {parts} and name those")
            columns.pass_on(column, key)


def _check_transforms(columns: _Columns, declared: Mapping[str, Any]) -> None:
    """Refuse a column of two encodings, and what each transform refuses."""
    encoded: dict[str, str] = {}
    for name in transforms.at(transforms.Stage.ENCODE):
        for column in declared.get(name, ()):
            if column in encoded:
                raise FeatureError(f"features.{name}: {column!r} is in features.{encoded[column]} already; choose one")
            encoded[column] = name
    known = transforms.columns_of(columns.made, declared)
    for name, how in declared.items():
        transforms.load(name).check(how, known)


# ------------------------------------------------------------------------------------------------ leakage


def _check_leakage(columns: _Columns, derive: Mapping[str, str]) -> None:
    """Refuse inputs from which the source's own formulas would give the target away."""
    reads = {name: set(Formula(text).columns) for name, text in derive.items()}

    def grows_from(name: str) -> set[str]:
        return {name} | {c for part in reads.get(name, ()) for c in grows_from(part)}

    target = columns.target
    for column in columns.inputs:
        if column != target and target in grows_from(column):
            raise FeatureError(
                f"features: {column!r} is derived from the target {target!r}; leave it out with `exclude: [{column}]`"
            )
    parts = reads.get(target)
    if parts and parts <= set(columns.inputs):
        raise FeatureError(
            f"features: the target is {target} = {derive[target]}, and all of {', '.join(sorted(parts))} are inputs:"
            " the model would compute the answer. Exclude what is not known when a prediction is made"
        )
