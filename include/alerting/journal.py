"""The journal of alerts: lines of JSON in <home>/logs/alerts.jsonl, which every channel is served from.

The file comes first, so that an alert needs no database, no network and no waiting; include/alerting/delivery.py takes
it from there.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from include.home import Home

WAITING = 1000
"""How many alerts that cannot be written a process remembers; of more, the oldest are in its log alone."""

log = logging.getLogger("mlops.alerts")

_waiting: dict[Path, collections.deque[str]] = {}
"""The file → its lines, of one process."""


def send(home: Path, event: str, message: str, **details: Any) -> None:
    """Raise an alert: one JSON line in the file and in the log.

    A line that cannot be written, because the disk is full, stops nothing: it is in the log, and is written with the
    next alert of this process, or by `write_waiting`. On an event loop, which must not wait for a disk, a thread
    writes it; the process does not end before that.

    Args:
        home: the platform's folder.
        event: what kind of thing it is, one word: `task_failed`, `rollout_rolled_back`.
        message: one line for an operator.
        details: whatever helps to find the cause; what JSON does not know is written as text.
    """
    line = _line(event, message, details)
    _waiting.setdefault(Home(home).alerts, collections.deque(maxlen=WAITING)).append(line)
    if _on_an_event_loop():
        threading.Thread(target=write_waiting, name="alerts").start()
    else:
        write_waiting()


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def write(home: Path, event: str, message: str, **details: Any) -> None:
    """Raise an alert for a caller that itself tries again what could not be written.

    Raises:
        OSError: it cannot be written.
    """
    _append(Home(home).alerts, _line(event, message, details))


def write_waiting() -> None:
    """Write what could not be written before, in order; a file that cannot be written holds up no other."""
    for path, lines in list(_waiting.items()):
        while lines:
            try:
                line = lines.popleft()
            except IndexError:  # another thread writes it
                break
            try:
                _append(path, line)
            except OSError as error:
                lines.appendleft(line)
                log.warning("%s: cannot be written (%s); %d alerts wait", path, error.strerror or error, len(lines))
                break


def _line(event: str, message: str, details: dict[str, Any]) -> str:
    known = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "event": event, "message": message}
    line = json.dumps({**known, **details, "id": uuid.uuid4().hex}, default=str)
    log.error(line)
    return line


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path) as descriptor:
        size, data = os.fstat(descriptor).st_size, f"{line}\n".encode()
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, size)  # half a line, on a disk that is full, would spoil the next one
            raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """The journal, open at its end and locked against other writers; if it was replaced meanwhile, opened anew."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
