"""Clients that go on asking a service whatever happens to it, and keep every answer, refusal and loss with its time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

_END = b"\r\n\r\n"
AGAIN_SECONDS = 0.05
"""After a connection was lost or refused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told; times by `time.monotonic`."""

    client: int
    body: int
    """Which of the bodies was sent."""
    asked: float
    at: float
    status: int
    head: bytes = field(repr=False)
    content: bytes

    @property
    def seconds(self) -> float:
        """From the request to the whole answer."""
        return self.at - self.asked

    @property
    def told(self) -> dict[str, Any]:
        """The body."""
        return dict(json.loads(self.content))


@dataclass(frozen=True, slots=True)
class Lost:
    """A request whose connection ended before its answer was whole."""

    client: int
    asked: float
    at: float
    reason: str


class Traffic:
    """A closed loop of clients, in a thread of its own, for as long as the context lasts.

    Args:
        url: the service's.
        bodies: sent round and round, by each client from another one on.
        key: the service's key.
        path: what is asked.
        clients: how many there are at once, each with a connection of its own.
        pause: seconds between an answer and the client's next request.
        until_refused: a client ends when its connection is refused, as one does that has another service to go to.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[Any],
        *,
        key: str = "secret",
        path: str = "/models/trips/predict",
        clients: int = 8,
        pause: float = 0.0,
        until_refused: bool = False,
    ) -> None:
        self.answers: list[Answer] = []
        self.lost: list[Lost] = []
        self.unreachable: list[float] = []
        """When connections were refused."""
        self.requests = [_request(path, json.dumps(body).encode(), key) for body in bodies]
        self.pause, self.until_refused = pause, until_refused
        address = httpx.URL(url)
        self._host, self._port, self._clients = address.host, address.port or 80, clients
        self._ended, self._finished = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Until every client has ended by itself; whether they did in time."""
        return self._finished.wait(seconds)

    @property
    def good(self) -> list[Answer]:
        """The answers with status 200."""
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def acknowledged(self) -> list[str]:
        """The ids of all predictions that clients were given."""
        return [answer.told["prediction_id"] for answer in self.good]

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))
        self._finished.set()

    async def _client(self, number: int) -> None:
        loop, following = asyncio.get_running_loop(), number
        while not self._ended.is_set():
            try:
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
            except OSError:
                self.unreachable.append(time.monotonic())
                if self.until_refused:
                    return
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            while not self._ended.is_set():
                body = following % len(self.requests)
                asked = time.monotonic()
                try:
                    head, content = await connection.ask(self.requests[body])
                except ConnectionError as error:
                    self.lost.append(Lost(number, asked, time.monotonic(), str(error)))
                    await asyncio.sleep(AGAIN_SECONDS)
                    break
                status = int(head[9:12])
                self.answers.append(Answer(number, body, asked, time.monotonic(), status, head.lower(), content))
                following += 1
                if self.pause:
                    await asyncio.sleep(self.pause)
                if connection.closes:
                    break
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time; much cheaper than a client library, which would take the service's processor time."""

    def __init__(self) -> None:
        self._received, self._reason = b"", ""
        self._whole: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._transport: asyncio.Transport
        self.closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer.

        Raises:
            ConnectionError: the connection ended before that.
        """
        if self._reason:
            raise ConnectionError(self._reason)
        self._whole = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._whole

    def close(self) -> None:
        """No more will be asked."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, content = self._received.partition(_END)
        if not found:
            return
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(content) < int(headers[b"content-length"]):
            return
        self._received = b""
        self.closes = headers.get(b"connection") == b"close"
        if self._whole is not None and not self._whole.done():
            self._whole.set_result((head, content))

    def connection_lost(self, error: Exception | None) -> None:
        self._reason = str(error or "closed by the service")
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(ConnectionError(self._reason))


def _request(path: str, body: bytes, key: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def percentile(answers: Sequence[Answer], share: float) -> float:
    """The seconds that `share` of the answers took at most."""
    taken = sorted(answer.seconds for answer in answers)
    return taken[int(len(taken) * share)]
