"""When a part is ready, and for how long one that is not is waited for."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from include.stack import machine, postgres
from include.stack.machine import Stack, StackError
from include.stack.progress import Progress
from include.stack.supervision import part, processes, supervisor

STILL_SECONDS = 120.0
"""A part that lives, is not ready, and for so long neither wrote to its log nor used the processor, is given up."""
PROGRESS_CPU_SECONDS = 0.5
"""CPU time that counts as progress: on a busy machine a start takes minutes, a part that hangs uses next to none."""
SLOW_ANSWER_SECONDS = 10.0


def wait(
    stack: Stack,
    control: supervisor.Control,
    started_at: dict[str, float],
    jobs: dict[str, subprocess.Popen[bytes]],
    progress: Progress,
    *,
    finished: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> None:
    """Return when every part in `started_at` is ready and every job has ended well.

    One that fails is no reason to give up the others: the error comes when each of them is ready, or has failed too.

    Raises:
        StackError: some have died, or live, are not ready, and do not get any further.
    """
    waiting = _Waiting(stack, started_at, jobs, progress, quiet=quiet)
    try:
        while waiting.is_open():
            waiting.see_jobs(finished)
            waiting.see_parts(control.states())
            waiting.show()
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    if waiting.failed:
        raise _all_of(waiting.failed, waiting.ready)


class _Waiting:
    """What `wait` knows of the parts and jobs that it waits for; `started_at` and `jobs` may grow meanwhile."""

    def __init__(
        self,
        stack: Stack,
        started_at: dict[str, float],
        jobs: dict[str, subprocess.Popen[bytes]],
        progress: Progress,
        *,
        quiet: bool,
    ) -> None:
        self.ready: set[str] = set()
        self.failed: dict[str, StackError] = {}
        self._stack, self._started_at, self._jobs = stack, started_at, jobs
        self._progress, self._quiet = progress, quiet
        self._pids: dict[str, int] = {}
        self._began, self._motion = time.time(), Motion(stack)

    def is_open(self) -> bool:
        return bool(self._jobs or self._open_parts())

    def _open_parts(self) -> set[str]:
        return self._started_at.keys() - self.ready - self.failed.keys()

    def see_jobs(self, finished: Callable[[str], None]) -> None:
        for name, job in list(self._jobs.items()):
            if job.poll() is None:
                continue
            del self._jobs[name]
            if job.returncode:
                self.failed[name] = _died(self._stack, f"{name}-migration")
                continue
            self._progress.line(f"  {name + ' migrated':<18} {time.time() - self._began:5.1f} s")
            finished(name)

    def see_parts(self, states: Mapping[str, supervisor.State]) -> None:
        parts = self._open_parts()
        health = airflow_health(self._stack) if parts & set(machine.AIRFLOW_PARTS) else {}
        for name in parts:
            started_at = self._started_at[name]
            if states[name].dead or self._pids.setdefault(name, states[name].pid) != states[name].pid:
                self.failed[name] = _died(self._stack, name)
            elif is_ready(self._stack, name, health, 0.0 if self._quiet else started_at):
                self.ready.add(name)
                if not self._quiet:
                    self._progress.line(f"  {name + ' ready':<18} {time.time() - started_at:5.1f} s")
            elif (still := self._motion.seconds_still(name)) > STILL_SECONDS:
                self.failed[name] = _hangs(self._stack, name, still)

    def show(self) -> None:
        names = [*(f"{name} migration" for name in self._jobs), *sorted(self._open_parts())]
        if names:
            self._progress.waiting(f"  waiting for {', '.join(names)} · {time.time() - self._began:.0f} s")
            time.sleep(0.2)


class Motion:
    """How long a part that is awaited has neither written to its log nor used the processor."""

    EVERY = 2.0

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seen: dict[str, tuple[float, int, float, float]] = {}

    def seconds_still(self, name: str) -> float:
        """Seconds since the part last moved; the first call is a movement."""
        now = time.monotonic()
        moved, size, cpu, measured = self._seen.get(name, (now, -1, -1.0, 0.0))
        if now - measured > self.EVERY:
            size_now, cpu_now = self._measure(name)
            if size_now != size or not cpu <= cpu_now < cpu + PROGRESS_CPU_SECONDS:
                moved, size, cpu = now, size_now, cpu_now
            self._seen[name] = (moved, size, cpu, now)
        return now - moved

    def _measure(self, name: str) -> tuple[int, float]:
        log = self._stack.paths.log(name)
        cpu = 0.0
        for process in processes.of_part(self._stack.stack_id, name):
            with contextlib.suppress(psutil.Error):
                cpu += sum(process.cpu_times()[:4])
        return log.stat().st_size if log.exists() else 0, cpu


def _hangs(stack: Stack, name: str, still: float) -> StackError:
    return StackError(
        f"{name} runs, but is not ready, and has done nothing for {still:.0f} s; its log ends with\n"
        f"{supervisor.last_lines(stack.paths.log(name), 5)}"
    )


def _all_of(failed: Mapping[str, StackError], ready: set[str]) -> StackError:
    words = "\n".join(str(error) for error in failed.values())
    rest = f"\nready, and left alone: {', '.join(name for name in machine.PARTS if name in ready)}" if ready else ""
    return StackError(f"{words}{rest}")


def _died(stack: Stack, name: str) -> StackError:
    log = stack.paths.log(name)
    words = supervisor.last_lines(log, 8) or "(nothing in its log)"
    return StackError(f"{name} could not start; the last lines of {log}:\n{words}")


def is_ready(stack: Stack, name: str, airflow_health: Mapping[str, Any], since: float) -> bool:
    """Whether a part does its work.

    Args:
        airflow_health: what `airflow_health` returned.
        since: seconds since the epoch: signs of life of before belong to its predecessor.
    """
    if name == "postgres":
        return postgres.answers(stack.ports["postgres"], stack.credentials().postgres_password)
    if name == machine.FORKSERVER:
        return part.forks(machine.forkserver_socket(stack.run))
    if name == "mlflow":
        return _answers(f"{stack.address('mlflow')}/health") and _listens(stack, name, "mlflow")
    if name == "prediction":
        return _answers(f"{stack.address('serving')}/livez", stack.trusted) and _listens(stack, name, "serving")
    if name == "rollouts":
        return _beats(stack.paths.rollouts_beat, since)
    if name == "api-server":
        return bool(airflow_health) and _listens(stack, name, "airflow")
    key = name.replace("-", "_")
    info = airflow_health.get(key) or {}
    beat = _timestamp(str(info[f"latest_{key}_heartbeat"])) if info.get(f"latest_{key}_heartbeat") else 0.0
    # One beat since its start shows that it started; the next may be late while it loads what its first tasks need.
    return 0.0 < since <= beat or (info.get("status") == "healthy" and beat >= since)


def _listens(stack: Stack, name: str, port: str) -> bool:
    """Whether the part itself holds its port: an orphan of its killed predecessor may answer for another moment."""
    root = processes.living_parts(stack.stack_id, stack.paths.postgres).get(name)
    if root is None:
        return False
    try:
        family = [root, *root.children(recursive=True)]
        sockets = [connection for process in family for connection in process.net_connections("inet")]
    except psutil.AccessDenied:  # the system does not show them: what answers has to do
        return True
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == stack.ports[port] for one in sockets)


def _beats(file: Path, since: float) -> bool:
    """Whether the controller has looked at the rollouts since then, and lately."""
    try:
        return file.stat().st_mtime >= max(since, time.time() - 15)
    except OSError:
        return False


def _timestamp(text: str) -> float:
    import datetime as dt

    return dt.datetime.fromisoformat(text).timestamp()


def _answers(url: str, trusted: ssl.SSLContext | bool = True) -> bool:
    context = trusted if isinstance(trusted, ssl.SSLContext) else None
    try:
        with urllib.request.urlopen(url, timeout=SLOW_ANSWER_SECONDS, context=context) as answer:  # noqa: S310  (a URL of ours)
            return bool(answer.status == 200)
    except OSError:
        return False


def airflow_health(stack: Stack) -> dict[str, Any]:
    """What Airflow's API server knows of Airflow's parts; empty when it does not answer."""
    url = f"{stack.address('airflow')}/api/v2/monitor/health"
    try:
        with urllib.request.urlopen(url, timeout=SLOW_ANSWER_SECONDS) as answer:  # noqa: S310  (a URL of ours)
            return dict(json.load(answer))
    except (OSError, ValueError):
        return {}
