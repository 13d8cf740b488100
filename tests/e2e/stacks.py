"""A running stack from within: its processes, their end by kill -9, and requests meanwhile."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import psutil

from include.stack import machine, status
from include.stack.supervision import part, processes, supervisor
from tests.waiting import until


def mine(stack: machine.Stack) -> list[psutil.Process]:
    return processes.marked(stack.stack_id) + processes.postgres(stack.home / "postgres")


def kill_9(victims: list[psutil.Process]) -> None:
    for process in victims:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=10)


def watchers(stack: machine.Stack) -> list[psutil.Process]:
    """The supervisor and its guard, which restart each other, and everything else."""
    return [
        process
        for process in processes.marked(stack.stack_id)
        if processes.part_of(process) == supervisor.GUARD or "supervisor.supervisord" in _command(process)
    ]


def waiting(stack: machine.Stack) -> list[psutil.Process]:
    """What waits for a part, and starts a supervisor when there is none."""
    name = f"/{Path(part.__file__).name} "  # of the stack's checkout, which is another one than the tests'
    return [process for process in processes.marked(stack.stack_id) if name in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


class Load:
    """Requests to the service, one after another, for as long as the block runs."""

    def __init__(self, stack: machine.Stack) -> None:
        self._url = f"{stack.address('serving')}/models"
        self._headers = {"Authorization": f"Bearer {stack.credentials().serving_key}"}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: list[int | str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                self.statuses.append(httpx.get(self._url, headers=self._headers, timeout=30).status_code)
            except httpx.HTTPError as error:
                self.statuses.append(repr(error))


def ready(stack: machine.Stack, *, supervised: bool, seconds: float = 120) -> dict[str, int | None]:
    """The process of each part, once all are ready, with or without a supervisor: a heartbeat may be late."""

    def lines() -> list[status.PartStatus]:
        return status.status(stack.root, stack.home)

    def all_ready() -> bool:
        return {(line.state, line.supervised) for line in lines()} == {("ready", supervised)}

    until(all_ready, "every part is ready", seconds=seconds, pause=0.5, show=lambda: str(lines()))
    return {line.part: line.pid for line in lines()}
