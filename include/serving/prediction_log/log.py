"""The prediction log: a prediction is on local disk before its answer leaves, and in PostgreSQL soon after, once.

The event loop hands over whole lines of COPY text, at most once a turn; while one group is being written the next one
gathers, so that many requests share one write. A thread makes segments ahead (segment_keeper.py), another copies frames
to PostgreSQL (shipper.py). What the disk and the frames look like is in segments.py.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry

from include import alerting
from include.inference.errors import Refused
from include.serving.prediction_log import segments
from include.serving.prediction_log.disk_writer import Writer
from include.serving.prediction_log.log_metrics import LogMetrics
from include.serving.prediction_log.segment_keeper import Segment, SegmentKeeper
from include.serving.prediction_log.segment_reader import SegmentReader, Written
from include.serving.prediction_log.segments import BLOCK, HEADER, Position
from include.serving.prediction_log.shipper import Shipper

SEGMENT_BYTES = 8 * 1024**2
"""Of a segment, unless the quota is small."""
PENDING_BYTES = 64 * 1024**2
"""What may wait for the disk in memory."""
STOP_SECONDS = 4.0
"""For the last copy to PostgreSQL when the service ends; what is left then is copied by the next worker."""
ALARM_SECONDS = 60.0
"""Losses are told of at most so often."""

log = logging.getLogger("mlops.serving")

Done = Callable[[Exception | None], None]


class LogFull(Refused):
    """The prediction cannot be recorded, and where `when_full` is `refuse` it is therefore not answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(503, "not_recorded", f"the prediction log takes nothing: {reason}", retry_after=5)


class _Entry(NamedTuple):
    lines: bytes
    rows: int
    table: str
    done: Done


class PredictionLog:
    """Group commit to a slot of the spool, on the event loop.

    Over 200 lines: what is pending, what is being written and the segment are one state, which every step changes.

    Args:
        folder: the spool; workers on one machine share it.
        database_url: the platform's PostgreSQL; empty: nothing is copied, and the spool fills.
        fsync: when `done` is called. `always`: it is on disk; `interval`: at once, on disk within a second; `never`.
        spool_megabytes: what the folder may hold.
        when_full: `count`: answer, count and alert; `refuse`: fail with `LogFull`.
        registry: of the metrics.
        home: below which alerts are written; None: only to the log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        fsync: Literal["always", "interval", "never"] = "always",
        spool_megabytes: float = 2048,
        when_full: Literal["count", "refuse"] = "count",
        registry: CollectorRegistry = REGISTRY,
        home: Path | None = None,
    ) -> None:
        self._folder, self._database_url, self._fsync, self._home = folder, database_url, fsync, home
        self._quota = int(spool_megabytes * 1e6)
        self._segment_bytes = max(BLOCK, min(SEGMENT_BYTES, self._quota // 16) // BLOCK * BLOCK)
        self._refuses = when_full == "refuse"
        self.metrics = LogMetrics(registry)
        # the loop's own
        self._writer: Writer | None = None
        self.segment: Segment | None = None
        self._next: Segment | None = None
        self._making = False
        self.at = Written(Position(0, 0), 0)
        """How far the slot was written; replaced as a whole, so other threads may look."""
        self._pending: list[_Entry] = []
        self._pending_bytes = 0
        self._flying: list[_Entry] | None = None
        self._flying_at = self.at
        self._afterwards: list[Callable[[], object]] = []
        self._idle: asyncio.Future[None] | None = None
        self._full: str | None = None
        self._rolls = False
        """Whether the segment is to be changed though it is not full."""
        self._closed = False
        self._alarmed = -ALARM_SECONDS
        self._keeper = SegmentKeeper(self, folder, fsync, self._quota, self.metrics, self._shipper)

    # ------------------------------------------------------------------------------------------- for the application

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, on the event loop; returns at once. What is committed before the first segment is made waits."""
        self._loop, self._loop_thread = loop, threading.get_ident()
        self._keeper.start(loop)
        self._order(0)

    @property
    def writing(self) -> bool:
        """Whether a group is on its way to the disk."""
        return self._flying is not None

    def afterwards(self, call: Callable[[], object]) -> None:
        """Call once, on the loop, when the group that is being written is done; its own callers come first."""
        self._afterwards.append(call)

    def commit(self, lines: bytes, rows: int, done: Done, table: str = "predictions") -> None:
        """Write whole lines of COPY text; on the event loop.

        Args:
            lines: each with its newline.
            rows: how many there are.
            done: is called on the loop when they are as safe as `fsync` says; with `LogFull` when they cannot be
                recorded and nothing may be answered without.
            table: `predictions` or `labels`.
        """
        entry = _Entry(lines, rows, table, done)
        if self._closed or self._pending_bytes > PENDING_BYTES:
            self._give_up([entry], "it was stopped" if self._closed else self._full or "the disk does not keep up")
            return
        self._pending.append(entry)
        self._pending_bytes += len(lines)
        if self._flying is None:
            self._write()

    def append(self, lines: bytes, rows: int, table: str = "predictions") -> None:
        """The same without waiting; from any thread."""
        if threading.get_ident() == self._loop_thread:
            self.commit(lines, rows, _no_callback, table)
        else:
            self._loop.call_soon_threadsafe(self.commit, lines, rows, _no_callback, table)

    def state(self) -> dict[str, Any]:
        """The backlog, as it was within the last second, and what is wrong, for /health; from any thread."""
        backlog = self._keeper.backlog
        return {
            "backlog_rows": backlog.rows,
            "backlog_bytes": backlog.bytes,
            "oldest_seconds": round(backlog.seconds, 1),
            "problem": self._full or self._keeper.problem,
        }

    async def stop(self) -> None:
        """Take nothing more, bring all to the disk, and to PostgreSQL if it answers within `STOP_SECONDS`."""
        self._closed = True
        if self._flying is not None or self._pending:
            self._idle = self._loop.create_future()
            try:
                await asyncio.wait_for(self._idle, STOP_SECONDS)
            except TimeoutError:
                self._give_up(self._take_pending(), self._full or "the disk did not answer")
        await self._loop.run_in_executor(None, self._end)
        if self._writer is not None:
            self._writer.close()
        self._keeper.release()

    # ------------------------------------------------------------------------------------------- on the loop

    def _write(self) -> None:
        """Begin to write what is pending, as much of it as fits."""
        if self._rolls:
            self._roll_if_ready()
        if not self._pending:
            return
        segment, end, fitting = self.segment, self.at.position.offset, 0
        if segment is not None:
            for entry in self._pending:
                end += HEADER.size + len(entry.lines)
                if end > segment.size:
                    break
                fitting += 1
        if segment is None or not fitting:
            self._change_segment(HEADER.size + len(self._pending[0].lines))
            return
        entries = self._pending[:fitting]
        del self._pending[:fitting]
        self._begin_write(segment, entries)

    def _begin_write(self, segment: Segment, entries: list[_Entry]) -> None:
        assert self._writer is not None  # noqa: S101  it came before the first segment
        size = sum(len(entry.lines) for entry in entries)
        self._pending_bytes -= size
        (number, offset), rows = self.at
        start = offset % BLOCK  # of the buffer, which has what is in the last block already
        self._writer.reserve(start + size + HEADER.size * len(entries) + BLOCK)
        view, end, millis = self._writer.buffer, start, time.time_ns() // 1_000_000
        for table, lines, count in _by_table(entries):
            end = segments.write_frame(
                view, end, lines, table=table, rows=count, number=number, millis=millis, before=rows
            )
            rows += count
        whole = -(-end // BLOCK) * BLOCK
        view[end:whole] = bytes(whole - end)
        self._flying, self._flying_at = entries, Written(Position(number, offset - start + end), rows)
        self._writer.write(segment.descriptor, whole, offset - start)

    def written(self, error: OSError | None) -> None:
        """The group's write has ended."""
        entries, self._flying = self._flying or [], None
        if error is None:
            self._settle(entries)
        else:  # nobody knows what is on the disk there, so the segment ends before it
            self._retire()
            self._give_up(entries, f"{error.strerror or error} ({self._folder})")
        calls, self._afterwards = self._afterwards, []
        for call in calls:
            call()
        if self._flying is None:
            self._write()
        if self._idle is not None and self._flying is None and not self._pending and not self._idle.done():
            self._idle.set_result(None)

    def _settle(self, entries: list[_Entry]) -> None:
        assert self._writer is not None  # noqa: S101
        before, end = self.at.position.offset, self._flying_at.position.offset
        last = end // BLOCK - before // BLOCK  # the block that holds the end becomes the buffer's first
        if last:
            self._writer.buffer[:BLOCK] = self._writer.buffer[last * BLOCK : (last + 1) * BLOCK]
        self.at = self._flying_at
        self.metrics.syncs.inc()
        _notify(entries, None)

    def _change_segment(self, needed: int) -> None:
        """Go on in the next segment; where it is not ready, what is pending waits for it."""
        if self._next is None:
            self._order(needed)
            if self._full is not None:
                self._give_up(self._take_pending(), self._full)
            return
        self._take_over(self._next, needed)
        self._write()

    def roll(self) -> None:
        """Go on in the next segment as soon as it is there: what this one has is to be deleted once it is copied."""
        self._rolls = True
        if self._flying is None:
            self._write()

    def _roll_if_ready(self) -> None:
        if self.segment is not None and not self.at.position.offset:
            self._rolls = False  # nothing was written there yet
        elif self._next is not None:
            self._take_over(self._next)
        elif self.segment is not None:
            self._order(0)

    def _take_over(self, segment: Segment, needed: int = 0) -> None:
        self._retire()
        self.segment, self._next, self._rolls = segment, None, False
        self.at = Written(Position(segment.number, 0), self.at.rows)
        self._order(needed if needed > segment.size else 0)

    def _retire(self) -> None:
        if self.segment is not None:
            self._keeper.retire(self.segment, self.at.position.offset)
            self.segment = None

    def _order(self, needed: int) -> None:
        if not self._making:
            self._making = True
            self._keeper.order(max(self._segment_bytes, needed))

    def begin(self, made: Writer, number: int, rows: int) -> None:
        """The slot is there."""
        self._writer, self.at = made, Written(Position(number, 0), rows)
        made.listen(self._loop)

    def take_next(self, segment: Segment) -> None:
        """The next segment is there."""
        self._making, self._next, self._full = False, segment, None
        self.metrics.full.set(0)
        if self._flying is None:
            self._write()

    def has_no_room(self, reason: str) -> None:
        """There will be no next segment for now; who waits for it is told."""
        self._full = reason
        self.metrics.full.set(1)
        if self._flying is None:
            self._write()

    def _take_pending(self) -> list[_Entry]:
        entries, self._pending, self._pending_bytes = self._pending, [], 0
        return entries

    def _give_up(self, entries: list[_Entry], reason: str) -> None:
        """Rows that cannot be recorded: answered and counted, or refused, as is declared."""
        rows = sum(entry.rows for entry in entries)
        (self.metrics.refused if self._refuses else self.metrics.dropped).inc(rows)
        if entries and time.monotonic() - self._alarmed > ALARM_SECONDS:
            self._alarmed = time.monotonic()
            what = "predictions are refused" if self._refuses else "predictions are answered, but not recorded"
            self._alert("prediction_log_full", f"{what}; the prediction log takes nothing: {reason}")
        _notify(entries, LogFull(reason) if self._refuses else None)

    def _alert(self, event: str, message: str) -> None:
        log.error(event.replace("_", " "), extra={"fields": {"reason": message}})
        if self._home is not None:
            alerting.send(self._home, event, message)

    def _count(self, copied: int, refused: int) -> None:
        self.metrics.drained.inc(copied)
        self.metrics.rejected.inc(refused)

    def _end(self) -> None:
        """After the last write."""
        self._keeper.finish_shipping(STOP_SECONDS)
        self._retire()
        self._keeper.stop(STOP_SECONDS)
        if self._next is not None:
            os.close(self._next.descriptor)

    def _shipper(self, own: SegmentReader) -> Shipper:
        return Shipper(own, self._folder, self._database_url, self._count, self._alert)


def _by_table(entries: Iterable[_Entry]) -> Iterator[tuple[str, list[bytes], int]]:
    """Entries as frames: neighbours of one table are one."""
    for table, group in itertools.groupby(entries, key=lambda entry: entry.table):
        together = list(group)
        yield table, [entry.lines for entry in together], sum(entry.rows for entry in together)


def _notify(entries: Iterable[_Entry], error: Exception | None) -> None:
    for entry in entries:
        try:
            entry.done(error)
        except Exception:  # one caller's fault must not keep the others waiting
            log.exception("a caller of the prediction log failed")


def _no_callback(error: Exception | None) -> None:
    """Nobody waits; what was lost is counted."""
