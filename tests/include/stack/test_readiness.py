"""For how long `up` waits for a part: as long as it gets further, on however busy a machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.stack import machine, readiness
from include.stack.supervision import processes
from tests.conftest import free_port

BURN = (
    "import time; began = time.process_time()\nwhile time.process_time() - began < 1: pass\nprint('done', flush=True)\n"
)


@pytest.fixture
def stack(tmp_path: Path) -> machine.Stack:
    (tmp_path / "logs").mkdir()
    return machine.Stack(tmp_path, tmp_path, str(tmp_path), {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4})


@pytest.fixture
def part(stack: machine.Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A part that first sleeps, and works when it is let."""
    variables = {**os.environ, processes.MARKER: stack.stack_id, processes.PART: "mlflow"}
    code = f"input()\n{BURN}input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_a_part_that_writes_to_its_log_or_uses_the_processor_is_getting_further_and_one_that_sleeps_is_not(
    stack: machine.Stack, part: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness.Motion, "EVERY", 0.0)
    motion = readiness.Motion(stack)
    assert motion.seconds_still("mlflow") == 0
    motion.seconds_still("mlflow")  # its interpreter may still have been starting
    still = motion.seconds_still("mlflow")
    assert still > 0
    assert motion.seconds_still("mlflow") > still

    stack.paths.log("mlflow").write_text("a line")
    assert motion.seconds_still("mlflow") == 0
    assert motion.seconds_still("mlflow") > 0

    assert part.stdin
    assert part.stdout
    part.stdin.write(b"go\n")
    part.stdin.flush()
    assert part.stdout.readline() == b"done\n"
    assert motion.seconds_still("mlflow") == 0


def test_what_failed_is_named_with_its_log_and_what_is_ready_is_named_too() -> None:
    failed = {"mlflow": machine.StackError("mlflow could not start; the last lines of x.log:\nno such table")}
    text = str(readiness._all_of(failed, {"postgres", "prediction"}))
    assert text == (
        "mlflow could not start; the last lines of x.log:\nno such table\nready, and left alone: postgres, prediction"
    )


@pytest.mark.parametrize(
    ("status", "beat", "since", "ready"),
    [
        ("healthy", 100, 90, True),
        ("healthy", 100, 110, False),  # of the one before it
        ("unhealthy", 100, 90, True),  # it has started, and is late now: it loads what its first tasks need
        ("unhealthy", 100, 0, False),  # not just started: `mlops status` says that it is not well
        ("healthy", 100, 0, True),
        ("unhealthy", None, 90, False),
    ],
)
def test_a_scheduler_is_ready_from_its_first_heartbeat_on(
    stack: machine.Stack, status: str, beat: int | None, since: int, ready: bool
) -> None:
    moment = dt.datetime.fromtimestamp(beat, dt.UTC).isoformat() if beat else None
    health = {"scheduler": {"status": status, "latest_scheduler_heartbeat": moment}}
    assert readiness.is_ready(stack, "scheduler", health, float(since)) is ready


LISTENS = """
import os, socket, sys
if sys.argv[1] == "first":  # as include/stack/supervision/part.py marks a part's first process, for all that it starts
    os.environ["MLOPS_PART_PID"] = str(os.getpid())
    os.execv(sys.executable, [sys.executable, sys.argv[0], "marked", *sys.argv[2:]])
if sys.argv[2] != "none":
    listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print("up", flush=True)
input()
"""


def test_an_orphan_that_still_answers_does_not_make_its_successor_ready(stack: machine.Stack, tmp_path: Path) -> None:
    """The launcher was killed, and its worker holds the port for a moment longer than the next launcher needs."""
    port = free_port()
    stack.ports["serving"] = port
    script = tmp_path / "listens.py"
    script.write_text(LISTENS)
    marked = {**os.environ, processes.MARKER: stack.stack_id, processes.PART: "prediction"}

    def started(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = ended.enter_context(subprocess.Popen(command, env=marked | variables, **pipes))
        ended.callback(process.kill)
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        return process

    with contextlib.ExitStack() as ended:
        orphan = started("descendant", str(port), MLOPS_PART_PID="1")
        assert not readiness._listens(stack, "prediction", "serving")
        launcher = started("first", "none")
        assert not readiness._listens(stack, "prediction", "serving")
        for process in (orphan, launcher):
            process.kill()
            process.wait()
        started("first", str(port))
        assert readiness._listens(stack, "prediction", "serving")
