"""Connections that hold a place without getting on: slow or endless headers, slow bodies, answers that nobody fetches.

uvicorn has a time limit for idle connections, and even that one starts anew with each stray byte; it has none for a
request that arrives a byte at a time, no bound on the size of its headers, and no limit to who may stay. This is its
own HTTP protocol, which also notes when it began to wait for what, and one look a second over all connections.

Only asyncio's protocol methods and the callbacks of httptools' parser are built upon, and the table in which uvicorn
looks up its protocols by name, which is how BentoML's worker comes to this one; tests with real sockets hold all three.
What it answers without ASGI is in include/serving/http/fast_path.py.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from time import monotonic
from typing import Any, ClassVar

import msgspec
import uvicorn.config

from include.serving.http.fast_path import Answering, FastRequest, FastTransport

NAME = "include.serving.http.connections:Connection"
HEADER_SECONDS = 10.0
"""How long a request may take from its first byte to the end of its headers."""
GRACE_SECONDS = 2.0
"""How much longer than the application a body is waited for: the application's own refusal says more."""
FETCH_SECONDS = 30.0
"""How long an answer may lie without a byte of it being fetched."""
LARGEST_HEADERS = 64 * 1024
"""Bytes, and as many around a body: trailers, and what a chunk says beside its length."""
CHUNK_BYTES = 32
"""What may stand around each chunk: its length, line ends, a short extension."""
SPARE_FILES = 256
"""Open files that are not connections."""
CHECK_SECONDS = 1.0
LAST_SECONDS = 0.5
"""For the first request of a connection that was taken just before the server ended."""

_received = FastTransport.data_received  # each request passes here: this is half as dear as super()
_headers_complete = FastTransport.on_headers_complete
_message_complete = FastTransport.on_message_complete

log = logging.getLogger("mlops.serving")


def _refusal(status: str, code: str, message: str) -> bytes:
    body = msgspec.json.encode({"error": {"code": code, "message": message, "field": None}})
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


_TOO_SLOW = _refusal("408 Request Timeout", "too_slow", "the request did not arrive in time")
_TOO_LARGE = _refusal(
    "431 Request Header Fields Too Large",
    "headers_too_large",
    f"the headers are larger than {LARGEST_HEADERS // 1024} kB",
)


class Connection(FastTransport):
    """uvicorn's protocol with the direct way, watched."""

    body_seconds: ClassVar[float] = 10.0
    most: ClassVar[int] = 1024 - SPARE_FILES
    """Connections at once; beyond it the one that has waited longest gives way."""
    opened: ClassVar[dict[Connection, None]] = {}
    """The connections of this process, oldest first."""
    _watched: ClassVar[asyncio.AbstractEventLoop | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._in_body, self._header_bytes, self._wire = False, 0, 0
        self._began: float | None = None
        self._since = monotonic()
        self._unfetched, self._fetched_at = 0, self._since
        if len(self.opened) >= self.most and not _make_room():
            transport.abort()
        self.opened[self] = None
        if Connection._watched is not self.loop:
            Connection._watched = self.loop
            self.loop.call_later(CHECK_SECONDS, _check_all)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.opened.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of none."""
        if self._began is None:
            self._began, self._header_bytes = monotonic(), 0
        self._wire += len(data)
        _received(self, data)
        if self._began is not None:  # the request did not come at once
            if not self._in_body:
                self._header_bytes += len(data)
            if self._header_bytes > LARGEST_HEADERS or self._around() > LARGEST_HEADERS:
                self._cut("headers too large", _TOO_LARGE)

    def _around(self) -> int:
        """Bytes that came with a body, since its headers were whole, and are none of it."""
        return (self._wire - self.body_bytes - CHUNK_BYTES * self.chunks) * self._in_body

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more (asyncio): it may be waiting for the answer to what it has asked, and gets it.

        One that has gone altogether looks the same until something is written to it.
        """
        if not self.ended:
            if self._in_body and self.pipeline:
                self._leave_out_the_last()
            elif self._in_body or self.waits() or self.scheme == "https":  # TLS ends both ways at once
                return False
            self.ended, self._since = True, monotonic()
        return True

    def on_headers_complete(self) -> None:
        """The headers are whole (httptools)."""
        _headers_complete(self)
        self._in_body, self._wire = True, 0
        if self._began is None:  # it came together with the end of another one
            self._began, self._header_bytes = monotonic(), 0

    def on_message_complete(self) -> None:
        """The request is whole (httptools)."""
        self._in_body, self._began = False, None
        _message_complete(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of every other refusal (uvicorn)."""
        self._end_with(_refusal("400 Bad Request", "bad_request", msg))

    def shutdown(self) -> None:
        """The server ends, and listens no more (uvicorn): who has connected and not asked yet may still do so."""
        cycle: object = self.cycle
        if cycle is None and not self.transport.is_closing():
            self.loop.call_later(LAST_SECONDS, self._shut)
        else:
            super().shutdown()

    def _shut(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    # ------------------------------------------------------------------------------------------- the look

    def check(self, now: float) -> None:
        """Cut the connection off if it does not get on."""
        transport = self.transport
        if transport.get_protocol() is not self:  # it was upgraded to another protocol
            del self.opened[self]
            return
        unfetched = transport.get_write_buffer_size()
        if not unfetched or unfetched < self._unfetched:
            self._fetched_at = now
        self._unfetched = unfetched
        if self.ended and now - max(self._since, self.answered_at) > FETCH_SECONDS:
            transport.abort()
        elif now - self._fetched_at > FETCH_SECONDS:
            log.warning("connection cut", extra={"fields": {"reason": "answer not fetched"}})
            transport.abort()
        elif transport.is_closing():
            return
        elif not transport.is_reading():  # it is we who let it wait
            self._began = now if self._began is not None else None
        elif self._began is None:
            if self._is_idle() and now - max(self._since, self.answered_at) > self.timeout_keep_alive:
                transport.close()
        elif now - self._began > HEADER_SECONDS + (self.body_seconds + GRACE_SECONDS) * self._in_body:
            self._cut("request too slow", _TOO_SLOW)

    def _is_idle(self) -> bool:
        """Whether it has asked nothing yet, or was answered directly; after other answers uvicorn counts the time."""
        cycle: object = self.cycle
        return cycle is None or (isinstance(cycle, FastRequest) and cycle.response_complete)

    def waits(self) -> bool:
        """Whether nothing of it is being answered."""
        return not self._in_body and (self.cycle is None or self.cycle.response_complete)

    def _cut(self, reason: str, refusal: bytes) -> None:
        log.warning("connection cut", extra={"fields": {"reason": reason}})
        self._end_with(refusal)

    def _end_with(self, refusal: bytes) -> None:
        """Refuse what comes in, after what was asked before it has been answered; nothing more is read."""
        begun = self._in_body and self._whole is None  # so it has a cycle
        self._whole = None
        if begun and not self.pipeline:
            if not self.cycle.response_started:  # else there is an answer, or half of one
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                self.transport.write(refusal)
            self.transport.close()
            return
        if begun:
            self._leave_out_the_last()
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(refusal)
            self.transport.close()
        else:
            self.ended, self.last_words, self._since = True, refusal, monotonic()
            self.parser = _Deaf()  # type: ignore[assignment]

    def _leave_out_the_last(self) -> None:
        """Forget the newest of the requests that wait for others: its end never comes."""
        self.pipeline.popleft()
        self.cycle = self.pipeline[0][0] if self.pipeline else self.answering


class _Deaf:
    """Reads nothing any more."""

    def feed_data(self, data: bytes) -> None:
        """Pass it over."""


def _check_all() -> None:
    """Look at every connection, and again in a second for as long as there are any."""
    now = monotonic()
    for connection in list(Connection.opened):
        connection.check(now)
    if Connection.opened and Connection._watched is not None:
        Connection._watched.call_later(CHECK_SECONDS, _check_all)
    else:
        Connection._watched = None


def _make_room() -> bool:
    """Close the connection that has waited longest without asking anything."""
    oldest = next((connection for connection in Connection.opened if connection.waits()), None)
    if oldest is None:
        return False
    del Connection.opened[oldest]
    oldest.transport.abort()
    return True


def watch(body_seconds: float, application: Answering | None = None) -> None:
    """Let every uvicorn server that this process starts from now on watch its connections.

    To be called before uvicorn's configuration is loaded: when the service's module is imported.

    Args:
        body_seconds: how long a body may take, as the application counts it.
        application: answers the usual request directly; None: all go by ASGI.

    Raises:
        RuntimeError: uvicorn has no such table any more.
    """
    protocols: dict[str, Any] = uvicorn.config.HTTP_PROTOCOLS
    if "auto" not in protocols or "httptools" not in protocols:
        raise RuntimeError("uvicorn chooses its protocol otherwise than by HTTP_PROTOCOLS; see connections.py")
    protocols["auto"] = protocols["httptools"] = NAME
    Connection.body_seconds, Connection.application = body_seconds, application
    Connection.most = max(64, _more_files() - SPARE_FILES)


def _more_files() -> int:
    """Let the process have as many open files as it may, and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most, soft) if soft != resource.RLIM_INFINITY else most
