"""The thread that empties the arms' counters once a second, to Prometheus and to PostgreSQL."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.serving.metrics.counters import LATENCY_MS, RECENT_SECONDS, ArmCounters, Snapshot

if TYPE_CHECKING:
    from include.serving.metrics.prometheus import Metrics

RETAINED_SECONDS = 120
"""How long rows of arm_windows wait for PostgreSQL: the controller looks at no older ones."""


RETAINED_MINUTES = 1440
"""How many minutes of arms wait for PostgreSQL: a day of one arm."""


LATE_SECONDS = 5.0
"""So long after its end a minute is complete: the last window of it has been taken."""


log = logging.getLogger("mlops.serving")


@dataclass(slots=True)
class _Row:
    """A row of arm_windows that waits to be written."""

    ended: float
    key: tuple[int, str, int]
    counts: tuple[int, int, list[int], list[int]]
    second: int | None = None


@dataclass(slots=True)
class _Minute:
    """What an arm did in a minute, as far as it has come."""

    requests: int = 0
    errors: int = 0
    rows: int = 0
    seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_MS) + 1))

    def add(self, window: Snapshot) -> None:
        """One more window of it."""
        self.requests += window.requests
        self.errors += window.errors
        self.rows += window.rows
        self.seconds += window.seconds
        self.latencies = [a + b for a, b in zip(self.latencies, window.latencies_ms, strict=True)]


class Reporter:
    """The thread that empties the tallies once a second.

    Args:
        metrics: where the counts go.
        judge: told of each tally after its recent window was brought up to date.
        seconds: from one time to the next.
    """

    def __init__(self, metrics: Metrics, judge: Callable[[ArmCounters], None], seconds: float = 1.0) -> None:
        self._metrics, self._judge, self._seconds = metrics, judge, seconds
        self._tallies: list[ArmCounters] = []
        self._leaving: list[tuple[float, ArmCounters]] = []
        self._rows: deque[_Row] = deque()
        self._last: dict[tuple[int, str, int], int] = {}
        self._minutes: dict[tuple[str, str, int, int], _Minute] = {}
        self._clock = time.time() - time.monotonic()
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = threading.Event()
        self._lock, self._waiting = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._thread = threading.Thread(target=self._run, name="report-tallies", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, after a last time."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)
        self.flush()

    def follow(self, tallies: Iterable[ArmCounters]) -> None:
        """Empty these from now on; others a last time when the requests that may still use them have ended."""
        watched = list(tallies)
        with self._lock:
            now = time.monotonic()
            self._leaving += [(now + RECENT_SECONDS, tally) for tally in self._tallies if tally not in watched]
            self._tallies = watched

    def flush(self) -> None:
        """Empty all tallies once."""
        with self._lock:
            now = time.monotonic()
            for tally in [*self._tallies, *(tally for _, tally in self._leaving)]:
                self._report(tally, now)
            self._leaving = [(until, tally) for until, tally in self._leaving if until > now]
            tallies = self._tallies
        for tally in tallies:
            self._judge(tally)

    def pending(self, clock: float) -> list[tuple[Any, ...]]:
        """The rows that wait to be written, for `LedgerReader.report`; `clock` is `DesiredState.clock`.

        A row keeps the second that it is given here, so that a row which is offered twice is written once. Seconds
        only grow: of two windows that end in one second the later gets the next.
        """
        with self._waiting:
            for row in self._rows:
                if row.second is None:
                    row.second = max(int(row.ended + clock), self._last.get(row.key, 0) + 1)
                    self._last[row.key] = row.second
            return [(self._worker, *row.key, row.second, *row.counts) for row in self._rows]

    def written(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """These of the pending rows are in PostgreSQL."""
        done = {row[1:5] for row in rows}
        with self._waiting:
            self._rows = deque(row for row in self._rows if (*row.key, row.second) not in done)
            newest = max(self._last.values(), default=0)
            self._last = {key: second for key, second in self._last.items() if second > newest - RETAINED_SECONDS}

    def minutes(self, clock: float) -> list[tuple[Any, ...]]:
        """The complete rows of service_minutes, for `LedgerReader.report_minutes`; all of them after `stop`."""
        with self._waiting:
            self._clock = clock
            until = math.inf if self._stop.is_set() else (time.monotonic() + clock - LATE_SECONDS) // 60
            return [
                (self._worker, *key[:3], 60 * key[3], m.requests, m.errors, m.rows, m.seconds, m.latencies)
                for key, m in self._minutes.items()
                if key[3] < until
            ]

    def minutes_written(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """These of the minutes are in PostgreSQL."""
        with self._waiting:
            for row in rows:
                self._minutes.pop((*row[1:4], row[4] // 60), None)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._seconds, time.monotonic())
            if self._stop.wait(due - time.monotonic()):
                return
            try:
                self.flush()
            except Exception:  # whatever it is: what is counted next second must be told all the same
                log.exception("tallies not told")

    def _report(self, tally: ArmCounters, now: float) -> None:
        window = tally.take()
        tally.recent.add(window, now)
        p99 = tally.recent.p99_ms
        tally.brief = {
            "requests": tally.recent.requests,
            "errors": tally.recent.errors,
            "p99_ms": round(p99, 2) if math.isfinite(p99) else None,
        }
        if window.requests or window.rows:
            self._metrics.count(tally.model, tally.arm, window)
        if window.requests or window.rows:
            with self._waiting:
                key = (tally.model, tally.arm, tally.version, int((now + self._clock) // 60))
                self._minutes.setdefault(key, _Minute()).add(window)
                while len(self._minutes) > RETAINED_MINUTES:
                    del self._minutes[next(iter(self._minutes))]
                    self._metrics.windows_lost.inc()
        if window.requests and window.watch is not None:
            counts = (window.requests, window.errors, window.latencies_ms, window.predictions())
            rows = [_Row(now, (rollout_id, arm, tally.version), counts) for rollout_id, arm in window.watch.reports]
            with self._waiting:
                self._rows.extend(rows)
        with self._waiting:
            while self._rows and self._rows[0].ended < now - RETAINED_SECONDS:
                self._rows.popleft()
                self._metrics.windows_lost.inc()
