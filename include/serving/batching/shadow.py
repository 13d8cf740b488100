"""Scores for the shadows what others have answered: in the background, and at nobody's expense.

The event loop only lays down what it has computed anyway; a thread per shadow takes it in batches. What a shadow that
is slow, hangs or raises cannot do in time is dropped and counted: its queue is bounded, it rests as long as it worked,
and it lets the event loop in between small pieces. Its predictions have the ids of the answers that they stand beside.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from include.inference.schema import Columns
from include.serving.batching.micro_batcher import Recorder
from include.serving.batching.scoring import Scored, is_the_arms_fault, recorded
from include.serving.metrics.prometheus import Metrics
from include.serving.routing.route import Arm
from include.serving.versions.loader import Loaded

QUEUE_ROWS = 100_000
BATCH_ROWS = 256
"""Rows of one model call: what Python does for them holds the event loop up for a fraction of a millisecond."""
PIECE_ROWS = 64
"""Rows after which the event loop is let in, while predictions are written down."""
LINGER_SECONDS = 0.05
"""How long rows are collected; nobody waits for a shadow."""
IDLE_SECONDS = 5.0
"""After so long without a row the thread ends, and with it its hold on the model."""
STOP_SECONDS = 2.0
"""How long the end waits for a model call that is under way."""
FAILURES = 16
"""After so many failures the rest of a batch is dropped: looking for the culprits costs a call each."""

_Job = tuple[Columns, list[str]]

log = logging.getLogger("mlops.serving")


class Shadow:
    """Hands rows on to the shadows; used on the event loop.

    Args:
        queue_rows: how many rows may wait for each shadow.
    """

    def __init__(self, metrics: Metrics, queue_rows: int = QUEUE_ROWS) -> None:
        self._metrics, self._queue_rows = metrics, queue_rows
        self._scorers: dict[str, _Scorer] = {}

    def score(self, arm: Arm, columns: Columns, ids: list[str], log: Recorder) -> None:
        """Let a shadow score these rows later, or drop and count them; never waits, never raises.

        Args:
            columns: as the answering version's schema made them. A shadow that needs others fails on them.
            ids: of the answers, one a row.
            log: where its predictions are written.
        """
        scorer = self._scorers.get(arm.loaded.model)
        if scorer is None or not scorer.serves(arm):
            scorer = self._replace(scorer, arm, log)
        scorer.offer(columns, ids)

    def stop(self) -> None:
        """End the threads, which may take a moment; what still waits is dropped and counted."""
        for scorer in self._scorers.values():
            scorer.end()
        for scorer in self._scorers.values():
            scorer.thread.join(STOP_SECONDS)
        self._scorers = {}

    def _replace(self, before: _Scorer | None, arm: Arm, recorder: Recorder) -> _Scorer:
        if before is not None:
            before.end()
        dropped = self._metrics.shadow_dropped.labels(arm.loaded.model)
        self._scorers[arm.loaded.model] = scorer = _Scorer(arm, recorder, dropped, self._queue_rows)
        return scorer


class _Scorer:
    """One shadow's queue and thread."""

    def __init__(self, arm: Arm, recorder: Recorder, dropped: Any, limit: int) -> None:
        self._recorder, self._dropped, self._limit = recorder, dropped, limit
        self._loaded: Loaded | None = arm.loaded
        self._jobs: deque[_Job] = deque()
        self._rows = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(arm,), name=f"shadow-{arm.loaded.model}", daemon=True)
        self.thread.start()

    def serves(self, arm: Arm) -> bool:
        """Whether it goes on, and for this version."""
        return self._loaded is arm.loaded

    def offer(self, columns: Columns, ids: list[str]) -> None:
        """Lay rows down, or drop them."""
        with self._lock:
            if self._loaded and self._rows + len(ids) <= self._limit:
                self._rows += len(ids)
                self._jobs.append((columns, ids))
                return
        self._dropped.inc(len(ids))

    def end(self) -> None:
        """Take nothing more; a thread that hangs is left to itself."""
        with self._lock:
            self._loaded = None
            self._jobs.clear()
            rows, self._rows = self._rows, 0
        self._stop.set()
        if rows:
            self._dropped.inc(rows)

    def _run(self, arm: Arm) -> None:
        idle_since = time.monotonic()
        while not self._stop.is_set():
            started = time.monotonic()
            if jobs := self._take():
                idle_since = started
                self._score(arm, *_together(jobs))
            elif started - idle_since > IDLE_SECONDS and self._leave():
                return
            worked = time.monotonic() - started
            self._stop.wait(worked if self._jobs else max(worked, LINGER_SECONDS))

    def _leave(self) -> bool:
        with self._lock:
            if not self._jobs:
                self._loaded = None
            return not self._jobs

    def _take(self) -> list[_Job]:
        """What waits, as far as it makes one batch: no larger than is declared, unless one request is, and of the
        same columns."""
        taken: list[_Job] = []
        count = 0
        with self._lock:
            while self._jobs and (not taken or _fits(self._jobs[0], taken[0], count)):
                taken.append(self._jobs.popleft())
                count += len(taken[-1][1])
            self._rows -= count
        return taken

    def _score(self, arm: Arm, columns: Columns, ids: list[str]) -> None:
        """The first row alone, which says how long a request would take; the others at once."""
        started = time.perf_counter()
        failures = 0
        seconds: float | None = None
        waiting = [(0, 1), *((start, start + BATCH_ROWS) for start in range(1, len(ids), BATCH_ROWS))]
        waiting = [(start, min(end, len(ids))) for start, end in waiting]
        while waiting and failures < FAILURES and not self._stop.is_set():
            start, end = waiting.pop(0)
            try:
                part = {name: values[start:end] for name, values in columns.items()}
                predictions = arm.loaded.predictor.predict(part)
            except Exception as error:  # noqa: BLE001  a shadow's failure is counted, and is nobody else's
                if end - start > 1:
                    waiting[:0] = [(start, (start + end) // 2), ((start + end) // 2, end)]
                elif is_the_arms_fault(error):
                    failures += 1
                    _failed(arm, error, first=failures == 1)
            else:
                seconds = time.perf_counter() - started if seconds is None else seconds
                self._store(arm, ids[start:end], predictions, seconds)
        if waiting:
            self._dropped.inc(sum(end - start for start, end in waiting))

    def _store(self, arm: Arm, ids: list[str], predictions: np.ndarray, seconds: float) -> None:
        arm.tally.answered(len(ids), seconds)
        arm.tally.predicted(predictions)
        try:
            for piece in _pieces(len(ids)):
                outputs = arm.loaded.answers.outputs(predictions[piece])
                scored = Scored(ids[piece], predictions[piece], outputs, None)
                rows = len(scored.ids)
                callers: list[str | None] = [None] * rows
                inputs = [b"{}"] * rows  # they stand beside the answer of the same id
                lines = recorded(arm, scored, inputs, callers=callers, entities=None, seconds=seconds)
                self._recorder.append(lines, rows)
                time.sleep(0)
        except Exception:  # its predictions are counted all the same; the next are tried again
            log.exception("shadow not recorded", extra={"fields": {"model": arm.loaded.model}})


def _failed(arm: Arm, error: Exception, *, first: bool) -> None:
    arm.tally.failed(1)
    if first:
        fields = {"model": arm.loaded.model, "version": arm.loaded.version, "arm": arm.name}
        log.error("shadow failed", exc_info=error, extra={"fields": fields})


def _fits(job: _Job, first: _Job, count: int) -> bool:
    return count + len(job[1]) <= BATCH_ROWS and job[0].keys() == first[0].keys()


def _together(jobs: list[_Job]) -> _Job:
    if len(jobs) == 1:
        return jobs[0]
    columns = {name: np.concatenate([job[0][name] for job in jobs]) for name in jobs[0][0]}
    return columns, [prediction_id for _, ids in jobs for prediction_id in ids]


def _pieces(rows: int) -> Iterator[slice]:
    return (slice(start, start + PIECE_ROWS) for start in range(0, rows, PIECE_ROWS))
