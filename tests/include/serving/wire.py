"""Fuzzes what comes over the wire: raw bytes to two listening sockets, of which one answers directly and one by ASGI.

    python -m tests.include.serving.wire --inputs 20000 --seed 1

An input is a stream of up to four requests, right and wrong ones, changed here and there, and sent in pieces; then the
client ends its half of the connection, or resets it. A finding is

- a status of 500, or one that HTTP does not know; an answer that is no HTTP, or whose refusal does not say why;
- a socket that does not close in time once the client has ended its half;
- a difference between the answers of both sockets, but for what is new in each;
- a request that the server sees where h11, another reader of HTTP, sees another one (request smuggling);
- a good client, which asks both sockets all the while, that is not answered as ever;
- memory that grows beyond its bound.

The same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import re
import resource
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import uvicorn

from include.serving.http.application import Application, Limits
from include.serving.http.connections import Connection
from tests.include.serving.fuzz import mutated
from tests.include.serving.http.test_application import application_of
from tests.include.serving.http.test_fast_path import BATCH, KEY, REFUSED, ROW, UNUSUAL, USUAL, answer, asking, told
from tests.waiting import until

SECONDS = 20.0
"""For one stream, on a machine that has other things to do."""
MEGABYTES = 200
JSON = b"content-type: application/json\r\n"
_STATUSES = {200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 501, 503, 505}
MALFORMED = b'{"error":{"code":"bad_request"'
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"

METHODS = [b"POST"] * 8 + [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PUT", b"DELETE", b"PATCH", b"PRI",
    b"PROPFIND", b"post", b"P\x00ST", b"", b"GET\t"]  # fmt: skip
TARGETS = [b"/predict", b"/models/trips/predict", b"/models/trips/batch-predict", b"/models/trips/feedback"] * 3 + [
    b"/v2/models/trips/infer", b"/models", b"/health", b"/livez", b"/readyz", b"/openapi.json", b"/docs", b"/", b"*",
    b"http://x/predict", b"https://user@x:1/models/trips/predict?a", b"//predict", b"/./predict", b"/a/../predict",
    b"/%70redict", b"/predict%00", b"/models/%00/predict", b"/models/%ff%fe/predict", b"/%", b"/%zz", b"/predict?",
    b"/predict?explain=true", b"/predict?explain=true&explain=false", b"/predict?%00=%ff", b"/predict#x", b"x:1",
    b"/models/trips/predict;a=b", b"/" + b"a" * 5000, b"/" + b"a/" * 3000, b"/\xc3\xa9", b"/predict\x7f", b"/pre dict",
    b"/models/" + b"%f0%9f%98%80" * 300 + b"/predict", b"", b"?", b"/metrics", b"/docs/..%2f..%2fetc%2fpasswd",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1.", b"http/1.1", b"",
    b"HTTP/1.1 ", b"HTTP/3", b"HTTP/11.1"]  # fmt: skip
HEADERS = [
    b"connection: close", b"connection: keep-alive", b"connection: upgrade\r\nupgrade: h2c", b"connection: TE, close",
    b"upgrade: websocket\r\nconnection: keep-alive, Upgrade", b"connection: x\r\nconnection: close", b"keep-alive: 5",
    b"expect: 100-continue", b"expect: 200-maybe", b"te: trailers", b"host: y", b"host:", b"host: a b", b"accept: */*",
    b"authorization: Bearer wrong", b"authorization: Basic eDpzZWNyZXQ=", b"authorization:", b"Authorization : a",
    b"authorization: Bearer \xff\xfe", b"authorization: bearer  secret", b"content-type: text/plain", b"content-type:",
    b"content-type: application/json; charset=utf-16", b"Content-Type: APPLICATION/JSON ;x=\"y;z\"", b"\tx: y",
    b"content-type: application/vnd.apache.parquet", b"content-encoding: gzip", b"content-encoding: identity",
    b"content-encoding: br", b"x-request-id: " + b"r" * 65, b"x-request-id: a\tb", b"x-request-id: ok-1",
    b"x-forwarded-for: 1.2.3.4, \xff", b"x-forwarded-proto: wss", b"x-forwarded-prefix: /a/../b", b"forwarded: for=_x",
    b"x-forwarded-for: ", b"x-forwarded-for: " + b"1.1.1.1," * 500, b"origin: null", b"origin: http://a\r\norigin: b",
    b"access-control-request-method: POST\r\norigin: https://a", b"transfer-encoding: chunked", b"range: bytes=0-",
    b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked", b"transfer-encoding : chunked", b"a: b\r\n c",
    b"Transfer-Encoding: \x0bchunked", b"transfer-encoding: chunked\r\ntransfer-encoding: x", b"content-length: 0",
    b"content-length: -1", b"content-length: +3", b"content-length: 3, 3", b"content-length: 0x3", b"content-length:",
    b"content-length: 99999999999999999999", b"content-length: 3\r\ncontent-length: 4", b"content-length: 12\r\n\t3",
    b"content-length: 20000000", b"x: \x00", b"x: \r y", b"x\x00: y", b": y", b"x", b"x:" + b" " * 3000 + b"y", b"",
    b"inference-header-content-length: 7", b"inference-header-content-length: -1", b"cookie: " + b"c" * 9000,
    b"if-match: *", b"sec-fetch-mode: cors", b"proxy-authorization: Basic x", b"date: yesterday", b"content-length: 3 ",
]  # fmt: skip
BODIES = [
    ROW, b"{}", b"", b"[]", b"null", b"\xef\xbb\xbf" + ROW,
    ROW.decode().encode("utf-16"), ROW.decode().encode("utf-32"),
    b"{" * 3000, b"[" * 20000, b'{"a":' * 2000, SMUGGLED, b"0\r\n\r\n" + SMUGGLED,
    b'{"rows":[%b]}' % ROW, b"x" * 40_000,
    b'{"rows":[]}', ROW[:-1] + b',"trip_distance":1}', ROW.replace(b"0.5", b"1e400"), ROW + b" " * 40_000, b"\x00" * 99,
    ROW.replace(b"5.5", b"NaN"), ROW.replace(b"5.5", b"-0"), ROW.replace(b"5.5", b"1" * 5000), b'"\\ud800"',
    b'{"labels":[{"entity":"\\ud800","label":1}]}',
    b'{"inputs":[{"name":"a","shape":[-1],"datatype":"FP64","data":[]}]}',
]  # fmt: skip
SIZES = [
    b"%x",
    b"%X",
    b"0%x",
    b"%x;a=b",
    b'%x;a="b;c"',
    b"%x ",
    b" %x",
    b"+%x",
    b"-%x",
    b"0x%x",
    b"%x\t",
    b"%x;" + b"e" * 500,
]
EVIL = [b"ffffffffffffffff", b"fffffffffffffffff", b"7fffffffffffffff", b"g", b"", b"1_0", b"00000000000000000002"]
TRAILERS = [
    b"",
    b"",
    b"",
    b"x: y\r\n",
    b"content-length: 3\r\n",
    KEY,
    b"host: y\r\n",
    b"x: y\r\n" * 400,
    b"x\r\n",
    b" f\r\n",
]
OTHER = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x80\x2e\x01\x00\x02", b"SSH-2.0-OpenSSH_9.6\r\n", b"\r\n\r\n\r\n", b"\n", b"GET /\r\n\r\n", b"\x00" * 64,
    b"GET / HTTP",
    b"*3\r\n$3\r\nSET\r\n", b"\xff\xfb\x1f", SMUGGLED * 60, b"POST /predict HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}",
]  # fmt: skip


def request(chance: random.Random) -> bytes:
    """One request, mostly right: of a few things in it one may be wrong."""
    body, odd = chance.choice(BODIES[:1] * 9 + BODIES), chance.random() < 0.7
    method = chance.choice(METHODS) if odd and chance.random() < 0.3 else b"POST"
    target = chance.choice(TARGETS) if odd and chance.random() < 0.5 else b"/models/trips/predict"
    version = chance.choice(VERSIONS) if odd and chance.random() < 0.3 else b"HTTP/1.1"
    head = [b"host: x"] if chance.random() < 0.95 else []
    head += [KEY.rstrip()] if chance.random() < 0.9 else []
    head += [JSON.rstrip()] if chance.random() < 0.9 else []
    if odd:
        head += chance.sample(HEADERS, chance.choice((0, 1, 1, 2, 3)))
    framing = chance.random()
    if framing < 0.6:
        off = chance.choice((0, 0, 0, 0, -1, 1, 7)) if odd else 0
        head.append(b"content-length: %d" % max(0, len(body) + off))
    if framing >= 0.55 and (framing < 0.95 or not odd):
        head.append(b"transfer-encoding: chunked")
        body = chunks(body, chance, odd=odd)
    chance.shuffle(head)
    return b"%b %b %b\r\n" % (method, target, version) + b"".join(line + b"\r\n" for line in head) + b"\r\n" + body


def chunks(body: bytes, chance: random.Random, *, odd: bool) -> bytes:
    """A body in chunks, of which one may be wrong."""
    made, at = b"", 0
    while at < len(body):
        length = chance.choice((1, 7, 100, len(body)))
        part = body[at : at + length]
        size = (chance.choice(SIZES) if odd and chance.random() < 0.2 else b"%x") % len(part)
        size = chance.choice(EVIL) if odd and chance.random() < 0.03 else size
        made += size + (b"\n" if odd and chance.random() < 0.03 else b"\r\n") + part + b"\r\n"
        at += length
    return made + b"0\r\n" + (chance.choice(TRAILERS) if odd else b"") + b"\r\n"


def stream(chance: random.Random) -> bytes:
    """Some requests, one after the other, changed here and there."""
    known = [*USUAL.values(), *REFUSED.values(), *UNUSUAL.values(), *BATCH.values()]
    kinds = (request, request, request, lambda c: c.choice(known), lambda c: c.choice(OTHER))
    whole = b"".join(chance.choice(kinds)(chance) for _ in range(chance.choice((1, 1, 2, 2, 3, 4))))
    return mutated([whole, asking()], chance) if chance.random() < 0.35 else whole


def pieces(sent: bytes, chance: random.Random) -> list[bytes]:
    """A stream as it is sent: at once, in a few pieces, or the first bytes one by one."""
    cuts = sorted(chance.randrange(len(sent) + 1) for _ in range(chance.choice((0, 0, 0, 1, 2, 5))))
    if chance.random() < 0.05:
        cuts = list(range(min(40, len(sent))))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True) if b > a]


@dataclass
class Answer:
    """One answer."""

    status: int
    head: bytes
    body: bytes


def answers(received: bytes, methods: Sequence[str]) -> list[Answer]:
    """What a server sent, taken apart.

    Raises:
        ValueError: it is no HTTP.
    """
    found: list[Answer] = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        line = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [ -~]*", head.partition(b"\r\n")[0])
        if not end or not line:
            raise ValueError(f"no head of an answer: {received[:80]!r}")
        status, length = int(line[1]), re.findall(rb"\r\ncontent-length: (\d+)(?=\r\n|$)", head)
        if status == 100:
            received = rest
            continue
        if len(length) != (status != 204):
            raise ValueError(f"{len(length)} lengths in {head[:200]!r}")
        size = int(length[0]) if length else 0
        bodiless = len(found) < len(methods) and methods[len(found)] == "HEAD" and not rest.startswith(MALFORMED)
        body, received = (b"", rest) if bodiless else (rest[:size], rest[size:])
        if not bodiless and len(body) < size:
            raise ValueError(f"{len(body)} bytes of {size}")
        found.append(Answer(status, head, body))
    return found


def as_h11_reads(sent: bytes) -> list[tuple[bytes, bytes]]:
    """Method and target of each request that another reader of HTTP finds in a stream, up to its first mistake."""
    found: list[tuple[bytes, bytes]] = []
    with contextlib.suppress(h11.ProtocolError):
        while sent := sent.lstrip(b"\r\n"):
            reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            reader.receive_data(sent)
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                if not isinstance(event, h11.Request | h11.Data):
                    return found
                if isinstance(event, h11.Request):
                    found.append((bytes(event.method), bytes(event.target)))
            sent = reader.trailing_data[0]
    return found


class Seen:
    """What an application was asked, method and path, by the port of the client that asked."""

    def __init__(self, application: Application) -> None:
        self._application, self._begin = application, application.begin
        self.requests: dict[int, list[tuple[str, str]]] = defaultdict(list)
        application.begin = self.begin  # type: ignore[method-assign]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """By ASGI."""
        if scope["type"] == "http" and scope["client"]:  # else it has gone already
            self.requests[scope["client"][1]].append((scope["method"], scope["path"]))
        await self._application(scope, receive, send)

    def begin(self, target: bytes, headers: Any, body: bytes, client: Any, reply: Any) -> Any:
        """Directly."""
        refusing = self._begin(target, headers, body, client, reply)
        if refusing is not self._application:
            self.requests[client[1] if client else 0].append(("POST", target.decode()))
            return refusing
        return self


@contextlib.contextmanager
def both(folder: Path) -> Iterator[tuple[dict[str, int], dict[str, Seen]]]:
    """Two servers in one loop of a thread: their ports, and what their applications see; first the direct one."""
    limits = Limits(max_body_bytes=1 << 20, body_seconds=2.0)
    made = {way: application_of(folder / way, unknown="error", limits=limits) for way in ("direct", "asgi")}
    seen = {way: Seen(application) for way, application in made.items()}
    listeners = {way: socket.create_server(("127.0.0.1", 0)) for way in made}
    servers = []
    for way, application in made.items():
        protocol = type(way, (Connection,), {"application": application if way == "direct" else None, "most": 512})
        servers.append(
            uvicorn.Server(
                uvicorn.Config(
                    seen[way], http=protocol, proxy_headers=False, log_config=None, lifespan="off", access_log=False
                )
            )
        )

    async def serve() -> None:
        loops = zip(servers, listeners.values(), strict=True)
        await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in loops))

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        until(lambda: all(server.started for server in servers))
        yield {way: listener.getsockname()[1] for way, listener in listeners.items()}, seen
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(10)


@dataclass
class Result:
    """What became of the streams."""

    inputs: int = 0
    bytes: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    good: int = 0
    grown: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def exchange(port: int, parts: Sequence[bytes], *, reset: bool) -> tuple[bytes, int]:
    """What came back until the server closed, and the port that was asked from: negative where it was reset.

    Raises:
        TimeoutError: it did not close in time.
    """
    received, deadline = b"", time.monotonic() + SECONDS
    with socket.create_connection(("127.0.0.1", port)) as client:
        own = int(client.getsockname()[1])
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it has closed already
            for part in parts:
                client.sendall(part)
                if len(parts) > 1:
                    time.sleep(0.0005)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return received, own
            client.shutdown(socket.SHUT_WR)
        try:
            while True:
                client.settimeout(max(0.001, deadline - time.monotonic()))
                some = client.recv(1 << 16)
                if not some:
                    break
                received += some
        except ConnectionResetError:  # closed with bytes unread: what was on its way may be lost
            return b"", -own
    return received, own


class Good(threading.Thread):
    """A good client, which asks both servers in turn until it is stopped."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._ports, self.stopped, self.answered, self.finding = ports, threading.Event(), 0, ""

    def run(self) -> None:
        good = asking(more=KEY + JSON + b"x-request-id: good\r\n")
        try:
            with contextlib.ExitStack() as opened:
                clients = [
                    opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
                    for port in self._ports
                ]
                self._ask(clients, good)
        except (OSError, AssertionError) as error:
            self.finding = f"the good client: {type(error).__name__}: {error}"[:400]

    def _ask(self, clients: Sequence[socket.socket], good: bytes) -> None:
        while not self.stopped.wait(0.002):
            for client in clients:
                client.sendall(good)
                head, _, left = answer(client)
                assert head.startswith(b"HTTP/1.1 200"), head
                assert not left, left
                self.answered += 1


def run(inputs: int, seed: int, folder: Path) -> Result:
    """Send so many streams to both."""
    chance, result, began = random.Random(f"wire {seed}"), Result(), time.monotonic()
    with both(folder) as (ports, seen):
        good = Good(list(ports.values()))
        good.start()
        before = _megabytes()
        for number in range(inputs):
            sent = stream(chance)
            if problem := _one(sent, pieces(sent, chance), chance.random() < 0.03, ports, seen, result):
                result.findings.append(f"#{number} (seed {seed}): {problem}; {sent[:600]!r}")
            if good.finding:
                result.findings.append(f"#{number} (seed {seed}): {good.finding}")
                break
        result.grown = _megabytes() - before
        good.stopped.set()
        good.join(SECONDS)
        result.good = good.answered
    if result.grown > MEGABYTES:
        result.findings.append(f"memory grew by {result.grown:.0f} MB")
    result.seconds = time.monotonic() - began
    return result


def _one(
    sent: bytes, parts: Sequence[bytes], reset: bool, ports: dict[str, int], seen: dict[str, Seen], result: Result
) -> str | None:
    result.inputs, result.bytes = result.inputs + 1, result.bytes + len(sent)
    told_by: dict[str, list[Any]] = {}
    for way, port in ports.items():
        at = time.perf_counter()
        try:
            received, own = exchange(port, parts, reset=reset)
        except TimeoutError:
            return f"{way}: not closed within {SECONDS:g} s"
        result.slowest_ms = max(result.slowest_ms, 1e3 * (time.perf_counter() - at))
        asked = seen[way].requests.pop(abs(own), [])
        if reset or own < 0:
            continue
        try:
            found = answers(received, [method for method, _ in asked])
        except ValueError as error:
            return f"{way}: {error}"
        told_by[way] = [(each.status, *told(each.head, each.body)) for each in found]
        for each in found:
            result.statuses[each.status] = result.statuses.get(each.status, 0) + 1
            if each.status not in _STATUSES:
                return f"{way}: status {each.status}"
            if problem := _unexplained(each):
                return f"{way}: {problem}"
        if problem := _smuggled(as_h11_reads(sent), asked, found):
            return f"{way}: {problem}"
    if len(told_by) < len(ports):
        return None
    direct, asgi = _until_malformed(told_by["direct"], told_by["asgi"])
    return None if direct == asgi else f"the two ways differ: {_difference(direct, asgi)}"


def _until_malformed(direct: list[Any], asgi: list[Any]) -> tuple[list[Any], list[Any]]:
    """The answers before what was no HTTP: whether its refusal or the application's is first hangs on the moment."""
    ends = [n for told in (direct, asgi) for n, each in enumerate(told) if each[2].startswith(MALFORMED)]
    return (direct[: min(ends)], asgi[: min(ends)]) if ends else (direct, asgi)


def _unexplained(answer: Answer) -> str | None:
    if answer.status < 400 or not answer.body:
        return None
    try:
        error = json.loads(answer.body)["error"]
        told = error["code"] and error["message"]
    except (ValueError, KeyError, TypeError):
        return f"a refusal that is none: {answer.body[:200]!r}"
    return (
        None if told and len(answer.body) < 20_000 else f"a refusal of {len(answer.body)} bytes: {answer.body[:200]!r}"
    )


def _smuggled(
    read: Sequence[tuple[bytes, bytes]], seen: Sequence[tuple[str, str]], found: Sequence[Answer]
) -> str | None:
    """Where an application was asked what h11 does not find at that place of the stream."""
    from urllib.parse import unquote

    for n, ((method, path), answered) in enumerate(zip(seen, found, strict=False)):
        if answered.status in (400, 501, 505):  # what h11 would not take either, such as two hosts
            return None
        if n >= len(read):
            return f"h11 reads {len(read)} requests, the application was asked {method} {path[:80]!r} as number {n + 1}"
        target = read[n][1].decode("latin-1")
        target = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", target) or "/"
        expected = unquote(re.split("[?#]", target)[0])
        if (read[n][0].decode("latin-1"), expected) != (method, path):
            return f"h11 reads {read[n]!r:.120}, the application was asked {method} {path[:80]!r}"
    return None


def _difference(a: Sequence[Any], b: Sequence[Any]) -> str:
    if len(a) != len(b):
        return f"{[x[0] for x in a]} {[x[0] for x in b]}"
    return next(f"{x!r:.300} {y!r:.300}" for x, y in zip(a, b, strict=True) if x != y)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # of uvicorn, for each stream that is no HTTP
    with tempfile.TemporaryDirectory() as folder:
        found = run(asked.inputs, asked.seed, Path(folder))
    sys.stdout.write(
        f"{found.inputs} streams, {found.bytes / 1e6:.1f} MB, to each of two sockets in {found.seconds:.0f} s, slowest "
        f"{found.slowest_ms:.0f} ms; memory grew by {found.grown:.0f} MB; "
        f"a good client was answered {found.good} times\n"
        f"answers by status: {', '.join(f'{s}: {n}' for s, n in sorted(found.statuses.items()))}\n"
        f"{len(found.findings)} findings\n"
    )
    sys.stdout.write("".join(f"{line}\n" for line in found.findings[:30]))
    sys.exit(bool(found.findings))


if __name__ == "__main__":
    main()
