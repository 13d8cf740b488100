"""The thread that makes segments ahead, closes those that are full, syncs where nothing waits for it, and measures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from include import alerting
from include.serving.prediction_log import segments
from include.serving.prediction_log.disk_writer import Writer, writer
from include.serving.prediction_log.log_metrics import LogMetrics
from include.serving.prediction_log.segment_reader import Backlog, SegmentReader, Written
from include.serving.prediction_log.segments import BLOCK, Position, SpoolDir
from include.serving.prediction_log.shipper import Shipper

SYNC_SECONDS = 1.0
"""Within which the policy `interval` brings everything to the disk; also how often the metrics are set."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An open file of the slot."""

    number: int
    descriptor: int
    size: int


class GroupCommit(Protocol):
    """What writes into the segments, on the event loop: include/serving/prediction_log/log.py."""

    at: Written
    """How far the slot was written; replaced as a whole, so other threads may read it."""

    @property
    def segment(self) -> Segment | None:
        """That is being written."""

    def written(self, error: OSError | None) -> None:
        """A write has ended."""

    def begin(self, made: Writer, number: int, rows: int) -> None:
        """The slot is there."""

    def take_next(self, segment: Segment) -> None:
        """The next segment is there."""

    def has_no_room(self, reason: str) -> None:
        """There will be no next segment for now."""

    def roll(self) -> None:
        """Go on in the next segment as soon as it is there: what this one has is to be deleted once it is copied."""


class SegmentKeeper:
    """Keeps the slot of a `GroupCommit`, whose methods it calls on the event loop.

    Args:
        commits: what writes.
        folder: the spool.
        fsync: the policy.
        quota: bytes that the folder may hold.
        metrics: what is measured.
        ship: makes the thread that copies the slot to PostgreSQL.
    """

    def __init__(
        self,
        commits: GroupCommit,
        folder: Path,
        fsync: Literal["always", "interval", "never"],
        quota: int,
        metrics: LogMetrics,
        ship: Callable[[SegmentReader], Shipper],
    ) -> None:
        self._commits, self._folder, self._fsync, self._quota = commits, folder, fsync, quota
        self._metrics, self._ship = metrics, ship
        self._slot: SpoolDir | None = None
        self._opener: Writer | None = None
        self._number = 1
        self._shipper: Shipper | None = None
        self.backlog = Backlog(0, 0, 0.0)
        """As it was within the last second."""
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Sizes of segments to make; None: nothing more will come."""
        self._retired: list[tuple[Segment, int]] = []
        """Segments that are full, and where their last frame ends."""

    # ------------------------------------------------------------------------------------------- for others

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="prediction-log-keeper", daemon=True)
        self._thread.start()

    def order(self, size: int) -> None:
        """Let a segment of so many bytes be made."""
        self._orders.put(size)

    def retire(self, segment: Segment, end: int) -> None:
        """Let a segment be closed whose last frame ends there."""
        self._retired.append((segment, end))

    @property
    def problem(self) -> str | None:
        """Why nothing is copied to PostgreSQL at the moment."""
        return self._shipper.problem if self._shipper else None

    def finish_shipping(self, seconds: float) -> None:
        """After the last write: copy what is there to PostgreSQL, if it answers in time."""
        if self._shipper is not None:
            self._shipper.finish(seconds)

    def stop(self, seconds: float) -> None:
        """End, when what was retired is closed."""
        self._orders.put(None)
        self._thread.join(seconds)

    def release(self) -> None:
        """Let the slot go."""
        if self._slot is not None:
            self._slot.release()

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        """Make segments ahead, close those that are full, sync where nobody waits for it, and say how it is."""
        order: int | None = None
        synced: Position | None = None
        ended = False
        while not ended:
            try:
                order, ended = self._next_order(order)
                self._close_retired()
                if self._slot is not None and self._slot.roll_requested():
                    self._on_loop(self._commits.roll)
                if order is not None and not ended:
                    self._make_segment(order)
                    order = None
                if self._fsync == "interval" and self._commits.at.position != synced:
                    synced = self._sync()
            except OSError as error:
                self._on_loop(self._commits.has_no_room, f"{error.strerror or error} ({self._folder})")
            self._measure()

    def _next_order(self, order: int | None) -> tuple[int | None, bool]:
        """The order to see to, an earlier one that failed or a new one, and whether all has ended."""
        try:
            came = self._orders.get(timeout=SYNC_SECONDS)
        except queue.Empty:
            return order, False
        return (order, True) if came is None else (came, False)

    def _make_segment(self, needed: int) -> None:
        slot = self._slot or self._take_slot()
        assert self._opener is not None  # noqa: S101  it comes with the slot
        size = -(-needed // BLOCK) * BLOCK
        path = segments.make_segment(slot, self._number, size, self._quota)
        segment = Segment(self._number, self._opener.open(path), size)
        self._number += 1
        self._on_loop(self._commits.take_next, segment)

    def _take_slot(self) -> SpoolDir:
        slot = segments.take_slot(self._folder)
        try:
            self._number, rows = slot.seal()
            self._opener = writer(slot.folder, self._fsync, self._commits.written)
        except OSError:
            slot.release()  # the next attempt takes it again, and not one more
            raise
        self._commits.at = Written(Position(self._number, 0), rows)  # nobody writes before there is a segment
        self._on_loop(self._commits.begin, self._opener, self._number, rows)
        own = SegmentReader(slot, lambda: self._commits.at, cached=self._opener.cached)
        self._shipper = self._ship(own)
        self._shipper.start()
        self._slot = slot
        return slot

    def _close_retired(self) -> None:
        while self._retired:
            segment, end = self._retired.pop(0)
            if self._fsync == "interval":
                os.fsync(segment.descriptor)
            os.ftruncate(segment.descriptor, end)
            os.close(segment.descriptor)

    def _sync(self) -> Position:
        position, segment = self._commits.at.position, self._commits.segment
        if segment is not None and segment.number == position.segment:
            os.fsync(segment.descriptor)
        return position

    def _measure(self) -> None:
        alerting.write_waiting()
        self.backlog = backlog = self._shipper.backlog() if self._shipper else Backlog(0, 0, 0.0)
        self._metrics.backlog_rows.set(backlog.rows)
        self._metrics.backlog_bytes.set(backlog.bytes)
        self._metrics.oldest.set(backlog.seconds)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without `stop`
            self._loop.call_soon_threadsafe(call, *arguments)
