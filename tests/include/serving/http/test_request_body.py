"""Bodies that are too large, too slow or too many."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from include.inference.errors import Refused
from include.serving.http import request_body
from include.serving.http.request_body import Bodies

MB = 1024 * 1024


def receive_of(chunks: Iterable[bytes], *, pause: float = 0.0, end: bool = True) -> Any:
    """A client that sends these, and then ends its body or goes."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end and messages:
        messages[-1]["more_body"] = False
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return next(waiting, {"type": "http.disconnect"})

    return receive


def read(holder: Bodies, receive: Any, length: int | bytes | None = None) -> bytes | None:
    headers = {} if length is None else {b"content-length": str(length).encode() if isinstance(length, int) else length}
    return asyncio.run(holder.read(headers, receive))


@pytest.mark.parametrize("chunks", [[b""], [b"{}"], [b"{", b"", b"}"], [b"x" * 100_000], [b"x" * 70_000] * 14])
def test_a_body_is_read_whole_and_leaves_nothing_behind(chunks: list[bytes]) -> None:
    holder = Bodies(MB, 1.0)
    for _ in range(20):
        body = read(holder, receive_of(chunks))
        assert body == b"".join(chunks)
        holder.done(body)
    assert holder._free == request_body.AT_ONCE * MB


@pytest.mark.parametrize("length", [MB + 1, 10**14, b"9" * 5000])
def test_a_body_that_says_it_is_too_large_is_refused_before_a_byte_is_read(length: int | bytes) -> None:
    """Promise 38."""

    async def receive() -> Any:
        pytest.fail("it was read")

    with pytest.raises(Refused, match="larger than 1 MB") as caught:
        read(Bodies(MB, 1.0), receive, length)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


def test_an_endless_body_is_refused_at_the_limit() -> None:
    taken = itertools.count()
    chunks = (b"x" * 50_000 * min(number, 1) for number in taken)

    async def receive() -> Any:
        return {"type": "http.request", "body": next(chunks) or b"", "more_body": True}

    holder = Bodies(MB, 1.0)
    with pytest.raises(Refused) as caught:
        read(holder, receive)
    assert caught.value.status == 413
    assert next(taken) < 25
    assert holder._free == request_body.AT_ONCE * MB


def test_a_slow_sender_is_refused_and_one_that_goes_is_no_error() -> None:
    holder = Bodies(MB, 0.2)
    with pytest.raises(Refused) as caught:
        read(holder, receive_of([b"x"] * 100, pause=0.05))
    assert (caught.value.status, caught.value.code) == (408, "too_slow")
    assert read(holder, receive_of([], end=False)) is None
    assert read(holder, receive_of([b"x" * 100_000], end=False)) is None
    assert holder._free == request_body.AT_ONCE * MB


def test_all_bodies_together_have_a_limit_and_it_frees_itself() -> None:
    """Promise 38: before memory grows."""
    holder = Bodies(MB, 1.0)
    large = [b"x" * 100_000] * 10
    held = [read(holder, receive_of(large)) for _ in range(8)]
    with pytest.raises(Refused) as caught:
        read(holder, receive_of(large))
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "overloaded", 1)
    assert read(holder, receive_of([b"{}"])) == b"{}"  # a small one is taken on
    holder.done(held.pop())
    assert read(holder, receive_of(large)) is not None
