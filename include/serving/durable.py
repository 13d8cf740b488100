"""One write at a time to a file whose blocks are there already, and a word on the event loop when it is done.

    AsyncWriter    on disk before it is done: Linux's asynchronous direct I/O, whose completions the loop polls like a
                   socket. No thread takes the interpreter's lock from the loop, and one request to the disk does it.
    ThreadWriter   the same where that does not work (another system, a file system without direct I/O): by a thread.
    CachedWriter   into the system's cache, at once: outlives this process, not a power cut.

Each has a buffer, whose address is a multiple of what disks ask for; a write is its beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import platform
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from include.serving.spool import BLOCK

Written = Callable[[OSError | None], None]

_BUFFER = 256 * 1024
_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Of the system calls io_setup, io_destroy, io_getevents, io_submit: the C library has no functions for them."""
_PWRITE, _TO_EVENTFD = 1, 1


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
    """The cheapest writer for a policy that works in this folder; from any thread.

    Args:
        folder: where the segments are.
        fsync: `always`, or `interval` or `never`, where whoever writes is not told of the disk.
        written: is called after each write, with its error or None.

    Raises:
        OSError: nothing can be written here at all.
    """
    if fsync != "always":
        return CachedWriter(written)
    if AsyncWriter.works(folder):
        with contextlib.suppress(OSError):  # others may have used up what the system has of it
            return AsyncWriter(written)
    return ThreadWriter(written)


class _Buffered:
    def __init__(self) -> None:
        self.buffer = memoryview(mmap.mmap(-1, _BUFFER))

    def reserve(self, size: int) -> None:
        """Make the buffer at least so large, and keep its first block's content."""
        if size > len(self.buffer):
            larger = memoryview(mmap.mmap(-1, -(-size // BLOCK) * BLOCK))
            larger[:BLOCK] = self.buffer[:BLOCK]
            self.buffer = larger


class CachedWriter(_Buffered):
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
    """Lets a thread wait for the disk."""

    cached = True

    def __init__(self, written: Written) -> None:
        super().__init__()
        self._written = written
        self._jobs: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="prediction-log-writer", daemon=True)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        self._loop = loop
        self._thread.start()

    def open(self, path: Path) -> int:
        """For writing through to the disk."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DSYNC)

    def write(self, descriptor: int, size: int, offset: int) -> None:
        """Hand it to the thread."""
        self._jobs.put((descriptor, size, offset))

    def close(self) -> None:
        """Wait for the thread."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while job := self._jobs.get():
            descriptor, size, offset = job
            error = _write(descriptor, self.buffer[:size], offset)
            try:
                self._loop.call_soon_threadsafe(self._written, error)
            except RuntimeError:  # the loop was closed: nobody waits any more
                return


class _Iocb(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event` of linux/aio_abi.h."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class AsyncWriter(_Buffered):
    """Lets the kernel write, through to the disk, and listens for its word.

    Raises:
        OSError: this system has no asynchronous I/O, or not for us.
    """

    cached = False

    def __init__(self, written: Written) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._written = written
        self._context = ctypes.c_ulong(0)
        self._under_way = 0
        self._setup, self._destroy, self._getevents, self._submit = _system_calls()
        _check(self._setup(ctypes.c_uint(1), ctypes.byref(self._context)))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._iocb = _Iocb(rw_flags=os.RWF_DSYNC, opcode=_PWRITE, flags=_TO_EVENTFD, eventfd=self._eventfd)
        self._iocbs = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._event = _Event()
        self._find_buffer()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Poll for completions."""
        self._loop = loop
        loop.add_reader(self._eventfd, self._heard)

    @classmethod
    def works(cls, folder: Path) -> bool:
        """Whether this system and the folder's file system can do it: tried out by a write.

        Raises:
            OSError: nothing can be written here at all.
        """
        path = folder / "probe"
        path.write_bytes(bytes(BLOCK))
        outcome: list[OSError | None] = []
        try:
            probing = cls(outcome.append)
        except OSError:
            path.unlink()
            return False
        try:
            descriptor = probing.open(path)
            try:
                probing.write(descriptor, BLOCK, 0)
            finally:
                probing.close()
                os.close(descriptor)
        except OSError:
            return False
        finally:
            path.unlink()
        return outcome == [None]

    def open(self, path: Path) -> int:
        """For writing past the cache."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)

    def reserve(self, size: int) -> None:
        """Make the buffer at least so large, and keep its first block's content."""
        super().reserve(size)
        self._find_buffer()

    def write(self, descriptor: int, size: int, offset: int) -> None:
        """Hand it to the kernel; where that refuses, it is told of at the next turn of the loop."""
        iocb = self._iocb
        iocb.descriptor, iocb.size, iocb.offset = descriptor, size, offset
        self._under_way = size
        if self._submit(self._context, ctypes.c_long(1), self._iocbs) != 1:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            self._under_way = 0
            if self._loop is None:
                raise error
            self._loop.call_soon(self._written, error)

    def close(self) -> None:
        """Wait for the write that was begun, if any, and let everything go."""
        if self._loop is not None:
            self._loop.remove_reader(self._eventfd)
        self._take()
        self._destroy(self._context)
        os.close(self._eventfd)

    def _heard(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        self._take()

    def _take(self) -> None:
        size = self._under_way
        if not size:
            return
        while self._getevents(self._context, ctypes.c_long(1), ctypes.c_long(1), ctypes.byref(self._event), None) != 1:
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._under_way = 0
        result = self._event.result
        self._written(None if result == size else _failure(-result if result < 0 else errno.EIO))

    def _find_buffer(self) -> None:
        self._iocb.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))


def _system_calls() -> tuple[Callable[..., int], ...]:
    numbers = _NUMBERS.get(platform.machine())
    if not sys.platform.startswith("linux") or sys.byteorder != "little" or numbers is None:
        raise _failure(errno.ENOSYS)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long

    def numbered(number: int) -> Callable[..., int]:
        wrapped = ctypes.c_long(number)
        return lambda *arguments: int(call(wrapped, *arguments))

    return tuple(map(numbered, numbers))


def _check(result: int) -> None:
    if result < 0:
        raise _failure(ctypes.get_errno())


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _write(descriptor: int, data: memoryview, offset: int) -> OSError | None:
    try:
        while data and (written := os.pwrite(descriptor, data, offset)) < len(data):
            data, offset = data[written:], offset + written
    except OSError as error:
        return error
    return None
