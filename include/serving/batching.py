"""One turn of the event loop: the rows that arrived in it are answered by one model call and recorded by one write.

A server of many small requests spends its time between them: in the calls into NumPy, into the model, into the disk.
What arrives while the loop or the disk is busy is therefore answered together: each turn makes one matrix per arm, one
prediction, and one entry of the prediction log, which all its requests await as one future. Nobody waits for company: a
turn ends when the loop has run what was ready and the write before it is done, so a lone request is a turn of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from include.serving.requests import Refused
from include.serving.router import Arm, Route
from include.serving.scoring import is_the_arms_fault, recorded, refusal, score

LARGEST_TURN = 128
"""Rows after which a turn ends at once: one model call must stay far below a request's patience."""

_TOO_LATE = "the prediction could not be recorded in time, so it is not given"

Taker = Callable[["Rows", int, Exception | None], None]

log = logging.getLogger("mlops.serving")


class Recorder(Protocol):
    """What is used of the prediction log."""

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call on the loop when the write that is under way is done."""

    def commit(
        self, lines: bytes, rows: int, done: Callable[[Exception | None], None], table: str = "predictions"
    ) -> None:
        """Write whole lines; `done` is called on the loop when they are as safe as is declared."""

    def append(self, lines: bytes, rows: int, table: str = "predictions") -> None:
        """The same, and nobody waits."""

    def state(self) -> dict[str, Any]:
        """What /health tells of it."""


class Unrecorded:
    """No prediction log: a Bento that runs by itself has no database that it could be copied to."""

    writing = False

    def afterwards(self, call: Callable[[], None]) -> None:
        """Nothing is ever under way."""

    def commit(
        self, lines: bytes, rows: int, done: Callable[[Exception | None], None], table: str = "predictions"
    ) -> None:
        """Nothing is written."""
        done(None)

    def append(self, lines: bytes, rows: int, table: str = "predictions") -> None:
        """Nothing is written."""

    def state(self) -> dict[str, Any]:
        """Off."""
        return {"status": "off"}


class Shadows(Protocol):
    """Who scores for a shadow, beside the answers."""

    def score(self, arm: Arm, columns: Any, ids: list[str], log: Recorder) -> None:
        """Hand the rows on; never waits."""


class _Committed(asyncio.Future[Exception | None]):
    """What all requests of a turn await: one of them cannot cancel it for the others, and it ends in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        super().__init__(loop=loop)
        self.takers: list[tuple[Taker, Rows, int]] = []
        """Those who do not await it, but are called first."""
        self._late = loop.call_later(seconds, self.settle, Refused(503, "not_recorded", _TOO_LATE))

    def cancel(self, msg: Any | None = None) -> bool:
        """Not possible; a cancelled request ends when its turn has."""
        return False

    def settle(self, failure: Exception | None) -> None:
        """Let the requests go on; None: their predictions are recorded."""
        if self.done():
            return
        self._late.cancel()
        self.set_result(failure)
        for taker, rows, n in self.takers:
            try:
                taker(rows, n, failure)
            except Exception:  # one client's fault must not keep the others waiting
                log.exception("an answer was not taken")


class Rows:
    """The rows of one turn for one arm; afterwards an answer for each, or its refusal."""

    __slots__ = ("answered", "answers", "arm", "bodies", "callers", "committed", "route", "rows", "started")

    def __init__(self, route: Route, arm: Arm, committed: _Committed, started: float) -> None:
        self.route, self.arm, self.committed, self.started = route, arm, committed, started
        self.rows: list[Any] = []
        self.bodies: list[bytes] = []
        self.callers: list[str | None] = []
        self.answers: list[bytes | Exception] = []
        self.answered: dict[int, Arm] = {}
        """Rows that another arm answered, because this one could not."""

    def alone(self, n: int, arm: Arm, row: Any) -> Rows:
        """One of them by itself."""
        single = Rows(self.route, arm, self.committed, self.started)
        single.rows, single.bodies, single.callers = [row], [self.bodies[n]], [self.callers[n]]
        return single


class Turns:
    """Collects rows and lines, and ends each turn.

    Args:
        recorder: the prediction log.
        shadows: who scores for the shadows.
        seconds: how long a turn may take until it is recorded.
    """

    def __init__(self, recorder: Recorder, shadows: Shadows | None = None, *, seconds: float = 30.0) -> None:
        self._recorder, self._shadows, self._seconds = recorder, shadows, seconds
        self._arms: dict[int, Rows] = {}
        self._lines: list[bytes] = []
        self._count = 0
        self._committed: _Committed | None = None

    def add(
        self,
        route: Route,
        arm: Arm,
        row: Any,
        body: bytes,
        caller: str | None,
        started: float,
        taker: Taker | None = None,
    ) -> Rows:
        """Let a row be answered in this turn, as the last of the returned rows.

        Either await their `committed`, or have `taker` called with the rows, the row's number, and what they await.
        """
        committed = self._committed or self._begin()
        rows = self._arms.get(id(arm))
        if rows is None:
            rows = self._arms[id(arm)] = Rows(route, arm, committed, started)
        rows.rows.append(row)
        rows.bodies.append(body)
        rows.callers.append(caller)
        if taker is not None:
            committed.takers.append((taker, rows, len(rows.rows) - 1))
        if len(rows.rows) >= LARGEST_TURN:
            self._end()
        return rows

    async def record(self, lines: bytes, count: int, table: str = "predictions") -> None:
        """Record lines that were made elsewhere, predictions with this turn; returns when they are.

        Raises:
            Exception: what the prediction log says.
        """
        if table == "predictions":
            committed = self._committed or self._begin()
            self._lines.append(lines)
            self._count += count
        else:
            committed = _Committed(asyncio.get_running_loop(), self._seconds)
            self._recorder.commit(lines, count, committed.settle, table)
        failure = await committed
        if failure is not None:
            raise failure

    def _begin(self) -> _Committed:
        loop = asyncio.get_running_loop()
        self._committed = committed = _Committed(loop, self._seconds)
        if self._recorder.writing:  # the next write begins when this one is done: until then there may be company
            self._recorder.afterwards(lambda: self._end_of(committed))
        else:
            loop.call_soon(self._end_of, committed)
        return committed

    def _end_of(self, committed: _Committed) -> None:
        if self._committed is committed:  # else it was large, and has ended already
            self._end()

    def _end(self) -> None:
        arms, lines, count, committed = self._arms, self._lines, self._count, self._committed
        self._arms, self._lines, self._count, self._committed = {}, [], 0, None
        assert committed is not None  # noqa: S101  a turn that ends has begun
        try:
            for rows in arms.values():
                count += self._answer(rows, lines)
            if lines:
                self._recorder.commit(b"".join(lines), count, committed.settle)
            else:
                committed.settle(None)
        except Exception as error:  # whatever it is: requests are waiting
            log.exception("turn failed")
            committed.settle(refusal_of_turn(error))

    def _answer(self, rows: Rows, lines: list[bytes]) -> int:
        """Answer rows and write their lines; returns how many were predicted."""
        arm = rows.arm
        loaded = arm.loaded
        schema = loaded.predictor.schema
        try:
            checked = schema.columns(rows.rows, batch=False)
            scored = score(arm, checked)
        except Exception as error:  # noqa: BLE001  one row's fault must not become the others'
            return self._answer_alone(rows, error, lines)
        more = scored.more
        tell = loaded.answers.row
        if more is None:
            rows.answers = [tell(i, output, None) for i, output in zip(scored.ids, scored.outputs, strict=True)]
        else:
            rows.answers = [tell(i, o, m) for i, o, m in zip(scored.ids, scored.outputs, more, strict=True)]
        lines.append(
            recorded(
                arm,
                scored,
                schema.inputs_json(rows.rows, loaded.logged),
                callers=rows.callers,
                entities=checked.entities,
                seconds=time.perf_counter() - rows.started,
            )
        )
        arm.tally.predicted(scored.predictions)
        if rows.route.shadow is not None and self._shadows is not None:
            self._shadows.score(rows.route.shadow, checked.columns, scored.ids, self._recorder)
        return len(scored.ids)

    def _answer_alone(self, rows: Rows, error: Exception, lines: list[bytes]) -> int:
        """After a failure: each row by itself; and what a challenger cannot answer, the champion does."""
        champion = rows.route.champion
        if len(rows.rows) > 1:
            count = 0
            for n, row in enumerate(rows.rows):
                single = rows.alone(n, rows.arm, row)
                count += self._answer(single, lines)
                rows.answers.append(single.answers[0])
                if single.answered:
                    rows.answered[n] = single.answered[0]
            return count
        if is_the_arms_fault(error):
            rows.arm.tally.failed(1)
            if rows.arm is not champion:
                refusal(error, rows.arm)  # for the log
                try:
                    single = rows.alone(0, champion, champion.loaded.predictor.schema.row(rows.bodies[0]))
                except Refused as refused:
                    rows.answers = [refused]
                    return 0
                count = self._answer(single, lines)
                rows.answers, rows.answered = single.answers, {0: champion}
                return count
        rows.answers = [refusal(error, rows.arm)]
        return 0


def refusal_of_turn(error: Exception) -> Refused:
    """What the requests of a turn are told that could not be recorded."""
    if isinstance(error, Refused):
        return error
    return Refused(500, "internal", "the service failed to answer this request; its log says why")
