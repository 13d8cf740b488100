"""A model's Python features: include/features/definitions/<name>.py, checked, loaded and run.

A definition is `INPUTS`, the source's columns that it reads with their types, and `features(columns)`, a pure function
from columns to columns with NumPy.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from include.features.columns import Columns, ColumnType
from include.text import did_you_mean

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
_TYPES = ("float", "int", "string", "bool", "timestamp", "date")
_FLOAT64 = np.dtype(np.float64)


class FeatureError(ValueError):
    """The features of a model are wrong; the message names the key in params.yaml or the file, and the remedy."""


def file_of(name: str) -> str:
    """The file of a definition, for messages."""
    return f"include/features/definitions/{name}.py"


class Definition:
    """A definition, ready to run.

    What its text may import and call is limited, so that it runs in the service and stays a pure function. That is a
    guard against accidents, not a sandbox: NumPy alone leads to files and processes. A definition is code that is
    trusted, of this repository, or vouched for by the hash that was recorded when it was registered.

    Attributes:
        text: its source.
        inputs: the source's columns that it reads.

    Raises:
        FeatureError: with file and line.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self._file = text, file_of(name)
        namespace = self._run(name)
        inputs, features = namespace.get("INPUTS"), namespace.get("features")
        if not isinstance(inputs, dict) or not inputs or not callable(features):
            raise FeatureError(f"{self._file}: needs INPUTS, a dict of column → type, and a function features(columns)")
        for column, kind in inputs.items():
            if kind not in _TYPES:
                hint = did_you_mean(str(kind), _TYPES)
                expected = f"expected one of {', '.join(_TYPES)}{hint}"
                raise FeatureError(f"{self._file}: INPUTS[{column!r}] is {kind!r}; {expected}")
        self.inputs: dict[str, ColumnType] = dict(inputs)
        self._features: Callable[[Columns], Any] = features

    def _run(self, name: str) -> dict[str, Any]:
        try:
            tree = ast.parse(self.text, self._file)
        except SyntaxError as error:
            raise FeatureError(f"{self._file}:{error.lineno}: not valid Python: {error.msg}") from error
        for node in ast.walk(tree):
            if why := _forbidden(node):
                raise FeatureError(f"{self._file}:{getattr(node, 'lineno', 1)}: {why}")
        namespace: dict[str, Any] = {"__name__": f"definition_{name}", "__file__": self._file}
        try:
            exec(compile(tree, self._file, "exec"), namespace)  # noqa: S102  (checked above; see the docstring)
        except Exception as error:
            raise FeatureError(f"{self._file}: failed when it was loaded: {type(error).__name__}: {error}") from error
        return namespace

    def compute(self, columns: Columns) -> dict[str, np.ndarray]:
        """Its columns: float64 or text.

        Raises:
            FeatureError: it fails on these columns, or returns something else than columns.
        """
        rows = len(next(iter(columns.values())))
        try:
            result = self._features(columns)
        except Exception as error:  # whatever a user's function raises, the operator must read where
            raise FeatureError(f"{self._file}: features() failed with {type(error).__name__}: {error}") from error
        if not isinstance(result, Mapping):
            found = type(result).__name__
            raise FeatureError(f"{self._file}: features() must return a mapping of name → array, not {found}")
        return {name: self._column(name, values, (rows,)) for name, values in result.items()}

    def _column(self, name: str, values: Any, shape: tuple[int]) -> np.ndarray:
        if type(values) is np.ndarray and values.dtype is _FLOAT64 and values.shape == shape:
            return values
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
        kind = array.dtype.kind
        if kind in "biuf":
            array = array.astype(np.float64, copy=False)
        elif kind == "U":
            array = array.astype(object)
        elif kind != "O":
            raise FeatureError(f"{self._file}: features()[{name!r}] is {array.dtype}; return numbers or text")
        if array.shape != shape:
            raise FeatureError(f"{self._file}: features()[{name!r}] has shape {array.shape}, expected ({shape[0]},)")
        return array


def _forbidden(node: ast.AST) -> str | None:
    """Why a definition may not hold this; None: it may."""
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = ["." * node.level + (node.module or "")]
    for module in modules:
        if module not in ALLOWED_IMPORTS and module.split(".")[0] != "numpy":
            return f"imports {module!r}; a definition may import {', '.join(sorted(ALLOWED_IMPORTS))}"
    word = None
    if isinstance(node, ast.Name) and node.id in _FORBIDDEN_NAMES:
        word = repr(node.id)
    if isinstance(node, ast.Attribute) and (node.attr in _FORBIDDEN_ATTRIBUTES or node.attr.startswith("__")):
        word = f".{node.attr}"
    return f"{word} is not allowed: a definition only computes columns from columns" if word else None
