"""A worker's sign of life: a byte a second from its event loop, through a pipe to its launcher.

A worker that has ended is noticed at once; one whose loop is stuck, or that was stopped, looks alive to everybody but
its clients, which wait. The byte is written by the loop itself: where it does not come, no request is answered either.
Standard library only: the launcher imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

VARIABLE = "MLOPS_SERVING_BEAT"
"""Names the pipe's descriptor in a worker's environment."""
EVERY_SECONDS = 1.0


def begin(environment: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> None:
    """Beat from now on, if somebody listens: a Bento that another server runs has no launcher."""
    text = environment.get(VARIABLE, "")
    if text.isdigit():
        descriptor = int(text)
        with contextlib.suppress(OSError):  # not a pipe of ours, after all
            os.set_blocking(descriptor, False)
            _beat(descriptor, loop)


def _beat(descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a launcher that is slow to read, or has gone
        os.write(descriptor, b".")
    loop.call_later(EVERY_SECONDS, _beat, descriptor, loop)
