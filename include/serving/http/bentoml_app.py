"""BentoML's own application, behind ours: what it refuses is said in our form, and whether it is reached is known.

BentoML answers /livez, /healthz and /metrics, runs the hooks, and holds the typed API. Its errors are `{"error": "…"}`,
plain text or a page; a client of this service knows one form only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ANSWERED = "x-mlops-answered"
"""The header by which the typed API marks an answer, a refusal too, as ours to the byte; no client gets to see it."""
CONTENT_TYPE = "mlops.content_type"
"""The content type as it was sent; BentoML is told application/json, so that none of its own decoders is chosen."""
_CODES = {404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "body_too_large", 503: "not_ready"}
_PASSED_ON = frozenset({b"allow", b"retry-after"})
_MARK = ANSWERED.encode()
_DROPPED = frozenset({b"server", b"x-bentoml-request-id", b"x-bentoml-trace-id", _MARK})


class BentoMLAdapter:
    """Wraps BentoML's application; `reached` says whether requests and start-up come to it through ours."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self.reached = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on (ASGI)."""
        self.reached = True
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        sent = b""
        headers = []
        for name, value in scope["headers"]:
            if name == b"content-type":
                sent = value
            elif name not in (b"content-encoding", b"content-length"):  # the body has been read, and decompressed
                headers.append((name, value))
        headers.append((b"content-type", b"application/json"))
        scope = {**scope, "headers": headers, CONTENT_TYPE: sent.decode("latin-1")}
        await self._application(scope, receive, _Answer(scope["path"], send).send)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` from the start again, for an application that follows one that has read the body."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        return next(messages, None) or await receive()

    return again


class _Answer:
    """What BentoML sends, on its way to the client."""

    def __init__(self, path: str, send: Send) -> None:
        self._path, self._send = path, send
        self._replaced: bytes | None = None

    async def send(self, message: Message) -> None:
        """One message (ASGI)."""
        if message["type"] == "http.response.start":
            sent = message["headers"]
            headers = [(name, value) for name, value in sent if name not in _DROPPED]
            if message["status"] >= 400 and all(name != _MARK for name, _ in sent):
                self._replaced = _error(message["status"], self._path)
                headers = [(name, _ordered(value)) for name, value in headers if name in _PASSED_ON]
                headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._replaced))]
            message = {**message, "headers": headers}
        elif self._replaced is not None:
            if message.get("more_body"):
                return
            message = {"type": "http.response.body", "body": self._replaced}
        await self._send(message)


def _ordered(value: bytes) -> bytes:
    """A header's list in one order: which methods are allowed is a set to BentoML."""
    return b", ".join(sorted(value.split(b", ")))


def _error(status: int, path: str) -> bytes:
    code = _CODES.get(status, "internal" if status >= 500 else "refused")
    described = {
        404: f"there is nothing at {path}; see /docs",
        405: f"{path} does not take this method",
        503: "the service is not ready",
    }
    message = described.get(status, "the service failed to answer this request; its log says why")
    return msgspec.json.encode({"error": {"code": code, "message": message, "field": None}})
