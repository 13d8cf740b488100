"""A request's JSON → columns, or a refusal that names the field: what a client sends is checked here, nowhere else.

The hot path is one msgspec decode into a type made from the model's own inputs, and one array for all numbers. Only a
refused body is looked at again, field by field, to say where it is wrong and what was expected.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import math
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np

Columns = dict[str, np.ndarray]

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Estimators compute in 32 or 64 bits: what the smaller cannot hold is refused instead of becoming infinite."""

_EXPECTED = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
    "timestamp": 'an ISO 8601 timestamp such as "2018-01-31T08:30:00"',
    "date": 'an ISO 8601 date such as "2018-01-31"',
}
_DECODED: dict[str, Any] = {
    "float": float,
    "int": float,  # 3 and 3.0 are the same number in JSON; that it is whole is checked on the column
    "bool": bool,
    "string": str,
    "timestamp": dt.datetime,
    "date": dt.date,
}
_ORDER = ("int", "float", "bool", "string", "timestamp", "date")
_NUMERIC = ("int", "float", "bool")


class Refused(Exception):
    """A request that gets a 4xx: `status`, a `code` for programs, a `message` for people, the `field`'s path."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


class Schema:
    """What one version of a model takes: compiled once from its manifest's `inputs`."""

    def __init__(self, inputs: Sequence[dict[str, Any]], max_batch: int) -> None:
        unknown = sorted({entry["type"] for entry in inputs} - set(_DECODED))
        if unknown:
            raise ValueError(f"inputs: no column is of type {unknown[0]!r}; there are {', '.join(_DECODED)}")
        self.inputs = {str(entry["name"]): entry for entry in inputs}
        self.max_batch = max_batch
        ordered = sorted(self.inputs.values(), key=lambda entry: _ORDER.index(entry["type"]))
        self._names = [str(entry["name"]) for entry in ordered]
        self._types = [str(entry["type"]) for entry in ordered]
        self._whole = self._types.count("int")
        self._numeric = sum(kind in _NUMERIC for kind in self._types)
        required = {str(e["name"]) for e in inputs if e.get("required", True)}
        fields: list[Any] = [
            (f"f{n}", _DECODED[kind])
            if name in required
            else (f"f{n}", _DECODED[kind] | None, msgspec.field(default=None))
            for n, (name, kind) in enumerate(zip(self._names, self._types, strict=True))
        ]
        row = msgspec.defstruct(
            "Row",
            fields,
            rename={f"f{n}": name for n, name in enumerate(self._names)},
            forbid_unknown_fields=True,
            kw_only=True,
            gc=False,
        )
        rows = msgspec.defstruct("Rows", [("rows", list[row])], forbid_unknown_fields=True)  # type: ignore[valid-type]
        self._row = msgspec.json.Decoder(row)
        self._rows = msgspec.json.Decoder(rows)

    def one(self, body: bytes) -> Columns:
        """The columns of a body that is one row: `{"trip_distance": 2.1, …}`.

        Raises:
            Refused: with the path of the first field that is wrong, such as `trip_distance`.
        """
        try:
            row = self._row.decode(body)
        except (ValueError, RecursionError) as error:  # both of msgspec's errors are ValueErrors
            raise self._explain(body, error, batch=False) from None
        return self._columns([row], batch=False)

    def many(self, body: bytes) -> Columns:
        """The columns of a body that is a batch: `{"rows": [{"trip_distance": 2.1, …}, …]}`.

        Raises:
            Refused: with the path of the first field that is wrong, such as `rows[3].trip_distance`.
        """
        rows = self._decode_rows(body)
        self._check_length(len(rows))
        return self._columns(rows, batch=True)

    def unlimited(self, body: bytes) -> Columns:
        """As `many`, for our own golden rows: without the limit on their number."""
        return self._columns(self._decode_rows(body), batch=True)

    def _decode_rows(self, body: bytes) -> list[Any]:
        try:
            return cast(list[Any], cast(Any, self._rows.decode(body)).rows)
        except (ValueError, RecursionError) as error:
            raise self._explain(body, error, batch=True) from None

    def _check_length(self, rows: int) -> None:
        if not rows:
            raise Refused(422, "empty_batch", "the batch has no rows; send at least one", "rows")
        if rows > self.max_batch:
            raise Refused(
                413,
                "too_many_rows",
                f"the batch has {rows} rows; this model takes {self.max_batch}: send several requests",
                "rows",
            )

    def _columns(self, rows: list[Any], *, batch: bool) -> Columns:
        if not self._names:
            return {}
        by_column = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
        columns: Columns = {}
        if self._numeric:
            numbers = np.array(by_column[: self._numeric], dtype=np.float64)
            with np.errstate(invalid="ignore"):
                large = np.abs(numbers) > LARGEST_NUMBER
                whole = numbers[: self._whole]
                broken = np.modf(whole)[0] != 0 if self._whole else large[:0]
            if large.any() or (broken & ~np.isnan(whole)).any():
                wrong, bad = (large, True) if large.any() else (broken & ~np.isnan(whole), False)
                row, column = min((int(r), int(c)) for c, r in np.argwhere(wrong))
                raise self._out_of_type(row, column, float(numbers[column, row]), large=bad, batch=batch)
            columns = dict(zip(self._names, numbers, strict=False))
        for n in range(self._numeric, len(self._names)):
            columns[self._names[n]] = self._array(n, by_column[n], batch=batch)
        return columns

    def _array(self, n: int, values: tuple[Any, ...], *, batch: bool) -> np.ndarray:
        kind = self._types[n]
        if kind == "string":
            return np.array(values, dtype=object)
        if kind == "timestamp":
            values = tuple(
                self._naive(value, _path(self._names[n], row, batch=batch))
                if value is not None and value.tzinfo
                else value
                for row, value in enumerate(values)
            )
        return np.array(values, dtype="datetime64[us]")

    @staticmethod
    def _naive(value: dt.datetime, path: str) -> dt.datetime:
        try:
            return value.astimezone(dt.UTC).replace(tzinfo=None)
        except OverflowError:
            raise Refused(422, "out_of_range", f"{path} is a time before the year 1 or after 9999", path) from None

    def _out_of_type(self, row: int, column: int, value: float, *, large: bool, batch: bool) -> Refused:
        path = _path(self._names[column], row, batch=batch)
        if large:
            return Refused(
                422,
                "out_of_range",
                f"{path} must lie between ±{LARGEST_NUMBER:.2g}; {value:g} cannot be computed with",
                path,
            )
        return Refused(422, "wrong_type", f"{path} must be a whole number, not {value:g}", path)

    # ------------------------------------------------------------------------------- why a body is refused

    def _explain(self, body: bytes, error: Exception, *, batch: bool) -> Refused:
        try:
            document = json.loads(
                body.decode(), parse_int=float
            )  # unlike JSON, takes NaN and Infinity, so that they have a path
        except RecursionError:
            return Refused(400, "too_deep", "the JSON is nested too deeply; a row is a flat object")
        except json.JSONDecodeError as malformed:
            return Refused(
                400,
                "malformed_json",
                f"the body is not JSON: {malformed.msg} at line {malformed.lineno} column {malformed.colno}",
            )
        except ValueError:
            return Refused(400, "malformed_json", "the body is not JSON in UTF-8")
        found = self._explain_batch(document) if batch else self._explain_row(document, "")
        if found is None and not isinstance(error, msgspec.ValidationError):
            return Refused(400, "malformed_json", f"the body is not JSON: {error}")
        return found or Refused(422, "invalid", str(error).replace(" - at `$.", " - at `").removesuffix(" - at `$`"))

    def _explain_batch(self, document: Any) -> Refused | None:
        if not isinstance(document, dict):
            return Refused(422, "wrong_type", f'the body must be {{"rows": [...]}}, not {_named(document)}')
        if "rows" not in document:
            return Refused(422, "missing", 'rows is missing: the body is {"rows": [{...}, ...]}', "rows")
        if extra := next((key for key in document if key != "rows"), None):
            return Refused(422, "unknown_field", f'{extra} is not known here; the body is {{"rows": [...]}}', extra)
        rows = document["rows"]
        if not isinstance(rows, list):
            return Refused(422, "wrong_type", f"rows must be a list of rows, not {_named(rows)}", "rows")
        try:
            self._check_length(len(rows))
        except Refused as refused:
            return refused
        return next((found for n, row in enumerate(rows) if (found := self._explain_row(row, f"rows[{n}]"))), None)

    def _explain_row(self, row: Any, path: str) -> Refused | None:
        if not isinstance(row, dict):
            return Refused(
                422, "wrong_type", f"{path or 'the body'} must be an object, not {_named(row)}", path or None
            )
        for name, entry in self.inputs.items():
            field = f"{path}.{name}" if path else name
            if name not in row:
                if entry.get("required", True):
                    close = difflib.get_close_matches(name, [key for key in row if key not in self.inputs], n=1)
                    hint = f" (you sent {close[0]!r})" if close else f"; it must be {_EXPECTED[entry['type']]}"
                    return Refused(422, "missing", f"{field} is missing{hint}", field)
            elif found := _explain_value(row[name], entry, field):
                return found
        for name in row:
            if name not in self.inputs:
                close = difflib.get_close_matches(name, self.inputs, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                field = f"{path}.{name}" if path else name
                return Refused(422, "unknown_field", f"{field} is not an input of this model{hint}", field)
        return None


def _path(name: str, row: int, *, batch: bool) -> str:
    return f"rows[{row}].{name}" if batch else name


def _explain_value(value: Any, entry: dict[str, Any], field: str) -> Refused | None:
    kind = entry["type"]
    if value is None:
        if entry.get("required", True):
            return Refused(422, "missing", f"{field} must not be null; it must be {_EXPECTED[kind]}", field)
        return None
    if kind in ("int", "float") and isinstance(value, float):
        if not math.isfinite(value):
            return Refused(422, "not_finite", f"{field} must be a finite number", field)
        return None
    if kind == "bool" and isinstance(value, bool):
        return None
    if isinstance(value, str) and kind in ("string", "timestamp", "date"):
        try:
            msgspec.convert(value, _DECODED[kind])
            value.encode()
        except ValueError:
            return Refused(422, "wrong_type", f"{field} must be {_EXPECTED[kind]}", field)
        return None
    return Refused(422, "wrong_type", f"{field} must be {_EXPECTED[kind]}, not {_named(value)}", field)


def _named(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", float: "a number"}
    return "null" if value is None else names.get(type(value), "something else")
