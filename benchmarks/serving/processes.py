"""Processes that are measured: each tree on its own cores, with its processor time and memory, and always stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SERVER_CORE, GENERATOR_CORE = 0, 1
_LIBRARY, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


class NotStarted(RuntimeError):
    """A server ended, or did not answer in time; the message holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def machine_cpu() -> float:
    """Processor time that all cores have spent at work so far, for whomever, in seconds."""
    times = psutil.cpu_times()._asdict()
    idle = {"idle", "iowait", "guest", "guest_nice"}  # the last two are contained in user and nice
    return float(sum(seconds for kind, seconds in times.items() if kind not in idle))


def pin(cores: Sequence[int]) -> None:
    """Keep this process, and those it will start, on these cores; nothing where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@dataclass
class Tree:
    """A started process with all that it starts."""

    root: psutil.Process
    log: Path
    started: float
    """On the monotonic clock."""

    def members(self) -> list[psutil.Process]:
        """The processes that live now, the first one first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.root, *self.root.children(recursive=True)]
        return []

    def cpu(self, members: Sequence[psutil.Process] | None = None) -> dict[int, float]:
        """Processor time of each process so far, user and system, in seconds; to look for them takes 10 ms."""
        found = {}
        for process in self.members() if members is None else members:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found

    def memory(self) -> dict[int, tuple[float, float | None]]:
        """Of each process the resident megabytes, and the proportional ones where the system tells them."""
        found = {}
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                proportional = None
                with contextlib.suppress(psutil.AccessDenied):
                    proportional = getattr(process.memory_full_info(), "pss", None)
                resident = process.memory_info().rss
                found[process.pid] = resident / 1e6, proportional / 1e6 if proportional else None
        return found

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1500:].strip() if self.log.exists() else ""

    def wait_until(self, condition: Callable[[], bool], seconds: float, *, pause: float = 0.005) -> float:
        """Wait for a condition; returns the seconds since the start.

        Raises:
            NotStarted: the process ended, or the time was over.
        """
        while not condition():
            waited = time.monotonic() - self.started
            if not self.root.is_running() or self.root.status() == psutil.STATUS_ZOMBIE:
                raise NotStarted(f"it ended after {waited:.1f} s: …{self.tail()}")
            if waited > seconds:
                raise NotStarted(f"no good answer within {seconds:g} s: …{self.tail()}")
            time.sleep(pause)
        return time.monotonic() - self.started


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    cores: Sequence[int],
    stop_signal: int = signal.SIGTERM,
) -> Iterator[Tree]:
    """Start a command in a folder, its output in `log` there; at the end it is stopped with all that it started.

    Args:
        command: the command.
        environment: the whole environment.
        folder: its working directory.
        cores: where it may run.
        stop_signal: what ends it in order; what is left after ten seconds is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: _settle_in(cores),
        )
    tree = Tree(psutil.Process(process.pid), log, started)
    try:
        yield tree
    finally:
        _stop(process, tree.members(), stop_signal)


def _settle_in(cores: Sequence[int]) -> None:
    """In the new process: to its cores, and on Linux it gets SIGTERM should we be killed."""
    pin(cores)
    if sys.platform == "linux":
        _LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], members: list[psutil.Process], stop_signal: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, stop_signal)
    _, left = psutil.wait_procs(members, timeout=10)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
