"""A request and a response, as every handler sees them whichever transport carries them; and the one form of an error.

Every refusal is `{"error": {"code", "message", "field"}}`, with the headers that its status demands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from include.inference.errors import Refused, cut
from include.serving.http.access_log import LONGEST_PATH

Headers = list[tuple[bytes, bytes]]

JSON_TYPE, CONTENT_TYPE = b"application/json", b"content-type"
NO_HEADERS: Headers = []


@dataclass(slots=True)
class Request:
    """What of one request is needed while it is answered, and for its line in the access log."""

    path: str
    method: str
    headers: Mapping[bytes, bytes]
    started: float
    """`time.perf_counter()` when it had arrived."""
    query: bytes = b""
    parameters: Mapping[str, str] | None = None
    """Of its path: `model`, `version`; None on the fast path, whose paths have no other than the model."""
    id: str = ""
    caller: str | None = None
    """The name of the key that it came with."""
    model: str | None = None
    version: int | None = None
    response_type: tuple[bytes, Headers] = (JSON_TYPE, NO_HEADERS)
    """Of a prediction: the response's media type, and headers that go with it."""


@dataclass(slots=True)
class Response:
    """What a handler answers with."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON_TYPE
    headers: Sequence[tuple[bytes, bytes]] = ()


class MethodNotAllowed(Refused):
    """405: the path is there, and takes other methods."""

    def __init__(self, path: str, methods: Iterable[str]) -> None:
        self.methods = tuple(methods)
        super().__init__(405, "method_not_allowed", f"{cut(path, LONGEST_PATH)} takes {' or '.join(self.methods)}")


def json_response(document: object, status: int = 200) -> Response:
    """A document as JSON."""
    return Response(msgspec.json.encode(document), status)


def not_found(path: str) -> Refused:
    """404: there is nothing at this path."""
    return Refused(404, "not_found", f"there is nothing at {cut(path, LONGEST_PATH)}; see /docs")


def error_response(error: Refused, *, browser: bool = False) -> Response:
    """The response to a request that is refused.

    Args:
        error: why.
        browser: whether the path is a page's, so that a browser is to ask for the key as a password.
    """
    body = {"error": {"code": error.code, "message": error.message, "field": error.field}}
    return Response(msgspec.json.encode(body), error.status, headers=_error_headers(error, browser))


def _error_headers(error: Refused, browser: bool) -> Headers:
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", ", ".join("GET, HEAD" if m == "GET" else m for m in error.methods).encode())]
    if error.status == 401:
        return [(b"www-authenticate", b'Basic realm="prediction"' if browser else b"Bearer")]
    if error.status in (429, 503):
        return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after or 2)))]
    if error.status in (408, 413):  # what is left of the body is not read
        return [(b"connection", b"close")]
    if error.code == "unsupported_content_encoding":
        return [(b"accept-encoding", b"gzip, identity")]
    return []
