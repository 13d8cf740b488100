"""Starts one part of the stack, or waits for the one that lives: the command that the supervisor runs for each part.

    python -I part.py --name mlflow --log LOG [--directory DIR] [--user NAME] [--data DIR] [--alone]
                      [--forkserver SOCKET] -- ...

A supervisor that was killed leaves its parts at work, and its successor cannot be their parent. So each part is started
through this file, which first searches for one that lives:

- It finds none: it turns into the part (`exec`), at no cost. With --forkserver the part is forked from a process that
  has imported what it needs (forkserver.py), and this one waits for its end; where there is no such
  process, it turns into the part after all.
- It finds one: it waits until that one has ended, and ends too, so that the supervisor starts the next one; what the
  supervisor sends to stop it is passed on. What serves is never started a second time, and never stopped for that.

One that waits notices the supervisor's end too, and sees to it that there is another one: the guard, which does so at
once, may have been killed in the same moment.

Output goes straight to the log: a pipe to the supervisor would break with it. Run as a file, with the standard library
and psutil only: it starts before anything else, and PostgreSQL's account need not be able to read the checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

MARKER = "MLOPS_STACK"
"""The environment variable, unique to one stack, that each of its processes inherits."""
PART, PART_PID = "MLOPS_PART", "MLOPS_PART_PID"
"""Which part a process belongs to, and the part's first process: its descendants inherit both."""
GUARD = "guard"
FORK_BYTES = 100_000
"""The longest request for a fork: it has the part's environment."""
FORKSERVER_SECONDS = 10.0
"""For so long a forkserver that does not listen is waited for; one that listens answers when it has imported."""
PING = b"?"
SUPERVISOR_SECONDS = 5.0
"""Within this, one that waits for an adopted part notices that its supervisor has died, and ends: others wait now."""


def through(
    command: Sequence[str],
    name: str,
    log: Path,
    *,
    directory: Path | None = None,
    user: str | None = None,
    data: Path | None = None,
    alone: bool = False,
    forkserver: Path | None = None,
    job: bool = False,
) -> tuple[str, ...]:
    """A command as it is run through this file; the options are those of the command line above.

    Args:
        command: the part's; with `forkserver`, `python -m MODULE ...`.
        job: it is no part, but ends, and with it this process, with the same exit code.
    """
    options = ["--name", name, "--log", str(log)]
    options += ["--directory", str(directory)] if directory else []
    options += ["--user", user] if user else []
    options += ["--data", str(data)] if data else []
    options += ["--alone"] if alone else []
    options += ["--forkserver", str(forkserver)] if forkserver else []
    options += ["--job"] if job else []
    return (sys.executable, "-I", __file__, *options, "--", *command)


def roots(stack_id: str) -> dict[str, psutil.Process]:
    """The living first processes of a stack's parts, by part; PostgreSQL, which overwrites its environment, is not."""
    found: dict[str, psutil.Process] = {}
    for process, environment in _marked(stack_id):
        if environment.get(PART_PID) == str(process.pid):
            found[environment[PART]] = process
    return found


def postmaster(data: Path) -> psutil.Process | None:
    """The living PostgreSQL server of a data directory, as it noted itself there."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        if "postgres" in process.name() and Path(process.cwd()) == data.resolve() and _alive(process):
            return process
    return None


def forks(path: Path) -> bool:
    """Whether a forkserver listens at the socket and has imported what it shares."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection, contextlib.suppress(OSError):
        connection.settimeout(0.2)
        connection.connect(str(path))
        connection.send(PING)
        return connection.recv(100) == PING
    return False


def _marked(stack_id: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(MARKER) == stack_id and process.pid != os.getpid() and _alive(process):
                yield process, environment


def _alive(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parent = _parent()  # before it may have died
    parser = argparse.ArgumentParser(prog="part")
    parser.add_argument("--name", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--directory", type=Path, default=Path("/"))
    parser.add_argument("--user", help="the account that it runs as")
    parser.add_argument("--data", type=Path, help="PostgreSQL's data: how a living server is found")
    parser.add_argument("--alone", action="store_true", help="end what its killed predecessor left: it holds the port")
    parser.add_argument("--forkserver", type=Path, help="the socket of a process that forks it")
    parser.add_argument("--job", action="store_true", help="no part: it ends by itself")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    _write_to(options.log)
    stack_id = os.environ.get(MARKER, "")
    living = postmaster(options.data) if options.data else None if options.job else roots(stack_id).get(options.name)
    if living is not None:
        with contextlib.suppress(OSError):
            os.write(1, f"{options.name} lives as process {living.pid}: adopted\n".encode())
        _wait_for(living, *parent)
        raise SystemExit(f"{options.name}, process {living.pid}, has ended")
    if options.alone:
        _end_orphans(stack_id, options.name)
    if options.data is not None:
        _forget_the_dead_server(options.data)
    if not options.job:
        os.environ[PART] = options.name
    if options.forkserver:
        code = _forked(options.forkserver, options.command, options.directory, options.job, parent)
        if code is not None:
            raise SystemExit(code)
    if not options.job:
        os.environ[PART_PID] = str(os.getpid())
    os.chdir(options.data or options.directory)
    if options.user:
        _become(options.user)
    os.execvp(options.command[0], options.command)  # noqa: S606  (the command is the configuration's)


def _write_to(log: Path) -> None:
    """Output goes to the log's end; where it cannot be opened, as on a full disk, the part runs without one."""
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        file = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)


def _forked(
    path: Path, command: Sequence[str], directory: Path, job: bool, parent: tuple[int, dict[str, str]]
) -> int | None:
    """Let the command be forked, and wait for its end; returns its exit code, or None where nothing forks it."""
    connection = _connect(path)
    if connection is None:
        return None
    request = {
        "module": command[2],
        "arguments": command[3:],
        "environment": dict(os.environ),
        "directory": str(directory),
        "group": os.getpgrp(),
        "job": job,
    }
    try:
        socket.send_fds(connection, [json.dumps(request).encode()], [1])
        answers = [connection.recv(100), connection.recv(100)]
    except OSError:
        return None
    if not all(answers):
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        _wait_for(psutil.Process(int(answers[1])), *parent)
    connection.settimeout(1)
    with contextlib.suppress(OSError, ValueError):
        return abs(int(connection.recv(100)))
    return 1


def _connect(path: Path) -> socket.socket | None:
    deadline = time.monotonic() + FORKSERVER_SECONDS
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(OSError):
            connection.connect(str(path))
            return connection
        connection.close()
        time.sleep(0.05)
    return None


def _parent() -> tuple[int, dict[str, str]]:
    """The process that started this one, and its environment."""
    pid = os.getppid()
    with contextlib.suppress(psutil.Error, OSError):
        return pid, psutil.Process(pid).environ()
    return pid, {}


def _wait_for(living: psutil.Process, parent: int, inherited: Mapping[str, str]) -> None:
    """Wait until the process has ended, and pass on what is to stop it.

    When this one's `parent` has ended, and it was the stack's supervisor, another one is started in the environment
    that it had, `inherited`.
    """

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            group = os.getpgid(living.pid)
            if group == os.getpgrp() == os.getpid():
                return  # the supervisor sends it to the whole group
            if group == living.pid:
                os.killpg(living.pid, number)
            else:
                os.kill(living.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while os.getppid() == parent:
        with contextlib.suppress(psutil.TimeoutExpired):
            living.wait(SUPERVISOR_SECONDS)
            return
    if inherited.get(MARKER) == os.environ.get(MARKER) and "MLOPS_HOME" in os.environ:
        own = {name: os.environ[name] for name in ("MLOPS_HOME", "PYTHONPATH") if name in os.environ}
        command = [sys.executable, "-m", "include.stack.supervision.guard", "--revive"]
        os.execve(sys.executable, command, {**inherited, **own, PART: GUARD})  # noqa: S606


def _end_orphans(stack_id: str, name: str) -> None:
    """End the descendants of a part whose first process was killed."""
    left = [process for process, environment in _marked(stack_id) if environment.get(PART) == name]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def _forget_the_dead_server(data: Path) -> None:
    """A killed server's note may name a process id that is another program's by now: then PostgreSQL refuses to start.

    Its children end by themselves; while one is left, the note stays, and PostgreSQL itself refuses.
    """
    deadline = time.monotonic() + 10
    while any(True for _ in _at_work_in(data)):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _at_work_in(data: Path) -> Iterator[psutil.Process]:
    folder = data.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if "postgres" in process.name() and Path(process.cwd()) == folder and _alive(process):
                yield process


def _become(user: str) -> None:
    import pwd

    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


if __name__ == "__main__":
    main(sys.argv[1:])
