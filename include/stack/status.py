"""What runs, where, since when."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from include.stack import machine, ports, readiness
from include.stack.supervision import processes


@dataclass(frozen=True)
class PartStatus:
    """A line of `mlops status`."""

    part: str
    state: str
    pid: int | None
    address: str
    uptime: float
    supervised: bool = True
    """Whether it would be started again; the part itself may answer without."""


def status(root: Path, home: Path) -> list[PartStatus]:
    """Each part's state, in the order of `machine.PARTS`; empty when nothing runs.

    What answers is ready, with or without a supervisor: then `supervised` is false.
    """
    stack = machine.load(root, home)
    control = machine.control(stack)
    living = processes.living_parts(stack.stack_id, stack.paths.postgres)
    if control is None and not living:
        return []
    states, health = control.states() if control else {}, readiness.airflow_health(stack)
    addresses = {
        "postgres": f"{ports.HOST}:{stack.ports['postgres']}",
        "mlflow": stack.address("mlflow"),
        "prediction": stack.address("serving"),
        "api-server": stack.address("airflow"),
    }
    lines = []
    for name in machine.PARTS:
        state, process = states.get(name), living.get(name)
        alive = process is not None or (state is not None and not state.dead)
        uptime = _age(process) if process else state.uptime if state else 0.0
        if alive:
            ready = readiness.is_ready(stack, name, health, 0.0)
            word = "ready" if ready else "starting" if uptime < readiness.STILL_SECONDS else "not ready"
        else:
            word = state.state.lower() if state else "dead"
        pid = process.pid if process else state.pid if state else 0
        lines.append(PartStatus(name, word, pid or None, addresses.get(name, ""), uptime, control is not None))
    return lines


def _age(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return time.time() - float(process.create_time())
    return 0.0


def as_dicts(lines: list[PartStatus]) -> list[dict[str, Any]]:
    """For `mlops status --json`."""
    return [asdict(line) for line in lines]
