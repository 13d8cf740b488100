"""Processes that belong to a stack, found even when whoever started them was killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from include.stack.supervision.part import MARKER, PART, postmaster, roots

__all__ = ["MARKER", "PART", "living_parts", "marked", "of_part", "part_of", "postgres", "stop"]


def living_parts(stack_id: str, data: Path) -> dict[str, psutil.Process]:
    """The first process of each part that lives, whether or not a supervisor does; PostgreSQL by its data directory."""
    found = roots(stack_id)
    server = postmaster(data)
    return found if server is None else {**found, "postgres": server}


def marked(stack_id: str, *, without: str | None = None) -> list[psutil.Process]:
    """The living processes that inherited this stack's marker, without this one and its ancestors.

    Args:
        stack_id: the marker's value.
        without: only those that did not inherit this variable besides.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ() if process.pid not in own else {}
            if environment.get(MARKER) == stack_id and without not in environment and _alive(process):
                found.append(process)
    return found


def part_of(process: psutil.Process) -> str | None:
    """The part to which a process belongs."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(PART)
    return None


def of_part(stack_id: str, part: str) -> list[psutil.Process]:
    """The living processes of one part, its first one and all that it started; PostgreSQL's are not among them."""
    return [process for process in marked(stack_id) if part_of(process) == part]


def postgres(data: Path) -> list[psutil.Process]:
    """The living PostgreSQL processes on a data directory: they overwrite their environment, but work in it."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if "postgres" in (process.info["name"] or "") and Path(process.cwd()) == data and _alive(process):
                found.append(process)
    return found


def _alive(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)


def stop(processes: Iterable[psutil.Process], *, seconds: float, first_signal: signal.Signals = signal.SIGTERM) -> int:
    """Ask the processes to end, and kill those that have not after `seconds`; returns how many there were."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(first_signal)
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return len(processes)
