"""From a prediction request's body to its response: decoded and checked by an arm's contract, scored, recorded.

A row is answered with all rows of its batch (`Row`), a small batch is predicted together with others (`BatchItem`),
and anything else is an `Answer` by itself. What a body and a response are is a `Codec`: include/serving/http/endpoints
has one for each form.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from include.inference.errors import Refused
from include.inference.schema import BATCH_TYPES, JSON, Checked, Tables
from include.serving.batching.micro_batcher import Batch, CommitFuture, MicroBatcher, Recorder, Rows, Shadows
from include.serving.batching.scoring import Scored, is_the_arms_fault, recorded, refusal, score
from include.serving.http.load_shedding import overloaded
from include.serving.http.messages import CONTENT_TYPE, JSON_TYPE, Request, Response
from include.serving.http.table_process import TableProcess
from include.serving.routing.route import Arm, Route
from include.serving.versions.loader import Loaded

MAX_TABLES = 16
"""Tables that wait to be read, or are; more of them are refused at once."""
INLINE_BODY = 32 * 1024
"""Bytes of a body up to which it is answered on the event loop; larger ones in a thread, to delay no other."""

log = logging.getLogger("mlops.serving")


class PredictionResponse(Protocol):
    """The response to a prediction request, once its batch has been scored."""

    def encode(self, request: Request) -> bytes:
        """The response's body; raises what the request is refused with."""

    def count(self, seconds: float) -> None:
        """Count it as answered after so long."""


@dataclass(slots=True)
class Row:
    """The response to one row of a batch."""

    rows: Rows
    n: int

    def encode(self, request: Request) -> bytes:
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
class Codec:
    """A form of prediction requests.

    Args:
        decode: decodes and checks a body by an arm's contract; raises Refused.
        encode: the response's body; may set the request's `response_type`.
        is_row: whether a body is one row, whose entity may decide the arm.
    """

    decode: Callable[[RawRequest, Loaded], DecodedRequest]
    encode: Callable[[Request, DecodedRequest, Loaded, Scored], bytes]
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A prediction request's body, as it came."""

    codec: Codec
    route: Route
    request: Request
    body: bytes
    explain: bool = False
    tables: Tables | None = None
    """What reads a table, if this is one."""


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
    """The response to a whole body; its log lines are made at once, its bytes by the first `encode`."""

    __slots__ = ("_arm", "_body", "_decoded", "_raw", "_scored", "_shadowed", "lines")

    def __init__(
        self, raw: RawRequest, arm: Arm, decoded: DecodedRequest, scored: Scored, shadowed: Callable[[], None] | None
    ) -> None:
        self._raw, self._arm, self._decoded, self._scored, self._shadowed = raw, arm, decoded, scored, shadowed
        self._body: bytes | None = None
        loaded, checked = arm.loaded, decoded.checked
        self.lines = recorded(
            arm,
            scored,
            loaded.predictor.schema.inputs_json(decoded.rows or checked, loaded.logged),
            callers=[raw.request.caller] * checked.count,
            entities=checked.entities,
            seconds=time.perf_counter() - decoded.started,
        )

    @property
    def rows(self) -> int:
        """How many."""
        return len(self._scored.ids)

    def encode(self, request: Request) -> bytes:
        """See `PredictionResponse`."""
        if self._body is None:
            loaded = self._arm.loaded
            request.version = loaded.version
            self._body = self._raw.codec.encode(request, self._decoded, loaded, self._scored)
        return self._body

    def count(self, seconds: float) -> None:
        """See `PredictionResponse`."""
        self._arm.tally.predicted(self._scored.predictions)
        self._arm.tally.answered(self.rows, seconds)
        if self._shadowed is not None:
            self._shadowed()


class BatchItem:
    """The response to a small batch that is predicted together with others."""

    __slots__ = ("_answer", "_found")

    def __init__(self, answer: Callable[[np.ndarray | None], Answer]) -> None:
        self._answer = answer
        self._found: Answer | Exception | None = None

    def take(self, predictions: np.ndarray | None) -> tuple[bytes, int]:
        """See `Batch.take`."""
        try:
            self._found = answer = self._answer(predictions)
        except Exception as error:  # noqa: BLE001  the client gets it
            self._found = error
            return b"", 0
        return answer.lines, answer.rows

    def encode(self, request: Request) -> bytes:
        """See `PredictionResponse`."""
        if not isinstance(self._found, Answer):
            raise self._found or RuntimeError("this batch was not scored")
        return self._found.encode(request)

    def count(self, seconds: float) -> None:
        """See `PredictionResponse`."""
        if isinstance(self._found, Answer):
            self._found.count(seconds)


class Predictions:
    """Scores requests and records them, together with others where they are small.

    Args:
        recorder: the prediction log, or `Unrecorded()`.
        shadows: what scores for shadows.
        seconds: how long one request may take.
    """

    def __init__(self, recorder: Recorder, shadows: Shadows | None, seconds: float) -> None:
        self._recorder, self._shadows, self._seconds = recorder, shadows, seconds
        self._batcher = MicroBatcher(recorder, shadows, seconds=seconds)
        self._tables = TableProcess(seconds)
        self._table_threads = ThreadPoolExecutor(2, "tables")  # one is read while another is predicted
        self._reading = 0

    # ------------------------------------------------------------------------------------------- begun at once

    def begin_row(self, route: Route, request: Request, body: bytes) -> tuple[Row, CommitFuture]:
        """Check a row and add it to the batch that is being collected."""
        content_type = request.headers.get(CONTENT_TYPE, b"")
        if content_type != JSON_TYPE and media_type(content_type) != JSON:
            raise unsupported([JSON])
        arm = route.champion if route.challenger is None else route.choose(_entity(route, body))
        row = arm.loaded.predictor.schema.row(body)
        rows = self._batcher.add(route, arm, row, body, request.caller, request.started)
        return Row(rows, len(rows.rows) - 1), rows.committed

    def begin_batch(self, codec: Codec, route: Route, request: Request, body: bytes) -> tuple[BatchItem, CommitFuture]:
        """Check a small batch and let it be predicted together with others."""
        arm = route.champion if route.challenger is None else route.choose(None)
        raw = RawRequest(codec, route, request, body)
        decoded = codec.decode(raw, arm.loaded)
        item = BatchItem(partial(self._answer, raw, arm, decoded))
        return item, self._batcher.join(Batch(arm, decoded.checked, item.take))

    async def finish(self, request: Request, begun: tuple[PredictionResponse, CommitFuture]) -> Response:
        """The response to what was begun, as soon as it is recorded."""
        answer, committed = begun
        failure = await committed
        if failure is not None:
            raise unrecorded(failure)
        body = answer.encode(request)
        answer.count(time.perf_counter() - request.started)
        return Response(body, 200, *request.response_type)

    # ------------------------------------------------------------------------------------------- by itself

    async def answer(
        self, codec: Codec, route: Route, request: Request, body: bytes, *, explain: bool = False, table: bool = False
    ) -> Response:
        """The response to a body of any size: in a thread where it is large, a table, or to be explained."""
        raw = RawRequest(codec, route, request, body, explain, self._tables if table else None)
        if not table and len(body) <= INLINE_BODY and not explain:
            answer = self._scored(raw)
        else:  # a row's explanation takes milliseconds, a table whatever its bytes make of it
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await self._in_a_thread(raw)
            except TimeoutError:
                message = f"the answer took longer than {self._seconds:g} s; send smaller batches"
                raise Refused(503, "timeout", message) from None
        return await self.finish(request, (answer, self._batcher.record(answer.lines, answer.rows)))

    async def record(self, lines: bytes, count: int, table: str) -> None:
        """Record other lines than predictions.

        Raises:
            Refused: 503, they could not be recorded.
        """
        failure = await self._batcher.record(lines, count, table)
        if failure is not None:
            raise unrecorded(failure)

    async def _in_a_thread(self, raw: RawRequest) -> Answer:
        """Score outside of the event loop. Tables, which are read one at a time, wait apart from the others."""
        score_whole = partial(self._scored, raw, encoded=True)
        if raw.tables is None:
            return await asyncio.to_thread(score_whole)
        if self._reading >= MAX_TABLES:
            raise overloaded()
        self._reading += 1
        found = asyncio.get_running_loop().run_in_executor(self._table_threads, score_whole)
        try:
            return await found
        finally:
            self._reading -= 1

    def _scored(self, raw: RawRequest, *, encoded: bool = False) -> Answer:
        """A whole body, scored; by the champion where a challenger fails. `encoded`: as bytes, too."""
        route = raw.route
        arm = route.champion
        if route.challenger is not None:
            arm = route.choose(_entity(route, raw.body) if raw.codec.is_row else None)
        answer = self._answer(raw, arm, raw.codec.decode(raw, arm.loaded))
        if encoded:
            answer.encode(raw.request)
        return answer

    def _answer(
        self, raw: RawRequest, arm: Arm, decoded: DecodedRequest, predictions: np.ndarray | None = None
    ) -> Answer:
        """The answer of an arm to a checked body, or the champion's where a challenger fails."""
        route, checked = raw.route, decoded.checked
        try:
            scored = score(arm, checked, explain=raw.explain, predictions=predictions)
        except Exception as error:  # noqa: BLE001  sorted out here
            refused = refusal(error, arm, checked.path)
            if is_the_arms_fault(error):
                arm.tally.failed(1)
                if arm is not route.champion:
                    return self._scored(replace(raw, route=replace(route, challenger=None)))
            raise refused from None
        shadowed = None
        if route.shadow is not None and self._shadows is not None:
            shadowed = partial(self._shadows.score, route.shadow, checked.columns, scored.ids, self._recorder)
        return Answer(raw, arm, decoded, scored, shadowed)

    # ------------------------------------------------------------------------------------------- the end

    def count(self) -> None:
        """Count what was answered but a moment ago; before the process ends."""
        self._batcher.count()

    def close(self) -> None:
        """End the process that reads tables."""
        self._table_threads.shutdown(wait=False, cancel_futures=True)
        self._tables.close()


def unrecorded(failure: Exception) -> Refused:
    """What a request is refused with that could not be recorded: without its record no answer is given."""
    if isinstance(failure, Refused):
        return failure
    log.error("not recorded", exc_info=failure)
    return Refused(503, "not_recorded", "the prediction could not be recorded, so it is not given")


def is_table(content_type: bytes) -> bool:
    """Whether a body of this Content-Type is an Arrow stream or parquet."""
    return content_type != JSON_TYPE and (sent := media_type(content_type)) != JSON and sent in BATCH_TYPES


def media_type(content_type: bytes) -> str:
    """A Content-Type without its parameters."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def unsupported(accepted: list[str]) -> Refused:
    """What a body of another type is refused with."""
    return Refused(415, "unsupported_media_type", f"send the body as Content-Type: {' or '.join(accepted)}")


def _entity(route: Route, body: bytes) -> str | None:
    return route.champion.loaded.predictor.schema.entity_of(body)
