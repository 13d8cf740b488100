"""One turn of the event loop: the rows that arrived in it are answered by one model call and recorded by one write.

A server of many small requests spends its time between them: in the calls into NumPy, into the model, into the disk.
What arrives while the loop or the disk is busy is therefore answered together: each turn makes one matrix per arm, one
prediction, and one entry of the prediction log, for which all its requests wait. Small batches join it, too. A turn
ends when the write before it is done, its answers have left, and a look at who asks finds nobody new: so all who ask
again at once share the next write, and a lone request, for which no look finds company, is a turn of its own. While the
disk writes, what the write did not need is done: answers are made ready, and those of the turn before are counted and
noted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from include.inference.errors import Refused
from include.inference.schema import Checked
from include.serving.batching.scoring import Scored, is_the_arms_fault, recorded, refusal, score
from include.serving.routing.route import Arm, Route

LARGEST_BATCH = 128
"""Requests of one row after which a turn ends at once: one model call must stay far below a request's patience."""
MAX_IDLE_CHECKS = 8
"""How often the loop looks at who asks, each time because somebody new has come, before a turn ends all the same."""
COUNT_SECONDS = 0.01
"""How late an answer is counted and noted where no other follows."""
LARGEST_BATCHES = 1024
"""The same for the rows of batches, of which a hundred take a tenth of what a hundred requests take."""

log = logging.getLogger("mlops.serving")


class Recorder(Protocol):
    """What is used of the prediction log."""

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""

    def afterwards(self, call: Callable[[], object]) -> None:
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

    def afterwards(self, call: Callable[[], object]) -> None:
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


class Waiting(Protocol):
    """A request that waits for its turn to be recorded."""

    def prepare(self) -> None:
        """Make the answer ready, while the disk writes."""

    def resolve(self, failure: Exception | None) -> None:
        """Send it; or, where the turn could not be recorded, the reason."""

    def count(self) -> None:
        """Count it, some time after it was told."""


class CommitFuture:
    """What all requests of a turn wait for: it ends in time, and one that is cancelled takes no other with it."""

    __slots__ = ("_failure", "_late", "_loop", "_on_resolved", "_ready", "_settled", "_waiting")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, resolved: Callable[[list[Waiting]], object] = len
    ) -> None:
        self._loop, self._on_resolved = loop, resolved
        self._waiting: list[Waiting] = []
        self._ready = self._settled = False
        self._failure: Exception | None = None
        self._late = loop.call_later(seconds, self._too_late)

    def then(self, waiting: Waiting) -> None:
        """Have it told when the predictions are recorded, or why they are not; at once when that is known."""
        if self._settled and (self._ready or self._failure is not None):
            waiting.resolve(self._failure)
        else:
            self._waiting.append(waiting)

    def __await__(self) -> Generator[Any, None, Exception | None]:
        """The same as a result."""
        waiting = _Awaiting(self._loop.create_future())
        self.then(waiting)
        return waiting.resolved.__await__()

    def prepare(self) -> None:
        """There are answers: make them ready, and tell those that are recorded already."""
        self._ready = True
        if self._settled:
            self._resolve()
            return
        for waiting in self._waiting:
            try:
                waiting.prepare()
            except Exception:  # what is wrong is told, and written to the log, when it is recorded
                log.debug("an answer was not prepared", exc_info=True)

    def settle(self, failure: Exception | None) -> None:
        """Let the requests go on, as soon as there are answers; None: their predictions are recorded."""
        if self._settled:
            return
        self._late.cancel()
        self._settled, self._failure = True, failure
        if self._ready or failure is not None:
            self._resolve()

    def _resolve(self) -> None:
        resolved, self._waiting = self._waiting, []
        for waiting in resolved:
            try:
                waiting.resolve(self._failure)
            except Exception:  # one request's fault must not keep the others waiting
                log.exception("an answer was not taken")
        self._on_resolved(resolved)

    def _too_late(self) -> None:
        self.settle(Refused(503, "not_recorded", "the prediction could not be recorded in time, so it is not given"))


@dataclass(slots=True)
class _Awaiting:
    resolved: asyncio.Future[Exception | None]

    def prepare(self) -> None:
        """Whoever awaits it makes its answer afterwards."""

    def resolve(self, failure: Exception | None) -> None:
        """Unless nobody awaits it any more."""
        if not self.resolved.done():
            self.resolved.set_result(failure)

    def count(self) -> None:
        """Whoever awaits it does."""


class Rows:
    """The rows of one turn for one arm; afterwards an answer for each, or its refusal."""

    __slots__ = ("answered", "answers", "arm", "bodies", "callers", "committed", "route", "rows", "started")

    def __init__(self, route: Route, arm: Arm, committed: CommitFuture, started: float) -> None:
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


@dataclass(slots=True)
class Batch:
    """A checked batch in a turn."""

    arm: Arm
    checked: Checked
    take: Callable[[np.ndarray | None], tuple[bytes, int]]
    """Gets its predictions and returns its lines with their number; None: they could not be made with the others'."""


class MicroBatcher:
    """Collects rows and lines, and ends each turn.

    Args:
        recorder: the prediction log.
        shadows: who scores for the shadows.
        seconds: how long a turn may take until it is recorded.
    """

    def __init__(self, recorder: Recorder, shadows: Shadows | None = None, *, seconds: float = 30.0) -> None:
        self._recorder, self._shadows, self._seconds = recorder, shadows, seconds
        self._arms: dict[int, Rows] = {}
        self._batches: list[Batch] = []
        self._batched = 0
        self._lines: list[bytes] = []
        self._count = 0
        self._later: list[Callable[[], object]] = []
        """What is done while the disk writes."""
        self._committed: CommitFuture | None = None
        self._uncounted: list[Waiting] = []

    def add(self, route: Route, arm: Arm, row: Any, body: bytes, caller: str | None, started: float) -> Rows:
        """Let a row be answered in this turn, as the last of the returned rows, when they are `committed`."""
        committed = self._committed or self._begin()
        rows = self._arms.get(id(arm))
        if rows is None:
            rows = self._arms[id(arm)] = Rows(route, arm, committed, started)
        rows.rows.append(row)
        rows.bodies.append(body)
        rows.callers.append(caller)
        if len(rows.rows) >= LARGEST_BATCH:
            self._end()
        return rows

    def join(self, batch: Batch) -> CommitFuture:
        """Let a batch be answered in this turn."""
        committed = self._committed or self._begin()
        self._batches.append(batch)
        self._batched += batch.checked.count
        if self._batched >= LARGEST_BATCHES:
            self._end()
        return committed

    def record(self, lines: bytes, count: int, table: str = "predictions") -> CommitFuture:
        """Record lines that were made elsewhere, predictions with this turn."""
        if table == "predictions":
            committed = self._committed or self._begin()
            self._lines.append(lines)
            self._count += count
        else:
            committed = CommitFuture(asyncio.get_running_loop(), self._seconds)
            committed.prepare()
            self._recorder.commit(lines, count, committed.settle, table)
        return committed

    def _begin(self) -> CommitFuture:
        loop = asyncio.get_running_loop()
        self._committed = committed = CommitFuture(loop, self._seconds, self._count_later)
        if self._recorder.writing:  # the next write begins when this one is done: its answers leave first, and whoever
            self._recorder.afterwards(partial(self._wait_for_more, committed))  # asks again at once is company
        else:
            self._wait_for_more(committed)
        return committed

    def _wait_for_more(self, committed: CommitFuture, known: int = 1, checks: int = MAX_IDLE_CHECKS) -> None:
        """Let the loop look at who asks; end the turn if nobody came who was not `known`, or it was the last look."""
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._check_for_more, committed, known, checks - 1)

    def _check_for_more(self, committed: CommitFuture, known: int, checks: int) -> None:
        if self._committed is not committed:  # it was large, and has ended already
            return
        waiting_rows = sum(len(rows.rows) for rows in self._arms.values()) + len(self._batches) + len(self._lines)
        if checks and waiting_rows > known:
            self._wait_for_more(committed, waiting_rows, checks)
        else:
            self._end()

    def _count_later(self, resolved: list[Waiting]) -> None:
        if not self._uncounted:
            asyncio.get_running_loop().call_later(COUNT_SECONDS, self.count)
        self._uncounted += resolved

    def count(self) -> None:
        """Count whoever was told: when the next write has begun, or soon, or when all ends."""
        resolved, self._uncounted = self._uncounted, []
        for waiting in resolved:
            try:
                waiting.count()
            except Exception:
                log.exception("an answer was not counted")

    def _end(self) -> None:
        arms, lines, count, committed = self._arms, self._lines, self._count, self._committed
        self._arms, self._lines, self._count, self._committed = {}, [], 0, None
        batches, self._batches, self._batched = self._batches, [], 0
        assert committed is not None  # noqa: S101  a turn that ends has begun
        try:
            for rows in arms.values():
                count += self._answer(rows, lines)
            for batch, predictions in zip(batches, _predicted(batches), strict=True):
                written, number = batch.take(predictions)
                lines.append(written)
                count += number
            if count:
                self._recorder.commit(b"".join(lines), count, committed.settle)
            else:
                committed.settle(None)
            later, self._later = self._later, []
            for call in later:
                call()
            committed.prepare()
            self.count()
        except Exception as error:  # whatever it is: requests are waiting
            self._later = []
            log.exception("turn failed")
            committed.settle(refusal_of_batch(error))

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
        self._later.append(partial(self._on_resolved, rows, checked, scored))
        return len(scored.ids)

    def _on_resolved(self, rows: Rows, checked: Checked, scored: Scored) -> None:
        """What need not be done before the write begins."""
        arm, route = rows.arm, rows.route
        more = scored.more or [None] * len(scored.ids)
        rows.answers += map(arm.loaded.answers.row, scored.ids, scored.outputs, more)
        arm.tally.predicted(scored.predictions)
        if route.shadow is not None and self._shadows is not None:
            self._shadows.score(route.shadow, checked.columns, scored.ids, self._recorder)

    def _answer_alone(self, rows: Rows, error: Exception, lines: list[bytes]) -> int:
        """After a failure: each row by itself; and what a challenger cannot answer, the champion does."""
        champion = rows.route.champion
        if len(rows.rows) > 1:
            count = 0
            for n, row in enumerate(rows.rows):
                single = rows.alone(n, rows.arm, row)
                count += self._answer(single, lines)
                self._later.append(partial(rows.answers.extend, single.answers))
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


def _predicted(batches: Sequence[Batch]) -> Sequence[np.ndarray | None]:
    """The predictions of each batch; those of one arm are made together."""
    found: list[np.ndarray | None] = [None] * len(batches)
    for arm in {id(batch.arm): batch.arm for batch in batches}.values():
        mine = [n for n, batch in enumerate(batches) if batch.arm is arm]
        if len(mine) == 1:  # whatever is wrong with it, it is told best by itself
            continue
        columns = [batches[n].checked.columns for n in mine]
        together = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
        try:
            predictions = arm.loaded.predictor.predict(together)
        except Exception:  # noqa: BLE001, S112  one batch's fault must not become the others'
            continue
        ends = np.cumsum([batches[n].checked.count for n in mine])[:-1]
        for n, part in zip(mine, np.split(predictions, ends), strict=True):
            found[n] = part
    return found


def refusal_of_batch(error: Exception) -> Refused:
    """What the requests of a turn are told that could not be recorded."""
    if isinstance(error, Refused):
        return error
    return Refused(500, "internal", "the service failed to answer this request; its log says why")
