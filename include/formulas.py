"""Formulas over columns, as params.yaml writes them: `mean_area / mean_radius`, `minutes(dropoff - pickup)`.

A formula is parsed once into closures over NumPy; no code of the user's is ever evaluated, and only what this
file names exists.

    + - * / // % **   comparisons, chained too   and or not   numbers, 'text', true, false
    where(condition, a, b)   isnull(x)   clip(x, low, high)   minimum(a, b)   maximum(a, b)
    abs  ceil  exp  floor  log  log1p  round  sqrt
    year month day dayofyear weekday (Monday is 0) hour minute   of a timestamp
    seconds minutes hours days   of the difference of two timestamps
    timestamp(year, month, day, hour, minute, second)   from numbers; the last three may be left out

A missing number is NaN, and so is every result that is not finite: 1 / 0, log(0), an overflow. A moment that the
calendar does not have (30 February, hour 24) is missing too. A comparison with a missing value is false. The result
is float64, except where the formula selects or makes timestamps, or selects text.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from include.text import did_you_mean

MAXIMUM_LENGTH = 1_000
MAXIMUM_DEPTH = 50

Columns = Mapping[str, np.ndarray]
_Node = Callable[[Columns], Any]


class FormulaError(ValueError):
    """A formula cannot be read, or does not fit its columns; the message holds the place and the remedy."""


def date_part(part: str, time: np.ndarray) -> np.ndarray:
    """One of `DATE_PARTS` of datetime64 values, as float64; NaN where missing."""
    stamps = np.asarray(time, dtype="datetime64[us]")
    ticks = stamps.view(np.int64)
    if part == "hour":
        found = ticks // 3_600_000_000 % 24
    elif part == "minute":
        found = ticks // 60_000_000 % 60
    elif part == "weekday":
        found = (ticks // 86_400_000_000 + 3) % 7
    elif part == "year":
        found = stamps.astype("datetime64[Y]").view(np.int64) + 1970
    elif part == "month":
        found = stamps.astype("datetime64[M]").view(np.int64) % 12 + 1
    elif part == "day":
        found = (stamps.astype("datetime64[D]") - stamps.astype("datetime64[M]")).view(np.int64) + 1
    elif part == "dayofyear":
        found = (stamps.astype("datetime64[D]") - stamps.astype("datetime64[Y]")).view(np.int64) + 1
    else:
        raise FormulaError(f"{part!r} is no part of a date; choose from {sorted(DATE_PARTS)}")
    result = found.astype(np.float64)
    missing = np.isnat(stamps)
    if missing.any():
        result[missing] = np.nan
    return result


DATE_PARTS = frozenset({"hour", "weekday", "day", "month", "year", "minute", "dayofyear"})
_UNITS = {"seconds": 1e6, "minutes": 6e7, "hours": 3.6e9, "days": 8.64e10}


class Formula:
    """A parsed formula: `.columns` are the names it reads, `.evaluate(columns)` computes it.

    Raises:
        FormulaError: what cannot be read, at which character, and what was probably meant.
    """

    __slots__ = ("_root", "columns", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAXIMUM_LENGTH:
            raise FormulaError(f"the formula has {len(text)} characters; {MAXIMUM_LENGTH} are allowed")
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            place = getattr(error, "offset", None) or 1
            raise FormulaError(
                f"{text!r}: cannot be read at character {place}: {getattr(error, 'msg', error)}"
            ) from error
        names: set[str] = set()
        self._root = _Parser(text, names).node(tree.body, 0)
        if not names:
            raise FormulaError(f"{text!r}: names no column")
        self.columns = frozenset(names)

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a formula that names a column which is not `known`.

        Raises:
            FormulaError: with the nearest known name.
        """
        known = list(known)
        for name in sorted(self.columns):
            if name not in known:
                raise FormulaError(f"{self.text!r}: there is no column {name!r}{did_you_mean(name, known)}")

    def evaluate(self, columns: Columns) -> np.ndarray:
        """The formula over equally long columns: float64 (datetime64 or text where it only selects).

        Raises:
            FormulaError: a column is missing, or of a type that the formula cannot take.
        """
        if not self.columns <= columns.keys():
            self.check_columns(columns)
        try:
            with np.errstate(all="ignore"):
                result = self._root(columns)
        except FormulaError as error:
            raise FormulaError(f"{self.text!r}: {error}") from error
        except (TypeError, ValueError) as error:
            kinds = ", ".join(f"{name}: {columns[name].dtype}" for name in sorted(self.columns))
            raise FormulaError(f"{self.text!r} does not fit its columns ({kinds}): {error}") from error
        rows = len(columns[next(iter(self.columns))])
        result = np.asarray(result)
        if result.dtype.kind == "m":
            raise FormulaError(
                f"{self.text!r}: the difference of two timestamps needs a unit;"
                " write seconds(), minutes(), hours() or days() around it"
            )
        if result.dtype.kind not in "MO":
            result = _finite(result.astype(np.float64, copy=False))
        if result.shape != (rows,):
            result = np.broadcast_to(result, (rows,)).copy()
        filled: np.ndarray = result
        return filled


def _finite(values: Any) -> Any:
    bad = np.isinf(values)
    return np.where(bad, np.nan, values) if np.any(bad) else values


def _number(value: Any, where: str) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return array.astype(np.float64)
    if array.dtype.kind in "fiu":
        return array
    kind = {"M": "a timestamp", "m": "a difference of timestamps"}.get(array.dtype.kind, "text")
    raise FormulaError(f"{where} takes numbers, not {kind}")


def _truth(value: Any, where: str) -> Any:
    """A condition as bool: missing is false."""
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return array
    return (_number(array, where) != 0) & ~np.isnan(array.astype(np.float64))


def _is_null(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "M":
        return np.isnat(array)
    if array.dtype.kind == "O":
        return np.asarray(array == None, dtype=bool)  # noqa: E711  (elementwise)
    return np.isnan(_number(array, "isnull"))


def _part(name: str) -> Callable[[Any], Any]:
    def part(value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind != "M":
            raise FormulaError(f"{name}() takes a timestamp")
        return date_part(name, array)

    return part


def _unit(name: str) -> Callable[[Any], Any]:
    microseconds = _UNITS[name]

    def unit(value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind != "m":
            raise FormulaError(f"{name}() takes the difference of two timestamps, as in {name}(end - begin)")
        array = array.astype("timedelta64[us]", copy=False)
        return np.where(np.isnat(array), np.nan, array.view(np.int64) / microseconds)

    return unit


def _timestamp(*parts: Any) -> Any:
    """Timestamps from year, month, day and, if given, hour, minute, second; missing where there is no such moment."""
    names = ("year", "month", "day", "hour", "minute", "second")[: len(parts)]
    numbers = np.broadcast_arrays(*(_float(_number(part, "timestamp()")) for part in parts))
    bounds = {"year": (1, 9999), "month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59)}
    possible = np.ones(numbers[0].shape, dtype=bool)
    for name, values in zip(names, numbers, strict=True):
        low, high = bounds.get(name, (0, 59.999999))
        possible &= (values >= low) & (values <= high) & ((name == "second") | (values == np.floor(values)))
    year, month, day = (np.where(possible, values, 1).astype(np.int64) for values in numbers[:3])
    months = ((year - 1970) * 12 + month - 1).astype("M8[M]")
    days = months.astype("M8[D]") + (day - 1)
    possible &= days.astype("M8[M]") == months
    found = days.astype("M8[us]")
    for values, microseconds in zip(numbers[3:], (3_600_000_000, 60_000_000, 1_000_000), strict=False):
        found = found + np.rint(np.where(possible, values, 0) * microseconds).astype("m8[us]")
    return np.where(possible, found, np.datetime64("NaT", "us"))


def _where(condition: Any, a: Any, b: Any) -> Any:
    a, b = (np.asarray(v, dtype=object) if np.asarray(v).dtype.kind == "U" else np.asarray(v) for v in (a, b))
    kinds = {"n" if v.dtype.kind in "bfiu" else v.dtype.kind for v in (a, b)}
    if len(kinds) > 1:
        raise FormulaError("where(): both choices must be of one type")
    return np.where(_truth(condition, "where()"), a, b)


def _numeric(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: _finite(function(*(_number(v, f"{name}()") for v in values)))


_FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    **{
        name: (_numeric(name, function), (arity,))
        for name, function, arity in (
            ("log", np.log, 1),
            ("log1p", np.log1p, 1),
            ("exp", np.exp, 1),
            ("sqrt", np.sqrt, 1),
            ("abs", np.abs, 1),
            ("round", np.round, 1),
            ("floor", np.floor, 1),
            ("ceil", np.ceil, 1),
            ("minimum", np.minimum, 2),
            ("maximum", np.maximum, 2),
            ("clip", np.clip, 3),
        )
    },
    **{name: (_part(name), (1,)) for name in DATE_PARTS},
    **{name: (_unit(name), (1,)) for name in _UNITS},
    "timestamp": (_timestamp, (3, 4, 5, 6)),
    "where": (_where, (3,)),
    "isnull": (_is_null, (1,)),
}

_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", np.add),
    ast.Sub: ("-", np.subtract),
    ast.Mult: ("*", np.multiply),
    ast.Div: ("/", np.true_divide),
    ast.FloorDiv: ("//", np.floor_divide),
    ast.Mod: ("%", np.mod),
    ast.Pow: ("**", np.power),
}
_COMPARISONS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", np.less),
    ast.LtE: ("<=", np.less_equal),
    ast.Gt: (">", np.greater),
    ast.GtE: (">=", np.greater_equal),
    ast.Eq: ("==", np.equal),
    ast.NotEq: ("!=", np.not_equal),
}
_CONSTANTS = {"true": 1.0, "false": 0.0}


def _arithmetic(symbol: str, function: Callable[[Any, Any], Any], left: _Node, right: _Node) -> _Node:
    def apply(columns: Columns) -> Any:
        a, b = left(columns), right(columns)
        if symbol == "-" and getattr(a, "dtype", _FLOAT).kind == "M" and getattr(b, "dtype", _FLOAT).kind == "M":
            return a - b
        return _finite(function(_float(_number(a, symbol)), _float(_number(b, symbol))))

    return apply


_FLOAT = np.dtype(np.float64)


def _float(value: Any) -> Any:
    return value if value.dtype == _FLOAT else value.astype(np.float64)


def _compare(symbol: str, function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    kinds = [
        "n" if k in "bfiu" else "t" if k in "OU" else k for k in (np.asarray(a).dtype.kind, np.asarray(b).dtype.kind)
    ]
    if kinds[0] != kinds[1]:
        words = {"n": "a number", "t": "text", "M": "a timestamp", "m": "a difference of timestamps"}
        raise FormulaError(f"{symbol} compares {words[kinds[0]]} with {words[kinds[1]]}")
    if kinds[0] == "t":
        if symbol not in ("==", "!="):
            raise FormulaError(f"text can be compared with == and !=, not with {symbol}")
        a, b = np.asarray(a, dtype=object), np.asarray(b, dtype=object)
    found = np.asarray(function(a, b), dtype=bool)
    return found & ~_is_null(a) & ~_is_null(b) if symbol == "!=" else found


class _Parser:
    """From a syntax tree to closures; collects the names of columns on the way."""

    def __init__(self, text: str, names: set[str]) -> None:
        self.text, self.names = text, names

    def refuse(self, node: ast.AST, why: str) -> NoReturn:
        raise FormulaError(f"{self.text!r}: at character {getattr(node, 'col_offset', 0) + 1}: {why}")

    def node(self, node: ast.expr, depth: int) -> _Node:
        if depth > MAXIMUM_DEPTH:
            self.refuse(node, f"nested more than {MAXIMUM_DEPTH} deep")
        handler = getattr(self, f"on_{type(node).__name__.lower()}", None)
        if handler is None:
            what = ast.unparse(node)
            allowed = "numbers, columns, + - * / // % **, comparisons, and or not, and functions"
            self.refuse(node, f"{what!r} is not allowed; use {allowed}")
        found: _Node = handler(node, depth + 1)
        return found

    def on_constant(self, node: ast.Constant, depth: int) -> _Node:
        value = node.value
        if isinstance(value, str):
            return lambda columns: value
        if not isinstance(value, bool | int | float):
            self.refuse(node, f"{value!r} is neither a number nor text")
        try:
            number = np.float64(value)
        except OverflowError:
            self.refuse(node, f"a number of {len(str(value))} digits is too large; the largest is about 1.8e308")
        return lambda columns: number

    def on_name(self, node: ast.Name, depth: int) -> _Node:
        name = node.id
        if name in _CONSTANTS:
            number = np.float64(_CONSTANTS[name])
            return lambda columns: number
        self.names.add(name)
        return lambda columns: columns[name]

    def on_unaryop(self, node: ast.UnaryOp, depth: int) -> _Node:
        operand = self.node(node.operand, depth)
        if isinstance(node.op, ast.USub):
            return lambda columns: np.negative(_number(operand(columns), "-"))
        if isinstance(node.op, ast.UAdd):
            return lambda columns: _number(operand(columns), "+")
        if not isinstance(node.op, ast.Not):
            self.refuse(node, "~ is not allowed; write `not`")
        return lambda columns: ~_truth(operand(columns), "not")

    def on_binop(self, node: ast.BinOp, depth: int) -> _Node:
        if type(node.op) not in _OPERATORS:
            self.refuse(node, "only + - * / // % ** are allowed; write `and` for &, `or` for |")
        symbol, function = _OPERATORS[type(node.op)]
        return _arithmetic(symbol, function, self.node(node.left, depth), self.node(node.right, depth))

    def on_boolop(self, node: ast.BoolOp, depth: int) -> _Node:
        parts = [self.node(value, depth) for value in node.values]
        word, combine = ("and", np.logical_and) if isinstance(node.op, ast.And) else ("or", np.logical_or)

        def apply(columns: Columns) -> Any:
            result = _truth(parts[0](columns), word)
            for part in parts[1:]:
                result = combine(result, _truth(part(columns), word))
            return result

        return apply

    def on_compare(self, node: ast.Compare, depth: int) -> _Node:
        for operator in node.ops:
            if type(operator) not in _COMPARISONS:
                self.refuse(node, "only < <= > >= == != compare; for `is None` write isnull(x)")
        operands = [self.node(value, depth) for value in (node.left, *node.comparators)]
        steps = [_COMPARISONS[type(operator)] for operator in node.ops]

        def apply(columns: Columns) -> Any:
            values = [operand(columns) for operand in operands]
            result = _compare(*steps[0], values[0], values[1])
            for index, step in enumerate(steps[1:], start=1):
                result = result & _compare(*step, values[index], values[index + 1])
            return result

        return apply

    def on_call(self, node: ast.Call, depth: int) -> _Node:
        if not isinstance(node.func, ast.Name) or node.keywords:
            self.refuse(node, "write function(value, …) with one of " + ", ".join(sorted(_FUNCTIONS)))
        name = node.func.id
        if name not in _FUNCTIONS:
            hint = did_you_mean(name, _FUNCTIONS) or "; there are " + ", ".join(sorted(_FUNCTIONS))
            self.refuse(node, f"there is no function {name!r}{hint}")
        function, arities = _FUNCTIONS[name]
        if len(node.args) not in arities:
            few, many = arities[0], arities[-1]
            takes = f"{few} to {many}" if many > few else str(few)
            self.refuse(node, f"{name}() takes {takes} value{'s' * (many > 1)}, not {len(node.args)}")
        parts = [self.node(value, depth) for value in node.args]
        if len(parts) == 1:
            only = parts[0]
            return lambda columns: function(only(columns))
        return lambda columns: function(*(part(columns) for part in parts))
