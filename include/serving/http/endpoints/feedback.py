"""Late labels: what turned out to be true, for a prediction or an entity → lines of the table `labels`.

    POST /models/{model}/feedback   {"prediction_id": "…", "label": 12.5}          or for what the rows are about:
                                    {"entity": "customer-7", "label": true, "at": "2026-03-02T08:30:00Z"}
                                    {"labels": [one of these, …]}                  → {"accepted": n}

A label is kept as it came, with the time at which it became true (`at`, default: now): one for a prediction that is not
known (yet), a second or a contradicting one, one from the future. What of it counts is decided where labels are joined.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import re
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from include.inference.duplicate_keys import refuse_duplicates
from include.inference.errors import Refused
from include.inference.json_path import LONGEST_ENTITY
from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Operation, Service, explanation_requested
from include.serving.http.messages import Request, Response
from include.serving.http.predict import INLINE_BODY
from include.serving.versions.loader import Loaded

TABLE = "labels"
COLUMNS = ("model", "prediction_id", "entity", "label", "at", "received_at", "caller", "batch")
"""The columns of a line, in their order."""
MOST_LABELS = 10_000
"""In one request."""

_ID = re.compile(r"[0-9a-fA-F]{32}")
_MESSAGE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_COPY = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_MUST = {
    "prediction_id": "the prediction_id of an answer: 32 hexadecimal digits",
    "entity": f"a string of 1 to {LONGEST_ENTITY} characters, or a whole number",
    "label": "a number, true or false, or a string",
    "at": 'an ISO 8601 timestamp such as "2026-03-02T08:30:00Z"',
    "labels": "a list of labels",
}
_FORM = '{"prediction_id": "…", "label": …}, {"entity": "…", "label": …} or {"labels": [{…}, …]}'


class _Label(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    label: float | bool | str
    prediction_id: str | None = None
    entity: str | int | float | None = None
    at: dt.datetime | None = None


class _Labels(msgspec.Struct, forbid_unknown_fields=True):
    labels: list[_Label]


_one = msgspec.json.Decoder(_Label).decode
_many = msgspec.json.Decoder(_Labels).decode
_names_labels = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_json = msgspec.json.Encoder().encode


async def feedback(service: Service, request: Request, body: bytes) -> Response:
    """Record labels and answer with how many they are."""
    explanation_requested(request.query)  # refuses parameters that there are not
    route = service.route(request.model)
    classes, now = route.champion.loaded.predictor.classes, dt.datetime.now(dt.UTC)
    read = partial(labels, route.model, body, classes=classes, caller=request.caller, now=now)
    lines, count = read() if len(body) <= INLINE_BODY else await asyncio.to_thread(read)
    await service.predictions.record(lines, count, TABLE)
    return Response(b'{"accepted":%d}' % count)


def labels(
    model: str, body: bytes, *, classes: Sequence[Any] | None, caller: str | None, now: dt.datetime
) -> tuple[bytes, int]:
    """The COPY text lines of a body's labels, and how many there are.

    Args:
        model: the model's name.
        body: the request's.
        classes: of a classification, of which a label must be one; None: a label is a number.
        caller: whose key it was.
        now: when the labels arrived; aware.

    Raises:
        Refused: with the path of the first field that is wrong, such as `labels[3].prediction_id`.
    """
    try:
        batch = b'"labels"' in body and "labels" in _names_labels(body)
        found = _many(body).labels if batch else [_one(body)]
    except (ValueError, RecursionError) as error:  # both of msgspec's errors, and text that is not UTF-8
        raise _refusal(error) from None
    refuse_duplicates(body, "labels" if batch else None)
    if not found:
        raise Refused(422, "empty_batch", "there is no label; send at least one", "labels")
    if len(found) > MOST_LABELS:
        text = f"there are {len(found)} labels; a request may hold {MOST_LABELS}: send several requests"
        raise Refused(413, "too_many_labels", text, "labels")
    allowed = None if classes is None else _allowed(classes)
    received, begin = now.isoformat(), _text(model)
    end = f"\t{received}\t{_text(caller)}\t{uuid.uuid4().hex}\n"
    lines = []
    for n, entry in enumerate(found):
        where = f"labels[{n}]." if batch else ""
        subject = _subject(entry, where)
        label = _value(entry.label, allowed, f"{where}label")
        at = received if entry.at is None else _moment(entry.at, f"{where}at")
        lines.append(f"{begin}\t{subject}\t{label}\t{at}{end}")
    return "".join(lines).encode(), len(lines)


def _subject(entry: _Label, where: str) -> str:
    """What the label is about: the line's prediction_id and entity, of which one is null."""
    given, entity = entry.prediction_id, entry.entity
    if (given is None) == (entity is None):
        found = "neither" if given is None else "both"
        text = f"{where}prediction_id or {where}entity must be given; you sent {found}"
        raise Refused(422, "missing" if given is None else "ambiguous", text, f"{where}prediction_id")
    if given is not None:
        if not _ID.fullmatch(given):
            raise _wrong(where, "prediction_id")
        return f"{given.lower()}\t\\N"
    if isinstance(entity, int | float):  # 7 and 7.0 are one entity, as in the requests
        entity = str(int(entity)) if abs(entity) < 2**63 and int(entity) == entity else ""
    assert entity is not None  # noqa: S101
    if not 1 <= len(entity) <= LONGEST_ENTITY or "\0" in entity:  # PostgreSQL's text holds no U+0000
        raise _wrong(where, "entity")
    return f"\\N\t{entity.translate(_COPY)}"


def _allowed(classes: Sequence[Any]) -> dict[tuple[type, Any], str]:
    """The classes as JSON. True is not 1 here, but 1 and 1.0 are the same number."""
    return {_kind(label): _json(label).decode().translate(_COPY) for label in classes}


def _kind(label: Any) -> tuple[type, Any]:
    return (float, float(label)) if isinstance(label, int) and not isinstance(label, bool) else (type(label), label)


def _value(label: float | bool | str, allowed: dict[tuple[type, Any], str] | None, where: str) -> str:
    """The label as JSON in a COPY line."""
    if allowed is not None:
        if (known := allowed.get((type(label), label))) is not None:
            return known
        shown = ", ".join(list(allowed.values())[:20])
        raise Refused(422, "unknown_class", f"{where} must be one of the model's classes: {shown}", where)
    if not isinstance(label, float):
        raise Refused(422, "wrong_type", f"{where} must be a number: that is what the model predicts", where)
    if not math.isfinite(label):
        raise Refused(422, "not_finite", f"{where} must be a finite number", where)
    return _json(label).decode()


def _moment(at: dt.datetime, where: str) -> str:
    """A time for PostgreSQL; one without a zone is UTC, as in the requests."""
    if at.tzinfo is None or at.tzinfo is dt.UTC:
        return at.replace(tzinfo=dt.UTC).isoformat()
    try:
        return at.astimezone(dt.UTC).isoformat()
    except OverflowError:
        raise Refused(422, "out_of_range", f"{where} is a time before the year 1 or after 9999", where) from None


def _text(value: str | None) -> str:
    return "\\N" if value is None else value.translate(_COPY)


def _wrong(where: str, name: str) -> Refused:
    return Refused(422, "wrong_type", f"{where}{name} must be {_MUST[name]}", f"{where}{name}")


def _refusal(error: Exception) -> Refused:
    """What a client is told when the body is not JSON, or not of this form."""
    if isinstance(error, RecursionError):
        return Refused(400, "too_deep", f"the JSON is nested too deeply; the body is {_FORM}")
    if not isinstance(error, msgspec.ValidationError):
        return Refused(400, "malformed_json", f"the body is not JSON: {error}")
    found = _MESSAGE.fullmatch(str(error))
    text, path = (found[1], found[2] or "") if found else (str(error), "")
    if named := _FIELD.fullmatch(text):
        field = f"{path}.{named[2]}".removeprefix(".")[:200]
        if named[1] == "missing required":
            return Refused(422, "missing", f"{field} is missing; the body is {_FORM}", field)
        return Refused(422, "unknown_field", f"{field} is not known here; the body is {_FORM}", field)
    where, _, name = path.rpartition(".")
    if name in _MUST:
        return _wrong(f"{where}." if where else "", name)
    return Refused(422, "wrong_type", f"{path or 'the body'} must be an object; the body is {_FORM}", path or None)


def _openapi(loaded: Loaded) -> Operation:
    moment = {
        "type": "string",
        "format": "date-time",
        "description": "When it became true; default: now. Without a zone it is UTC.",
    }
    about = {"label": openapi.label_schema(loaded), "at": moment}
    prediction = {"prediction_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    entity = {"entity": {"type": "string", "minLength": 1}}
    by_id, by_entity = (
        {"type": "object", "required": [*subject, "label"], "properties": {**subject, **about}}
        for subject in (prediction, entity)
    )
    many = {
        "type": "object",
        "required": ["labels"],
        "properties": {"labels": {"type": "array", "items": {"oneOf": [by_id, by_entity]}}},
    }
    predicted = openapi.example_predictions(loaded, 1)[0]
    example = {"prediction_id": predicted["prediction_id"], "label": predicted["prediction"]}
    body = {"application/json": {"schema": {"oneOf": [by_id, by_entity, many]}, "example": example}}
    accepted = {"$ref": "#/components/schemas/Accepted"}
    return openapi.post(
        "Tell what came true: needs a key with the scope feedback.", body, accepted, {"accepted": 1}, []
    )


ENDPOINTS = (Endpoint("POST", ("/models/{model}/feedback",), "feedback", feedback, openapi=_openapi),)
