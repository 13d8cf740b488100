"""How much a worker takes on at once: what it accepts is answered in time, and what it cannot bear is told so cheaply.

One event loop answers everything, so whoever is accepted waits for whoever was accepted before. Up to `most` requests
in progress all wait a little. Beyond that somebody has to be refused anyway; from then on the limit follows the length
of the loop's turns, so that nobody who is accepted waits for long. When all who ask would fit again, it is over.

A refusal costs half of what a small answer costs: clients that ask again at once, against the Retry-After, would keep a
worker busy with nothing else. Beyond some refusals a second they are therefore held back, for about a second at most: a
connection that waits for its refusal cannot ask again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from include.inference.errors import Refused
from include.serving.metrics.prometheus import Metrics

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LONGEST_WINDOW = 0.005
"""Seconds: while there is more than can be answered, a longer turn of the loop lowers the limit."""
LEAST = 16
"""The lowest limit: fewer requests than this in a turn make the calls into NumPy and the model dear."""
RETRY_SECONDS = 1
REFUSALS_PER_SECOND = 1000
"""So many are sent at once, which is a few percent of a core; more of them wait for their turn."""
RELEASE_SECONDS = 0.02

_CODE, _MESSAGE = "overloaded", "the service has more requests than it can answer in time; come again"
_BODY = msgspec.json.encode({"error": {"code": _CODE, "message": _MESSAGE, "field": None}})


class LoadShedder:
    """Counts what is in progress in one worker. Belongs to the event loop's thread.

    Args:
        most: requests in progress at once.
        metrics: where the limit in force is seen.
    """

    refusal: tuple[dict[str, Any], dict[str, Any]] = (
        {
            "type": "http.response.start",
            "status": 503,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_BODY)).encode()),
                (b"retry-after", str(RETRY_SECONDS).encode()),
            ],
        },
        {"type": "http.response.body", "body": _BODY},
    )
    """The whole answer to a request that is not admitted, as ASGI messages: nothing is computed for it."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most, self._limit, self._least = most, most, min(most, LEAST)
        self._metrics = metrics
        self._counted = metrics.refused.labels("503", _CODE)
        self._inside = 0
        self._clients: set[object] = set()
        self._let_in: set[object] = set()
        self._overloaded = False
        self._window_began: float | None = None
        self._sent_at_once = 0
        self._delayed: deque[asyncio.Future[None]] = deque()
        self._releasing = False
        metrics.admitted.set(most)

    @property
    def inside(self) -> int:
        """Requests in progress."""
        return self._inside

    @property
    def limit(self) -> int:
        """How many may be in progress now."""
        return self._limit

    def admits(self, client: object = None) -> bool:
        """Take a request on, or not: True must be followed by `leave`, False by `refuse`; `client` as there."""
        if self._overloaded and self._window_began is None:
            self._window_began = time.monotonic()
            asyncio.get_running_loop().call_soon(self._turned)
        if self._inside < self._limit:
            self._inside += 1
            if self._overloaded and client:
                self._let_in.add(client)
            return True
        if not self._overloaded:
            self._overloaded = True
            asyncio.get_running_loop().call_later(1.0, self._looked_back)
        return False

    def leave(self) -> None:
        """A request that was taken on is done."""
        self._inside -= 1

    async def refuse(self, send: Send, client: object = None) -> None:
        """Answer a request that was not taken on; `client` is who has sent it, as the request's scope says."""
        self._clients.add(client or object())
        await self.pace()
        self._counted.inc()
        start, body = self.refusal
        await send(start)
        await send(body)

    async def pace(self) -> None:
        """Wait until another refusal may be sent: before those of unknown keys and spent quotas, too."""
        self._sent_at_once += 1
        if not self._releasing:
            self._releasing = True
            asyncio.get_running_loop().call_later(RELEASE_SECONDS, self._release)
        if self._sent_at_once > REFUSALS_PER_SECOND * RELEASE_SECONDS:
            delayed = asyncio.get_running_loop().create_future()
            self._delayed.append(delayed)
            await delayed

    # ------------------------------------------------------------------------------------- while there is too much

    def _turned(self) -> None:
        """A turn of the loop has ended, in which requests had arrived."""
        began, self._window_began = self._window_began, None
        window = time.monotonic() - (began or 0.0)
        if window > LONGEST_WINDOW:
            self._limit = max(self._least, int(self._limit * 0.9))
        elif window < LONGEST_WINDOW / 2 and self._inside >= self._limit:
            self._limit = min(self._most, self._limit + 1)

    def _looked_back(self) -> None:
        """Over, if all clients of the last second fit: those who were refused where there is room above the limit.

        Or, as clients that ask without a pause are all refused now and let in then, all of them together.
        """
        clients, let_in, self._clients, self._let_in = self._clients, self._let_in, set(), set()
        if len(clients) <= self._most - self._limit or (let_in and len(clients | let_in) <= self._most):
            self._overloaded, self._limit = False, self._most
        else:
            asyncio.get_running_loop().call_later(1.0, self._looked_back)
        self._metrics.admitted.set(self._limit)

    def _release(self) -> None:
        """Send what was held back: in order, and each within about a second, however many there are."""
        delayed, self._sent_at_once = self._delayed, 0
        count = max(int(REFUSALS_PER_SECOND * RELEASE_SECONDS), int(len(delayed) * RELEASE_SECONDS))
        for _ in range(min(count, len(delayed))):
            if not (refusal := delayed.popleft()).done():
                refusal.set_result(None)
        self._sent_at_once = count if delayed else 0
        self._releasing = bool(delayed)
        if delayed:
            asyncio.get_running_loop().call_later(RELEASE_SECONDS, self._release)


def overloaded() -> Refused:
    """The refusal as an exception."""
    return Refused(503, _CODE, _MESSAGE, retry_after=RETRY_SECONDS)
