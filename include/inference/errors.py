"""Why a body is refused: it is looked at again, field by field, to say where it is wrong and what was expected."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import msgspec

from include.inference.json_path import DECODED, EXPECTED, Field, Fields
from include.text import did_you_mean, nearest, suggest, trim

LOOKED_AT = 256 * 1024
"""Bytes up to which a body is taken apart to be explained: as Python objects it takes thirty times its size."""
LONGEST_MESSAGE, LONGEST_FIELD = 2000, 500
"""Characters of a refusal, whatever it repeats of what a client sent."""
_SHOWN = 60
"""Characters of a client's value that are repeated to it."""
_COMPARED = 200
"""Names among which one is sought that may have been meant."""
_BATCH = '{"rows": [{...}, ...]} or {"columns": {"a": [...], ...}}'
_MESSAGE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_NAMED = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


class Refused(Exception):
    """A request that gets a 4xx or 503: `status`, a `code` for programs, a `message` for people, the `field`'s path.

    `retry_after` is in seconds, where it makes sense to come again.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, *, retry_after: float | None = None
    ) -> None:
        message = cut(message, LONGEST_MESSAGE)
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.field = None if field is None else cut(field, LONGEST_FIELD)
        self.retry_after = retry_after


def of_row(body: bytes, error: Exception, fields: Fields) -> Refused:
    """Why a body is not one row; `error` is what the decoder said."""
    document, refused = _parsed(body, error)
    return refused or _row(document, "", fields) or _from_message(error)


def of_batch(body: bytes, error: Exception, fields: Fields) -> Refused:
    """Why a body is not a batch, as rows or as columns."""
    document, refused = _parsed(body, error)
    return refused or _batch(document, fields) or _from_message(error)


def of_column(body: bytes, error: Exception, field: Field) -> Refused:
    """Why the JSON of one column is not a list of its values."""
    document, refused = _parsed(body, error)
    refused = refused or _column(document, field) or _from_message(error)
    if refused.field is not None and refused.field.startswith("["):  # the decoder's words, relative to the column
        where = f"columns.{field.name}"
        return Refused(refused.status, refused.code, where + refused.message, where + refused.field)
    return refused


def extra_field(name: str, where: str, fields: Fields) -> Refused:
    """A field that the model does not know."""
    hint = did_you_mean(name, fields.inputs)
    return Refused(422, "unknown_field", f"{cut(where)} is not an input of this model{hint}", cut(where))


def missing(field: Field, where: str, sent: Iterable[str] = ()) -> Refused:
    """A field that must be there."""
    close = nearest(field.name, list(sent)[:_COMPARED])
    hint = f" (you sent {close!r})" if close else f"; it must be {EXPECTED[field.kind]}"
    return Refused(422, "missing", f"{where} is missing{hint}", where)


def null(field: Field, where: str) -> Refused:
    """A value that must be there."""
    return Refused(422, "missing", f"{where} must not be null; it must be {EXPECTED[field.kind]}", where)


def not_finite(where: str) -> Refused:
    """NaN, Infinity, or a number larger than any that a computer computes with."""
    return Refused(422, "not_finite", f"{where} must be a finite number", where)


def no_such_year(where: str) -> Refused:
    """A time that Python's calendar does not reach."""
    return Refused(422, "out_of_range", f"{where} is a time before the year 1 or after 9999", where)


def null_character(where: str) -> Refused:
    """A character that PostgreSQL keeps in no text: what cannot be recorded is not answered."""
    return Refused(422, "wrong_type", f"{where} must be a string without the character U+0000", where)


def unknown_category(field: Field, value: Any, where: str) -> Refused:
    """A category that training did not see, where that is an error."""
    return Refused(422, "unknown_category", _unknown(value, where, suggestion(value, field.categories or ())), where)


def new_category(value: str, where: str, meant: str | None) -> str:
    """What is said of a category that training did not see, where it is answered all the same."""
    return _unknown(value, where, meant)


def _unknown(value: Any, where: str, meant: str | None) -> str:
    hint = suggest(cut(meant) if meant is not None else None)
    shown = repr(cut(value)) if isinstance(value, str) else f"{value:.15g}"
    return f"{where} is {shown}, which the model was not trained on{hint}"


@lru_cache(maxsize=4096)
def suggestion(value: Any, known: Collection[Any]) -> str | None:
    """The category that was probably meant: the same but for white space and capitals, or else one of similar letters.

    The similar ones take a millisecond to find.
    """
    if not isinstance(value, str):
        return None
    names = sorted(str(name) for name in known if name is not None)
    plain = trim(value).casefold()
    same = next((name for name in names if trim(name).casefold() == plain), None)
    return same or nearest(value[:_SHOWN], names[:_COMPARED])


def _parsed(body: bytes, error: Exception) -> tuple[Any, Refused | None]:
    """The document, or why there is none. Unlike JSON it may hold NaN and Infinity, so that they have a path."""
    if isinstance(error, RecursionError):
        return None, Refused(400, "too_deep", "the JSON is nested too deeply; a row is a flat object")
    if len(body) > LOOKED_AT:
        return None, _from_message(error)
    try:
        return json.loads(bytes(body).decode(), parse_int=float), None
    except RecursionError:
        return None, Refused(400, "too_deep", "the JSON is nested too deeply; a row is a flat object")
    except json.JSONDecodeError as malformed:
        where = f"{malformed.msg} at line {malformed.lineno} column {malformed.colno}"
        return None, Refused(400, "malformed_json", f"the body is not JSON: {where}")
    except ValueError:
        return None, Refused(400, "malformed_json", "the body is not JSON in UTF-8")


def _from_message(error: Exception) -> Refused:
    """What the decoder said, as it is: for what is too large to be looked at again."""
    if not isinstance(error, msgspec.ValidationError):
        return Refused(400, "malformed_json", f"the body is not JSON: {error}")
    found = _MESSAGE.fullmatch(str(error))
    text, where = (found[1], found[2] or "") if found else (str(error), "")
    code = "missing" if text.endswith("got `null`") else "too_long" if " of length <= " in text else "wrong_type"
    if named := _NAMED.fullmatch(text):
        code = "missing" if named[1] == "missing required" else "unknown_field"
        where = f"{where}.{named[2]}".removeprefix(".")
    where = cut(where)
    return Refused(422, code, f"{where}: {cut(text, 300)}" if where else cut(text, 300), where or None)


def _batch(document: Any, fields: Fields) -> Refused | None:
    if not isinstance(document, dict):
        return Refused(422, "wrong_type", f"the body must be {_BATCH}, not {_kind(document)}")
    if "rows" not in document and "columns" not in document:
        return Refused(422, "missing", f"rows is missing: the body is {_BATCH}", "rows")
    if extra := next((key for key in document if key not in ("rows", "columns")), None):
        return Refused(422, "unknown_field", f"{cut(extra)} is not known here; the body is {_BATCH}", cut(extra))
    if "columns" in document:
        columns = document["columns"]
        if not isinstance(columns, dict):
            message = f"columns must be an object with a list for each column, not {_kind(columns)}"
            return Refused(422, "wrong_type", message, "columns")
        for name, values in columns.items():
            if not fields.knows(name):
                if fields.extra:
                    continue
                return extra_field(name, f"columns.{name}", fields)
            if found := _column(values, fields.inputs.get(name) or Field(name, "entity", required=False)):
                return found
    rows = document.get("rows", [])
    if not isinstance(rows, list):
        return Refused(422, "wrong_type", f"rows must be a list of rows, not {_kind(rows)}", "rows")
    return next((found for n, row in enumerate(rows) if (found := _row(row, f"rows[{n}]", fields))), None)


def _column(values: Any, field: Field) -> Refused | None:
    where = f"columns.{field.name}"
    if not isinstance(values, list):
        return Refused(422, "wrong_type", f"{where} must be a list of values, not {_kind(values)}", where)
    return next((found for n, v in enumerate(values) if (found := _value(v, field, f"{where}[{n}]"))), None)


def _row(row: Any, where: str, fields: Fields) -> Refused | None:
    if not isinstance(row, dict):
        message = f"{where or 'the body'} must be an object, not {_kind(row)}"
        return Refused(422, "wrong_type", message, where or None)
    prefix = f"{where}." if where else ""
    for name, field in fields.inputs.items():
        if name in row:
            if found := _value(row[name], field, prefix + name):
                return found
        elif field.required:
            return missing(field, prefix + name, [key for key in row if not fields.knows(key)])
    entity = fields.entity
    if entity is not None and entity in row and entity not in fields.inputs:
        subject = Field(entity, "entity", required=False)
        if found := _value(row[entity], subject, prefix + entity):
            return found
    unknown = None if fields.extra else next((name for name in row if not fields.knows(name)), None)
    return None if unknown is None else extra_field(unknown, prefix + unknown, fields)


def _value(value: Any, field: Field, where: str) -> Refused | None:
    kind = field.kind
    if value is None:
        return null(field, where) if field.required else None
    if kind in ("int", "float") and isinstance(value, float):
        return None if math.isfinite(value) else not_finite(where)
    if kind == "bool" and isinstance(value, bool):
        return None
    if kind == "entity" and isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        return None
    if not isinstance(value, str) or kind not in ("string", "timestamp", "date", "entity"):
        return Refused(422, "wrong_type", f"{where} must be {EXPECTED[kind]}, not {_kind(value)}", where)
    try:
        value.encode()  # a lone surrogate is no text
        if kind in ("timestamp", "date"):
            msgspec.convert(value, DECODED[kind])
    except ValueError:
        return Refused(422, "wrong_type", f"{where} must be {EXPECTED[kind]}", where)
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", float: "a number"}
    return "null" if value is None else names.get(type(value), "something else")


def cut(text: str, length: int = _SHOWN) -> str:
    """What a client sent, short and encodable: JSON allows half a character, UTF-8 does not."""
    text = text if len(text) <= length else text[:length] + "…"
    return text.encode(errors="replace").decode()
