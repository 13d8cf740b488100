"""Processes that belong to a stack, found even when whoever started them was killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

MARKER = "MLOPS_STACK"
"""The environment variable, unique to one stack, that each of its processes inherits."""


def marked(stack_id: str) -> list[psutil.Process]:
    """The living processes that inherited this stack's marker, without this one and its ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in own and process.environ().get(MARKER) == stack_id and _alive(process):
                found.append(process)
    return found


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


def stop(processes: Iterable[psutil.Process], *, seconds: float, ask: signal.Signals = signal.SIGTERM) -> int:
    """Ask the processes to end, and kill those that have not after `seconds`; returns how many there were."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(ask)
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return len(processes)
