"""One write at a time to a file whose blocks are there already, and a word on the event loop when it is done.

    ThreadWriter   on disk before it is done: a thread waits for the disk, past the system's cache where that works.
    CachedWriter   into the system's cache, at once: outlives this process, not a power cut.

Each has a buffer, whose address is a multiple of what disks ask for; a write is its beginning.

Linux's asynchronous direct I/O would do without the thread, and does worse: it ends a write that is to be on disk in a
kernel thread of the core that takes the disk's interrupts, and while that core computes anything, each write takes a
slice of the scheduler's time instead of a sixth of a millisecond (Linux 6.18: 3.6 ms, with one busy core of two).
"""

from __future__ import annotations

import asyncio
import mmap
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from include.serving.prediction_log.segments import BLOCK

Written = Callable[[OSError | None], None]

BEGIN_SECONDS = 0.001
"""How long is waited for a write to begin; it usually takes some microseconds."""
_BUFFER = 256 * 1024
_DIRECT = getattr(os, "O_DIRECT", 0)


class Writer(Protocol):
    """What the prediction log writes with."""

    buffer: memoryview
    """What the next write writes; not to be touched during a write."""
    cached: bool
    """Whether what it writes is in the system's cache too."""

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `written` on this loop, which this is called on, before anything is written."""

    def open(self, path: Path) -> int:
        """A segment's descriptor, as this writer needs it."""

    def reserve(self, size: int) -> None:
        """Make the buffer at least so large, and keep its first block's content."""

    def write(self, descriptor: int, size: int, offset: int) -> None:
        """Begin to write the buffer's first `size` bytes, a multiple of `BLOCK`, and tell when they are written."""

    def close(self) -> None:
        """Wait for the write that was begun, if any, and let everything go."""


def writer(folder: Path, fsync: str, written: Written) -> Writer:
    """The writer for a policy, as it works in this folder; from any thread.

    Args:
        folder: where the segments are.
        fsync: `always`, or `interval` or `never`, where whoever writes is not told of the disk.
        written: is called after each write, with its error or None.

    Raises:
        OSError: nothing can be written here at all.
    """
    if fsync != "always":
        return BufferedWriter(written)
    return ThreadWriter(written, direct=_takes_direct(folder))


class _Buffered:
    def __init__(self) -> None:
        self.buffer = memoryview(mmap.mmap(-1, _BUFFER))

    def reserve(self, size: int) -> None:
        """Make the buffer at least so large, and keep its first block's content."""
        if size > len(self.buffer):
            larger = memoryview(mmap.mmap(-1, -(-size // BLOCK) * BLOCK))
            larger[:BLOCK] = self.buffer[:BLOCK]
            self.buffer = larger


class BufferedWriter(_Buffered):
    """Writes at once, into the system's cache."""

    cached = True

    def __init__(self, written: Written) -> None:
        super().__init__()
        self._written = written

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing to listen for."""

    def open(self, path: Path) -> int:
        """For writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, descriptor: int, size: int, offset: int) -> None:
        """Write, and tell at once."""
        self._written(_write(descriptor, self.buffer[:size], offset))

    def close(self) -> None:
        """Nothing is held."""


class ThreadWriter(_Buffered):
    """Lets a thread wait for the disk.

    Args:
        written: see `writer`.
        direct: whether it writes past the system's cache, which saves a copy of every page.
    """

    def __init__(self, written: Written, *, direct: bool = False) -> None:
        super().__init__()
        self._written, self.cached = written, not direct
        self._jobs: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._begun = threading.Lock()
        self._begun.acquire()
        self._thread = threading.Thread(target=self._run, name="prediction-log-writer", daemon=True)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        self._loop = loop
        self._thread.start()

    def open(self, path: Path) -> int:
        """For writing through to the disk."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DSYNC | (0 if self.cached else _DIRECT))

    def write(self, descriptor: int, size: int, offset: int) -> None:
        """Hand it to the thread, and see that it begins.

        The thread needs the interpreter's lock until it is in the system's hands, and the processor, if it has to share
        one: whoever computes on meanwhile, to use the time that the disk takes, would make it wait for both.
        """
        self._begun.acquire(blocking=False)  # unless an earlier one was not waited for to the end
        self._jobs.put((descriptor, size, offset))
        self._begun.acquire(timeout=BEGIN_SECONDS)

    def close(self) -> None:
        """Wait for the thread."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while job := self._jobs.get():
            descriptor, size, offset = job
            self._begun.release()
            error = _write(descriptor, self.buffer[:size], offset)
            try:
                self._loop.call_soon_threadsafe(self._written, error)
            except RuntimeError:  # the loop was closed: nobody waits any more
                return


def _takes_direct(folder: Path) -> bool:
    """Whether the folder's file system lets writes past the system's cache: tried out.

    Raises:
        OSError: nothing can be written here at all.
    """
    path = folder / "probe"
    path.write_bytes(bytes(BLOCK))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | _DIRECT)
        try:
            return bool(_DIRECT) and _write(descriptor, memoryview(mmap.mmap(-1, BLOCK)), 0) is None
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        path.unlink()


def _write(descriptor: int, data: memoryview, offset: int) -> OSError | None:
    try:
        while data and (written := os.pwrite(descriptor, data, offset)) < len(data):
            data, offset = data[written:], offset + written
    except OSError as error:
        return error
    return None
