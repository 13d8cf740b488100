"""Stop the stack, and what a killed supervisor left behind."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import psutil

from include.home import Home
from include.stack import machine
from include.stack.machine import Stack
from include.stack.supervision import processes, supervisor


def down(root: Path, home: Path) -> int:
    """Stop every part, and whatever a killed supervisor left behind; returns how many had to be swept up."""
    paths = Home(home)
    if not paths.stack_file.exists():
        return 0
    paths.run.mkdir(exist_ok=True, mode=0o700)
    with machine.alone(home):
        stack = machine.load(root, home)
        return stop(stack, machine.control(stack))


def stop(stack: Stack, control: supervisor.Control | None) -> int:
    """Stop the parts in order, the database last; returns how many processes had to be swept up."""
    stack.paths.meant_to_run.unlink(missing_ok=True)  # before all else: the guard starts nothing again
    if control is not None:
        with contextlib.suppress(OSError):
            pid = control.pid()
            control.stop([name for name in machine.PARTS if name != "postgres"])
            # What tasks started in sessions of their own must be gone before the database goes.
            processes.stop(
                [
                    p
                    for p in processes.marked(stack.stack_id)
                    if p.pid != pid
                    and not _is_postgres(p)
                    and processes.part_of(p) not in ("postgres", supervisor.GUARD)
                ],
                seconds=5,
            )
            control.stop(["postgres"])
            control.shutdown()
            _wait_for_end(pid)
    return _sweep(stack)


def _is_postgres(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "postgres" in process.name()
    return False


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(pid)], timeout=20)


def _sweep(stack: Stack) -> int:
    """End what still carries the stack's mark, the supervisor first so that nothing is restarted, the database last."""
    data = stack.paths.postgres
    servers = {process.pid for process in processes.postgres(data)}
    left = [process for process in processes.marked(stack.stack_id) if process.pid not in servers]
    supervisor.kill(left)
    count = processes.stop(left, seconds=5)
    servers_left = processes.postgres(data)
    count += processes.stop(servers_left, seconds=20, first_signal=signal.SIGINT)
    supervisor.socket_path(stack.run).unlink(missing_ok=True)
    return count
