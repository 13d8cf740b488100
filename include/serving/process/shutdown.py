"""How a worker ends: announced first, and never later than whoever started it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

log = logging.getLogger("mlops.serving")


class Shutdown:
    """Puts a time of draining between SIGTERM and the server's own answer to it.

    A server that gets SIGTERM closes its listener at once, while load balancers still send to it. So readiness turns
    503 first and requests go on being taken, each answer asking its client to close the connection; then the server's
    own handler follows, which lets requests in flight finish. SIGINT, of somebody at a keyboard, is not delayed.

    Args:
        announce: what turns readiness off and lets answers close their connections.
        seconds: for how long requests are still taken.
    """

    def __init__(self, announce: Callable[[], None], seconds: float) -> None:
        self._announce, self._seconds = announce, seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Callable[[int, FrameType | None], object] | None = None
        self._begun = False

    def install_handlers(self) -> None:
        """Stand between SIGTERM and the server's handler, which must be there; called on the event loop.

        Raises:
            RuntimeError: the server listens to no SIGTERM, or did not register yet.
        """
        handler = signal.getsignal(signal.SIGTERM)
        if not callable(handler):
            raise RuntimeError("the server has no handler for SIGTERM yet, so it would not drain")  # noqa: TRY004
        self._loop, self._server = asyncio.get_running_loop(), handler
        signal.signal(signal.SIGTERM, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None and not self._begun:  # a group's leader and the group may both be told
            self._begun = True
            self._loop.call_soon_threadsafe(self._drain, self._seconds)

    def _drain(self, seconds: float) -> None:
        log.info("draining", extra={"fields": {"seconds": seconds}})
        self._announce()
        assert self._loop is not None  # noqa: S101
        self._loop.call_later(seconds, self._end)

    def _end(self) -> None:
        assert self._server is not None  # noqa: S101
        self._server(signal.SIGTERM, None)

    def exit_with_parent(self, every: float = 0.25) -> None:
        """End, without draining, when the launcher or BentoML's supervisor has gone: an orphan would keep the port."""
        launcher = os.environ.get("MLOPS_SERVING_LAUNCHER", "")
        parent = int(launcher) if launcher.isdigit() else os.getppid()

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(every)
            self._seconds = 0.0
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
