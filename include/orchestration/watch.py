"""Tells a selector at once when something is written below some folders: Linux's inotify.

Where there is none, and for what another machine writes into a shared folder, whoever uses it has to look now and then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

WRITTEN, MOVED_FROM, MOVED_TO, DELETED = 0x008, 0x040, 0x080, 0x200
EVENT = struct.Struct("iIII")
READ_BYTES = 65_536


class Watch:
    """Watches folders, not what is below their folders.

    Args:
        folders: those that are there; what is not is left out.
        concerns: whether a file is of interest.

    Raises:
        OSError: this system cannot watch.
    """

    def __init__(self, folders: Iterable[Path], concerns: Callable[[Path], bool]) -> None:
        self._concerns = concerns
        self._folders: dict[int, Path] = {}
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "inotify_init1"):
            raise OSError(errno.ENOSYS, "there is no inotify")
        self._file = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot be used")
        for folder in folders:
            number = library.inotify_add_watch(
                self._file, os.fsencode(folder), WRITTEN | MOVED_FROM | MOVED_TO | DELETED
            )
            if number >= 0:
                self._folders[number] = folder

    def fileno(self) -> int:
        """Readable when something was written."""
        return int(self._file)

    def changed(self) -> bool:
        """Whether a file of interest was written, moved or deleted since the last call."""
        found = False
        try:
            data = os.read(self._file, READ_BYTES)
        except BlockingIOError:
            return False
        place = 0
        while place < len(data):
            number, _, _, length = EVENT.unpack_from(data, place)
            place += EVENT.size
            name = os.fsdecode(data[place : place + length].rstrip(b"\0"))
            place += length
            found = found or number not in self._folders or self._concerns(self._folders[number] / name)
        return found

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._file)
