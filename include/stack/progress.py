"""What a user sees while something takes time: each step that ended, and what is awaited now."""

from __future__ import annotations

import time
from typing import TextIO


class Progress:
    """Writes lines to a stream; on a terminal the last one is redrawn, elsewhere it is repeated only now and then."""

    def __init__(self, stream: TextIO, *, repeat_seconds: float = 20) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._repeat = repeat_seconds
        self._shown = ""
        self._shown_at = time.monotonic()

    def line(self, text: str = "") -> None:
        """Something that is so, and stays on the screen."""
        clear = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{clear}{text}\n")
        self._stream.flush()
        self._shown_at = time.monotonic()

    def waiting(self, text: str) -> None:
        """What is awaited at the moment."""
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text[:118]}")
            self._stream.flush()
        elif time.monotonic() - self._shown_at >= self._repeat:
            self.line(text)
