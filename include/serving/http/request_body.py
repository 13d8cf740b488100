"""Reads a request's body within bounds: so large, so long, and so much of all bodies together in memory.

A body may be compressed (`Content-Encoding: gzip`); it then has the same bounds when it is decompressed.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from include.inference.errors import Refused
from include.serving.http.load_shedding import overloaded

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

SMALL = 64 * 1024
"""Bodies up to this size are not counted: the limit on requests in progress is one on their memory, too."""
MOST_MEMBERS = 100
"""Of a compressed body; usual is one."""
_CODINGS = (b"identity", b"gzip", b"x-gzip")
AT_ONCE = 8
"""So many of the largest bodies may be in memory at once; decoded, each takes some times its size."""


class Bodies:
    """The bodies that a worker holds. Belongs to the event loop's thread.

    Args:
        largest: bytes.
        seconds: how long one may take to arrive. This holds from its first byte on; for those who send none, and for
            the headers, there is include/serving/http/connections.py.
    """

    def __init__(self, largest: int, seconds: float) -> None:
        self._largest, self._seconds, self._free = largest, seconds, AT_ONCE * largest

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, to be followed by `done`; None: the client has gone.

        Raises:
            Refused: 400, 408, 413, 415, or 503 when the bodies in progress would need too much memory. After a 408 or
                413 the connection must be closed (`connection: close`): what is left of the body would follow.
        """
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in _CODINGS:
            text = f"a body may be sent as it is, or as Content-Encoding: gzip, not {coding.decode('latin-1')[:40]!r}"
            raise Refused(415, "unsupported_content_encoding", text)
        body = await self._read(headers, receive)
        return body if body is None or coding == b"identity" else await self._decompressed(body)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
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

    async def _decompressed(self, body: bytes) -> bytes:
        """A body that came as gzip; it counts as what it becomes."""
        self.done(body)
        if len(body) <= SMALL // 16:
            whole = gunzip(body, self._largest)
        else:
            whole = await asyncio.to_thread(gunzip, body, self._largest)
        if len(whole) > SMALL:
            if len(whole) > self._free:
                raise overloaded()
            self._free -= len(whole)
        return whole

    async def _rest(self, first: bytes, message: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        chunks, size, reserved, passed_on = [first], len(first), 0, False
        try:
            while True:
                if size > self._largest:
                    raise self._too_large()
                if size > SMALL:
                    if size - reserved > self._free:
                        raise overloaded()
                    self._free -= size - reserved
                    reserved = size
                if not message.get("more_body"):
                    passed_on = True
                    return b"".join(chunks)
                message = await receive()
                if message["type"] != "http.request":
                    return None
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
        finally:
            if not passed_on:
                self._free += reserved

    def _too_large(self) -> Refused:
        return _too_large(self._largest)


def gunzip(body: bytes, largest: int) -> bytes:
    """What a body is when it is decompressed, never more than so many bytes of it in memory.

    Raises:
        Refused: 400 for what is no gzip, or is cut off or goes on after its end; 413.
    """
    parts: list[bytes] = []
    left = largest
    while body or not parts:
        inflating = zlib.decompressobj(wbits=31)  # with gzip's own header and checksum
        try:
            parts.append(inflating.decompress(body, left + 1))
        except zlib.error as error:
            raise _not_gzip(str(error)) from None
        left -= len(parts[-1])
        if left < 0:
            raise _too_large(largest)
        if not inflating.eof:
            raise _not_gzip("it is cut off")
        body = inflating.unused_data  # gzip files may stand one after the other
        if len(parts) > MOST_MEMBERS:
            raise _not_gzip(f"it has more than {MOST_MEMBERS} members")
    return b"".join(parts)


def _not_gzip(why: str) -> Refused:
    return Refused(400, "malformed_gzip", f"the body is not what its Content-Encoding says, gzip: {why}")


def _too_large(largest: int) -> Refused:
    megabytes = largest / 1024**2
    return Refused(413, "body_too_large", f"the body is larger than {megabytes:g} MB; send several requests")
