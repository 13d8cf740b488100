"""Waits for conditions: a test names what must come true, and no pause is a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Literal, TypeVar

import pytest

Found = TypeVar("Found")

PAUSE = 0.01
"""Seconds between two looks at a condition."""


def until(
    condition: Callable[[], Found | Literal[False] | None],
    what: str = "",
    *,
    seconds: float = 60,
    pause: float = PAUSE,
    unless: Callable[[], object] | None = None,
    show: Callable[[], str] | None = None,
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
) -> Found:
    """The condition's value once it is true.

    Args:
        condition: what is awaited, looked at again and again.
        what: its name in the failure; without one, its source.
        seconds: how long a test that fails waits, which no passing test comes near.
        pause: seconds between two looks.
        unless: once this is true there is no use in waiting, such as that a process has ended.
        show: what belongs in the failure, such as the end of a log.
        ignore: exceptions of the condition that mean "not yet".
    """
    deadline = time.monotonic() + seconds
    while True:
        last = _look(condition, ignore)
        if last and not isinstance(last, Exception):
            return last
        _give_up(deadline, condition, what, seconds, last, unless, show)
        time.sleep(pause)


async def eventually(condition: Callable[[], Found], what: str = "", *, seconds: float = 60) -> Found:
    """`until`, on an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        _give_up(deadline, condition, what, seconds, found, None, None)
        await asyncio.sleep(PAUSE)
    return found


def seconds_until(condition: Callable[[], object], what: str = "", *, seconds: float = 60) -> float:
    """How long it took until the condition was true."""
    began = time.monotonic()
    until(condition, what, seconds=seconds)
    return time.monotonic() - began


def _look(condition: Callable[[], Found], ignore: type[Exception] | tuple[type[Exception], ...]) -> Found | Exception:
    try:
        return condition()
    except ignore as error:
        return error


def _give_up(
    deadline: float,
    condition: Callable[[], object],
    what: str,
    seconds: float,
    last: object,
    unless: Callable[[], object] | None,
    show: Callable[[], str] | None,
) -> None:
    """Fail where the time is over, or there is no use in waiting."""
    over, ended = time.monotonic() > deadline, unless is not None and unless()
    if over or ended:
        reason = "cannot come true any more" if ended else f"not within {seconds:g} s"
        pytest.fail(f"{what or _source(condition)}: {reason}; last seen: {last!r}\n{show() if show else ''}".rstrip())


def _source(condition: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
