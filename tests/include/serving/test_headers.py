"""What HTTP leaves open is refused or passed over, by real sockets and in the same words whichever way is taken."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from include.serving.application import Application, Limits
from include.serving.bodies import MOST_MEMBERS, SMALL, Bodies, gunzip
from include.serving.headers import ONCE, refuse_repeated, without_upgrade
from include.serving.inner import Inner, replayed
from include.serving.refusals import Refused
from tests.include.serving.crafted import ROWS
from tests.include.serving.test_application import application_of
from tests.include.serving.test_bodies import MB, receive_of
from tests.include.serving.test_direct import JSON, KEY, ROW, answer, asking, connect, serving, told

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
        await Inner(inner)(scope, replayed(json.dumps(ROWS[0]).encode(), None), None)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert seen == [
        {"headers": {b"x": b"y", b"content-type": b"application/json"}, "body": json.dumps(ROWS[0]).encode()}
    ]
