"""Deliveries that run until the test ends, with waits that suit one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.alerting import delivery
from include.alerting.channels import Channel
from tests.include.alerting.receiver import Receiver


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts the delivery to some channels."""
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.02)
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def started(*channels: Channel) -> None:
        threads.extend(delivery.start(tmp_path, channels, stop))

    yield started
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
