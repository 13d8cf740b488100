"""A prediction request on its way: its body decoded and checked by an arm's contract, its answer told, and counted.

A row is answered with all rows of its turn (`Row`), a small batch is predicted with its turn's (`BatchItem`),
and anything else is an `Answer` by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from include.inference.errors import Refused
from include.inference.schema import BATCH_TYPES, JSON, Checked, Tables
from include.serving.batching.micro_batcher import Rows
from include.serving.batching.scoring import Scored, recorded
from include.serving.http import v2
from include.serving.routing.route import Arm, Route

Headers = list[tuple[bytes, bytes]]

JSON_TYPE, CONTENT_TYPE = b"application/json", b"content-type"
NO_HEADERS: Headers = []


@dataclass(slots=True)
class Request:
    """What of one request is needed while it is answered, and for its line in the access log."""

    path: str
    method: str
    headers: Mapping[bytes, bytes]
    started: float
    id: str = ""
    caller: str | None = None
    """The name of the key that it came with."""
    model: str | None = None
    version: int | None = None
    replied: tuple[bytes, Headers] = (JSON_TYPE, NO_HEADERS)
    """The answer's media type, and headers that go with it."""


class PredictionResponse(Protocol):
    """An answer, once its turn has ended."""

    def told(self, request: Request) -> bytes:
        """What the client is told; raises what it is refused with."""

    def count(self, seconds: float) -> None:
        """Count it as answered after so long."""


@dataclass(slots=True)
class Row:
    """The answer to a row of a turn."""

    rows: Rows
    n: int

    def told(self, request: Request) -> bytes:
        """See `PredictionResponse`."""
        answer = self.rows.answers[self.n]
        if isinstance(answer, Exception):
            raise answer
        request.version = self.arm.loaded.version
        return answer

    def count(self, seconds: float) -> None:
        """See `PredictionResponse`."""
        self.arm.tally.answered(1, seconds)

    @property
    def arm(self) -> Arm:
        """That answered it."""
        rows = self.rows
        return rows.answered.get(self.n, rows.arm) if rows.answered else rows.arm


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A body of a prediction request, as it came."""

    does: str
    route: Route
    request: Request
    body: bytes
    explain: bool = False
    tables: Tables | None = None
    """What reads a table, if this is one."""

    def by(self, arm: Arm) -> DecodedRequest:
        """Decoded and checked, as an arm's contract says."""
        started, loaded, headers = time.perf_counter(), arm.loaded, self.request.headers
        schema = loaded.predictor.schema
        content_type = media_type(headers.get(CONTENT_TYPE, b""))
        if self.does == "infer":
            infer = v2.request(self.body, headers.get(v2.HEADER_LENGTH), loaded)
            return DecodedRequest(started, infer.checked, infer=infer)
        if self.does == "batch":
            return DecodedRequest(started, schema.many(self.body, content_type, self.tables))
        if content_type != JSON:
            raise unsupported([JSON])
        rows = [schema.row(self.body)]
        return DecodedRequest(started, schema.columns(rows, batch=False), rows)


@dataclass(slots=True)
class DecodedRequest:
    """A body, decoded and checked."""

    started: float
    checked: Checked
    rows: list[Any] | None = None
    """Of a body that is a row."""
    infer: Any = None
    """Of a request of the Open Inference Protocol."""


class Answer:
    """The answer to a whole body; its lines are made at once, what the client is told when it is asked for."""

    __slots__ = ("_arm", "_asked", "_asking", "_body", "_scored", "_shadowed", "lines")

    def __init__(
        self, asking: RawRequest, arm: Arm, asked: DecodedRequest, scored: Scored, shadowed: Callable[[], None] | None
    ) -> None:
        self._asking, self._arm, self._asked, self._scored, self._shadowed = asking, arm, asked, scored, shadowed
        self._body: bytes | None = None
        loaded, checked = arm.loaded, asked.checked
        self.lines = recorded(
            arm,
            scored,
            loaded.predictor.schema.inputs_json(asked.rows or checked, loaded.logged),
            callers=[asking.request.caller] * checked.count,
            entities=checked.entities,
            seconds=time.perf_counter() - asked.started,
        )

    @property
    def rows(self) -> int:
        """How many."""
        return len(self._scored.ids)

    def told(self, request: Request) -> bytes:
        """See `PredictionResponse`."""
        if self._body is None:
            loaded, scored = self._arm.loaded, self._scored
            request.version = loaded.version
            if self._asking.does == "infer":
                self._body, content_type, headers = v2.response(self._asked.infer, loaded, scored)
                request.replied = content_type.encode(), headers
            elif self._asking.does == "batch":
                self._body = loaded.answers.batch(scored.ids, scored.outputs, scored.more)
            else:
                more = scored.more[0] if scored.more else None
                self._body = loaded.answers.row(scored.ids[0], scored.outputs[0], more)
        return self._body

    def count(self, seconds: float) -> None:
        """See `PredictionResponse`."""
        self._arm.tally.predicted(self._scored.predictions)
        self._arm.tally.answered(self.rows, seconds)
        if self._shadowed is not None:
            self._shadowed()


class BatchItem:
    """The answer to a small batch of a turn."""

    __slots__ = ("_answer", "_found")

    def __init__(self, answer: Callable[[np.ndarray | None], Answer]) -> None:
        self._answer = answer
        self._found: Answer | Exception | None = None

    def take(self, predictions: np.ndarray | None) -> tuple[bytes, int]:
        """See `Batch.take`."""
        try:
            self._found = answer = self._answer(predictions)
        except Exception as error:  # noqa: BLE001  told to the client
            self._found = error
            return b"", 0
        return answer.lines, answer.rows

    def told(self, request: Request) -> bytes:
        """See `PredictionResponse`."""
        if not isinstance(self._found, Answer):
            raise self._found or RuntimeError("the turn of this batch has not ended")
        return self._found.told(request)

    def count(self, seconds: float) -> None:
        """See `PredictionResponse`."""
        if isinstance(self._found, Answer):
            self._found.count(seconds)


def is_table(content_type: bytes) -> bool:
    """Whether a body of this Content-Type is an Arrow stream or parquet."""
    return content_type != JSON_TYPE and (sent := media_type(content_type)) != JSON and sent in BATCH_TYPES


def media_type(content_type: bytes) -> str:
    """A Content-Type without its parameters."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def unsupported(accepted: list[str]) -> Refused:
    """What a body of another type is refused with."""
    return Refused(415, "unsupported_media_type", f"send the body as Content-Type: {' or '.join(accepted)}")
