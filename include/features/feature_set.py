"""The features of a model: compiled from params.yaml, from a Python definition, or from both, to one thing.

A definition is `include/features/definitions/<name>.py`: `INPUTS`, the source's columns that it reads with
their types, and `features(columns)`, a pure function from columns to columns with NumPy. Rows go through

    definition → derived → date_parts                            the same for one row and for five million: `compute`
    impute → bin → ordinal, one_hot, target_encoding → standard_scaler → pca        learned: `fit`, then `transform`

A feature set is a `spec` of plain data and the definition's source text: stored with the features and in the served
form, and brought back by `FeatureSet.from_spec`, so that the service runs the very code that trained the model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include.features.columns import ColumnType, family, unusable_name
from include.features.declared import FitError, Fitted, Plan, Steps, UnknownCategory, codes_of, with_codes
from include.formulas import Formula, FormulaError, date_part
from include.text import did_you_mean, nearest, suggest

if TYPE_CHECKING:
    from include import settings

__all__ = ["FeatureError", "FeatureSet", "FitError", "UnknownCategory", "compile_features", "compile_model"]

Columns = Mapping[str, np.ndarray]

ALLOWED_IMPORTS = frozenset({"__future__", "collections.abc", "datetime", "math", "numpy"})
_FORBIDDEN_NAMES = frozenset(
    {
        "__import__",
        "breakpoint",
        "compile",
        "eval",
        "exec",
        "exit",
        "getattr",
        "globals",
        "input",
        "locals",
        "open",
        "setattr",
        "vars",
    }
)
_FORBIDDEN_ATTRIBUTES = frozenset(
    {"fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt", "savez", "tofile"}
)
_FLOAT64 = np.dtype(np.float64)
_TEXT_STEPS = ("one_hot", "ordinal", "target_encoding")


class FeatureError(ValueError):
    """The features of a model are wrong; the message names the key in params.yaml or the file, and the remedy."""


class FeatureSet:
    """What turns raw columns into a matrix.

    Attributes:
        inputs: the raw columns that a request carries, with their types.
        spec: plain data that describes it whole, together with `definition`.
        definition: the source text of the Python definition, if there is one.
        kinds: the computed feature columns, `number` or `string`, in order.
        left_out: of a set that was compiled just now, the source's columns that are no inputs although the model takes
            all, each with the reason.
    """

    def __init__(self, spec: dict[str, Any], definition: str | None) -> None:
        self.spec, self.definition = spec, definition
        self.inputs: dict[str, ColumnType] = dict(spec["inputs"])
        self.kinds: dict[str, str] = dict(spec["kinds"])
        self.unknown_category: str = spec["unknown_category"]
        self._passed: list[str] = list(spec["passed"])
        self._derived = [(name, Formula(text)) for name, text in spec["derived"].items()]
        self._parts = [
            (f"{column}_{part}", column, part) for column, parts in spec["date_parts"].items() for part in parts
        ]
        self._features: Callable[[Columns], Mapping[str, Any]] | None = None
        if definition is not None:
            _, self._features = load_definition(definition, str(spec["definition"]))
        self.left_out: dict[str, str] = {}
        self._steps = Steps(spec["declared"], self.kinds)
        self._plan: tuple[Fitted, Plan] | None = None

    @property
    def outputs(self) -> dict[str, ColumnType]:
        """The types of the computed feature columns: how to read them back from parquet."""
        return {name: "string" if kind == "string" else "float" for name, kind in self.kinds.items()}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], definition: str | None = None) -> FeatureSet:
        """The feature set that was stored as `spec` and `definition`."""
        return cls(spec, definition)

    def compute(self, columns: Columns) -> dict[str, np.ndarray]:
        """Raw columns → feature columns (float64 or text); without memory, row by row independent.

        Raises:
            FeatureError: the definition fails on these columns, or returns something else than columns.
        """
        found: dict[str, np.ndarray] = {}
        if self._features is not None:
            found = self._define(self._features, columns)
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

    def _define(self, features: Callable[[Columns], Mapping[str, Any]], columns: Columns) -> dict[str, np.ndarray]:
        where = f"include/features/definitions/{self.spec['definition']}.py"
        rows = len(next(iter(columns.values())))
        try:
            result = features(columns)
        except Exception as error:  # whatever a user's function raises, the operator must read where
            raise FeatureError(f"{where}: features() failed with {type(error).__name__}: {error}") from error
        if not isinstance(result, Mapping):
            raise FeatureError(
                f"{where}: features() must return a mapping of name → array, not {type(result).__name__}"
            )
        found: dict[str, np.ndarray] = {}
        shape = (rows,)
        for name, values in result.items():
            if type(values) is np.ndarray and values.dtype is _FLOAT64 and values.shape == shape:
                found[name] = values
                continue
            array = values if isinstance(values, np.ndarray) else np.asarray(values)
            kind = array.dtype.kind
            if kind in "biu":
                array = array.astype(np.float64)
            elif kind == "f":
                array = array if array.dtype == np.float64 else array.astype(np.float64)
            elif kind == "U":
                array = array.astype(object)
            elif kind != "O":
                raise FeatureError(f"{where}: features()[{name!r}] is {array.dtype}; return numbers or text")
            if array.shape != shape:
                raise FeatureError(f"{where}: features()[{name!r}] has shape {array.shape}, expected ({rows},)")
            found[name] = array
        return found

    def fit(self, columns: Columns, y: np.ndarray, *, task: str, seed: int) -> tuple[Fitted, np.ndarray]:
        """Learn from the training part: what was learned, as plain data, and its matrix X in float64.

        Args:
            columns: feature columns, as `compute` gives them, of the training part only.
            y: the target.
            task: regression, binary or multiclass.
            seed: of the folds in which target encoding is cross-fitted.

        Raises:
            FitError: a declared step cannot be learned from these rows.
        """
        return self._steps.fit({name: columns[name] for name in self.kinds}, np.asarray(y), task=task, seed=seed)

    def transform(self, fitted: Fitted, columns: Columns, *, unknown: str | None = None) -> np.ndarray:
        """Feature columns → the matrix X (n, k) in float64, by what `fit` learned.

        Args:
            fitted: from `fit`, or read back from JSON; must not be changed between calls.
            columns: feature columns, as `compute` gives them.
            unknown: `other` or `error`; default: the model's policy.

        Raises:
            UnknownCategory: by the policy `error`.
        """
        plan = self._plan_of(fitted)
        rows = len(next(iter(columns.values())))
        return plan.transform(columns, rows, unknown or self.unknown_category)  # type: ignore[arg-type]

    def names(self, fitted: Fitted) -> list[str]:
        """The names of the columns of X, in order."""
        return list(self._plan_of(fitted).names)

    def origins(self, fitted: Fitted) -> list[str]:
        """For each column of X the feature column that it is made of: `vendor` for `vendor=a`; PCA's are their own."""
        return list(self._plan_of(fitted).origins)

    def with_codes(self, fitted: Fitted) -> Fitted | None:
        """The same, with categories as codes instead of undeclared one_hot columns; None where there are none."""
        return with_codes(fitted, self.spec["declared"].get("one_hot", ()))

    def codes_of(self, fitted: Fitted, coded: Fitted, X: np.ndarray) -> np.ndarray:
        """The matrix of `coded`, from `with_codes`, made of that of `fitted`."""
        return codes_of(fitted, coded, X)

    def coded(self, fitted: Fitted) -> list[bool]:
        """For each column of X whether it holds codes of categories."""
        return list(self._plan_of(fitted).coded)

    def _plan_of(self, fitted: Fitted) -> Plan:
        kept = self._plan
        if kept is None or kept[0] is not fitted:
            kept = self._plan = (fitted, Plan(fitted))
        return kept[1]


# ------------------------------------------------------------------------------------------------ definitions


def load_definition(text: str, name: str) -> tuple[dict[str, ColumnType], Callable[[Columns], Mapping[str, Any]]]:
    """`INPUTS` and `features` of a definition's source text.

    What it may import and call is limited, so that it runs in the service and stays a pure function. That is a guard
    against accidents, not a sandbox: NumPy alone leads to files and processes. A definition is code that is trusted, of
    this repository, or vouched for by the hash that was recorded when it was registered.

    Raises:
        FeatureError: with file and line.
    """
    file = f"include/features/definitions/{name}.py"
    try:
        tree = ast.parse(text, file)
    except SyntaxError as error:
        raise FeatureError(f"{file}:{error.lineno}: not valid Python: {error.msg}") from error
    _check_definition(tree, file)
    namespace: dict[str, Any] = {"__name__": f"definition_{name}", "__file__": file}
    try:
        exec(compile(tree, file, "exec"), namespace)  # noqa: S102  (checked above; see the docstring)
    except Exception as error:
        raise FeatureError(f"{file}: failed when it was loaded: {type(error).__name__}: {error}") from error
    inputs, features = namespace.get("INPUTS"), namespace.get("features")
    if not isinstance(inputs, dict) or not inputs or not callable(features):
        raise FeatureError(f"{file}: needs INPUTS, a dict of column → type, and a function features(columns)")
    types = ("float", "int", "string", "bool", "timestamp", "date")
    for column, kind in inputs.items():
        if kind not in types:
            hint = did_you_mean(str(kind), types)
            raise FeatureError(f"{file}: INPUTS[{column!r}] is {kind!r}; expected one of {', '.join(types)}{hint}")
    return dict(inputs), features


def _check_definition(tree: ast.Module, file: str) -> None:
    allowed = ", ".join(sorted(ALLOWED_IMPORTS))
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
        for module in modules:
            if module not in ALLOWED_IMPORTS and module.split(".")[0] != "numpy":
                raise FeatureError(f"{file}:{node.lineno}: imports {module!r}; a definition may import {allowed}")  # type: ignore[attr-defined]
        if isinstance(node, ast.Name) and node.id in _FORBIDDEN_NAMES:
            raise FeatureError(
                f"{file}:{node.lineno}: {node.id!r} is not allowed: a definition only computes columns from columns"
            )
        if isinstance(node, ast.Attribute) and (node.attr in _FORBIDDEN_ATTRIBUTES or node.attr.startswith("__")):
            raise FeatureError(
                f"{file}:{node.lineno}: .{node.attr} is not allowed: a definition only computes columns from columns"
            )


# ------------------------------------------------------------------------------------------------ compiling


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
    compiler = _Compiler(features, dict(source_columns), target, entity, time_column, dict(derive or {}), known)
    return compiler.compile(root)


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


class _Compiler:
    """The checks of `compile_features`, one method for each part of the entry."""

    def __init__(
        self,
        features: settings.Features,
        source: dict[str, ColumnType],
        target: str,
        entity: str | None,
        time_column: str | None,
        derive: dict[str, str],
        known: Collection[str] | None,
    ) -> None:
        self.features, self.source, self.target, self.derive = features, source, target, derive
        self.known = source if known is None else {*known, *features.include}
        self.spare: list[str] = []  # the columns among which a model of all columns takes its inputs
        self.apart = {c for c in (target, entity, time_column) if c}
        self.inputs: dict[str, ColumnType] = {}
        self.passed: list[str] = []
        self.made: dict[str, str] = {}  # feature columns → number | string

    def compile(self, root: Path) -> FeatureSet:
        self.check_roles()
        definition = self.read_definition(root)
        self.choose_columns(defined=definition is not None)
        self.add_derived()
        self.add_date_parts()
        self.add_from_steps()
        self.check_times()
        declared = self.check_steps()
        self.check_leakage()
        spec: dict[str, Any] = {
            "definition": self.features.definition,
            "inputs": dict(self.inputs),
            "passed": list(self.passed),
            "derived": dict(self.features.derived),
            "date_parts": {column: list(parts) for column, parts in self.features.date_parts.items()},
            "declared": declared,
            "kinds": dict(self.made),
            "unknown_category": self.features.unknown_category,
        }
        made = FeatureSet(spec, definition)
        made.left_out = {c: self.why_left_out(c) for c in self.spare if c not in self.inputs}
        return made

    def check_roles(self) -> None:
        for key, name in (("target", self.target), *(("entity or time_column", c) for c in self.apart - {self.target})):
            if name not in self.source:
                raise FeatureError(f"{key}: the source has no column {name!r}{did_you_mean(name, self.source)}")
            self.check_name(name, key)
        for name in self.features.exclude:
            # One that the source does not have, or has no longer, is left out as it is; a misspelt one is not.
            if name not in self.source and (meant := nearest(name, self.source, cutoff=0.8)):
                raise FeatureError(f"features.exclude: the source has no column {name!r}{suggest(meant)}")

    def check_name(self, name: str, key: str) -> None:
        """Refuse a column that the service could not take as a field of a request."""
        if why := unusable_name(name):
            spare = "" if key in ("target", "entity or time_column") else ", or leave it out with `features.exclude`"
            raise FeatureError(
                f"{key}: the column {name!r} {why}; give it another with the source's `rename`, as in"
                f" `rename: {{{json.dumps(name)}: a_name}}`{spare}"
            )

    def need(self, name: str, key: str) -> None:
        """Make a column of the source an input."""
        if name == self.target:
            raise FeatureError(f"{key}: {name!r} is the target; a feature made from it would know the answer")
        if name not in self.source:
            hint = did_you_mean(name, [*self.source, *self.made])
            raise FeatureError(f"{key}: the source has no column {name!r}{hint}")
        if name in self.features.exclude:
            raise FeatureError(f"{key}: {name!r} is listed in features.exclude; take it out there, or here")
        self.check_name(name, key)
        self.inputs.setdefault(name, self.source[name])

    def read_definition(self, root: Path) -> str | None:
        name = self.features.definition
        if name is None:
            return None
        folder = root / "include" / "features" / "definitions"
        path = folder / f"{name}.py"
        if not path.is_file():
            hint = did_you_mean(name, [p.stem for p in folder.glob("[a-z]*.py")])
            raise FeatureError(f"features.definition: there is no file include/features/definitions/{name}.py{hint}")
        text = path.read_text(encoding="utf-8")
        inputs, _ = load_definition(text, name)
        for column, kind in inputs.items():
            key = f"include/features/definitions/{name}.py: INPUTS"
            self.need(column, key)
            if family(kind) != family(self.source[column]):
                raise FeatureError(f"{key}[{column!r}] is {kind}, but the source's column is {self.source[column]}")
            self.inputs[column] = kind
        self.try_definition(text, name)
        return text

    def try_definition(self, text: str, name: str) -> None:
        """Run it on two rows, plain and missing, to learn its columns and to find its faults before anything runs."""
        bare: dict[str, Any] = {
            "definition": name, "inputs": self.inputs, "passed": [], "derived": {}, "date_parts": {},
            "declared": {}, "kinds": {}, "unknown_category": "other",
        }  # fmt: skip
        rows = example_columns(self.inputs)
        with np.errstate(all="ignore"):
            found = FeatureSet(bare, text).compute(rows)
        if not found:
            raise FeatureError(f"include/features/definitions/{name}.py: features() returns no column")
        for column, values in found.items():
            if column in self.source and (column not in rows or values is not rows[column]):
                raise FeatureError(
                    f"include/features/definitions/{name}.py: features()[{column!r}] has the name of a column of the"
                    " source but other values; give it a name of its own"
                )
            self.made[column] = "string" if values.dtype.kind == "O" else "number"

    def choose_columns(self, *, defined: bool) -> None:
        named, key = self.features.columns, "features.columns"
        if named is None:
            named, key = self.features.include, "features.include"
            if not defined:
                self.spare = [c for c in self.source if c not in {*self.apart, *self.features.exclude}]
        for column in self.spare:
            if column in self.known and family(self.source[column]) != "time":
                self.pass_on(column, "features")
        self.used_times = [c for c in named if c in self.source and family(self.source[c]) == "time"]
        for column in named:
            if column not in self.used_times:
                self.pass_on(column, key)

    def why_left_out(self, column: str) -> str:
        """Why a column of the source is no input of a model that takes all."""
        if column not in self.known:
            return f"came after the inputs were decided; `features.include: [{column}]` makes it one"
        return (
            f"a timestamp that nothing uses; `features.date_parts: {{{column}: [hour, weekday]}}` makes features of it"
        )

    def pass_on(self, column: str, key: str) -> None:
        """Make a column of the source a feature as it is."""
        self.need(column, key)
        if column not in self.made:
            self.passed.append(column)
            self.made[column] = family(self.source[column])

    def add_derived(self) -> None:
        trial = example_columns(self.source)
        rows = len(next(iter(trial.values())))
        trial |= {
            c: np.ones(rows) if k == "number" else np.full(rows, "a", dtype=object)
            for c, k in self.made.items()
            if c not in trial
        }
        for name, text in self.features.derived.items():
            key = f"features.derived.{name}"
            if name in self.source or name in self.made:
                raise FeatureError(f"{key}: there is a column of this name already; choose another")
            try:
                formula = Formula(text)
                formula.check_columns([*trial])
                for column in sorted(formula.columns):
                    if column not in self.made:
                        self.need(column, key)
                        if column in self.used_times:
                            self.used_times.remove(column)
                values = formula.evaluate(trial)
            except FormulaError as error:
                raise FeatureError(f"{key}: {error}") from error
            if values.dtype.kind == "M":
                raise FeatureError(f"{key}: gives a timestamp; take a part of it, such as hour(…)")
            trial[name] = values
            self.made[name] = "string" if values.dtype.kind == "O" else "number"

    def add_date_parts(self) -> None:
        for column, parts in self.features.date_parts.items():
            key = f"features.date_parts.{column}"
            self.need(column, key)
            if family(self.source[column]) != "time":
                raise FeatureError(
                    f"{key}: {column!r} is {self.source[column]}, not a timestamp; set its type in the source's `types`"
                )
            if column in self.used_times:
                self.used_times.remove(column)
            for part in parts:
                name = f"{column}_{part}"
                if name in self.source or name in self.made:
                    raise FeatureError(f"{key}: would make {name!r}, and there is a column of this name already")
                self.made[name] = "number"

    def add_from_steps(self) -> None:
        """A column of the source that only a learned step names becomes a feature too."""
        for step in ("impute", "bin", *_TEXT_STEPS, "standard_scaler"):
            named = getattr(self.features, step)
            for column in () if named == "all" else named:
                self.add_named(column, f"features.{step}" + (f".{column}" if isinstance(named, dict) else ""))
        for name, pca in self.features.pca.items():
            for column in pca.columns:
                self.add_named(column, f"features.pca.{name}.columns")

    def add_named(self, column: str, key: str) -> None:
        if column in self.made:
            return
        if column not in self.source:
            hint = did_you_mean(column, [*self.made, *self.source])
            raise FeatureError(f"{key}: there is no column {column!r}{hint}")
        if family(self.source[column]) == "time":
            raise FeatureError(
                f"{key}: {column!r} is a timestamp; declare `date_parts: {{{column}: [hour, weekday]}}` and name those"
            )
        self.pass_on(column, key)

    def check_times(self) -> None:
        if self.used_times:
            column = self.used_times[0]
            raise FeatureError(
                f"features: the timestamp {column!r} is used by nothing; declare"
                f" `date_parts: {{{column}: [hour, weekday]}}`, or do not list it"
            )
        if not self.made:
            times = [c for c in self.spare if family(self.source[c]) == "time"]
            hint = f", or `features.date_parts: {{{times[0]}: [month, weekday]}}`" if times else ""
            raise FeatureError(f"features: no column is left to learn from; name some in features.columns{hint}")

    def check_steps(self) -> dict[str, Any]:
        features = self.features
        numeric = {
            "bin": features.bin,
            "standard_scaler": () if features.standard_scaler == "all" else features.standard_scaler,
        }
        encoded: dict[str, str] = {}
        for step in _TEXT_STEPS:
            for column in getattr(features, step):
                if column in encoded:
                    raise FeatureError(
                        f"features.{step}: {column!r} is in features.{encoded[column]} already; choose one"
                    )
                encoded[column] = step
        for step, columns in numeric.items():
            for column in columns:
                if self.made[column] == "string" and not (
                    step == "standard_scaler" and encoded.get(column) in ("ordinal", "target_encoding")
                ):
                    raise FeatureError(
                        f"features.{step}: {column!r} is text; declare it under one_hot, ordinal or target_encoding"
                    )
        if features.standard_scaler != "all":
            for column in features.standard_scaler:
                if encoded.get(column) == "one_hot":
                    raise FeatureError(f"features.standard_scaler: {column!r} is one_hot, which is 0 or 1; take it out")
        parts_of: dict[str, str] = {}
        for name, pca in features.pca.items():
            for column in pca.columns:
                if self.made[column] == "string" and encoded.get(column) != "ordinal":
                    raise FeatureError(f"features.pca.{name}: {column!r} is text; principal components need numbers")
                if column in parts_of:
                    raise FeatureError(
                        f"features.pca.{name}: {column!r} is part of features.pca.{parts_of[column]} already"
                    )
                parts_of[column] = name
            if pca.components > len(pca.columns):
                raise FeatureError(
                    f"features.pca.{name}: {pca.components} components of {len(pca.columns)} columns; ask for fewer"
                )
        return {
            "impute": dict(features.impute),
            "bin": {c: b if isinstance(b, int) else list(b) for c, b in features.bin.items()},
            "ordinal": {c: list(order) if order else None for c, order in features.ordinal.items()},
            "one_hot": list(features.one_hot),
            "target_encoding": list(features.target_encoding),
            "standard_scaler": "all" if features.standard_scaler == "all" else list(features.standard_scaler),
            "pca": {
                name: {"columns": list(pca.columns), "components": pca.components} for name, pca in features.pca.items()
            },
        }

    def check_leakage(self) -> None:
        """Refuse inputs from which the source's own formulas would give the target away."""
        reads = {name: set(Formula(text).columns) for name, text in self.derive.items()}

        def grows_from(name: str) -> set[str]:
            return {name} | {c for part in reads.get(name, ()) for c in grows_from(part)}

        for column in self.inputs:
            if column != self.target and self.target in grows_from(column):
                raise FeatureError(
                    f"features: {column!r} is derived from the target {self.target!r};"
                    f" leave it out with `exclude: [{column}]`"
                )
        parts = reads.get(self.target)
        if parts and parts <= set(self.inputs):
            raise FeatureError(
                f"features: the target is {self.target} = {self.derive[self.target]},"
                f" and all of {', '.join(sorted(parts))} are inputs: the model would compute the answer."
                " Exclude what is not known when a prediction is asked for"
            )


def example_columns(types: Mapping[str, ColumnType]) -> dict[str, np.ndarray]:
    """Two rows of each type, an ordinary one and a missing one."""
    values: dict[str, np.ndarray] = {}
    for name, kind in types.items():
        held = family(kind)
        if held == "number":
            values[name] = np.array([1.0, np.nan])
        elif held == "time":
            values[name] = np.array(["2024-02-29T12:30:00", "NaT"], dtype="datetime64[us]")
        else:
            values[name] = np.array(["a", None], dtype=object)
    return values
