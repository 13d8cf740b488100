"""Who may ask for what: the key that came with a request → its caller, or why it is refused."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import logging
import time
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from include.inference.errors import Refused
from include.serving import api_keys
from include.serving.metrics.prometheus import Metrics

CHECK_SECONDS = 0.5
"""How often a request looks whether the keys' file has changed: a revoked key is refused after as long at most."""
LONGEST_KEY = 512
FAILURES_PER_SECOND = 10.0
"""Unknown keys that a worker tells what is wrong with them; the others learn only that there are too many."""
FAILURES_AT_ONCE = 20.0

_ALL = frozenset(api_keys.SCOPES)
_HOW = "send one as `Authorization: Bearer <key>`; `mlops key serving` or `mlops keys add` gives one"

log = logging.getLogger("mlops.serving")


class Caller:
    """Whose key it is, and what it may."""

    __slots__ = ("digest", "name", "quota", "scopes")

    def __init__(self, name: str, scopes: Iterable[str], digest: bytes, quota: Quota | None) -> None:
        self.name, self.digest, self.quota = name, digest, quota
        self.scopes = _ALL if "admin" in scopes else frozenset(scopes)


class Quota:
    """So many requests a second, and as many at once (a token bucket)."""

    __slots__ = ("_at", "_most", "_tokens", "rate")

    def __init__(self, rate: float, at_once: float | None = None) -> None:
        self.rate, self._most = rate, max(1.0, at_once or rate)
        self._tokens, self._at = self._most, time.monotonic()

    def take(self, now: float) -> bool:
        """Whether there is one left at this moment (`time.monotonic`)."""
        tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if tokens >= 1.0:
            self._tokens = tokens - 1.0
            return True
        self._tokens = tokens
        return False

    def wait(self) -> float:
        """Seconds until there is one."""
        return (1.0 - self._tokens) / self.rate


class Authentication:
    """The keys that count now. Belongs to the event loop's thread.

    The file is looked at by the requests themselves, twice a second at most, and read when it is another one: keys are
    added, rotated and revoked without a restart. Where it cannot be used, the keys that were read last go on counting.

    A key is found by its SHA-256: how long that takes says nothing about the bytes of a key that was not sent.

    Args:
        file: the keys' file; None: there is none.
        key: one more key with every scope, for a service that runs by itself.
        open_to_all: whether no key is needed, which somebody must have asked for; not where `key` is given.
        requests_per_second: the quota of a key that has none of its own; None: no quota.
        metrics: where a damaged file is seen.
    """

    def __init__(
        self,
        file: Path | None,
        metrics: Metrics,
        *,
        key: str | None = None,
        open_to_all: bool = False,
        requests_per_second: float | None = None,
    ) -> None:
        self._file, self._metrics, self._default_rate = file, metrics, requests_per_second
        self._failures = Quota(FAILURES_PER_SECOND, FAILURES_AT_ONCE)
        self._quotas: dict[str, Quota] = {}
        self._alone = Caller("MLOPS_SERVING_KEY", _ALL, sha256(key.encode()).digest(), None) if key else None
        self._anybody = Caller("anybody", _ALL, b"", self._quota("anybody", None)) if open_to_all and not key else None
        self._anonymous = Caller("nobody", (), bytes(32), None)
        self._keys: list[api_keys.Key] = []
        self._callers: dict[bytes, Caller] = {}
        self._expired: dict[bytes, api_keys.Key] = {}
        self._seen: tuple[int, ...] | None = ()
        self._next_check = 0.0
        self._expires_at = 0.0
        self.problem: str | None = None
        """Why the keys' file cannot be used; None while all is well."""
        self._check(time.monotonic())

    @property
    def closed(self) -> bool:
        """Whether there is no key that would be let in: a service that nobody could use should not start."""
        return not self._callers and self._anybody is None

    def caller(self, authorization: bytes | None, scope: str) -> Caller:
        """Who sent this Authorization header, if they may do what `scope` names.

        Raises:
            Refused: 401 without a valid key, 403 without the scope, 429 beyond the key's quota or when there are too
                many unknown keys.
        """
        now = time.monotonic()
        if now >= self._next_check:
            self._check(now)
        if authorization is not None and authorization[:7] == b"Bearer " and len(authorization) <= LONGEST_KEY:
            digest = sha256(authorization[7:]).digest()
            caller = self._callers.get(digest, self._anonymous)
            if compare_digest(caller.digest, digest) and scope in caller.scopes:
                quota = caller.quota
                if quota is None or quota.take(now):
                    return caller
                raise _beyond(caller, quota)
        return self._otherwise(authorization, scope, now)

    def allows(self, authorization: bytes | None, scope: str) -> bool:
        """Whether this header would be let in: nothing is refused or counted."""
        now = time.monotonic()
        if now >= self._next_check:
            self._check(now)
        caller = self._known(_secret(authorization)) or self._anybody
        return caller is not None and scope in caller.scopes

    def _otherwise(self, authorization: bytes | None, scope: str, now: float) -> Caller:
        """Whatever is not a bearer token that is let in."""
        secret = _secret(authorization)
        caller = self._known(secret) or self._anybody
        if caller is None:
            raise self._unknown(secret, now)
        if scope not in caller.scopes:
            may = ", ".join(sorted(caller.scopes))
            raise Refused(403, "forbidden", f"the key {caller.name!r} lacks the scope {scope!r}; it has {may}")
        if caller.quota is not None and not caller.quota.take(now):
            raise _beyond(caller, caller.quota)
        return caller

    def _known(self, secret: bytes | None) -> Caller | None:
        if secret is None:
            return None
        digest = sha256(secret).digest()
        caller = self._callers.get(digest, self._anonymous)
        return caller if compare_digest(caller.digest, digest) else None

    def _unknown(self, secret: bytes | None, now: float) -> Refused:
        if secret is None:  # nobody guesses by sending nothing; a browser asks like that for the first time
            return Refused(401, "unauthorized", f"there is no key in this request: {_HOW}")
        if not self._failures.take(now):
            text = "there are too many requests with keys that are not known, and this one is not known, either"
            return Refused(429, "too_many_failures", text, retry_after=self._failures.wait())
        expired = self._expired.get(sha256(secret).digest())
        if expired is not None:
            text = f"the key {expired.name!r} expired at {expired.expires}; `mlops keys list` shows which do not"
            return Refused(401, "unauthorized", text)
        return Refused(401, "unauthorized", f"this key is not known: {_HOW}")

    # ------------------------------------------------------------------------------------------- the keys' file

    def _check(self, now: float) -> None:
        self._next_check = now + CHECK_SECONDS
        seen = self._identity()
        if seen != self._seen:
            self._seen = seen
            self._read()
        if time.time() >= self._expires_at:
            self._sort_out()

    def _identity(self) -> tuple[int, ...] | None:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            return (error.errno or 0,)
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            found, self.problem = api_keys.read(self._file), None
        except api_keys.KeysError as error:
            found, self.problem = self._keys, str(error)
        if self._seen is None and self._keys:  # who wants to revoke every key leaves a file without keys
            found, self.problem = self._keys, f"{self._file} is gone; `mlops up` writes the stack's own keys anew"
        self._keys, self._expires_at = found, 0.0
        self._metrics.keys_damaged.set(self.problem is not None)
        names = sorted({key.name for key in found})
        if self.problem is None:
            log.info("keys read", extra={"fields": {"keys": names}})
        else:
            log.error("keys not read; the last ones count", extra={"fields": {"reason": self.problem, "keys": names}})

    def _sort_out(self) -> None:
        """Tell the keys that count from those that have expired, until the next one does."""
        now = dt.datetime.now(dt.UTC)
        callers = [self._of(key) for key in self._keys if key.valid(now)]
        self._callers = {caller.digest: caller for caller in (*callers, self._alone) if caller is not None}
        self._expired = {bytes.fromhex(key.sha256): key for key in self._keys if not key.valid(now)}
        ends = (key.expires.timestamp() for key in self._keys if key.expires is not None and key.valid(now))
        self._expires_at = min(ends, default=float("inf"))

    def _of(self, key: api_keys.Key) -> Caller:
        quota = self._quota(key.name, key.requests_per_second)
        return Caller(key.name, key.scopes, bytes.fromhex(key.sha256), quota)

    def _quota(self, name: str, rate: float | None) -> Quota | None:
        """What a name may ask for: the same bucket for an old and a new key, and after the file was read again."""
        rate = rate or self._default_rate
        if rate is None:
            return None
        quota = self._quotas.get(name)
        if quota is None or quota.rate != rate:
            quota = self._quotas[name] = Quota(rate)
        return quota


def _secret(authorization: bytes | None) -> bytes | None:
    """The key in a header: a bearer token, or the password that a browser asks for on /docs; None: there is none."""
    if not authorization:
        return None
    scheme, _, sent = authorization.partition(b" ")
    scheme, sent = scheme.lower(), sent.strip()
    if scheme == b"basic":
        try:
            return base64.b64decode(sent, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return sent if scheme == b"bearer" and len(sent) <= LONGEST_KEY else b""


def _beyond(caller: Caller, quota: Quota) -> Refused:
    text = f"the key {caller.name!r} may send {quota.rate:g} requests a second to each worker"
    return Refused(429, "quota", text, retry_after=quota.wait())
