"""The keys' file, `<home>/serving/keys.json`: who may ask the service for what. `mlops` writes, the service reads it.

A key is 256 random bits. The file holds its SHA-256, so that nobody who reads the file can use it; a plain hash does
for that, because there is no list of likely keys that could be tried: salt and slowness protect what people think up.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from include.storage import write_private
from include.text import did_you_mean

Scope = Literal["predict", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""predict: predictions, explanations, /models, /docs. feedback: labels, nothing else. admin: all, /metrics too."""

Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]


class KeysError(RuntimeError):
    """The keys' file cannot be used, or not so; the message says what to do."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as the file holds it. Two of the same name are a key and the one that it replaces."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    created: Moment
    expires: Moment | None = None
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Its quota in each worker; None: as params.yaml says, `service.requests_per_second`."""

    def valid(self, now: dt.datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or self.expires > now


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


def digest(secret: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse(text: bytes, file: Path) -> list[Key]:
    """The keys in a file's text.

    Raises:
        KeysError: it is damaged.
    """
    try:
        return msgspec.json.decode(text, type=_File).keys
    except ValueError as error:  # both of msgspec's errors, and text that is not UTF-8
        raise KeysError(
            f"{file} is damaged ({error}); bring it back, or delete it: `mlops up` writes the stack's own keys anew"
        ) from error


def read(file: Path) -> list[Key]:
    """The keys in a file; none where there is no file.

    Raises:
        KeysError: it is damaged, or others may write it.
    """
    try:
        mode, text = file.stat().st_mode, file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeysError(f"{file} cannot be read ({error.strerror})") from error
    if stat.S_IMODE(mode) & 0o022:
        raise KeysError(f"{file} may be changed by others (mode {stat.S_IMODE(mode):o}); run `chmod 600 '{file}'`")
    return parse(text, file)


def add(
    file: Path,
    name: str,
    scopes: Iterable[str],
    *,
    now: dt.datetime,
    requests_per_second: float | None = None,
    expires: dt.datetime | None = None,
) -> str:
    """Make a key and return it: the only time that it can be read.

    Raises:
        KeysError: the name is taken or unusable, or a scope is unknown.
    """
    secret = secrets.token_urlsafe(32)
    with _changing(file) as keys:
        if any(key.name == name for key in keys):
            raise KeysError(f"there is a key {name!r} already: `mlops keys rotate {name}` replaces it")
        keys.append(_checked(name, secret, scopes, now, requests_per_second, expires))
    return secret


def rotate(file: Path, name: str, *, now: dt.datetime, overlap: dt.timedelta, secret: str = "") -> str:
    """Make a new key of a name; the old one stays valid for `overlap`. What expired after some days will do so again.

    Raises:
        KeysError: there is no such key.
    """
    secret = secret or secrets.token_urlsafe(32)
    with _changing(file) as keys:
        of_name = [key for key in keys if key.name == name]
        if not of_name:
            raise KeysError(_no_such_key(name, keys))
        last = of_name[-1]  # the ones before it are being replaced already
        lifetime = last.expires - last.created if last.expires else None
        end = now + overlap
        keys[:] = [key for key in keys if key.name != name] + [
            msgspec.structs.replace(key, expires=min(key.expires or end, end)) for key in of_name if key.valid(now)
        ]
        expires = now + lifetime if lifetime else None
        keys.append(_checked(name, secret, last.scopes, now, last.requests_per_second, expires))
    return secret


def revoke(file: Path, name: str) -> int:
    """Remove every key of a name, and return how many there were; the service refuses them within a second.

    Raises:
        KeysError: there is no such key.
    """
    with _changing(file) as keys:
        remaining = [key for key in keys if key.name != name]
        removed = len(keys) - len(remaining)
        if not removed:
            raise KeysError(_no_such_key(name, keys))
        keys[:] = remaining
    return removed


def ensure(file: Path, own: Mapping[str, tuple[str, Iterable[str]]], *, now: dt.datetime) -> None:
    """Let the file hold the stack's own keys, name → (key, scopes); what people added stays as it is."""
    with _changing(file) as keys:
        for name, (secret, scopes) in own.items():
            of_name = [key for key in keys if key.name == name]
            current = next((key for key in of_name if key.sha256 == digest(secret) and key.expires is None), None)
            replaced = [key for key in of_name if key.expires is not None and key.sha256 != digest(secret)]
            current = current or _checked(name, secret, scopes, now, None, None)
            if of_name != [*replaced, current]:
                keys[:] = [key for key in keys if key.name != name] + [*replaced, current]


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[Key]]:
    """The keys, written back when they were changed; one writer at a time."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(file)
        before = list(keys)
        yield keys
        if keys != before or not file.exists():
            text = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2)
            write_private(file, text.decode() + "\n")


def _checked(
    name: str,
    secret: str,
    scopes: Iterable[str],
    now: dt.datetime,
    requests_per_second: float | None,
    expires: dt.datetime | None,
) -> Key:
    entry = {
        "name": name,
        "sha256": digest(secret),
        "scopes": list(dict.fromkeys(scopes)),
        "created": now.replace(microsecond=0),
        "expires": expires,
        "requests_per_second": requests_per_second,
    }
    try:
        return msgspec.convert(entry, Key)
    except msgspec.ValidationError as error:
        raise KeysError(
            f"{error}: a name has lower-case letters, digits, '.', '_' and '-'; scopes are {', '.join(SCOPES)};"
            " a quota is greater than 0"
        ) from None


def _no_such_key(name: str, keys: Iterable[Key]) -> str:
    known = sorted({key.name for key in keys})
    return f"there is no key {name!r}{did_you_mean(name, known)}; there are {', '.join(known) or 'none'}"
