"""What the stack costs when it has nothing to do: CPU seconds a minute and memory, by part.

    .venv/bin/python benchmarks/at_rest.py                    # the stack that runs (MLOPS_HOME, or var/)
    .venv/bin/python benchmarks/at_rest.py --models 50        # one of its own: so many models, no DAG paused

A process's CPU seconds count with those of the children that it has waited for: the parsing of DAG files, in processes
that live for a second, is in the DAG processor's line. RSS counts shared pages once for each process, PSS once in all:
the sum of PSS is what the stack takes from the machine. Afterwards an edit is made where nothing runs (one of its own
only): a comment in params.yaml, and the seconds until Airflow's list of DAG versions shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from include.stack import local, processes
from include.stack.airflow_api import Airflow
from include.stack.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
MB = 1024**2


def part_of(process: psutil.Process, parts: dict[int, str]) -> str:
    """The part whose process it is, or is a descendant of."""
    with contextlib.suppress(psutil.Error):
        for ancestor in (process, *process.parents()):
            if ancestor.pid in parts:
                return parts[ancestor.pid]
    return "other"


def cpu_seconds(stack: local.Stack) -> Counter[str]:
    """CPU seconds since each part's start, with those of the children that have ended."""
    parts = {line.pid: line.part for line in local.status(ROOT, stack.home) if line.pid}
    seconds: Counter[str] = Counter()
    for process in of(stack):
        with contextlib.suppress(psutil.Error):
            seconds[part_of(process, parts)] += sum(process.cpu_times()[:4])
    return seconds


def of(stack: local.Stack) -> list[psutil.Process]:
    """The stack's processes."""
    return [*processes.marked(stack.stack_id), *processes.postgres(stack.home / "postgres")]


def memory(stack: local.Stack) -> dict[str, tuple[int, int, int]]:
    """Processes, RSS and PSS in bytes, by part."""
    parts = {line.pid: line.part for line in local.status(ROOT, stack.home) if line.pid}
    found: dict[str, tuple[int, int, int]] = {}
    for process in of(stack):
        with contextlib.suppress(psutil.Error):
            info, part = process.memory_full_info(), part_of(process, parts)
            number, rss, pss = found.get(part, (0, 0, 0))
            found[part] = (number + 1, rss + info.rss, pss + info.pss)
    return found


def measure(stack: local.Stack, seconds: float) -> None:
    """Print a line for each part, and their sum."""
    began, before = time.monotonic(), cpu_seconds(stack)
    time.sleep(seconds)
    spent, minutes = cpu_seconds(stack) - before, (time.monotonic() - began) / 60
    used = memory(stack)
    print(f"{'part':<14} {'CPU s/min':>9} {'processes':>9} {'RSS MB':>8} {'PSS MB':>8}")
    for part in sorted(used, key=lambda name: -spent[name]):
        number, rss, pss = used[part]
        print(f"{part:<14} {spent[part] / minutes:>9.2f} {number:>9} {rss / MB:>8.0f} {pss / MB:>8.0f}")
    number, rss, pss = (sum(values) for values in zip(*used.values(), strict=True))
    print(f"{'all':<14} {spent.total() / minutes:>9.2f} {number:>9} {rss / MB:>8.0f} {pss / MB:>8.0f}")


# ------------------------------------------------------------------------------------------------ a stack of its own


def params(models: int) -> dict[str, Any]:
    """So many models, each with a source of its own that begins tomorrow: nothing is scheduled."""
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(1)
    source, model = shipped["sources"]["trips"] | {"start": tomorrow}, shipped["models"]["trip_duration"]
    model.pop("serving", None)
    names = [f"m{number:02}" for number in range(models)]
    return {
        "sources": {f"s_{name}": source for name in names},
        "models": {name: model | {"source": f"s_{name}"} for name in names},
    }


@contextlib.contextmanager
def own_stack(models: int) -> Iterator[tuple[local.Stack, Path]]:
    """A fresh stack on free ports with that params.yaml, every DAG unpaused; it is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="mlops-at-rest-"))
    file = home / "params.yaml"
    file.write_text(yaml.safe_dump(params(models), sort_keys=False), encoding="utf-8")
    ports = {f"MLOPS_{part}_PORT": str(free_port()) for part in ("AIRFLOW", "MLFLOW", "SERVING", "POSTGRES")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")}
    try:
        inherited = {**kept, **ports, "MLOPS_PARAMS": str(file)}
        yield local.up(ROOT, home, inherited=inherited, progress=Progress(io.StringIO())), file
    finally:
        local.down(ROOT, home)
        shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def unpause_all(airflow: Airflow, models: int) -> int:
    """Wait until every DAG is known, and let all of them run; returns how many there are."""
    while sum(name.startswith(("train_m", "ingest_s", "monitor_m")) for name in airflow.dags()) < 3 * models:
        time.sleep(1)
    known = airflow.dags()
    for name, paused in known.items():
        if paused:
            airflow.unpause(name)
    return len(known)


def run_tasks(airflow: Airflow) -> None:
    """Let a run of three tasks come to its end: workers and what they import are in memory from then on."""
    run, began = airflow.trigger("maintenance", {}), time.monotonic()
    while (state := airflow.call("GET", f"/dags/maintenance/dagRuns/{run}")["state"]) not in ("success", "failed"):
        time.sleep(0.5)
    print(f"a run of three tasks: {state} after {time.monotonic() - began:.1f} s, the first since the start")


def seconds_to_see(airflow: Airflow, file: Path, edit: str) -> float:
    """Seconds from an edit of params.yaml until a DAG that it concerns has a new version."""
    before = airflow.call("GET", "/dags/train_m00")["bundle_version"]
    file.write_text(file.read_text(encoding="utf-8") + edit, encoding="utf-8")
    began = time.monotonic()
    while airflow.call("GET", "/dags/train_m00")["bundle_version"] == before:
        time.sleep(0.1)
    return time.monotonic() - began


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, help="start a stack of its own with so many models")
    parser.add_argument("--seconds", type=float, default=60, help="for how long it is watched")
    parser.add_argument("--settle", type=float, default=60, help="how long it rests before")
    asked = parser.parse_args()
    if asked.models is None:
        home = Path(os.environ.get("MLOPS_HOME") or ROOT / "var").absolute()
        measure(local.load(ROOT, home), asked.seconds)
        return
    with own_stack(asked.models) as (stack, file):
        airflow = Airflow(stack.address("airflow"), "admin", stack.credentials().airflow_admin_password)
        print(f"{asked.models} models, {unpause_all(airflow, asked.models)} DAGs, none paused")
        run_tasks(airflow)
        time.sleep(asked.settle)
        measure(stack, asked.seconds)
        seen = [seconds_to_see(airflow, file, f"# edit {number}\n") for number in range(3)]
        print("an edit is seen after " + ", ".join(f"{seconds:.1f}" for seconds in seen) + " s")


if __name__ == "__main__":
    main()
