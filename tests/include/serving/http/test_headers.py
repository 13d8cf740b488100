"""What HTTP leaves open is refused or passed over, by real sockets and in the same words whichever way is taken."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from include.inference.errors import Refused
from include.serving.http.application import Application, Limits
from include.serving.http.bentoml_app import BentoMLAdapter, replayed
from include.serving.http.headers import ONCE, refuse_repeated, without_upgrade
from include.serving.http.request_body import MOST_MEMBERS, SMALL, Bodies, gunzip
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import application_of
from tests.include.serving.http.test_fast_path import JSON, KEY, ROW, answer, asking, connect, serving, told
from tests.include.serving.http.test_request_body import MB, receive_of

H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
WEBSOCKET = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n"
GZIP = b"content-encoding: gzip\r\n"


def chunked(*chunks: bytes, more: bytes = KEY, trailers: bytes = b"") -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % (more + JSON)
    return head + sent + b"0\r\n" + trailers + b"\r\n"


ANSWERED = {
    "a wish for HTTP 2, as Java's client sends it": asking(more=KEY + JSON + H2C),
    "a wish for WebSocket": asking(more=KEY + JSON + WEBSOCKET),
    "a wish in other letters": asking(more=KEY + JSON + b"Connection: keep-alive, UPGRADE\r\nUpgrade: TLS/1.0\r\n"),
    "an absolute target": asking(target=b"http://elsewhere:80/models/trips/predict"),
    "a name in per cent": asking(target=b"/models/%74rip%73/predict"),
    "gzip": asking(gzip.compress(ROW), KEY + JSON + GZIP),
    "x-gzip": asking(gzip.compress(ROW), KEY + JSON + b"Content-Encoding: X-GZIP\r\n"),
    "gzip in two members": asking(gzip.compress(ROW[:9]) + gzip.compress(ROW[9:]), KEY + JSON + GZIP),
    "gzip in chunks": chunked(gzip.compress(ROW), more=KEY + GZIP),
    "identity": asking(more=KEY + JSON + b"content-encoding: identity\r\n"),
    "headers that may come twice": asking(
        more=KEY + JSON + b"accept: */*\r\naccept: text/html\r\nvia: a\r\nvia: b\r\n"
    ),
    "trailers": chunked(ROW[:5], ROW[5:], trailers=b"x-checksum: 7\r\n"),
}
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "two keys": (asking(more=KEY + JSON + b"authorization: Bearer wrong\r\n"), 400, "duplicate_header"),
    "two keys, the right last": (
        asking(more=b"authorization: Bearer no\r\n" + KEY + JSON),
        400,
        "duplicate_header",
    ),
    "the same key twice": (asking(more=KEY + KEY + JSON), 400, "duplicate_header"),
    "two hosts": (asking(more=KEY + JSON + b"Host: y\r\n"), 400, "duplicate_header"),
    "no host": (asking().replace(b"host: x\r\n", b""), 400, "missing_header"),
    "two content types": (asking(more=KEY + JSON + b"content-type: text/plain\r\n"), 400, "duplicate_header"),
    "two lengths": (asking(more=KEY + JSON + b"content-length: 5\r\n"), 400, "bad_request"),
    "the same length twice": (asking(more=KEY + JSON + b"content-length: %d\r\n" % len(ROW)), 400, "bad_request"),
    "length and chunks": (asking(more=KEY + JSON + b"transfer-encoding: chunked\r\n"), 400, "bad_request"),
    "another transfer coding": (
        chunked(gzip.compress(ROW)).replace(b"encoding: chunked", b"encoding: gzip, chunked"),
        501,
        "unsupported_transfer_coding",
    ),
    "a key among the trailers": (chunked(ROW, more=b"", trailers=KEY), 401, "unauthorized"),
    "a second key among the trailers": (
        chunked(ROW, more=b"authorization: Bearer wrong\r\n", trailers=KEY),
        401,
        "unauthorized",
    ),
    "plain JSON that says gzip": (asking(more=KEY + JSON + GZIP), 400, "malformed_gzip"),
    "gzip that is cut off": (asking(gzip.compress(ROW)[:-9], KEY + JSON + GZIP), 400, "malformed_gzip"),
    "gzip that goes on": (asking(gzip.compress(ROW) + b"{}", KEY + JSON + GZIP), 400, "malformed_gzip"),
    "gzip of another sum": (
        asking(gzip.compress(ROW)[:-8] + bytes(8), KEY + JSON + GZIP),
        400,
        "malformed_gzip",
    ),
    "zlib that says gzip": (asking(zlib.compress(ROW), KEY + JSON + GZIP), 400, "malformed_gzip"),
    "gzip that says nothing": (asking(gzip.compress(ROW)), 400, "malformed_json"),
    "brotli": (asking(more=KEY + JSON + b"content-encoding: br\r\n"), 415, "unsupported_content_encoding"),
    "gzip twice": (asking(more=KEY + JSON + b"content-encoding: gzip, gzip\r\n"), 415, "unsupported_content_encoding"),
    "gzip in two headers": (asking(more=KEY + JSON + GZIP + GZIP), 400, "duplicate_header"),
    "a bomb": (asking(gzip.compress(b" " * (2 * MB)), KEY + JSON + GZIP), 413, "body_too_large"),
    "a field twice": (asking(ROW[:-1] + b', "vendor": "a"}'), 422, "duplicate_field"),
    "a name with a path in it": (asking(target=b"/models/%2e%2e%2ftrips/predict"), 404, "not_found"),
    "a name that is no UTF-8": (asking(target=b"/models/%ff%00/predict"), 404, "unknown_model"),
    "a path without percent": (asking(target=b"/models/\xff/predict"), 400, "bad_request"),
    "HTTP 2 on one line": (asking(version=b"2.0"), 505, "unsupported_version"),
    "HTTP 0.9 with headers": (asking(version=b"0.9"), 505, "unsupported_version"),
    "chunks in HTTP 1.0": (chunked(ROW).replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad_request"),
    "a parameter twice": (
        asking(target=b"/predict?explain=false&explain=true"),
        400,
        "duplicate_parameter",
    ),
    "endless trailers": (chunked(ROW, trailers=b"x: y\r\n" * 50_000), 431, "headers_too_large"),
    "an endless trailer": (chunked(ROW, trailers=b"x: " + b"y" * 400_000), 431, "headers_too_large"),
    "an endless chunk extension": (
        chunked(ROW).replace(b"\r\n" + ROW, b";a=" + b"b" * 400_000 + b"\r\n" + ROW),
        431,
        "headers_too_large",
    ),
    "a proxy's request": (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "no HTTP": (b"\x16\x03\x01\x02\r\n\r\n", 400, "bad_request"),
}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("headers"), unknown="error", limits=Limits(max_body_bytes=MB))


@pytest.fixture(scope="module", params=[True, False], ids=["directly", "by ASGI"])
def port(application: Application, request: pytest.FixtureRequest) -> Iterator[int]:
    with serving(application, direct=request.param) as (port, _):
        yield port


@pytest.mark.parametrize("name", ANSWERED)
def test_what_may_be_passed_over_is_answered_as_if_it_were_not_there(port: int, name: str) -> None:
    found = []
    with connect(port) as client:
        for request in (asking(), ANSWERED[name], asking()):  # and the connection goes on
            client.sendall(request)
            head, body, left = answer(client)
            found.append(told(head, body))
            assert not left
    assert found[0][0].startswith(b"HTTP/1.1 200")
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", REFUSED)
def test_what_leaves_open_what_was_meant_is_refused(port: int, name: str) -> None:
    request, status, code = REFUSED[name]
    with connect(port) as client:
        client.sendall(request)
        head, body, _ = answer(client)
    assert head.startswith(b"HTTP/1.1 %d" % status), (head, body)
    assert b"content-type: application/json" in head
    assert json.loads(body)["error"]["code"] == code
    assert (b"accept-encoding: gzip" in head) == (status == 415)


def test_the_body_of_an_upgrade_may_come_later_and_other_requests_after_it(port: int) -> None:
    request = asking(more=KEY + JSON + H2C)
    with connect(port) as client:
        for cut in (9, request.index(b"\r\n\r\n") + 4, len(request) - 3):
            client.sendall(request[:cut])
            client.sendall(request[cut:] + asking() + request)
            left = b""
            for _ in range(3):
                head, body, left = answer(client, left)
                assert head.startswith(b"HTTP/1.1 200"), (head, body)
            assert not left


def until_closed(client: socket.socket) -> bytes:
    received = b""
    while some := client.recv(1 << 16):
        received += some
    return received


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("rest", [b"", asking()[:-3], b"GET /mod"], ids=["", "half a body", "half a head"])
def test_who_has_said_all_is_answered_before_the_connection_closes(port: int, count: int, rest: bytes) -> None:
    with connect(port) as client:
        client.sendall(asking() * count + rest)
        client.shutdown(socket.SHUT_WR)
        received = until_closed(client)
    assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1") == count


def test_who_says_half_and_leaves_is_not_waited_for(port: int) -> None:
    for cut in (5, -3):
        with connect(port) as client:
            client.sendall(asking()[:cut])
            client.shutdown(socket.SHUT_WR)
            assert until_closed(client) == b""


def test_many_wishes_for_another_protocol_are_answered_one_by_one(port: int, caplog: pytest.LogCaptureFixture) -> None:
    wish = b"GET /livez HTTP/1.1\r\nHost:x\r\nConnection:upgrade\r\nUpgrade:x\r\n\r\n"
    with connect(port) as client:
        client.sendall(wish * 400 + asking(more=KEY + JSON + H2C))
        client.shutdown(socket.SHUT_WR)
        received = until_closed(client)
    assert received.count(b"HTTP/1.1 404") == 400  # there is no BentoML behind it
    assert received.count(b"HTTP/1.1 200") == 1
    assert not [record for record in caplog.records if record.exc_info]


def test_clients_that_reset_the_connection_leave_no_error_behind(port: int, caplog: pytest.LogCaptureFixture) -> None:
    for count in (1, 2, 5) * 5:
        with connect(port) as client:
            client.sendall(asking() * count)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connect(port) as client:
        client.sendall(asking())
        assert answer(client)[0].startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_in_the_smallest_chunks_is_taken(port: int) -> None:
    with connect(port) as client:
        client.sendall(chunked(*[b" "] * 12_000, ROW))
        assert answer(client)[0].startswith(b"HTTP/1.1 200")


def test_a_refusal_repeats_little_of_what_was_sent(port: int) -> None:
    name = b"a" * 30_000
    for target in (b"/" + name, b"/models/%b/predict" % name, b"/v2/models/" + name, b"/predict?" + name):
        with connect(port) as client:
            client.sendall(asking(target=target))
            head, body, _ = answer(client)
            assert head.startswith(b"HTTP/1.1 4")
            assert len(body) < 3000


def test_who_waits_for_a_word_before_sending_gets_it_or_a_refusal(port: int) -> None:
    request = asking(more=KEY + JSON + b"expect: 100-continue\r\n")
    cut = request.index(b"\r\n\r\n") + 4
    with connect(port) as client:
        client.sendall(request[:cut])
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(request[cut:])
        assert answer(client)[0].startswith(b"HTTP/1.1 200")
    with connect(port) as client:
        client.sendall(request[:cut].replace(b"secret", b"wrong"))
        assert answer(client)[0].startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("name", sorted(ONCE))
def test_each_header_that_counts_may_come_once(name: bytes) -> None:
    refuse_repeated([(name, b"a"), (b"accept", b"*"), (b"accept", b"*")])
    with pytest.raises(Refused, match=name.decode().title()):
        refuse_repeated([(name, b"a"), (b"accept", b"*"), (name, b"a")])


def test_a_head_without_its_wish_is_otherwise_the_same() -> None:
    headers = [(b"host", b"x"), (b"connection", b"close, Upgrade"), (b"upgrade", b"h2c"), (b"a", b"b")]
    assert without_upgrade(b"POST", b"/p?q", "1.1", headers) == (
        b"POST /p?q HTTP/1.1\r\nhost: x\r\nconnection: close\r\na: b\r\n\r\n"
    )
    assert b"connection" not in without_upgrade(b"GET", b"/", "1.0", [(b"connection", b"upgrade"), (b"upgrade", b"x")])


@pytest.mark.parametrize("size", [0, 10, SMALL, SMALL + 1, MB])
def test_a_compressed_body_counts_as_what_it_becomes(size: int) -> None:
    whole = b"x" * size
    holder = Bodies(MB, 5.0)

    def read(sent: bytes) -> bytes | None:
        return asyncio.run(holder.read({b"content-encoding": b"gzip"}, receive_of([sent])))

    before = holder._free
    found = read(gzip.compress(whole))
    assert found == whole
    assert holder._free == before - (size if size > SMALL else 0)
    holder.done(found)
    assert holder._free == before
    for wrong in (gzip.compress(whole)[:-1], gzip.compress(b"x" * (MB + 1)), b"{}"):
        with pytest.raises(Refused):
            read(wrong)
    assert holder._free == before


def test_a_body_of_a_million_empty_members_is_refused() -> None:
    with pytest.raises(Refused, match="members"):
        gunzip(gzip.compress(b"") * (MOST_MEMBERS + 5), MB)


def test_the_typed_api_gets_the_body_as_it_was_before_it_was_compressed(application: Application) -> None:
    seen: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append({"headers": dict(scope["headers"]), "body": (await receive())["body"]})

    async def ask() -> None:
        scope = {"type": "http", "path": "/predict", "headers": [(b"content-encoding", b"gzip"), (b"x", b"y")]}
        await BentoMLAdapter(inner)(scope, replayed(json.dumps(ROWS[0]).encode(), None), None)

    asyncio.run(ask())
    assert seen == [
        {"headers": {b"x": b"y", b"content-type": b"application/json"}, "body": json.dumps(ROWS[0]).encode()}
    ]
