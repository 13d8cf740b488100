"""A request's headers: what may come only once, and what is not supported, is refused before they are used.

Two headers of one name leave open which of them counts; a proxy in front may have read the other one. So whatever says
who sends a request, where it goes, and what its body is, comes once or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from include.inference.errors import Refused

ONCE = frozenset({
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding", b"expect",
    b"inference-header-content-length", b"x-request-id", b"origin", b"access-control-request-method",
})  # fmt: skip
"""Headers that are read here, or by a proxy in front, and of which a second one would contradict the first."""


def refuse_repeated(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse headers of which one is given twice that may come once only.

    Raises:
        Refused: 400 with the header's name.
    """
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in ONCE:
            shown = name.decode("latin-1").title()
            raise Refused(400, "duplicate_header", f"the header {shown} is given twice; send it once")
        seen.add(name)


def refuse_transfer_coding(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body that is coded on its way otherwise than in chunks.

    Raises:
        Refused: 501.
    """
    coding = headers.get(b"transfer-encoding", b"chunked").strip().lower()
    if coding != b"chunked":
        text = "of transfer codings this service knows chunked only; send Content-Encoding: gzip"
        raise Refused(501, "unsupported_transfer_coding", text)


def refuse_version(http_version: str, headers: Mapping[bytes, bytes]) -> None:
    """Refuse a request of another version of HTTP than 1.0 and 1.1, or one that has not what its version demands.

    A body in chunks is read otherwise by those who know HTTP/1.0 only; 1.1 demands a Host (RFC 9112).

    Raises:
        Refused: 400, 505.
    """
    if http_version == "1.1":
        if b"host" not in headers:
            raise Refused(400, "missing_header", "the header Host is missing, which HTTP/1.1 demands")
    elif http_version != "1.0":
        raise Refused(505, "unsupported_version", "this service speaks HTTP/1.1 and HTTP/1.0")
    elif b"transfer-encoding" in headers:
        raise Refused(400, "bad_request", "HTTP/1.0 has no Transfer-Encoding; send Content-Length, or HTTP/1.1")


def without_upgrade(method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of a request as it would be without a wish for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token for token in value.split(b",") if token.strip().lower() not in _OF_UPGRADE]
            value = b",".join(tokens)
        if name not in _OF_UPGRADE and (value or name != b"connection"):
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


_OF_UPGRADE = frozenset({b"upgrade", b"http2-settings"})
