"""The access log: a JSON object a line for each request, who asked what and how it was answered, never what was sent.

A line is made while its request is answered, and written by a thread a tenth of a second later, with all the others of
that time: whoever reads the log and does not get on, or a disk that is slow, holds no answer up. What cannot be written
in time is counted and dropped.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

from include.serving.metrics.prometheus import Metrics

Which = Literal["all", "errors", "off"]

WRITE_SECONDS = 0.1
MOST_LINES = 50_000
"""What may wait to be written; some MB."""
LONGEST_PATH = 200
ENDPOINTS = 1024
"""Beginnings of lines that are remembered."""

_SANE = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch

log = logging.getLogger("mlops.serving")


class AccessLog:
    """Collects lines and writes them.

    Args:
        which: every request, those with a status from 400 on, or none.
        metrics: where lost lines are counted.
        descriptor: the file to write to; standard error, like the rest of the service's log.
    """

    def __init__(self, which: Which, metrics: Metrics, descriptor: int = 2) -> None:
        self._least = {"all": 0, "errors": 400, "off": 1000}[which]
        self._metrics, self._descriptor = metrics, descriptor
        self._own, self._number = f"{secrets.token_hex(8)}-", itertools.count(1)
        self._lines: deque[str] = deque()
        self._lost = 0
        self._second, self._moment = 0, ""
        self._beginnings: dict[tuple[str, str, str | None, str | None, int | None], str] = {}
        self._some, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None

    def request_id(self, sent: bytes | None) -> str:
        """What a request is called: as its X-Request-ID says, if that is up to 64 of A-Z a-z 0-9 . _ -, else anew."""
        if sent is not None and _SANE(sent):
            return sent.decode()
        return f"{self._own}{next(self._number):x}"

    def note(
        self,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        caller: str | None,
        model: str | None,
        version: int | None,
        size: int,
    ) -> None:
        """Note a request that was answered; `size` are the bytes of its answer. From the event loop's thread."""
        if status < self._least:
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._moment = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S.', time.gmtime(second))
        beginning = self._beginnings.get((method, path, caller, model, version))
        if beginning is None:
            beginning = self._beginning(
                method, path, caller, model, version, known=status != 404 and len(path) <= LONGEST_PATH
            )
        if len(self._lines) >= MOST_LINES:
            self._lost += 1
            return
        self._lines.append(
            f'{self._moment}{int((now - second) * 1000):03d}Z","request_id":"{request_id}",{beginning}'
            f',"status":{status},"ms":{seconds * 1000:.2f},"bytes":{size}}}\n'
        )
        if not self._some.is_set():
            self._some.set()

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what is left, if that is possible in so many seconds."""
        self._ended = True
        self._some.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _beginning(
        self, method: str, path: str, caller: str | None, model: str | None, version: int | None, *, known: bool
    ) -> str:
        shown = {"method": method, "path": path[:LONGEST_PATH], "caller": caller, "model": model, "version": version}
        beginning = json.dumps(shown, separators=(",", ":"))[1:-1]
        if known:  # else anybody could fill the memory with paths that do not exist
            if len(self._beginnings) >= ENDPOINTS:
                self._beginnings.clear()
            self._beginnings[method, path, caller, model, version] = beginning
        return beginning

    # ------------------------------------------------------------------------------------------- the writer's thread

    def _run(self) -> None:
        while not self._ended:
            self._some.wait()
            if not self._ended:
                time.sleep(WRITE_SECONDS)
            self._some.clear()
            self._write()

    def _write(self) -> None:
        lost, self._lost = self._lost, 0
        reason = "they came faster than they could be written"
        for lines in self._chunks():
            try:
                self._write_whole(memoryview("".join(lines).encode()))
            except OSError as error:
                reason, lost = str(error.strerror), lost + len(lines)
        if lost:
            log.error("access log: lines lost", extra={"fields": {"lines": lost, "reason": reason}})
            self._metrics.access_lost.inc(lost)

    def _chunks(self) -> Iterator[list[str]]:
        """Lines that a pipe takes as a whole, so that those of two workers do not mix."""
        chunk: list[str] = []
        size = 0
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            if chunk and size + len(line) > select.PIPE_BUF:
                yield chunk
                chunk, size = [], 0
            chunk.append(line)
            size += len(line)
        if chunk:
            yield chunk

    def _write_whole(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [], 1.0)
