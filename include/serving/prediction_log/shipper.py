"""From the spool to PostgreSQL: frames are copied in order, each batch in one transaction with the position it reaches.

Whatever is killed, a row arrives once. The position is moved first, from where this drain last saw it: that waits for
a transaction that an earlier drain may have left behind, and fails if it was committed after all. Then the position is
read again, as it is after every lost connection.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from include.serving.prediction_log import segments as segment_files
from include.serving.prediction_log.segments import Frame, Position, SpoolDir

COLUMNS = {
    "predictions": "id, model, version, arm, at, inputs, output, prediction, latency_ms, entity, caller",
    "labels": "model, prediction_id, entity, label, at, received_at, caller, batch",
}
"""The columns of each table's lines, in their order."""
LINGER_SECONDS = 0.3
"""Between batches, once everything is copied: a batch costs a transaction however small it is."""
LONGEST_PAUSE = 1.0
"""Between attempts to reach PostgreSQL."""
ABANDONED_SECONDS = 2.0
"""How often slots of workers that did not come back are looked for."""
PARTITION_SECONDS = 3600.0
"""How often the partitions of today and tomorrow are seen to be there."""
_PIECE = 128 * 1024
"""Bytes handed to the client library at once: it holds the interpreter's lock, and the event loop waits for it."""
_NO_PARTITION = re.compile(r"\(at\) = \((\d{4,}-\d\d-\d\d)")
_ORIGIN = Position(0, 0)

log = logging.getLogger("mlops.serving")


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


class Moved(RuntimeError):
    """The position in PostgreSQL is not where this drain left it."""


@dataclass(frozen=True, slots=True)
class _Batch:
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

    def batch(self) -> _Batch | None:
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
                    return _Batch(found, Position(number, found[-1].end), sum(frame.rows for frame in found))
            if number != segments[-1][0]:  # the last one holds the number
                self.slot.drop(number)
        return None

    def writes(self, segment: int) -> bool:
        """Whether this segment is still being written."""
        return self.written is not None and self.written().position.segment == segment

    def lost(self, batch: _Batch) -> int:
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


class Shipper:
    """The thread that copies this worker's slot, and those that nobody has any more.

    Args:
        own: the source of this worker's own rows.
        folder: the spool.
        database_url: the platform's PostgreSQL.
        counted: is told how many rows were copied, and how many PostgreSQL refused.
        alert: is told what somebody should see: what kind of thing, and one line.
    """

    def __init__(
        self,
        own: SegmentReader,
        folder: Path,
        database_url: str,
        counted: Callable[[int, int], None],
        alert: Callable[[str, str], None],
    ) -> None:
        self._own, self._folder, self._counted, self._alert = own, folder, counted, alert
        self._sources = [own]
        self._url = re.sub(r"^postgresql\+\w+://", "postgresql://", database_url)
        self._connection: Any = None
        self._looked = self._partitioned = -1e9
        self._end_by: float | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log-drain", daemon=True)
        self.problem: str | None = None
        """Why nothing is copied at the moment."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Copy what is there, and end: when all is copied, at the first error, or after `seconds`."""
        self._end_by = time.monotonic() + seconds
        self._wake.set()
        self._thread.join(seconds + 1)

    def backlog(self) -> Backlog:
        """Of all slots that this worker drains."""
        found = [source.backlog() for source in list(self._sources)]
        return Backlog(sum(b.rows for b in found), sum(b.bytes for b in found), max(b.seconds for b in found))

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            ending = self._end_by  # before the round: what came until now is to be in it
            try:
                copied, behind = self._round()
            except Exception as error:  # noqa: BLE001  whatever it is: the rows stay where they are, and it is said
                copied, behind, pause = False, False, min(LONGEST_PAUSE, 2 * pause or 0.1)
                self._lost(error)
            else:
                pause = 0.0
                self._found()
            if ending is not None and (not copied or time.monotonic() > ending):
                break
            if not behind and ending is None:
                self._wake.wait(pause or LINGER_SECONDS)
        self._disconnect()
        for source in self._sources:
            if source is not self._own:
                source.slot.release()

    def _round(self) -> tuple[bool, bool]:
        """Copy a batch of each slot; returns whether there was any, and whether there is more that should not wait."""
        if self._connection is None:
            self._connection = _connect(self._url)
        self._make_partitions()
        self._look_for_abandoned()
        copied = behind = False
        for source in list(self._sources):
            if source.known is None:
                self._ask(source)
            batch = source.batch()
            if batch is not None:
                self._copy(source, batch)
                copied, behind = True, behind or not source.writes(batch.end.segment)
            elif source is not self._own:
                self._sources.remove(source)
                source.slot.clear()
                source.slot.release()
                log.info("abandoned predictions copied", extra={"fields": {"slot": source.slot.name}})
        return copied, behind

    def _look_for_abandoned(self) -> None:
        if time.monotonic() - self._looked < ABANDONED_SECONDS:
            return
        self._looked = time.monotonic()
        for slot in segment_files.abandoned_slots(self._folder):
            try:
                self._sources.append(SegmentReader(slot, None))
            except OSError:
                slot.release()
                raise

    def _make_partitions(self) -> None:
        if time.monotonic() - self._partitioned < PARTITION_SECONDS:
            return
        today = dt.datetime.now(dt.UTC).date()
        for day in (today, today + dt.timedelta(1)):
            self._connection.execute("select make_prediction_partition(%s)", (day,))
        self._partitioned = time.monotonic()

    def _ask(self, source: SegmentReader) -> None:
        """Where PostgreSQL says that the slot was copied to."""
        name = (source.slot.name,)
        self._connection.execute("insert into spool_positions values (%s, 0, 0) on conflict do nothing", name)
        row = self._connection.execute("select segment, position from spool_positions where slot = %s", name).fetchone()
        if not source.restore(Position(*row)):
            self._alert(
                "prediction_log_restored",
                f"PostgreSQL has copied more of {name[0]} than there is: its folder is an older copy. All that is in"
                " it is copied (again)",
            )

    def _copy(self, source: SegmentReader, batch: _Batch) -> None:
        refused: list[tuple[str, bytes, str]] = []
        known, source.known = source.known, None  # asked again unless this succeeds
        assert known is not None  # noqa: S101
        with self._connection.transaction():
            moved = self._connection.execute(
                "update spool_positions set segment = %s, position = %s"
                " where slot = %s and segment = %s and position = %s",
                (*batch.end, source.slot.name, *known),
            )
            if moved.rowcount != 1:
                raise Moved(f"{source.slot.name} was copied further by an earlier connection")
            for table in segment_files.TABLES:
                lines = [frame.lines for frame in batch.frames if frame.table == table]
                if lines:
                    refused += [(table, line, why) for line, why in self._copy_table(table, lines)]
            _keep(source.slot, refused)
        source.known = source.position = batch.end
        self._told(source, batch, refused)

    def _told(self, source: SegmentReader, batch: _Batch, refused: Sequence[tuple[str, bytes, str]]) -> None:
        self._counted(batch.rows - len(refused), len(refused))
        if refused:
            text = f"PostgreSQL refused {len(refused)} rows; they are in {source.slot.folder}: {refused[0][2]}"
            self._alert("prediction_log_rejected", text)
        if lost := source.lost(batch):
            text = f"{lost} rows of {source.slot.folder} cannot be read: the disk has lost or changed them"
            self._alert("prediction_log_damaged", text)

    def _copy_table(
        self, table: str, lines: Sequence[memoryview | bytes], made: frozenset[str] = frozenset()
    ) -> Iterator[tuple[bytes, str]]:
        """Copy lines of one table, without those that PostgreSQL refuses; yields these with the reason.

        Of what PostgreSQL says only the first line is told: the others repeat the row, which would stay in alerts.
        """
        import psycopg

        try:
            self._copy_lines(table, lines)
        except psycopg.errors.DatabaseError as error:
            if not _is_about_rows(error):
                raise
            why, day = error.diag.message_primary or type(error).__name__, _missing_day(error)
        else:
            return
        if day and day not in made and self._make_partition(day):
            yield from self._copy_table(table, lines, made | {day})
            return
        single = [line for part in lines for line in bytes(part).splitlines(keepends=True)]
        if len(single) == 1:
            yield single[0], why
            return
        for half in (single[: len(single) // 2], single[len(single) // 2 :]):
            yield from self._copy_table(table, half, made)

    def _copy_lines(self, table: str, lines: Sequence[memoryview | bytes]) -> None:
        statement = f"copy {table} ({COLUMNS[table]}) from stdin"
        with self._connection.transaction(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in _pieces(lines):
                copy.write(piece)

    def _make_partition(self, day: str) -> bool:
        """Whether there is a partition for the day now; some days PostgreSQL has no date for."""
        import psycopg

        try:
            with self._connection.transaction():
                self._connection.execute("select make_prediction_partition(%s::date)", (day,))
        except psycopg.errors.DatabaseError as error:
            if not _is_about_rows(error):
                raise
            return False
        return True

    # ------------------------------------------------------------------------------------------- its state

    def _lost(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason != self.problem:
            log.error("predictions not copied", extra={"fields": {"reason": reason}})
        self.problem = reason
        self._disconnect()

    def _found(self) -> None:
        if self.problem is not None:
            log.info("predictions copied again", extra={"fields": {"backlog_bytes": self.backlog().bytes}})
        self.problem = None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
        for source in self._sources:
            source.known = None


def _connect(url: str) -> Any:
    import psycopg

    settings = "-c timezone=UTC -c datestyle=ISO -c statement_timeout=60000 -c lock_timeout=10000"
    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=3,
        application_name="mlops-prediction-log",
        client_encoding="UTF8",
        options=settings,
        keepalives_idle=5,
        tcp_user_timeout=10000,
    )


def _is_about_rows(error: Any) -> bool:
    """Whether the rows are at fault: their values, a constraint, a limit. All else may be well in a moment."""
    return (error.sqlstate or "")[:2] in ("22", "23", "54")


def _missing_day(error: Any) -> str | None:
    """The day whose partition is missing, if that is the error."""
    found = _NO_PARTITION.search(error.diag.message_detail or "") if error.sqlstate == "23514" else None
    return found[1] if found else None


def _pieces(lines: Sequence[memoryview | bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about `_PIECE`."""
    gathered: list[memoryview | bytes] = []
    size = 0
    for part in lines:
        if len(part) > _PIECE:
            yield b"".join(gathered)
            for start in range(0, len(part), _PIECE):
                yield bytes(part[start : start + _PIECE])
            gathered, size = [], 0
            continue
        gathered.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _keep(slot: SpoolDir, refused: Sequence[tuple[str, bytes, str]]) -> None:
    """Put lines that PostgreSQL refuses beside the spool; twice if the transaction fails afterwards."""
    for table in {table for table, _, _ in refused}:
        segment_files.keep_rejected(slot.folder, table, [line for found, line, _ in refused if found == table])
