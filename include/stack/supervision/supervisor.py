"""supervisord, the library that starts, restarts and stops the parts: its configuration and its remote control.

It writes no file: a full disk, at which its own loggers raise, must not end what restarts everything else. Each part
writes its log itself (include/stack/supervision/part.py), and what happens to the parts is written by the guard
(include/stack/supervision/guard.py), which runs below supervisord and starts another one when it dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from include.home import ROOT
from include.stack.supervision import part
from include.storage import write_private

LONGEST_SOCKET_PATH = 95
"""Of the 107 bytes that a socket's path may have; supervisord adds its process id while it makes the file."""
LONGEST_START = 60.0
GUARD = part.GUARD
DEAD = frozenset({"BACKOFF", "FATAL", "EXITED", "STOPPED", "STOPPING", "UNKNOWN"})


class SupervisorError(RuntimeError):
    """supervisord did not start or does not answer; the message holds its last words."""


@dataclass(frozen=True)
class Program:
    """One part of the stack, as the supervisor runs it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    data: Path | None = None
    """PostgreSQL's: it works there, and a living server is found by it."""
    alone: bool = False
    """Whether descendants of a killed predecessor are ended first, since they hold its port."""
    forkserver: Path | None = None
    """The socket of the process that forks it."""
    stop_signal: str = "TERM"
    stop_group: bool = True
    stop_seconds: int = 10


@dataclass(frozen=True)
class State:
    """What the supervisor knows of a part."""

    name: str
    state: str
    pid: int
    uptime: float
    """Seconds since it was started; 0 when it does not run."""

    @property
    def dead(self) -> bool:
        """Whether it has ended, whether or not the supervisor tries again."""
        return self.state in DEAD


def configuration(
    programs: Sequence[Program], *, run: Path, logs: Path, socket: Path, password: str, directory: Path
) -> str:
    """The text of supervisord.conf; it holds secrets."""
    guarded = {"MLOPS_HOME": str(run.parent), "PYTHONPATH": str(ROOT), part.PART: GUARD}
    lines = [
        "[supervisord]",
        f"pidfile={_escape(run / 'supervisord.pid')}",
        "logfile=/dev/null",
        "logfile_maxbytes=0",
        "nodaemon=true",
        "silent=true",
        "umask=077",
        *(["user=root"] if os.geteuid() == 0 else []),
        "[unix_http_server]",
        f"file={_escape(socket)}",
        "chmod=0600",
        "username=mlops",
        f"password={_escape(password)}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        f"[eventlistener:{GUARD}]",
        f"command={_escape(shlex.join((sys.executable, '-m', 'include.stack.supervision.guard')))}",
        "directory=/",
        f"environment={_environment(guarded)}",
        "events=PROCESS_STATE_RUNNING,PROCESS_STATE_EXITED,PROCESS_STATE_BACKOFF,PROCESS_STATE_FATAL,TICK_5,TICK_60",
        "buffer_size=1000",
        "autorestart=true",
        "startretries=100",
        "stderr_logfile=NONE",
    ]
    for program in programs:
        lines += [
            f"[program:{program.name}]",
            f"command={_escape(shlex.join(_command(program, logs, directory)))}",
            "directory=/",
            f"environment={_environment({**program.environment, part.PART: program.name})}",
            "autostart=false",
            "autorestart=true",
            "startsecs=3",
            "startretries=3",
            f"stopsignal={program.stop_signal}",
            f"stopasgroup={str(program.stop_group).lower()}",
            "killasgroup=true",
            f"stopwaitsecs={program.stop_seconds}",
            "redirect_stderr=true",
            "stdout_logfile=NONE",
        ]
    return "\n".join(lines) + "\n"


def _command(program: Program, logs: Path, directory: Path) -> tuple[str, ...]:
    return part.through(
        program.command,
        program.name,
        logs / f"{program.name}.log",
        directory=directory,
        user=program.user,
        data=program.data,
        alone=program.alone,
        forkserver=program.forkserver,
    )


def _escape(value: object) -> str:
    text = str(value)
    if "\n" in text:
        raise SupervisorError(f"a line break cannot stand in the supervisor's configuration: {text!r}")
    if " ;" in text or " #" in text:
        raise SupervisorError(
            f"the supervisor takes what follows ' ;' or ' #' for a comment; use another path than {text!r}"
        )
    return text.replace("%", "%%")


def _environment(values: Mapping[str, str]) -> str:
    pairs = []
    for key, value in values.items():
        quote = '"' if '"' not in value else "'"
        if quote in value or (value and value[0] in "\"'") or (value and value[-1] in "\"'"):
            raise SupervisorError(f"{key}: a value with both kinds of quotes cannot be handed on: {value!r}")
        pairs.append(f"{key}={quote}{_escape(value)}{quote}")
    return ",".join(pairs)


def socket_path(run: Path) -> Path:
    """Where the control socket lies: in `run`, or in a short private folder when that path is too long for a socket."""
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"mlops-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise SupervisorError(f"{folder}: is not ours alone; remove it, or set MLOPS_HOME to a shorter path")
    return folder / "supervisor.sock"


def start(text: str, *, run: Path, logs: Path, socket: Path, password: str, environment: Mapping[str, str]) -> Control:
    """Write the configuration, start supervisord, and wait until it answers.

    Raises:
        SupervisorError: it ended, or does not answer within ten seconds.
    """
    write_private(run / "supervisord.conf", text)
    return launch(run, logs, socket, password, environment)


def launch(run: Path, logs: Path, socket: Path, password: str, environment: Mapping[str, str]) -> Control:
    """Start supervisord with the configuration that is there, in a session of its own, and wait until it answers.

    Raises:
        SupervisorError: it ended, or does not answer within a minute.
    """
    output = logs / "supervisord.out"
    with _writable(output) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + LONGEST_START
    while time.monotonic() < deadline:
        control = connect(socket, password)
        if control is not None:
            return control
        if process.poll() is not None:
            break
        time.sleep(0.05)
    else:
        process.kill()
    raise SupervisorError(f"supervisord did not start: {last_lines(output, 3) or 'no output'} ({output})")


def _writable(file: Path) -> BinaryIO:
    """The file, emptied; or nowhere, on a disk that is full."""
    try:
        return file.open("wb")
    except OSError:
        return Path(os.devnull).open("wb")


def kill(candidates: Iterable[psutil.Process]) -> None:
    """Kill the supervisors among these processes, which do not answer: nothing is to be restarted by them any more."""
    for process in candidates:
        with contextlib.suppress(psutil.Error):
            if any("supervisor.supervisord" in word for word in process.cmdline()):
                process.kill()
                process.wait(5)


def connect(socket: Path, password: str) -> Control | None:
    """The remote control of a running supervisord; none when none answers."""
    if not socket.exists():
        return None
    control = Control(socket, password)
    try:
        control.states()
    except (OSError, xmlrpc.client.Error):
        control.close()
        return None
    return control


class Control:
    """supervisord's remote control."""

    def __init__(self, socket: Path, password: str) -> None:
        from supervisor.xmlrpc import SupervisorTransport

        self._transport = SupervisorTransport("mlops", password, f"unix://{socket}")
        self._remote: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=self._transport).supervisor

    def close(self) -> None:
        """Close the connection; supervisord goes on."""
        self._transport.close()

    def states(self) -> dict[str, State]:
        """Each part's state, by name."""
        return {
            info["name"]: State(
                info["name"],
                info["statename"],
                int(info["pid"]),
                float(info["now"] - info["start"]) if info["pid"] else 0.0,
            )
            for info in self._remote.getAllProcessInfo()
            if info["name"] != GUARD
        }

    def pid(self) -> int:
        """supervisord's own process."""
        return int(self._remote.getPID())

    def start(self, name: str) -> None:
        """Start a part without waiting for it; one that runs already is left alone."""
        try:
            self._remote.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in (50, 60):  # SPAWN_ERROR shows as a state, ALREADY_STARTED is what is wanted
                raise SupervisorError(f"{name}: {fault.faultString}") from fault

    def stop(self, names: Sequence[str]) -> None:
        """Stop parts at the same time, and wait until all have ended; one that it does not know has ended."""
        for name in names:
            with contextlib.suppress(xmlrpc.client.Fault):  # NOT_RUNNING is what is wanted
                self._remote.stopProcess(name, False)
        ended = {"STOPPED", "EXITED", "FATAL", "BACKOFF"}
        while any(state.state not in ended for name, state in self.states().items() if name in names):
            time.sleep(0.1)

    def shutdown(self) -> None:
        """Stop every part and supervisord itself; returns at once."""
        self._remote.shutdown()


def last_lines(log: Path, count: int) -> str:
    """The last lines of a log that say something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
