"""Reads a slot of the spool from where PostgreSQL has it: batches of frames, what is left, and what was lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from include.serving.prediction_log import segments as segment_files
from include.serving.prediction_log.segments import Frame, Position, SpoolDir

_ORIGIN = Position(0, 0)


class Written(NamedTuple):
    """How far a slot was written, and how many rows it got since its beginning."""

    position: Position
    rows: int


class Backlog(NamedTuple):
    """What PostgreSQL does not have yet."""

    rows: int
    bytes: int
    seconds: float
    """The age of the oldest row."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one segment, in order, and where the last one ends."""

    frames: list[Frame]
    end: Position
    rows: int


class SegmentReader:
    """A slot that is drained.

    Args:
        slot: locked by this process.
        written: how far it was written until now; None: nobody writes it any more.
        cached: whether it is written through the system's cache.
    """

    def __init__(self, slot: SpoolDir, written: Callable[[], Written] | None, *, cached: bool = False) -> None:
        self.slot, self.written, self._cached = slot, written, cached
        self._all_rows = 0 if written else slot.seal()[1]
        self.known: Position | None = None
        """PostgreSQL's position, as last seen; None: not asked since the connection was made."""
        self.position = _ORIGIN
        self.rows: int | None = None
        """Rows before `position`, since the slot's beginning; None: no frame was seen yet."""

    def batch(self) -> Batch | None:
        """The next frames, of one segment; None: all is copied. Segments that are copied are let go of."""
        limit = self.written().position if self.written else None
        segments = self.slot.segments()
        for number, path in segments:
            if limit is not None and number > limit.segment:
                break  # made ahead
            start = self.position.offset if number == self.position.segment else 0
            live = limit is not None and number == limit.segment
            if number >= self.position.segment:
                end = limit.offset if live and limit is not None else None
                if end is not None and start >= end:
                    break
                found = segment_files.read(path, number, start, end, cached=self._cached)
                if end is not None and (not found or found[-1].end != end):
                    raise OSError(f"{path}: what was written up to byte {end} cannot be read back from byte {start}")
                if found:
                    return Batch(found, Position(number, found[-1].end), sum(frame.rows for frame in found))
            if number != segments[-1][0]:  # the last one holds the number
                self.slot.drop(number)
        return None

    def writes(self, segment: int) -> bool:
        """Whether this segment is still being written."""
        return self.written is not None and self.written().position.segment == segment

    def lost(self, batch: Batch) -> int:
        """Rows that were written between what was copied last and this batch, or in it, and cannot be found."""
        expected, lost = self.rows, 0
        for frame in batch.frames:
            if expected is not None and frame.before > expected:
                lost += frame.before - expected
            expected = frame.before + frame.rows
        self.rows = expected
        return lost

    def restore(self, known: Position) -> bool:
        """Take up PostgreSQL's position; False where it is ahead of the disk, which begins anew then."""
        ahead = known > self._newest()
        self.known, self.position = known, _ORIGIN if ahead else known
        self.rows = None
        return not ahead

    def backlog(self) -> Backlog:
        """What is not copied yet; before PostgreSQL was asked: all that is there."""
        size, oldest = 0, None
        limit = self.written() if self.written else None
        for number, path in self.slot.segments():
            start = self.position.offset if number == self.position.segment else 0
            if number < self.position.segment or (limit is not None and number > limit.position.segment):
                continue
            live = limit is not None and number == limit.position.segment
            with contextlib.suppress(FileNotFoundError):
                end = limit.position.offset if live and limit is not None else path.stat().st_size
                if end > start:
                    size += end - start
                    oldest = oldest or segment_files.first(path, number, start, cached=self._cached)
        if oldest is None:
            return Backlog(0, 0, 0.0)
        millis, before = oldest
        rows = (limit.rows if limit else self._all_rows) - before
        return Backlog(max(0, rows), size, max(0.0, time.time() - millis / 1e3))

    def _newest(self) -> Position:
        if self.written is not None:
            return self.written().position
        segments = self.slot.segments()
        return Position(segments[-1][0], segments[-1][1].stat().st_size) if segments else _ORIGIN
