"""How far one channel has read the journal, and why it is not further: a durable queue for each channel.

A place is the offset after the last line that the channel accepted, and that line's hash. So the journal may be
shortened or replaced at any moment, by a program that knows nothing of the readers: a reader whose offset no longer
follows that line finds the line again, and where the line is gone it begins with the first that is there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from include import storage
from include.home import Home

PIECE = 4 * 1024 * 1024
"""Bytes of the journal that are read at once."""

log = logging.getLogger("mlops.alerts")


@dataclass(frozen=True)
class Failure:
    """Why a channel is not further, since when, and when it is tried again."""

    since: dt.datetime
    attempts: int
    reason: str
    """One line without any secret."""
    next_attempt: dt.datetime


@dataclass(frozen=True)
class Line:
    """A whole line of the journal."""

    offset: int
    content: bytes

    @property
    def end(self) -> int:
        """The offset of the next line."""
        return self.offset + len(self.content)


@dataclass(frozen=True)
class Position:
    """After which line of the journal a channel goes on."""

    offset: int = 0
    length: int = 0
    """Of that line, in bytes; 0: no line was read yet."""
    sha256: str = ""
    failure: Failure | None = None

    def locate(self, journal: BinaryIO) -> int:
        """The offset in this journal, which may have been shortened or replaced since."""
        if not self.length:
            return 0
        if self.offset <= journal.seek(0, io.SEEK_END):
            journal.seek(self.offset - self.length)
            if _hash(journal.read(self.length)) == self.sha256:
                return self.offset
        journal.seek(0)
        end = 0
        for line in journal:
            end += len(line)
            if len(line) == self.length and _hash(line) == self.sha256:
                return end
        return 0


class Place:
    """One channel's position in the journal of one home, in <home>/logs/alerts/<channel>.json."""

    def __init__(self, home: Path, channel: str) -> None:
        self._journal = Home(home).alerts
        self._file = Home(home).alert_channels / f"{channel}.json"
        self._unsaved: Position | None = None

    @property
    def is_new(self) -> bool:
        """Whether the channel was never served from this journal."""
        return self._unsaved is None and not self._file.exists()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other thread or process delivers to this channel, and let none begin meanwhile."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            yield

    def position(self) -> Position:
        """Where the channel is; at the beginning if nothing is known of it."""
        return self._unsaved or read(self._file)

    def pending(self) -> list[Line]:
        """The next whole lines that were not accepted yet, at most `PIECE` bytes; empty at the end."""
        try:
            with self._journal.open("rb") as journal:
                return _lines(journal, self.position().locate(journal))
        except FileNotFoundError:
            return []

    def accept(self, line: Line) -> None:
        """Go on after this line; a failure before it is over."""
        self._write(Position(line.end, len(line.content), _hash(line.content)))

    def skip_history(self) -> None:
        """Go on after the newest line that is there now."""
        last = Position()
        with contextlib.suppress(FileNotFoundError), self._journal.open("rb") as journal:
            offset = 0
            while lines := _lines(journal, offset):
                offset = lines[-1].end
                last = Position(offset, len(lines[-1].content), _hash(lines[-1].content))
        self._write(last)

    def note(self, failure: Failure | None) -> None:
        """Record why the channel is not further, or that nothing is in its way any more."""
        now = self.position()
        if now.failure != failure:
            self._write(Position(now.offset, now.length, now.sha256, failure))

    def _write(self, position: Position) -> None:
        """A disk that is full repeats deliveries after a restart, and stops none now."""
        try:
            storage.write_bytes(str(self._file), json.dumps(asdict(position), default=str).encode(), reserve=0)
            self._unsaved = None
        except OSError as error:
            self._unsaved = position
            log.warning("%s: cannot be written (%s)", self._file, error.strerror or error)


def read(file: Path) -> Position:
    """The position in a file; the beginning where there is none, or it is damaged."""
    try:
        saved: dict[str, Any] = json.loads(file.read_bytes())
        failure = saved.pop("failure")
        if failure is not None:
            moments = {name: dt.datetime.fromisoformat(failure[name]) for name in ("since", "next_attempt")}
            failure = Failure(**failure | moments)
        return Position(**saved, failure=failure)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Position()


def accepted_by_all(home: Path, content: bytes) -> int:
    """How many bytes at the beginning of the journal every channel has accepted; 0 while there is no channel."""
    files = Home(home).alert_channels.glob("*.json")
    return min((read(file).locate(io.BytesIO(content)) for file in files), default=0)


def forget_all_but(home: Path, channels: set[str]) -> None:
    """Delete the positions of channels that were turned off: the journal waits for them no longer."""
    for file in Home(home).alert_channels.glob("*.json"):
        if file.stem not in channels:
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)


def _lines(journal: BinaryIO, offset: int) -> list[Line]:
    journal.seek(offset)
    content = journal.read(PIECE)
    whole = content[: content.rfind(b"\n") + 1] if len(content) < PIECE or b"\n" in content else content
    found = []
    for line in whole.splitlines(keepends=True):
        found.append(Line(offset, line))
        offset += len(line)
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
