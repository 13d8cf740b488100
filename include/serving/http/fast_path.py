"""The usual request, answered between the parser's last callback and the transport: no task, no future, no ASGI.

uvicorn makes a task, an event, a scope and two messages of each request, and asyncio a turn of the loop of each step:
together they cost more than a row's answer does. A small POST that has arrived whole, of a path that the application
answers directly, therefore goes to it as it is, and its answer is one write. All else takes the way of ASGI: other
paths and methods, bodies that come in parts, pipelined requests, clients that fetch slowly, and whoever is refused
before there is a row. Both ways run through the same application and give the same bytes; tests compare them.

It is uvicorn's own protocol but for that: its callbacks of httptools' parser are built upon, and what it expects of
`cycle`, the request in progress. Tests with real sockets hold them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, ClassVar, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from include.serving.http.headers import without_upgrade

Headers = list[tuple[bytes, bytes]]
ASGIApp = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

LARGEST = 32 * 1024
"""Bytes of a body that is answered directly: rows that are answered on the event loop, and not in a thread."""

_headers_complete = HttpToolsProtocol.on_headers_complete
_body = HttpToolsProtocol.on_body
_message_complete = HttpToolsProtocol.on_message_complete


class Reply(Protocol):
    """Where the answer to a request goes, once."""

    def prepare(self, status: int, body: bytes, headers: Headers) -> None:
        """Make ready what `send` sends."""

    def send(self) -> None:
        """Send what was prepared last."""


class Answering(Protocol):
    """What is used of the application."""

    def takes(self, target: bytes) -> bool:
        """Whether a small POST to this target, as it was sent, is answered directly."""

    def begin(self, target: bytes, headers: Headers, body: bytes, client: Any, reply: Reply) -> ASGIApp | None:
        """Begin to answer, by the reply. Or an application that refuses."""


class _Passed(list[tuple[bytes, bytes]]):
    """Where a request's trailers go: nothing reads them, so they take no memory."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        """Pass it over."""


class _NoEvent:
    """Nobody waits for more of a request that is whole."""

    def set(self) -> None:
        """Nothing to do."""


class FastRequest:
    """A request that is being answered directly, as uvicorn knows it."""

    __slots__ = (
        "body",
        "closing",
        "connection",
        "disconnected",
        "head",
        "keep_alive",
        "response_complete",
        "response_started",
    )

    message_event = _NoEvent()

    def __init__(self, connection: FastTransport) -> None:
        self.connection = connection
        self.disconnected = self.response_started = self.response_complete = False
        self.keep_alive = True
        self.head = self.body = b""
        self.closing = False

    def prepare(self, status: int, body: bytes, headers: Headers) -> None:
        """Make ready what `send` sends."""
        sent = self.connection.server_state.default_headers  # uvicorn replaces this list once a second
        known, defaults = FastTransport.defaults
        if known is not sent:
            defaults = b"".join(b"%b: %b\r\n" % header for header in sent)
            FastTransport.defaults = sent, defaults
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.closing = b"connection: close" in lines
        self.head, self.body = b"%b%b%b" % (STATUS_LINE[status], defaults, lines), body

    def send(self) -> None:
        """Send what was prepared last."""
        self.response_started = self.response_complete = True
        if not self.keep_alive and not self.closing:  # uvicorn has begun to end
            self.head, self.closing = self.head + b"connection: close\r\n", True
        if not self.disconnected:
            self.connection.send(b"%b\r\n%b" % (self.head, self.body), self.closing)


class FastTransport(HttpToolsProtocol):
    """uvicorn's protocol with the direct way, where `application` is set."""

    application: ClassVar[Answering | None] = None
    defaults: ClassVar[tuple[Headers | None, bytes]] = (None, b"")
    """uvicorn's own headers of this second, and as they are sent."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._whole: bytes | None = None
        """The body of a request that may be answered directly, as far as it has come."""
        self._head: Headers = []
        """The headers of the request whose body comes. What follows a body in chunks is none of them."""
        self.body_bytes = self.chunks = 0
        """What has come of a body that is not answered directly."""
        self.ended, self.last_words = False, b""
        """Whether nothing more is read, but answers are still to come; and what is said after them."""
        self.answering: Any = None
        """The request that is being answered, or was: `cycle` is the newest, which may stand behind it."""
        self.answered_at = 0.0
        """When the last direct answer was sent: its idle time counts from here, without a timer."""

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of none."""
        try:
            self._unset_keepalive_if_required()
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_malformed()
        if self._whole is not None:  # the rest of it is still to come
            self._undo(self._whole)

    def _go_on(self, rest: memoryview) -> None:
        """Answer requests that want another protocol by this one: a server may pass an Upgrade over.

        The parser takes what follows such a head for the other protocol's; another one reads the request without it.
        """
        while True:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                self.send_400_response("this is no proxy")
                return
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            try:
                self.parser.feed_data(without_upgrade(method, self.url, version, self.headers))
                if rest:
                    self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                continue
            except httptools.HttpParserError:
                self._refuse_malformed()
            return

    def _refuse_malformed(self) -> None:
        self.logger.warning("Invalid HTTP request received.")
        self.send_400_response("Invalid HTTP request received.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: also where requests that it sent ahead stand behind the one in progress."""
        if self.answering is not None:
            self.answering.disconnected = True
            self.answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Something was answered (uvicorn)."""
        super().on_response_complete()
        if self.ended and not self.transport.is_closing():
            self.answered_at = monotonic()
            if self.cycle.response_complete:
                self.transport.write(self.last_words)
                self.transport.close()

    def on_headers_complete(self) -> None:
        """The headers are whole (httptools)."""
        application, cycle, parser = self.application, self.cycle, self.parser
        if (
            application is not None
            and (cycle is None or cycle.response_complete)
            and application.takes(self.url)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self.root_path
            and self.limit_concurrency is None
        ):
            self._whole = b""
        elif parser.should_upgrade():
            return
        else:
            self.body_bytes = self.chunks = 0
            _headers_complete(self)
        self._head, self.headers = self.headers, _Passed()

    def on_body(self, body: bytes) -> None:
        """A part of the body (httptools)."""
        if self._whole is None:
            self.body_bytes += len(body)
            _body(self, body)
        elif len(self._whole) + len(body) > LARGEST:
            self._undo(self._whole + body)
        else:
            self._whole += body

    def on_chunk_complete(self) -> None:
        """A chunk of a body is whole (httptools)."""
        self.chunks += 1

    def on_message_complete(self) -> None:
        """The request is whole (httptools)."""
        body, before = self._whole, self.cycle
        if body is None or self.application is None:
            if not self.parser.should_upgrade():
                _message_complete(self)
            return
        self._whole = None
        self.cycle = self.answering = cycle = FastRequest(self)  # type: ignore[assignment]
        refusing = self.application.begin(self.url, self._head, body, self.client, cycle)
        if refusing is not None:
            self.cycle, self._whole = before, body
            application, self.app = self.app, refusing
            self._undo(body)
            self.app = application
            _message_complete(self)

    def _undo(self, body: bytes) -> None:
        """Go on by ASGI with a request of which so much has come."""
        self._whole = None
        self.body_bytes, self.chunks = len(body), 0
        _headers_complete(self)
        if body:
            _body(self, body)

    def send(self, answer: bytes, closing: bool) -> None:
        """Write a direct answer, and be ready for the next request."""
        self.transport.write(answer)
        self.answered_at = monotonic()
        if closing:
            self.transport.close()
        if self.pipeline or self.ended or self.transport.is_closing():
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
