"""Copies frames to PostgreSQL: each batch in one transaction with the position it reaches.

Whatever is killed, a row arrives once. The position is moved first, from where this worker last saw it: that waits for
a transaction that an earlier one may have left behind, and fails if it was committed after all. Then the position is
read again, as it is after every lost connection.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from include.serving.prediction_log import segments as segment_files
from include.serving.prediction_log.copy_text import COLUMNS
from include.serving.prediction_log.segment_reader import Batch
from include.serving.prediction_log.segments import Position, SpoolDir

PARTITION_SECONDS = 3600.0
"""How often the partitions of today and tomorrow are seen to be there."""
_PIECE = 128 * 1024
"""Bytes handed to the client library at once: it holds the interpreter's lock, and the event loop waits for it."""
_NO_PARTITION = re.compile(r"\(at\) = \((\d{4,}-\d\d-\d\d)")


class Moved(RuntimeError):
    """The position in PostgreSQL is not where this drain left it."""


class RefusedLine(NamedTuple):
    """A line that PostgreSQL refused."""

    table: str
    line: bytes
    reason: str


class Copier:
    """One connection to the platform's PostgreSQL, made when it is needed; used by one thread.

    Args:
        database_url: its address; SQLAlchemy's name of a driver in it is ignored.
    """

    def __init__(self, database_url: str) -> None:
        self._url = re.sub(r"^postgresql\+\w+://", "postgresql://", database_url)
        self._connection: Any = None
        self._partitioned = -1e9

    def connect(self) -> None:
        """Connect, if it is not connected, and see that the partitions of today and tomorrow are there."""
        if self._connection is None:
            self._connection = _connect(self._url)
        self._make_partitions()

    def disconnect(self) -> None:
        """Let the connection go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def position(self, slot: SpoolDir) -> Position:
        """Where PostgreSQL says that a slot was copied to."""
        name = (slot.name,)
        self._connection.execute("insert into spool_positions values (%s, 0, 0) on conflict do nothing", name)
        row = self._connection.execute("select segment, position from spool_positions where slot = %s", name).fetchone()
        return Position(*row)

    def copy(self, slot: SpoolDir, known: Position, batch: Batch) -> list[RefusedLine]:
        """Copy a batch whose slot PostgreSQL has up to `known`; returns the lines that it refused.

        Those are put beside the spool in the same step; twice, if the transaction fails afterwards.

        Raises:
            Moved: the slot was copied further by an earlier connection.
        """
        refused: list[RefusedLine] = []
        with self._connection.transaction():
            moved = self._connection.execute(
                "update spool_positions set segment = %s, position = %s"
                " where slot = %s and segment = %s and position = %s",
                (*batch.end, slot.name, *known),
            )
            if moved.rowcount != 1:
                raise Moved(f"{slot.name} was copied further by an earlier connection")
            for table in segment_files.TABLES:
                lines = [frame.lines for frame in batch.frames if frame.table == table]
                if lines:
                    refused += [RefusedLine(table, line, why) for line, why in self._copy_table(table, lines)]
            for table in {one.table for one in refused}:
                segment_files.store_rejected(slot.folder, table, [one.line for one in refused if one.table == table])
        return refused

    def _make_partitions(self) -> None:
        if time.monotonic() - self._partitioned < PARTITION_SECONDS:
            return
        today = dt.datetime.now(dt.UTC).date()
        for day in (today, today + dt.timedelta(1)):
            self._connection.execute("select make_prediction_partition(%s)", (day,))
        self._partitioned = time.monotonic()

    def _copy_table(
        self, table: str, lines: Sequence[memoryview | bytes], made: frozenset[str] = frozenset()
    ) -> Iterator[tuple[bytes, str]]:
        """Copy lines of one table, without those that PostgreSQL refuses; yields these with the reason.

        Of PostgreSQL's message only the first line is given: the others repeat the row, which would stay in alerts.
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
