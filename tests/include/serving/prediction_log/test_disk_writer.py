"""How a write begins; what is written then is in the tests of the spool."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.serving.prediction_log import disk_writer
from include.serving.prediction_log.disk_writer import ThreadWriter
from include.serving.prediction_log.segments import BLOCK


@pytest.fixture
def nobody_yields() -> Iterator[None]:
    """Whoever computes keeps the interpreter's lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("nobody_yields")
def test_the_disk_is_at_work_while_whoever_asked_it_computes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "segment").write_bytes(bytes(BLOCK))
    begun: list[float] = []
    real = disk_writer._write

    def write(descriptor: int, data: memoryview, offset: int) -> OSError | None:
        begun.append(time.monotonic())
        return real(descriptor, data, offset)

    monkeypatch.setattr(disk_writer, "_write", write)
    monkeypatch.setattr(disk_writer, "BEGIN_SECONDS", 60.0)  # a busy machine starts no thread in a millisecond

    async def run() -> tuple[bool, OSError | None]:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        errors: list[OSError | None] = []

        def written(error: OSError | None) -> None:
            errors.append(error)
            done.set()

        writer = ThreadWriter(written)
        writer.listen(loop)
        descriptor = writer.open(tmp_path / "segment")
        writer.buffer[:5] = b"hello"
        writer.write(descriptor, BLOCK, 0)
        while_computing = bool(begun)  # nothing here has let go of the interpreter since
        await done.wait()
        writer.close()
        os.close(descriptor)
        return while_computing, errors[0]

    while_computing, error = asyncio.run(run())
    assert error is None
    assert while_computing
    assert (tmp_path / "segment").read_bytes() == b"hello" + bytes(BLOCK - 5)


def test_a_write_that_does_not_begin_holds_nobody_up() -> None:
    writer = ThreadWriter(lambda error: None)  # its thread was not started
    asked = threading.Thread(target=writer.write, args=(0, BLOCK, 0), daemon=True)
    asked.start()
    asked.join(10)
    assert not asked.is_alive()
