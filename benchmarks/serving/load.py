"""The load generator: a closed loop of N connections over prepared requests, on one core, with every latency kept.

What it costs itself is measured with each run, and `limit` shows how far it goes: against a server that answers a
constant it must stay far above the contenders.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

_LENGTH = b"ength: "  # Content-Length, in whatever case a server writes it
_END = b"\r\n\r\n"
CONSTANT = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 118\r\n\r\n{"prediction":%b}' % (
    b"1" * 103
)


@dataclass(frozen=True)
class Load:
    """What one run showed; times in seconds."""

    answered: int
    """In the measured part."""
    acknowledged: int
    """From the first to the last, warm-up and the last answers included."""
    failed: int
    """Answers that were not 200, and connections that were lost."""
    seconds: float
    latencies: list[float] = field(repr=False)
    """Of all that were answered, sorted."""
    cpu: float
    """Processor time of the generator itself."""
    errors: tuple[str, ...] = ()
    """The first few failures."""

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def percentile(self, share: float) -> float:
        """The latency that `share` of the answers stayed below."""
        return self.latencies[int(len(self.latencies) * share)] if self.latencies else float("nan")


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in {"Content-Type": "application/json", **headers}.items()]
    return "\r\n".join(lines).encode() + _END + body


def run(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up: float = 0.5,
    at_edge: Callable[[], None] = lambda: None,
    until: Callable[[], bool] | None = None,
) -> Load:
    """Send `requests` round and round for `seconds`, after a warm-up that is not counted.

    Args:
        port: the server's, on 127.0.0.1.
        requests: whole HTTP requests.
        connections: how many there are at once; each sends its next request when it has its answer.
        seconds: the measured part.
        warm_up: seconds before it.
        at_edge: called when the measured part begins, and when it ends: for what is read of the server.
        until: ends the measured part, then `seconds` is the longest it may take.

    Raises:
        OSError: it cannot be connected to, or does not answer at all.
    """
    collected = gc.isenabled()
    gc.collect()
    gc.disable()  # a pause of the generator would count as the server's
    try:
        return uvloop.run(_run(port, requests, connections, seconds, warm_up, at_edge, until))
    finally:
        if collected:
            gc.enable()


async def _run(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    warm_up: float,
    at_edge: Callable[[], None],
    until: Callable[[], bool] | None,
) -> Load:
    loop = asyncio.get_running_loop()
    shared = _Shared(itertools.cycle(requests).__next__, port)
    for _ in range(connections):  # one after the other: a busy event loop accepts one connection a turn
        await loop.create_connection(lambda: _Connection(shared), "127.0.0.1", port)
        if not await shared.at_rest(20.0):
            raise TimeoutError("no answer to the first request on a connection within 20 s")
    shared.running = True
    for connection in list(shared.open):
        connection.send()
    await asyncio.sleep(warm_up)
    at_edge()
    warm = len(shared.latencies)
    began, cpu = time.perf_counter(), time.process_time()
    await (asyncio.sleep(seconds) if until is None else _until(until, seconds))
    took, cpu, measured = time.perf_counter() - began, time.process_time() - cpu, len(shared.latencies)
    at_edge()
    shared.running = False
    await shared.at_rest(10.0)  # the last answers: what a server acknowledged must be recorded too
    for connection in list(shared.open):
        connection.abort()
    failed, errors = shared.failed + shared.busy, tuple(shared.errors[:5])
    if shared.busy:
        errors += (f"{shared.busy} requests were never answered",)
    latencies = sorted(shared.latencies[warm:measured])
    return Load(len(latencies), len(shared.latencies), failed, took, latencies, cpu, errors)


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


class _Shared:
    """What the connections of a run have in common."""

    def __init__(self, following: Callable[[], bytes], port: int) -> None:
        self.following, self.port = following, port
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.failed = self.busy = 0
        self.running = False
        """Whether an answer is followed by the next request."""
        self.open: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()

    def ended(self) -> None:
        """A connection waits for no answer any more."""
        self.busy -= 1
        if not self.busy:
            self._idle.set()

    async def at_rest(self, seconds: float) -> bool:
        """Whether within so long no answer is awaited any more."""
        self._idle.clear()
        if self.busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        return not self.busy


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer to the last one is whole."""

    __slots__ = ("_clock", "_keep", "_next", "_rest", "_sent", "_shared", "_transport", "_write")

    def __init__(self, shared: _Shared) -> None:
        self._shared, self._rest = shared, b""
        self._next, self._keep, self._clock = shared.following, shared.latencies.append, time.perf_counter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._write = self._transport.write
        self._shared.open.add(self)
        self.send()

    def send(self) -> None:
        """The next request, on a connection that awaits no answer."""
        self._shared.busy += 1
        self._sent = self._clock()
        self._write(self._next())

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        length = data.find(_LENGTH, 9)
        line = data.find(b"\r", length)
        end = data.find(_END, line)
        if length < 0 or line < 0 or end < 0 or len(data) < end + 4 + int(data[length + 7 : line]):
            self._rest = data
            return
        now = self._clock()
        if data[9:12] == b"200":
            self._keep(now - self._sent)
        else:
            self._fail(data[:300].decode(errors="replace"))
        if self._shared.running:
            self._sent = now
            self._write(self._next())
        else:
            self._sent = 0.0
            self._shared.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        shared = self._shared
        shared.open.discard(self)
        if not self._sent:
            return
        shared.ended()
        if shared.running:
            self._fail(f"connection lost: {exc or 'closed by the server'}")
            task = asyncio.get_running_loop().create_task(self._again())
            shared.tasks.add(task)
            task.add_done_callback(shared.tasks.discard)

    def _fail(self, reason: str) -> None:
        self._shared.failed += 1
        if len(self._shared.errors) < 5:
            self._shared.errors.append(reason)

    async def _again(self) -> None:
        """A client whose connection was lost opens another."""
        await asyncio.sleep(0.05)
        shared = self._shared
        if shared.running:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(shared), "127.0.0.1", shared.port
                )
            except OSError as error:
                self._fail(f"cannot connect: {error}")
                await self._again()


class _Constant(asyncio.Protocol):
    """Answers every packet with the same bytes: the cheapest server that Python can be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(CONSTANT)


async def _serve_constant(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Constant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import sys

    uvloop.run(_serve_constant(int(sys.argv[1])))
