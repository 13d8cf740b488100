"""Gives back what only a start, or the loading of a model, needed: by the end of it a worker holds a third too much."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = re.compile(r"/(libxgboost|onnxruntime_pybind11_state)[^/]*\.so$")
"""Whose code is let go of: tens of MB are read when they are opened, and some MB when they predict."""
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp ")
_DONTNEED = 4
"""MADV_DONTNEED: of an unchanged mapping of a file it only unmaps pages, which come back where they are used."""


def return_memory() -> None:
    """Give free memory back to the system, and the code that nobody runs; nothing where the system cannot (not glibc).

    After a model of 300 trees has been loaded that is 8 MB and 25 MB.
    """
    library = ctypes.CDLL(None)
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        trim(0)
    maps = Path("/proc/self/smaps")
    if maps.exists():
        for begin, size in _unchanged_code(maps.read_text(encoding="utf-8", errors="replace")):
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _DONTNEED)


def _unchanged_code(smaps: str) -> Iterator[tuple[int, int]]:
    """Address and size of the libraries' code, where nothing was written into it: that would be lost."""
    found: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if line.endswith(".so") and LIBRARIES.search(line) and (mapping := _MAPPING.match(line)):
            begin, end = int(mapping[1], 16), int(mapping[2], 16)
            found = begin, end - begin
        elif found and line.startswith("Anonymous:"):  # pages of our own, in place of the file's
            if line.split()[1] == "0":
                yield found
            found = None
