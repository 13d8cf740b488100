"""A service that answers in batches of a turn, as ours does, and clients that ask it as fast as they can.

python -m uvicorn tests.include.serving.flood:app --port …
python -m tests.include.serving.flood <port> <connections> <seconds>
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry

from include.serving.http.load_shedding import LoadShedder
from include.serving.metrics.prometheus import Metrics

COST = 0.0005
"""Seconds of the loop's time that an answer takes."""
MOST = 128

admission = LoadShedder(MOST, Metrics(CollectorRegistry()))
waiting: list[asyncio.Future[None]] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """GET /state tells the limit in force; everything else is work."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/state":
        body = json.dumps({"limit": admission.limit, "inside": admission.inside}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        return
    if not admission.admits():
        if os.environ.get("AT_ONCE"):
            for message in admission.refusal:
                await send(message)
        else:
            await admission.refuse(send, scope["client"])
        return
    try:
        await receive()
        await _work()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
    finally:
        admission.leave()


async def _work() -> None:
    loop = asyncio.get_running_loop()
    if not waiting:
        loop.call_soon(_turn)
    waiting.append(mine := loop.create_future())
    await mine


def _turn() -> None:
    turn = waiting.copy()
    waiting.clear()
    until = time.perf_counter() + COST * len(turn)
    while time.perf_counter() < until:
        pass
    for future in turn:
        if not future.done():
            future.set_result(None)


class Client(asyncio.Protocol):
    """Asks again as soon as it has an answer, whatever that was."""

    request = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    answers: list[tuple[int, float]] = []
    clients: set[Client] = set()
    refusals: set[bytes] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.received = transport, b""
        self.ask()

    def ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found and len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]):
            status = int(head[9:12])
            self.answers.append((status, time.perf_counter() - self.asked))
            if status != 200:
                self.refusals.add(self.received.partition(b"\r\n")[2])
            self.clients.add(self)
            self.received = b""
            self.ask()


async def main(port: int, connections: int, seconds: float) -> None:
    """Print what was answered, once every client had a first answer."""
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(Client, "127.0.0.1", port)
    deadline = time.monotonic() + 60
    while len(Client.clients) < connections and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    Client.answers.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    good = sorted(s for status, s in Client.answers if status == 200)
    refused = sorted(s for status, s in Client.answers if status == 503)
    print(
        json.dumps(
            {
                "clients": len(Client.clients),
                "per_second": len(good) / took,
                "p50": good[len(good) // 2] if good else None,
                "p99": good[int(len(good) * 0.99)] if good else None,
                "refused_per_second": len(refused) / took,
                "longest_refusal": refused[-1] if refused else 0,
                "others": len(Client.answers) - len(good) - len(refused),
                "retry_after": all(b"retry-after: 1\r\n" in refusal for refusal in Client.refusals),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
