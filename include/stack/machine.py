"""The stack of one machine: where its state lies, which parts it has, and who may change it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from include import storage
from include.home import Home
from include.stack import credentials, ports
from include.stack.supervision import supervisor

AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
FORKSERVER = "airflow"
"""The process that Airflow's parts are forked from (include/stack/supervision/forkserver.py)."""
FORKS = (FORKSERVER,) if sys.platform == "linux" else ()
PARTS = (*FORKS, "postgres", "mlflow", "prediction", "rollouts", *AIRFLOW_PARTS)
MINIMUM_FREE_BYTES = 2 * 1024**3
LOCK_SECONDS = 10.0


class StackError(RuntimeError):
    """The stack cannot be started, used or stopped; the message is one line, or ends with a log's last lines."""


@dataclass(frozen=True)
class Stack:
    """A machine's stack: where its state lies, which ports it has, and the mark that its processes carry."""

    root: Path
    home: Path
    stack_id: str
    ports: dict[str, int]
    certificate: str | None = None
    """The service's certificate: with one it speaks TLS."""

    @property
    def paths(self) -> Home:
        """Its files and folders."""
        return Home(self.home)

    @property
    def run(self) -> Path:
        """Sockets, locks and the supervisor's configuration."""
        return self.paths.run

    @property
    def logs(self) -> Path:
        """A log for each part."""
        return self.paths.logs

    @property
    def credentials_file(self) -> Path:
        """Passwords and keys."""
        return self.paths.credentials

    def credentials(self) -> credentials.Credentials:
        """Passwords and keys, read now."""
        return credentials.read(self.credentials_file)

    def address(self, part: str) -> str:
        """Where a part answers: `airflow`, `mlflow` or `serving`."""
        scheme = "https" if part == "serving" and self.certificate else "http"
        return f"{scheme}://{ports.HOST}:{self.ports[part]}"

    @property
    def trusted(self) -> ssl.SSLContext | bool:
        """What a client of ours trusts: the service's certificate, beside those that everybody trusts."""
        return ssl.create_default_context(cafile=str(self.paths.trusted)) if self.certificate else True


def load(root: Path, home: Path) -> Stack:
    """The stack whose state lies in `home`.

    Raises:
        StackError: none was ever started there.
    """
    file = Home(home).stack_file
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        known = {part: int(saved["ports"][part]) for part in ports.DEFAULTS}
        return Stack(root, home, str(saved["id"]), known, saved.get("certificate"))
    except FileNotFoundError as error:
        raise StackError(f"no stack was started in {home} yet: run `make up`, or set MLOPS_HOME") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{file} is damaged ({error}); delete it: `make up` writes it anew") from error


def save(stack: Stack) -> None:
    """Write what `load` reads."""
    saved = {"id": stack.stack_id, "ports": stack.ports, "certificate": stack.certificate}
    text = json.dumps(saved, indent=1)
    storage.write_bytes(str(stack.paths.stack_file), text.encode())


def prepare(home: Path, minimum_free: int) -> None:
    """Make the home's folders, closed to others.

    Raises:
        StackError: fewer than `minimum_free` bytes are free on its disk.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(home).free
    if free < minimum_free:
        raise StackError(
            f"too little disk: {home} has {free / 1e9:.1f} GB free, {minimum_free / 1e9:.1f} GB are needed;"
            " free some, or set MLOPS_HOME to a larger disk"
        )
    for folder in Home(home).folders_of_the_stack:
        folder.mkdir(exist_ok=True, mode=0o700)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a home; the kernel frees the lock when its owner dies.

    It is waited for a little: the guard has it while it starts another supervisor.
    """
    with Home(home).up_lock.open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(file):
            if time.monotonic() > deadline:
                raise StackError(f"another `mlops up` or `down` is at work on {home}; wait until it has ended")
            time.sleep(0.1)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def control(stack: Stack) -> supervisor.Control | None:
    """The stack's supervisor, if one answers."""
    if not stack.credentials_file.exists():
        return None
    return supervisor.connect(supervisor.socket_path(stack.run), stack.credentials().supervisor_password)


def forkserver_socket(run: Path) -> Path:
    """Where the process that Airflow's parts are forked from listens."""
    return supervisor.socket_path(run).with_name("airflow.sock")
