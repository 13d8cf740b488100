"""Reads a request's body within bounds: so large, so long, and so much of all bodies together in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from include.serving.admission import overloaded
from include.serving.refusals import Refused

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

SMALL = 64 * 1024
"""Bodies up to this size are not counted: the limit on requests in progress is one on their memory, too."""
AT_ONCE = 8
"""So many of the largest bodies may be in memory at once; decoded, each takes some times its size."""


class Bodies:
    """The bodies that a worker holds. Belongs to the event loop's thread.

    Args:
        largest: bytes.
        seconds: how long one may take to arrive. This holds from its first byte on; for those who send none, and for
            the headers, there is include/serving/connections.py.
    """

    def __init__(self, largest: int, seconds: float) -> None:
        self._largest, self._seconds, self._free = largest, seconds, AT_ONCE * largest

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, to be followed by `done`; None: the client has gone.

        Raises:
            Refused: 408, 413, or 503 when the bodies in progress would need too much memory. After a 408 or 413 the
                connection must be closed (`connection: close`): what is left of the body would follow.
        """
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and (len(length) > 15 or int(length) > self._largest):
            raise self._too_large()  # before a byte of it is read
        message = await receive()
        if message["type"] != "http.request":
            return None
        body: bytes = message.get("body", b"")
        if not message.get("more_body") and len(body) <= SMALL:
            return body
        try:
            async with asyncio.timeout(self._seconds):
                return await self._rest(body, message, receive)
        except TimeoutError:
            raise Refused(408, "too_slow", f"the body did not arrive within {self._seconds:g} s") from None

    def done(self, body: bytes | None) -> None:
        """A body that was read is no longer needed."""
        if body is not None and len(body) > SMALL:
            self._free += len(body)

    async def _rest(self, first: bytes, message: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        chunks, size, held, kept = [first], len(first), 0, False
        try:
            while True:
                if size > self._largest:
                    raise self._too_large()
                if size > SMALL:
                    if size - held > self._free:
                        raise overloaded()
                    self._free -= size - held
                    held = size
                if not message.get("more_body"):
                    kept = True
                    return b"".join(chunks)
                message = await receive()
                if message["type"] != "http.request":
                    return None
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
        finally:
            if not kept:
                self._free += held

    def _too_large(self) -> Refused:
        megabytes = self._largest / 1024**2
        return Refused(413, "body_too_large", f"the body is larger than {megabytes:g} MB; send several requests")
