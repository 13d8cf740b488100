"""The prediction log's local part: a folder of slots, each with numbered segments of frames that one worker writes.

    <folder>/id                          names this folder in PostgreSQL, for good
    <folder>/slot-<n>/lock               flock'ed by the worker that writes here, or by whoever drains what it left
    <folder>/slot-<n>/<number>.seg       frames, then zeros to its end; the numbers only grow
    <folder>/slot-<n>/spare              a drained segment, to be used again; `new` while it becomes one
    <folder>/slot-<n>/roll               asks the worker to go on in its next segment: what it wrote can be deleted then
    <folder>/slot-<n>/rejected-<table>   lines that PostgreSQL refused

A frame is a header and whole lines of COPY text for one table. Its checksum covers the segment's number, so that what
a segment held in an earlier life is never taken for its content. Segments are filled with zeros before they are used:
writing over blocks that are there already costs half of what appending does, since the file system has nothing to note.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import re
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

TABLES = ("predictions", "labels")
"""What a frame's lines are for; a frame holds the place in this list, so it only grows at its end."""
BLOCK = 4096
"""Writes begin and end at multiples of it: what unbuffered writing asks for, on every disk."""
MAGIC = b"\xf1mlg"
HEADER = struct.Struct("<4sIIIIQQQ")
"""Magic, checksum of all that follows, bytes of the lines, rows, table, the segment's number, milliseconds since the
epoch, rows in the slot before this frame."""
_CHECKED = 8
_ZEROS = bytes(BLOCK)
_PIECE = 256 * 1024
"""Zeros are written in pieces, between which a commit's own write gets its turn at the disk."""
_NUMBERED = re.compile(r"(\d{12})\.seg")


class NoRoom(OSError):
    """The spool has reached its quota."""


class Position(NamedTuple):
    """A place in a slot: all before it is somewhere else too."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was found whole."""

    start: int
    end: int
    table: str
    rows: int
    millis: int
    before: int
    """Rows in the slot before this frame."""
    lines: memoryview


# ------------------------------------------------------------------------------------------------ frames


def write_frame(
    view: memoryview, start: int, lines: list[bytes], *, table: str, rows: int, number: int, millis: int, before: int
) -> int:
    """Lay a frame into `view` at `start`, which has room for it; returns its end."""
    end = start + HEADER.size
    for part in lines:
        view[end : (end := end + len(part))] = part
    size = end - start - HEADER.size
    HEADER.pack_into(view, start, MAGIC, 0, size, rows, TABLES.index(table), number, millis, before)
    struct.pack_into("<I", view, start + 4, zlib.crc32(view[start + _CHECKED : end]))
    return end


def frames(data: memoryview, number: int, offset: int = 0) -> Iterator[Frame]:
    """The whole frames of a segment's content, which begins at `offset` of the segment.

    Zeros where a frame should begin are the end. What is neither, a torn or rotten frame, is passed over.
    """
    at, last = 0, len(data) - HEADER.size
    while at <= last:
        frame = _frame(data, at, number, offset)
        if frame is None:
            if data[at : at + HEADER.size] == _ZEROS[: HEADER.size]:
                return
            at = _next_magic(data, at + 1)
            continue
        yield frame
        at = frame.end - offset


def _frame(data: memoryview, at: int, number: int, offset: int) -> Frame | None:
    magic, checksum, size, rows, table, segment, millis, before = HEADER.unpack_from(data, at)
    begin = at + HEADER.size
    end = begin + size
    if magic != MAGIC or segment != number or end > len(data) or table >= len(TABLES):
        return None
    if zlib.crc32(data[at + _CHECKED : end]) != checksum:
        return None
    return Frame(at + offset, end + offset, TABLES[table], rows, millis, before, data[begin:end])


def _next_magic(data: memoryview, at: int) -> int:
    found = bytes(data[at:]).find(MAGIC)
    return at + found if found >= 0 else len(data)


def read(path: Path, number: int, start: int = 0, end: int | None = None, *, cached: bool = False) -> list[Frame]:
    """The whole frames of a segment's file between two frame boundaries; none where the file has gone.

    Args:
        path: the segment's file.
        number: the segment's.
        start: where to begin.
        end: where to end; None: with the file.
        cached: whether it is written through the system's cache. What is written past it must be read past it: a page
            that is read while it is written may stay in the cache as it was.
    """
    return list(frames(_content(path, start, end, cached=cached), number, start))


def first(path: Path, number: int, offset: int = 0, *, cached: bool = False) -> tuple[int, int] | None:
    """When the frame at `offset` was written, in milliseconds, and the rows before it; None: there is none."""
    header = _content(path, offset, offset + HEADER.size, cached=cached)
    if len(header) < HEADER.size:
        return None
    magic, _, _, _, _, segment, millis, before = HEADER.unpack(header)
    return (millis, before) if magic == MAGIC and segment == number else None


def _content(path: Path, start: int, end: int | None, *, cached: bool) -> memoryview:
    try:
        descriptor = _open(path, os.O_RDONLY, cached=cached)
    except FileNotFoundError:
        return memoryview(b"")
    try:
        size = os.fstat(descriptor).st_size
        stop, begin = size if end is None else min(end, size), start // BLOCK * BLOCK
        if stop <= start:
            return memoryview(b"")
        buffer, got = memoryview(mmap.mmap(-1, -(-(stop - begin) // BLOCK) * BLOCK)), 0
        while got < stop - begin and (more := os.preadv(descriptor, [buffer[got:]], begin + got)):
            got += more
    finally:
        os.close(descriptor)
    return buffer[start - begin : min(got, stop - begin)]


def _open(path: Path, flags: int, *, cached: bool = False) -> int:
    """Past the system's cache where the file system knows how."""
    if not cached and hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):
            return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


# ------------------------------------------------------------------------------------------------ slots


class SpoolDir:
    """A folder of segments that this process alone writes or drains, for as long as it lives.

    Args:
        folder: the slot's own.
        name: what PostgreSQL knows it by.
        lock: the descriptor that holds its lock.
    """

    def __init__(self, folder: Path, name: str, lock: int) -> None:
        self.folder, self.name, self._lock = folder, name, lock

    def segments(self) -> list[tuple[int, Path]]:
        """The segments there are, in order."""
        return _segments(self.folder)

    def path(self, number: int) -> Path:
        """Where a segment is, or would be."""
        return self.folder / f"{number:012}.seg"

    def seal(self) -> tuple[int, int]:
        """Cut off what is not a whole frame after the newest one; returns the next segment's number, and all rows.

        To be called before the slot is written: its writer was killed, or the machine lost power. A number that was
        used never comes again: of segments without a frame, one stays as an empty file when there is nothing else.
        """
        unwritten: list[Path] = []
        for number, path in reversed(self.segments()):
            whole = read(path, number)
            if whole or path.stat().st_size == 0:
                os.truncate(path, whole[-1].end if whole else 0)
                for made_ahead in unwritten:
                    made_ahead.unlink()
                return number + 1, whole[-1].before + whole[-1].rows if whole else 0
            unwritten.append(path)
        if not unwritten:
            return 1, 0
        os.truncate(unwritten.pop(), 0)
        for made_ahead in unwritten:
            made_ahead.unlink()
        return number + 1, 0

    def drop(self, number: int) -> None:
        """Let go of a drained segment; it is used again, or deleted."""
        with contextlib.suppress(FileNotFoundError):
            if (self.folder / "spare").exists():
                self.path(number).unlink()
            else:
                self.path(number).rename(self.folder / "spare")

    def roll_requested(self) -> bool:
        """Whether `let_go` asked for another segment since this was called last."""
        try:
            (self.folder / "roll").unlink()
        except FileNotFoundError:
            return False
        return True

    def clear(self) -> None:
        """Leave nothing of an abandoned slot that was drained but its last number, which must not come again."""
        (self.folder / "spare").unlink(missing_ok=True)
        next_number, _ = self.seal()
        for number, path in self.segments():
            if number == next_number - 1:
                os.truncate(path, 0)
            else:
                path.unlink()

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def take_slot(folder: Path) -> SpoolDir:
    """The first slot that no living process has; made where there is none.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for n in itertools.count():
        path = folder / f"slot-{n}"
        path.mkdir(exist_ok=True, mode=0o700)
        if slot := _locked(folder, path):
            return slot
    raise AssertionError("unreachable")


def abandoned_slots(folder: Path) -> Iterator[SpoolDir]:
    """Slots with segments that no living process has, each locked by this one; release them."""
    for path in sorted(folder.glob("slot-*")):
        if any(_NUMBERED.fullmatch(file.name) and file.stat().st_size for file in path.iterdir()) and (
            slot := _locked(folder, path)
        ):
            yield slot


def folder_id(folder: Path) -> str:
    """What names this folder in PostgreSQL: made once, by whoever comes first."""
    file = folder / "id"
    if not file.exists():
        temporary = folder / f".id-{uuid.uuid4().hex}"
        try:
            with temporary.open("x") as made:
                made.write(uuid.uuid4().hex)
                made.flush()
                os.fsync(made.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
    return file.read_text().strip()


def ends(folder: Path) -> Iterator[tuple[str, Position]]:
    """Each slot's name with the end of its newest frame, from any process."""
    for path in sorted(folder.glob("slot-*")):
        for number, file in reversed(_segments(path)):
            if whole := read(file, number):
                yield f"{folder_id(folder)}/{path.name}", Position(number, whole[-1].end)
                break


def used_bytes(folder: Path) -> int:
    """Bytes of all segments of all slots."""
    used = 0
    for path in itertools.chain(folder.glob("slot-*/*.seg"), folder.glob("slot-*/spare")):
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_size
    return used


# ------------------------------------------------------------------------------------------------ refused lines


def store_rejected(slot_folder: Path, table: str, lines: Iterable[bytes]) -> None:
    """Add lines that PostgreSQL refused to the slot's file of them."""
    with _rejected(slot_folder / f"rejected-{table}", "ab", buffering=0) as file:
        size, data = os.fstat(file.fileno()).st_size, memoryview(b"".join(lines))
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # half a line would spoil the next one
            raise


def rejected(folder: Path) -> Iterator[tuple[Path, str, list[bytes]]]:
    """Each file of lines that PostgreSQL refused, with its table and its lines."""
    for path in sorted(folder.glob("slot-*/rejected-*")):
        yield path, path.name.removeprefix("rejected-"), path.read_bytes().splitlines(keepends=True)


@contextlib.contextmanager
def _rejected(path: Path, mode: str, buffering: int = -1) -> Iterator[Any]:
    """The file, open and locked; one that was replaced before the lock was had is opened anew."""
    while True:
        with path.open(mode, buffering) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.fstat(file.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False
            if same:
                yield file
                return


# ------------------------------------------------------------------------------------------------ erasing


def erase(folder: Path, copied: Mapping[str, Position], is_subject: Callable[[str, bytes], bool]) -> int:
    """Delete what the spool still has of a subject whose rows are no longer in PostgreSQL.

    Refused lines of the subject are deleted, drained segments that wait to be used again, and all that is in slots
    that no process writes. What a worker that runs is writing is left alone: see `let_go`.

    Args:
        folder: The spool.
        copied: Slot → how far it was copied to PostgreSQL.
        is_subject: Whether a line of COPY text for a table is about the subject.

    Returns:
        How many refused lines were deleted.
    """
    erased = 0
    for path, table, _ in rejected(folder):
        with _rejected(path, "r+b") as file:
            lines = file.read().splitlines(keepends=True)
            others = [line for line in lines if not is_subject(table, line)]
            if len(others) < len(lines):
                erased += len(lines) - len(others)
                _replace(path, others)
    for path in folder.glob("slot-*"):
        (path / "spare").unlink(missing_ok=True)
        if (slot := _locked(folder, path)) is not None:
            try:
                newest = dict(ends(folder)).get(slot.name)
                if newest is not None and copied.get(slot.name, Position(0, 0)) >= newest:
                    slot.clear()
            finally:
                slot.release()
    return erased


def let_go(folder: Path, seconds: float) -> list[str]:
    """Have the text of all rows that are in the spool now leave the disk, by the workers that write it.

    Each worker is asked to go on in its next segment; what it wrote until then is copied to PostgreSQL and deleted.

    Args:
        folder: The spool.
        seconds: How long to wait for it.

    Returns:
        The slots that have not let go of it.
    """
    newest = {}
    for path in folder.glob("slot-*"):
        number = next((number for number, file in reversed(_segments(path)) if read(file, number)), None)
        if number is not None:
            newest[path] = number
            (path / "roll").touch(mode=0o600)
    deadline = time.monotonic() + seconds
    while left := [path for path, number in newest.items() if _has_text(path, number)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for path in newest:
        (path / "roll").unlink(missing_ok=True)
    return sorted(path.name for path in left)


def _has_text(path: Path, number: int) -> bool:
    """Whether a slot has anything of its segments up to this one."""
    (path / "spare").unlink(missing_ok=True)  # a segment that is made of it at this moment is `new`
    sizes = []
    for each, file in _segments(path):
        with contextlib.suppress(FileNotFoundError):
            sizes += [file.stat().st_size] if each <= number else []
    return any(sizes) or (path / "new").exists() or (path / "spare").exists()


def _replace(path: Path, lines: list[bytes]) -> None:
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, path.stat().st_mode & 0o777)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the folder's names outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _segments(folder: Path) -> list[tuple[int, Path]]:
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    return sorted(found)


def _locked(folder: Path, path: Path) -> SpoolDir | None:
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return SpoolDir(path, f"{folder_id(folder)}/{path.name}", lock)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise


# ------------------------------------------------------------------------------------------------ segments


def make_segment(slot: SpoolDir, number: int, size: int, quota: int) -> Path:
    """A segment of zeros, on disk with its name: from the spare one where there is one.

    Raises:
        NoRoom: the folder would hold more than `quota` bytes.
        OSError: the disk is full, or broken.
    """
    size = -(-size // BLOCK) * BLOCK
    made = slot.folder / "new"
    made.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (slot.folder / "spare").rename(made)
    used = used_bytes(slot.folder.parent)
    if used + size > quota:
        made.unlink(missing_ok=True)
        raise NoRoom(f"it holds {used / 1e6:,.0f} MB of at most {quota / 1e6:,.0f} MB (service.spool_megabytes)")
    try:
        _fill(made, size)
    except OSError:
        made.unlink(missing_ok=True)
        raise
    made.rename(slot.path(number))
    sync_folder(slot.folder)
    return slot.path(number)


def _fill(path: Path, size: int) -> None:
    descriptor = _open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with mmap.mmap(-1, _PIECE) as zeros, memoryview(zeros) as view:
            at = 0
            while at < size:
                with view[: min(_PIECE, size - at)] as piece:
                    at += os.pwrite(descriptor, piece, at)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
