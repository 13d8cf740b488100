"""Reads tables in a process of its own: what foreign bytes do to a parser, they do to nobody who answers.

Arrow and parquet are read by C++ that was not written for hostile bytes: a corrupt file may end its process, claim
gigabytes, or loop. So a worker never reads one itself. It hands the bytes to a child that has no secret in its
environment, and bounds on its memory and on the CPU time that one table may take, and gets columns back or a refusal.
The child starts with the first table (pyarrow takes half a second and 60 MB) and stays; one that ends, or does not
answer in time, costs the request that it had, and the next table gets another child.

Both sides speak frames: eight bytes of length, and msgpack. A request is the contract (`Schema.contract`), the media
type and the body; an answer is either `refused` or `count` with columns.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from include.home import ROOT
from include.inference.errors import Refused
from include.inference.schema import Columns, Schema

CPU_SECONDS = 5
"""Of one table; a table within the other limits takes a tenth of a second."""
MEMORY_BYTES = 1024 * 1024 * 1024
"""Address space of the child above what it has when it is ready."""
READY_SECONDS = 60.0
"""How long it may take to start."""
COMMAND = (sys.executable, "-m", "include.serving.http.table_process")

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""No table ends its reader so: it is read once more."""
_FRUGAL = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Else allocators reserve gigabytes of addresses ahead, and the bound on them would say nothing."""
_LENGTH = struct.Struct("<Q")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZDIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")


class TableProcess:
    """A child that reads tables, started when it is needed. Any thread may use it; tables are read one at a time.

    Args:
        seconds: how long one table may take, waiting for those before it included.
        command: what the child is started by; its end of the socket is its standard input.
    """

    def __init__(self, seconds: float = 30.0, command: Sequence[str] = COMMAND) -> None:
        self._seconds, self._command = seconds, tuple(command)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None else None

    def read(self, schema: Schema, body: bytes, content_type: str) -> tuple[Columns, int]:
        """A table's columns and the number of its rows, as `Schema.table` gives them.

        Raises:
            Refused: by the contract; 400 where the bytes ended the child, 413 where they took too much CPU time, 503
                where it did not answer in time or cannot be started.
        """
        deadline = time.monotonic() + self._seconds
        if not self._lock.acquire(timeout=self._seconds):
            raise _late(self._seconds)
        try:
            request = msgspec.msgpack.encode((schema.contract, content_type, body))
            return _columns(self._answer(request, content_type, deadline))
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the child; the next table would start another one."""
        self._end()
        self._child = self._socket = None

    def _answer(self, request: bytes, content_type: str, deadline: float, again: bool = True) -> dict[str, Any]:
        connection = self._connected()
        try:
            _send(connection, request, deadline)
            answer: dict[str, Any] = msgspec.msgpack.decode(_receive(connection, deadline))
        except TimeoutError:
            self.close()
            raise _late(self._seconds) from None
        except OSError:
            status = self._ended()
            if again and status in _FROM_OUTSIDE:
                return self._answer(request, content_type, deadline, again=False)
            raise _fatal(status, content_type) from None
        return answer

    def _ended(self) -> int | None:
        """The status of a child that has closed its end."""
        assert self._child is not None  # noqa: S101
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5)
        status = self._child.returncode
        self.close()
        return status

    def _connected(self) -> socket.socket:
        """A child that waits for a table: the one that is there, or another one."""
        if self._socket is not None and self._child is not None:
            if self._child.poll() is None and not _has_ended(self._socket):
                return self._socket
            self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                self._command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment(os.environ), cwd=ROOT
            )
        self._socket = ours
        self._end = weakref.finalize(self, _kill, self._child, ours)
        try:
            _receive(ours, time.monotonic() + READY_SECONDS)
        except OSError:
            self.close()
            text = "the process that reads tables does not start, the service's log says why; send JSON"
            raise Refused(503, "tables_unavailable", text) from None
        return ours


def main() -> None:
    """The child: reads tables from its standard input, a socket, until that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of somebody at a keyboard; the parent says when it is time to end
    connection = socket.socket(fileno=os.dup(0))
    with contextlib.suppress(ImportError):  # `tables.read` says so
        import pyarrow.parquet  # noqa: F401
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":  # elsewhere the address space says nothing
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _send(connection, b"")
    with contextlib.suppress(ConnectionError):
        while True:
            contract, content_type, body = msgspec.msgpack.decode(_receive(connection))
            used = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS)
            _send(connection, msgspec.msgpack.encode(_answered(contract, content_type, body)))


def _answered(contract: bytes, content_type: str, body: bytes) -> dict[str, Any]:
    try:
        columns, count = _schema(contract).table(body, content_type)
    except Refused as refused:
        return {"refused": (refused.status, refused.code, refused.message, refused.field)}
    described = {
        name: (values.dtype.str, values.tolist() if values.dtype.kind == "O" else values.tobytes())
        for name, values in columns.items()
    }
    return {"count": count, "columns": described}


@lru_cache(maxsize=64)
def _schema(contract: bytes) -> Schema:
    return Schema.of(msgspec.json.decode(contract))


def _columns(answer: dict[str, Any]) -> tuple[Columns, int]:
    if refused := answer.get("refused"):
        raise Refused(*refused)
    return {name: _array(dtype, values) for name, (dtype, values) in answer["columns"].items()}, answer["count"]


def _array(dtype: str, values: Any) -> np.ndarray:
    if isinstance(values, bytes):
        return np.frombuffer(values, dtype=dtype)
    return np.array([*values, None], dtype=object)[:-1]  # of no values NumPy would make numbers


def _fatal(status: int | None, content_type: str) -> Refused:
    """What a table that ended the child is refused with."""
    if status == -signal.SIGXCPU:
        text = f"reading the table took more than {CPU_SECONDS} s; send several requests, or JSON"
        return Refused(413, "too_costly", text)
    what = "parquet" if content_type.endswith("parquet") else "arrow"
    text = f"the body cannot be read as {content_type}: its bytes ended the process that read them"
    return Refused(400, f"malformed_{what}", text)


def _late(seconds: float) -> Refused:
    return Refused(503, "timeout", f"reading the table took longer than {seconds:g} s; send smaller batches")


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the child finds in its environment: no key, no database."""
    passed = {name: inherited[name] for name in _PASSED_ON if name in inherited}
    return {**passed, "PYTHONPATH": str(ROOT), **_FRUGAL}


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _kill(child: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    child.kill()
    child.wait()


def _has_ended(connection: socket.socket) -> bool:
    """Whether a child that should be waiting has closed its end, or sent what nobody asked for."""
    connection.settimeout(0.0)
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _send(connection: socket.socket, frame: bytes, deadline: float | None = None) -> None:
    _wait_at_most(connection, deadline)
    connection.sendall(_LENGTH.pack(len(frame)) + frame)


def _receive(connection: socket.socket, deadline: float | None = None) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline))
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    parts, left = [], size
    while left:
        _wait_at_most(connection, deadline)
        part = connection.recv(min(left, 1 << 20))
        if not part:
            raise ConnectionError("the other side has ended")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _wait_at_most(connection: socket.socket, deadline: float | None) -> None:
    """Bound the next call on the socket; TimeoutError, an OSError, if there is no time left."""
    if deadline is None:
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


if __name__ == "__main__":
    main()
