"""Where clients find the service: below a path prefix of a proxy's, and from pages of other origins.

A proxy may strip its prefix or hand it on. What it hands on is `service.path_prefix`; of what it strips it tells by
X-Forwarded-Prefix, or that setting says it. Only links are made of it: the page's own are relative.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]

PREFLIGHT_SECONDS = 600
_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~-]+){1,20}/?").fullmatch
_METHODS = b"GET, HEAD, POST"
_TAKEN = b"authorization, content-type, content-encoding, x-request-id, inference-header-content-length"
_SHOWN = b"x-request-id, retry-after, inference-header-content-length"


@dataclass(frozen=True)
class Site:
    """A service's place, as its operator declares it.

    Args:
        prefix: `/ml`, or nothing: a path below which requests arrive, too.
        origins: whose pages may call the service from a browser (CORS); `*`: all.
    """

    prefix: str = ""
    origins: Collection[str] = ()

    def inside(self, path: str) -> str:
        """A request's path without the prefix."""
        if self.prefix and (path == self.prefix or path.startswith(f"{self.prefix}/")):
            return path[len(self.prefix) :] or "/"
        return path

    def base(self, headers: Mapping[bytes, bytes]) -> str:
        """What stands before `/models` in the address that a client used, as far as it is known."""
        sent = headers.get(b"x-forwarded-prefix", b"").partition(b",")[0].strip()  # the proxy next to the client
        return sent.decode().rstrip("/") if _PREFIX(sent) else self.prefix

    def allows(self, origin: bytes | None) -> bool:
        """Whether pages of this origin may call the service."""
        return origin is not None and ("*" in self.origins or origin.decode("latin-1") in self.origins)

    def preflight(self, headers: Mapping[bytes, bytes]) -> Headers | None:
        """The answer's headers, where a browser asks what it may send; None: this is no such question."""
        origin = headers.get(b"origin")
        if b"access-control-request-method" not in headers or not self.allows(origin):
            return None
        return [
            *self.shared(headers),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _TAKEN),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        ]

    def shared(self, headers: Mapping[bytes, bytes]) -> Headers:
        """What lets a page read an answer: nothing where it comes from elsewhere."""
        origin = headers.get(b"origin")
        if not self.allows(origin):
            return [(b"vary", b"origin")] if self.origins and "*" not in self.origins else []
        assert origin is not None  # noqa: S101
        exposed = (b"access-control-expose-headers", _SHOWN)
        if "*" in self.origins:
            return [(b"access-control-allow-origin", b"*"), exposed]
        return [(b"access-control-allow-origin", origin), exposed, (b"vary", b"origin")]
