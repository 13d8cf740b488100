"""What each arm did: counted on the hot path in plain lists, told once a second to Prometheus and to PostgreSQL.

Prometheus's values live in memory-mapped files and cost more than a microsecond each; a tally's cost a third of one.
A reporter thread takes each tally's window every second. While a rollout runs, it becomes a row of arm_windows too,
from which the controller decides, and those of a minute become a row of service_minutes; the thread that follows the
ledger writes them, so that nothing here ever waits for PostgreSQL. While that is away the rows are kept for a time, and
then given up.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from include.serving.metrics.limits import Limits

LATENCY_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper bounds of the buckets of `arm_windows.latencies`; one bucket more is open above."""
FINER_MS = (0.25, 0.5)
"""Buckets below those, for Prometheus alone: most answers take less than a millisecond."""
BUCKETS_SECONDS = tuple(ms / 1000 for ms in (*FINER_MS, *LATENCY_MS))
RECENT_SECONDS = 60.0
"""What /models tells about, and what a champion's recent window is; a tried version's is declared."""
_ARRAYS = 512
"""Predictions of so many turns are put into their bins at once."""


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
class Snapshot:
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

    def add(self, window: Snapshot, now: float) -> None:
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


class ArmCounters:
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
        self._window = Snapshot()

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

    def take(self) -> Snapshot:
        """What was counted since the last time."""
        with self._lock:
            window, self._window = self._window, Snapshot(self._watch)
        return window
