"""Answers without ASGI, by real sockets: the same bytes, and whatever is not usual goes the long way."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvicorn.config

from include.serving.http import connections
from include.serving.http import fast_path as direct
from include.serving.http.application import Application, Limits
from include.serving.http.connections import Connection
from include.serving.http.predict import INLINE_BODY
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import application_of, around
from tests.waiting import until

ROW = json.dumps(ROWS[5]).encode()
KEY = b"authorization: Bearer secret\r\n"
JSON = b"content-type: application/json\r\n"


class Counted:
    """An application, and how many requests came to it by ASGI."""

    def __init__(self, application: Application) -> None:
        self.application, self.by_asgi = application, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.by_asgi += scope["type"] == "http"
        await self.application(scope, receive, send)


@contextlib.contextmanager
def serving(application: Application, *, direct: bool, keep_alive: int = 5) -> Iterator[tuple[int, Counted]]:
    """uvicorn with our protocol, in a thread: its port, and what is counted."""
    counted = Counted(application)
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
        patch.setattr(connections, "CHECK_SECONDS", 0.1)
        for name in ("most", "body_seconds", "application"):
            patch.setattr(Connection, name, getattr(Connection, name))
        connections.watch(5.0, application if direct else None)
        config = uvicorn.Config(
            counted, log_config=None, lifespan="off", timeout_keep_alive=keep_alive, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started, unless=lambda: not thread.is_alive())
            yield listener.getsockname()[1], counted
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("direct"), unknown="error")


def asking(
    body: bytes = ROW, more: bytes = KEY + JSON, target: bytes = b"/models/trips/predict", version: bytes = b"1.1"
) -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return b"POST %b HTTP/%b\r\nhost: x\r\n%b%b\r\n%b" % (target, version, length, more, body)


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(5)
    return client


def answer(client: socket.socket, left: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """The next answer's head and body, and what came after it."""
    received = left
    while b"\r\n\r\n" not in received:
        some = client.recv(1 << 16)
        assert some, received
        received += some
    head, _, rest = received.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head)
    assert found
    length = int(found[1])
    while len(rest) < length:
        rest += client.recv(1 << 16)
    return head, rest[:length], rest[length:]


def told(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Without what is new in each answer."""
    head = re.sub(rb"(date|x-request-id): [^\r]+", rb"\1", head)
    return head, re.sub(rb'"prediction_id":"[0-9a-f]{32}"', b"", body)


USUAL = {
    "a row": asking(),
    "the default model": asking(target=b"/predict"),
    "a content type with parameters": asking(more=KEY + b"Content-Type: application/json; charset=utf-8\r\n"),
    "a request id": asking(more=KEY + JSON + b"X-Request-ID: of-mine.7\r\n"),
    "a request id that is none": asking(more=KEY + JSON + b"X-Request-ID: a b\r\n"),
    "optional field missing": asking(json.dumps({k: v for k, v in ROWS[5].items() if k != "night"}).encode()),
    "out of what can be computed": asking(json.dumps({**ROWS[5], "trip_distance": 3e38}).encode()),
    "unknown category": asking(json.dumps({**ROWS[5], "vendor": "nobody"}).encode()),
}
REFUSED = {
    "no key": asking(more=JSON),
    "a wrong key": asking(more=JSON + b"authorization: Bearer wrong\r\n"),
    "no JSON": asking(b"{"),
    "nothing": asking(b""),
    "a field missing": asking(b"{}"),
    "another type": asking(more=KEY + b"content-type: text/plain\r\n"),
}
BATCH = {
    "a batch": asking(json.dumps({"rows": ROWS}).encode(), target=b"/models/trips/batch-predict"),
    "columns": asking(
        json.dumps({"columns": {name: [row.get(name) for row in ROWS] for name in ROWS[0]}}).encode(),
        target=b"/batch-predict",
    ),
    "a batch with a field missing": asking(b'{"rows":[{}]}', target=b"/models/trips/batch-predict"),
    "too many rows": asking(b'{"rows":[%b]}' % b",".join([b"{}"] * 200), target=b"/batch-predict"),
}
UNUSUAL = {
    "explained": asking(target=b"/models/trips/predict?explain=false"),
    "a path in other characters": asking(target=b"/models/tr%69ps/predict"),
    "no such model": asking(target=b"/models/nobody/predict"),
    "HTTP 1.0": asking(version=b"1.0"),
    "the last request": asking(more=KEY + JSON + b"connection: close\r\n"),
    "a large body": asking(ROW + b" " * 40_000),
    "in chunks": b"POST /predict HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (KEY + JSON, len(ROW), ROW),
}


def test_both_ways_give_the_same_bytes(application: Application) -> None:
    answers: dict[bool, dict[str, tuple[bytes, bytes]]] = {True: {}, False: {}}
    ways = {}
    for directly, found in answers.items():
        with serving(application, direct=directly) as (port, counted):
            for name, request in {**USUAL, **BATCH, **REFUSED, **UNUSUAL}.items():
                before = counted.by_asgi
                with connect(port) as client:
                    client.sendall(request)
                    found[name] = told(*answer(client)[:2])
                ways[name, directly] = counted.by_asgi - before
    assert answers[True] == answers[False]
    assert answers[True]["a row"][0].startswith(b"HTTP/1.1 200 OK\r\ndate\r\nserver: uvicorn\r\n")
    assert {name for name, directly in ways if directly and not ways[name, True]} >= USUAL.keys() | {
        "a batch",
        "columns",
    }
    assert all(ways[name, False] == 1 for name in USUAL)
    assert all(ways[name, True] == 1 for name in UNUSUAL if name != "in chunks")
    assert direct.LARGEST <= INLINE_BODY


def test_a_connection_is_used_again_and_again_by_both_ways_in_turn(application: Application) -> None:
    with serving(application, direct=True) as (port, counted), connect(port) as client:
        for _ in range(20):
            for request in (asking(), UNUSUAL["explained"], REFUSED["a field missing"]):
                client.sendall(request)
                head, _, left = answer(client)
                assert head.startswith(b"HTTP/1.1 422" if request is REFUSED["a field missing"] else b"HTTP/1.1 200")
                assert not left
        assert counted.by_asgi == 20


def test_a_request_that_arrives_in_pieces_goes_by_asgi(application: Application) -> None:
    request = asking()
    with serving(application, direct=True) as (port, counted), connect(port) as client:
        for cut in range(1, len(request), 7):
            client.sendall(request[:cut])
            time.sleep(0.005)
            client.sendall(request[cut:])
            head, body, left = answer(client)
            assert head.startswith(b"HTTP/1.1 200")
            assert json.loads(body)["model"] == "trips"
            assert not left
        head_only = request.index(b"\r\n\r\n") + 4
        assert 0 < counted.by_asgi <= len(range(1, len(request), 7))
        assert counted.by_asgi >= len(range(1, len(request) - head_only, 7)) // 2


def test_requests_that_were_sent_without_waiting_are_answered_in_their_order(application: Application) -> None:
    names = [b"x-request-id: n%d\r\n" % n for n in range(40)]
    with serving(application, direct=True) as (port, _), connect(port) as client:
        client.sendall(b"".join(asking(more=KEY + JSON + name) for name in names))
        left, seen = b"", []
        for _ in names:
            head, body, left = answer(client, left)
            assert json.loads(body)["prediction_id"]
            found = re.search(rb"x-request-id: \S+\r?\n?", head)
            assert found
            seen.append(found[0].strip())
    assert seen == [name.strip() for name in names]


def test_a_client_that_sends_and_never_reads_is_not_answered_without_end(application: Application) -> None:
    with serving(application, direct=True) as (port, _), connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                sent += client.send(asking() * 100)
        assert sent < 50_000_000
        with connect(port) as other:
            other.sendall(asking())
            assert answer(other)[0].startswith(b"HTTP/1.1 200")


def test_clients_that_leave_before_their_answer_take_nobody_with_them(application: Application) -> None:
    with serving(application, direct=True) as (port, _):
        for _ in range(50):
            with connect(port) as client:
                client.sendall(asking())
        with connect(port) as client:
            client.sendall(asking())
            assert answer(client)[0].startswith(b"HTTP/1.1 200")
        until(lambda: application._admission.inside == 0)


def test_an_idle_connection_is_closed(application: Application) -> None:
    with serving(application, direct=True, keep_alive=1) as (port, _), connect(port) as client:
        client.sendall(asking())
        answer(client)
        began = time.monotonic()
        assert client.recv(1) == b""
        assert time.monotonic() - began > 0.8


def test_answers_of_a_service_that_is_about_to_end_close_their_connections(tmp_path: Path) -> None:
    application = application_of(tmp_path)
    with serving(application, direct=True) as (port, counted), connect(port) as client:
        application.draining = True
        client.sendall(asking())
        head, _, _ = answer(client)
        assert head.endswith(b"\r\nconnection: close")
        assert client.recv(1) == b""
        assert counted.by_asgi == 0


def test_what_is_too_much_is_refused_and_counted_once(tmp_path: Path) -> None:
    application = application_of(tmp_path)
    gate = application._admission
    with serving(application, direct=True) as (port, _), connect(port) as client:
        gate._limit = 0
        client.sendall(asking())
        head, body, _ = answer(client)
        assert head.startswith(b"HTTP/1.1 503")
        assert json.loads(body)["error"]["code"] == "overloaded"
        assert gate.inside == 0
        gate._limit = 64
        client.sendall(asking())
        assert answer(client)[0].startswith(b"HTTP/1.1 200")
        assert gate.inside == 0


def test_the_typed_api_is_not_answered_past_it(application: Application) -> None:
    plain = around(application._models, application._metrics, Limits())
    plain._hot = False
    assert application.takes(b"/predict")
    assert not plain.takes(b"/predict")


def test_a_fault_of_ours_is_told_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = application_of(tmp_path)

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("broken")

    for owner, name in ((application._predictions, "begin_row"), (application, "prepare")):
        with monkeypatch.context() as patch, serving(application, direct=True) as (port, _), connect(port) as client:
            patch.setattr(owner, name, broken)
            client.sendall(asking())
            head, body, _ = answer(client)
            assert head.startswith(b"HTTP/1.1 500")
            assert json.loads(body)["error"]["code"] == "internal"
        assert application._admission.inside == 0
