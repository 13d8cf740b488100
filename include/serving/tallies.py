"""What each arm did: counted on the hot path in plain lists, told once a second to Prometheus and to PostgreSQL.

Prometheus's values live in memory-mapped files and cost more than a microsecond each; a tally's cost a third of one.
A reporter thread takes each tally's window every second. While a rollout runs, it becomes a row of arm_windows too,
from which the controller decides, and those of a minute become a row of service_minutes; the thread that follows the
ledger writes them, so that nothing here ever waits for PostgreSQL. While that is away the rows are kept for a time, and
then given up.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from include.serving.metrics import Metrics
    from include.serving.router import Limits

LATENCY_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper bounds of the buckets of `arm_windows.latencies`; one bucket more is open above."""
FINER_MS = (0.25, 0.5)
"""Buckets below those, for Prometheus alone: most answers take less than a millisecond."""
BUCKETS_SECONDS = tuple(ms / 1000 for ms in (*FINER_MS, *LATENCY_MS))
RECENT_SECONDS = 60.0
"""What /models tells about, and what a champion's recent window is; a tried version's is declared."""
KEPT_SECONDS = 120
"""How long rows of arm_windows wait for PostgreSQL: the controller looks at no older ones."""
KEPT_MINUTES = 1440
"""How many minutes of arms wait for PostgreSQL: a day of one arm."""
LATE_SECONDS = 5.0
"""So long after its end a minute is complete: the last window of it has been taken."""
_ARRAYS = 512
"""Predictions of so many turns are put into their bins at once."""

log = logging.getLogger("mlops.serving")


def p99_ms(latencies: Sequence[int]) -> float:
    """The 99th percentile of counts in the buckets of LATENCY_MS, interpolated within its bucket.

    0 without any; infinite in the open bucket, of which only the lower bound is known.
    """
    rank, below = 0.99 * sum(latencies), 0
    for n, count in enumerate(latencies):
        if count and below + count >= rank:
            if n == len(LATENCY_MS):
                return math.inf
            lower = LATENCY_MS[n - 1] if n else 0
            return lower + (LATENCY_MS[n] - lower) * (rank - below) / count
        below += count
    return 0.0


@dataclass(frozen=True)
class Watch:
    """A running rollout's interest in an arm.

    Args:
        reports: rollout id → the arm's name in its rows.
        edges: the inner edges of the bins of predictions, which all arms of a rollout share.
    """

    reports: tuple[tuple[int, str], ...]
    edges: tuple[float, ...]


@dataclass(slots=True)
class Window:
    """What an arm did since the last time it was asked."""

    watch: Watch | None = None
    latencies: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    seconds: float = 0.0
    errors: int = 0
    rows: int = 0
    arrays: list[np.ndarray] = field(default_factory=list)
    binned: np.ndarray | None = None
    unusual: dict[tuple[str, str], int] = field(default_factory=dict)
    """(A warning's code, the field) → values that were answered with it."""

    @property
    def requests(self) -> int:
        """All requests, those that failed too."""
        return sum(self.latencies) + self.errors

    @property
    def latencies_ms(self) -> list[int]:
        """The counts in the buckets of LATENCY_MS."""
        finer = len(FINER_MS)
        return [sum(self.latencies[: finer + 1]), *self.latencies[finer + 1 :]]

    def predictions(self) -> list[int]:
        """The counts of predictions in the watch's bins; of probabilities it is the last class's."""
        self.fold()
        return [] if self.watch is None or self.binned is None else [int(count) for count in self.binned]

    def fold(self) -> None:
        """Put the predictions that came as arrays into their bins."""
        if self.watch is None or not self.arrays:
            return
        values = np.concatenate([a if a.ndim == 1 else a[:, -1] for a in self.arrays])
        self.arrays.clear()
        places = np.searchsorted(self.watch.edges, values, side="right")
        counts = np.bincount(places, minlength=len(self.watch.edges) + 1)
        self.binned = counts if self.binned is None else self.binned + counts


class Recent:
    """The sum of the windows of the last seconds; used by the reporter's thread alone."""

    def __init__(self, seconds: float = RECENT_SECONDS) -> None:
        self._seconds = seconds
        self._windows: deque[tuple[float, int, int, list[int]]] = deque()
        self.requests = self.errors = 0
        self.latencies = [0] * (len(LATENCY_MS) + 1)

    @property
    def p99_ms(self) -> float:
        """See the function of this name."""
        return p99_ms(self.latencies)

    def add(self, window: Window, now: float) -> None:
        """One more window, which ended at `now` (monotonic); those that have become too old leave."""
        if window.requests:
            self._windows.append((now, window.requests, window.errors, window.latencies_ms))
            self._count(window.requests, window.errors, window.latencies_ms, 1)
        while self._windows and self._windows[0][0] <= now - self._seconds:
            _, requests, errors, latencies = self._windows.popleft()
            self._count(requests, errors, latencies, -1)

    def _count(self, requests: int, errors: int, latencies: list[int], sign: int) -> None:
        self.requests += sign * requests
        self.errors += sign * errors
        self.latencies = [a + sign * b for a, b in zip(self.latencies, latencies, strict=True)]


class Tally:
    """Counts what one arm does. Any thread may call it; nothing in it waits.

    Args:
        limits: of a tried version, for the breaker; None for a champion.
    """

    __slots__ = ("_lock", "_watch", "_window", "arm", "brief", "limits", "model", "recent", "version")

    def __init__(self, model: str, arm: str, version: int, limits: Limits | None = None) -> None:
        self.model, self.arm, self.version, self.limits = model, arm, version, limits
        self.recent = Recent(limits.window_seconds if limits else RECENT_SECONDS)
        self.brief: dict[str, Any] = {"requests": 0, "errors": 0, "p99_ms": 0.0}
        """Of the recent window, for /models."""
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._window = Window()

    def answered(self, count: int, seconds: float) -> None:
        """So many requests were answered, each after `seconds`."""
        with self._lock:
            window = self._window
            window.seconds += count * seconds
            window.latencies[bisect_left(BUCKETS_SECONDS, seconds)] += count

    def failed(self, count: int) -> None:
        """So many requests the arm could not answer; that somebody else then did is no excuse."""
        with self._lock:
            self._window.errors += count

    def predicted(self, predictions: np.ndarray) -> None:
        """What it predicted, one entry a row; kept for a second, and only while a rollout watches the arm."""
        with self._lock:
            window = self._window
            window.rows += len(predictions)
            if window.watch is not None:
                window.arrays.append(predictions)
                if len(window.arrays) >= _ARRAYS:
                    window.fold()

    def warned(self, unusual: Mapping[tuple[str, str], int]) -> None:
        """So many values of fields were answered with a warning; see `Checked.unusual`."""
        with self._lock:
            counts = self._window.unusual
            for kind, values in unusual.items():
                counts[kind] = counts.get(kind, 0) + values

    def watch(self, watch: Watch | None) -> None:
        """Begin to count for these rollouts, or cease to."""
        with self._lock:
            window, before = self._window, self._watch
            self._watch = window.watch = watch
            if before is None or watch is None or before.edges != watch.edges:
                window.arrays.clear()
                window.binned = None

    def take(self) -> Window:
        """What was counted since the last time."""
        with self._lock:
            window, self._window = self._window, Window(self._watch)
        return window


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

    def add(self, window: Window) -> None:
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

    def __init__(self, metrics: Metrics, judge: Callable[[Tally], None], seconds: float = 1.0) -> None:
        self._metrics, self._judge, self._seconds = metrics, judge, seconds
        self._tallies: list[Tally] = []
        self._leaving: list[tuple[float, Tally]] = []
        self._rows: deque[_Row] = deque()
        self._last: dict[tuple[int, str, int], int] = {}
        self._minutes: dict[tuple[str, str, int, int], _Minute] = {}
        self._clock = time.time() - time.monotonic()
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = threading.Event()
        self._turn, self._waiting = threading.Lock(), threading.Lock()
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

    def follow(self, tallies: Iterable[Tally]) -> None:
        """Empty these from now on; others a last time when the requests that may still use them have ended."""
        kept = list(tallies)
        with self._turn:
            now = time.monotonic()
            self._leaving += [(now + RECENT_SECONDS, tally) for tally in self._tallies if tally not in kept]
            self._tallies = kept

    def flush(self) -> None:
        """Empty all tallies once."""
        with self._turn:
            now = time.monotonic()
            for tally in [*self._tallies, *(tally for _, tally in self._leaving)]:
                self._tell(tally, now)
            self._leaving = [(until, tally) for until, tally in self._leaving if until > now]
            tallies = self._tallies
        for tally in tallies:
            self._judge(tally)

    def pending(self, clock: float) -> list[tuple[Any, ...]]:
        """The rows that wait to be written, for `Ledger.report`; `clock` is `Wanted.clock`.

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
            self._last = {key: second for key, second in self._last.items() if second > newest - KEPT_SECONDS}

    def minutes(self, clock: float) -> list[tuple[Any, ...]]:
        """The rows of service_minutes that are complete, for `Ledger.report_minutes`; all of them after `stop`."""
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

    def _tell(self, tally: Tally, now: float) -> None:
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
                while len(self._minutes) > KEPT_MINUTES:
                    del self._minutes[next(iter(self._minutes))]
                    self._metrics.windows_lost.inc()
        if window.requests and window.watch is not None:
            counts = (window.requests, window.errors, window.latencies_ms, window.predictions())
            rows = [_Row(now, (rollout_id, arm, tally.version), counts) for rollout_id, arm in window.watch.reports]
            with self._waiting:
                self._rows.extend(rows)
        with self._waiting:
            while self._rows and self._rows[0].ended < now - KEPT_SECONDS:
                self._rows.popleft()
                self._metrics.windows_lost.inc()
