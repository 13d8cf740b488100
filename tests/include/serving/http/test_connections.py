"""Connections that do not get on, sent by real sockets to a real uvicorn."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
import uvicorn.config

from include.serving.http import connections
from include.serving.http.connections import Connection
from tests.waiting import until

pytestmark = pytest.mark.slow  # each of them waits for a time limit

GOOD = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
LARGE = 4_000_000


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, answers it; /large is an answer of some MB, /never is none, /refused does not read the body."""
    if scope["type"] != "http":
        return
    body = b""
    while scope["path"] != "/refused":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/never":
        await receive()
        return
    if scope["path"] == "/large":
        body = b"x" * LARGE
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def served(**more: Any) -> Iterator[int]:
    """uvicorn as BentoML's worker configures it, in a thread; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answer, log_config=None, lifespan="off", timeout_keep_alive=2, access_log=False, **more)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started, unless=lambda: not thread.is_alive())
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(params=["uvloop", "asyncio"])
def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for name, seconds in {
        "HEADER_SECONDS": 0.5,
        "GRACE_SECONDS": 0.3,
        "FETCH_SECONDS": 1.0,
        "CHECK_SECONDS": 0.1,
    }.items():
        monkeypatch.setattr(connections, name, seconds)
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    monkeypatch.setattr(Connection, "most", Connection.most)
    monkeypatch.setattr(Connection, "body_seconds", Connection.body_seconds)
    connections.watch(body_seconds=0.5)
    with served(loop=request.param) as number:
        yield number
    assert not Connection.opened


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(5)
    return client


LONG = 30.0
"""Seconds: far beyond every limit here, and sooner than all bytes of a slow sender would have been sent."""


def until_closed(client: socket.socket, send: bytes = b"", every: float = 0.05) -> tuple[bytes, float]:
    """What came, and after how long the server closed, while these bytes are sent one by one."""
    began, received = time.monotonic(), b""
    client.settimeout(every)
    for n in range(10_000):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what came before that is still to be read
            if n < len(send):
                client.sendall(send[n : n + 1])
        try:
            some = client.recv(1 << 16)
        except TimeoutError:
            assert time.monotonic() - began < LONG, "the server did not close"
            continue
        except ConnectionResetError:
            break
        if not some:
            break
        received += some
    return received, time.monotonic() - began


def answered(client: socket.socket) -> bytes:
    """One whole answer of `answer` to GOOD."""
    client.sendall(GOOD)
    received = b""
    while not received.endswith(b"{}"):
        some = client.recv(1 << 16)
        assert some, received
        received += some
    return received


def test_an_ordinary_client_notices_nothing(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 10, 100_000, 3_000_000):
            assert client.post("/x", content=b"x" * size).content == b"x" * size
            assert len(client.get("/large").content) == LARGE


def test_headers_that_arrive_a_byte_at_a_time_are_cut_off_with_the_reason(port: int) -> None:
    """Promise 38."""
    with connect(port) as client:
        received, seconds = until_closed(client, b"GET / HTTP/1.1\r\nx-long: " + b"a" * 1000)
    assert received.startswith(b"HTTP/1.1 408")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
    assert seconds > 0.5


def test_a_body_that_arrives_a_byte_at_a_time_is_cut_off_a_little_after_the_applications_own_limit(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        received, seconds = until_closed(client, b"x" * 1000)
    assert received.startswith(b"HTTP/1.1 408")
    assert seconds > 1.0


def test_a_body_that_goes_on_after_its_refusal_is_cut_off(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        received, _ = until_closed(client, b"x" * 1000)
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("before", [b"", GOOD])
def test_stray_bytes_do_not_keep_a_connection_open(port: int, before: bytes) -> None:
    """uvicorn's own limit for idle connections starts anew with each of them."""
    with connect(port) as client:
        if before:
            answered(client)
        until_closed(client, b"\r\n" * 1000)


def test_a_client_that_says_nothing_is_closed_after_the_keep_alive_time(port: int) -> None:
    with connect(port) as client:
        received, seconds = until_closed(client)
    assert received == b""
    assert seconds > 1.8


def test_an_idle_connection_may_stay_for_the_keep_alive_time(port: int) -> None:
    with connect(port) as client:
        answered(client)
        time.sleep(1.5)  # longer than headers may take
        answered(client)


def test_endless_headers_are_refused_before_memory_grows(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for n in range(100):
                client.sendall(b"x-%d: " % n + b"a" * 4000 + b"\r\n")
                time.sleep(0.005)
        received, _ = until_closed(client)
    assert received == b"" or received.startswith(b"HTTP/1.1 431")


def test_an_answer_that_nobody_fetches_is_thrown_away(port: int) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: Connection.opened)
        until(lambda: not Connection.opened)


def test_an_answer_that_takes_its_time_is_not_cut_off(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /never HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        client.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_requests_sent_ahead_are_answered_in_order(port: int) -> None:
    with connect(port) as client:
        client.sendall(GOOD * 20)
        received = b""
        while received.count(b"HTTP/1.1 200") < 20 or not received.endswith(b"{}"):
            received += client.recv(1 << 16)
        client.sendall(GOOD + GOOD[:10])  # and half of one, which never ends
        received, _ = until_closed(client)  # as an idle connection
    assert received.startswith(b"HTTP/1.1 200")


def test_beyond_the_most_connections_those_that_ask_nothing_give_way(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 20)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(port))
        with connect(port) as client:
            assert answered(client).startswith(b"HTTP/1.1 200")
        assert len(Connection.opened) <= 20


def test_nothing_is_said_of_what_was_sent(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), connect(port) as client:
        until_closed(client, b"GET /secret HTTP/1.1\r\nauthorization: Bearer secret")
    assert any(record.getMessage() == "connection cut" for record in caplog.records)
    assert "secret" not in " ".join(str(vars(record)) for record in caplog.records)


def test_bentomls_worker_uses_this_protocol() -> None:
    """It gives uvicorn no protocol, so that "auto" counts: this fails when either changes."""
    import inspect

    from _bentoml_impl.worker import service

    source = inspect.getsource(service)
    assert "uvicorn.Config(" in source
    assert "http=" not in source
    before = dict(uvicorn.config.HTTP_PROTOCOLS)
    try:
        connections.watch(body_seconds=1.0)
        config = uvicorn.Config(answer)
        config.load()
        assert config.http_protocol_class is Connection
    finally:
        uvicorn.config.HTTP_PROTOCOLS.update(before)
