"""Imports Airflow once and forks its parts: each of them would import it for seconds, and have 130 MB of its own.

    python -m include.stack.supervision.forkserver --socket SOCKET MODULE ...

A part's first process (part.py) connects and sends one message: which Python module to run, with which
arguments and environment, and where; with it comes its log, as a file descriptor. The answer is the process id of the
fork, and at its end its exit code. The fork belongs to the sender's process group, so that it is stopped with it, and
to its part: /proc shows its own environment, by which parts are found (include/stack/supervision/processes.py).

Only libraries are imported beforehand, so that an edit of ours counts from a part's next start on. Nothing depends on
this process: where it has died, its forks go on, and parts are started without it until it is back.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setproctitle import getproctitle, setproctitle

from include.stack.supervision.part import FORK_BYTES, MARKER, PART, PART_PID, PING

SEND_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """What a fork is to become."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    group: int
    job: bool
    """Whether it ends with the one who sent the request."""
    output: int
    """The file descriptor that its output goes to."""


@dataclass(frozen=True)
class _Fork:
    pid: int
    sender: socket.socket
    job: bool


def listen(path: Path) -> socket.socket:
    """A socket at `path`, in place of a dead one's; the folder it lies in lets only its owner in."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(32)
    return listener


def serve(listener: socket.socket) -> Request:
    """Fork at each request, for ever; returns in the forks only, each with its own request."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    sender, _ = listener.accept()
                    if (request := _receive(sender)) is None:
                        sender.close()
                    elif (pid := os.fork()) == 0:
                        _close(selector, sender)
                        return request
                    else:
                        os.close(request.output)
                        _follow(selector, _Fork(pid, sender, request.job))
                elif isinstance(key.data, _Fork):
                    _reap(selector, key)
                elif key.fd in selector.get_map():  # who sent a job has died: so does the job
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)


def _close(selector: selectors.BaseSelector, sender: socket.socket) -> None:
    """Close in a fork what belongs to the others: they would not see the end of this process's parent."""
    sender.close()
    for key in list(selector.get_map().values()):
        if isinstance(key.data, _Fork):
            key.data.sender.close()
            os.close(key.fd)
        elif isinstance(key.fileobj, socket.socket):
            key.fileobj.close()


def _receive(sender: socket.socket) -> Request | None:
    """The sender's request; none where it was only a question whether anyone listens, or the sender has died."""
    sender.settimeout(SEND_SECONDS)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        message, files, _, _ = socket.recv_fds(sender, FORK_BYTES, 1)
        if message == PING:
            sender.send(PING)
        elif message and files:
            fields: dict[str, Any] = json.loads(message)
            sender.send(PING)  # fails where nobody would learn of the fork
            return Request(**fields, output=files[0])
    return None


def _follow(selector: selectors.BaseSelector, fork: _Fork) -> None:
    selector.register(os.pidfd_open(fork.pid), selectors.EVENT_READ, fork)
    with contextlib.suppress(OSError):
        fork.sender.send(str(fork.pid).encode())
    if fork.job:
        selector.register(fork.sender, selectors.EVENT_READ, fork.pid)


def _reap(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    fork: _Fork = key.data
    selector.unregister(key.fileobj)
    os.close(key.fd)
    _, status = os.waitpid(fork.pid, 0)
    if fork.job:
        with contextlib.suppress(KeyError):
            selector.unregister(fork.sender)
    with contextlib.suppress(OSError):
        fork.sender.send(str(os.waitstatus_to_exitcode(status)).encode())
    fork.sender.close()


def become(request: Request) -> None:
    """Make this process what was requested, up to its output, its group and what others see of its environment."""
    try:
        os.setpgid(0, request.group)
    except OSError:  # the sender has gone, or is of another session
        os.setpgid(0, 0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(request.output, stream.fileno())
    os.close(request.output)
    os.environ.clear()
    os.environ.update(request.environment)
    if PART in request.environment:
        os.environ[PART_PID] = str(os.getpid())
    _show(os.environ)
    os.chdir(request.directory)
    setproctitle(" ".join([request.module, *request.arguments]))


def _show(environment: Mapping[str, str]) -> None:
    """Write the environment to where /proc reads it: the memory that held the one this process was executed with.

    Nothing points into that memory any more: each variable was set anew. What has no room is left out at the end.
    """
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    ours = [name for name in (MARKER, PART, PART_PID) if name in environment]
    block = b""
    for name in [*ours, *(name for name in environment if name not in ours)]:
        entry = os.fsencode(f"{name}={environment[name]}") + b"\0"
        if len(block) + len(entry) < end - start:
            block += entry
    ctypes.memmove(start, block.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="forkserver")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("modules", nargs="*", help="what is imported beforehand")
    given = parser.parse_args()
    listener = listen(given.socket)
    getproctitle()  # looks for the title's memory, which it would not find behind another environment
    for module in given.modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection would write to the pages that the forks share
    request = serve(listener)
    become(request)
    sys.argv = [request.module, *request.arguments]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
