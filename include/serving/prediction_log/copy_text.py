"""The prediction log's lines: COPY text of PostgreSQL, one line for each prediction."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Sequence

from msgspec import json

COLUMNS = {
    "predictions": "id, model, version, arm, at, inputs, output, prediction, latency_ms, entity, caller",
    "labels": "model, prediction_id, entity, label, at, received_at, caller, batch",
}
"""The columns of each table's lines, in their order."""

_COPY = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\ufffd"})
_NULL = b"\\N"
_NUL_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""U+0000 in JSON: PostgreSQL's texts have no room for it, and `->>` makes one."""


def prediction_lines(
    ids: Sequence[str],
    model: str,
    version: int,
    arm: str,
    at: float,
    latency_ms: float | None,
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    scores: Sequence[float | None],
    entities: Sequence[str | None] | None,
    callers: Sequence[str | None],
) -> bytes:
    """Lines of COPY text for the table `predictions`, one for each id.

    Args:
        ids: 32 hexadecimal digits each.
        model: the model's name.
        version: that answered.
        arm: that it is.
        at: seconds since the epoch, of all of them.
        latency_ms: of all of them.
        inputs: a JSON object each, of what may be written down.
        outputs: the members of a JSON object each, `"prediction":12.5`, of what the client is told.
        scores: the number, or the positive class's probability.
        entities: whom each is about; None: nobody.
        callers: the name of the key each came with.
    """
    moment = dt.datetime.fromtimestamp(at, dt.UTC).isoformat()
    middle = f"\t{_text(model)}\t{version}\t{_text(arm)}\t{moment}\t".encode()
    latency = b"\\N" if latency_ms is None else b"%.3f" % latency_ms
    if _needs_escapes(inputs):
        inputs = [_escaped(value) for value in inputs]
    if _needs_escapes(outputs):
        outputs = [_escaped(value) for value in outputs]
    whom = callers if entities is None else list(zip(entities, callers, strict=True))
    ends = {who: _end(latency, who) for who in set(whom)}
    numbers = json.encode(scores)[1:-1].split(b",")
    if b"null" in numbers:  # JSON has no word for infinity
        numbers = [_NULL if score is None else repr(score).encode() for score in scores]
    always = itertools.repeat
    parts = zip(
        map(str.encode, ids), always(middle), inputs, always(b"\t{"), outputs, always(b"}\t"), numbers,
        map(ends.__getitem__, whom), strict=False,
    )  # fmt: skip
    return b"".join(itertools.chain.from_iterable(parts))


def _end(latency: bytes, who: str | tuple[str | None, str | None] | None) -> bytes:
    """A line's last fields; `who` is the caller, or the entity and the caller."""
    entity, caller = who if isinstance(who, tuple) else (None, who)
    return b"\t%b\t%b\t%b\n" % (latency, _text(entity).encode(), _text(caller).encode())


def _text(value: str | None) -> str:
    if value is None:
        return "\\N"
    return value if value.isprintable() and "\\" not in value else value.translate(_COPY)


def _needs_escapes(values: Sequence[bytes]) -> bool:
    """Whether any has what COPY text must not; JSON as we write it has none of it unless a text in it does."""
    together = b"".join(values)
    return b"\\" in together or b"\n" in together or b"\t" in together or b"\r" in together


def _escaped(value: bytes) -> bytes:
    """JSON as a field of a line: white space between its parts becomes blanks, and what a text escapes stays so."""
    if b"\\u0000" in value:
        value = _NUL_ESCAPE.sub(rb"\1\\ufffd", value)
    return value.replace(b"\\", b"\\\\").replace(b"\n", b" ").replace(b"\t", b" ").replace(b"\r", b" ")
