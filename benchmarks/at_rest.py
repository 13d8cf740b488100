"""What the stack costs when it has nothing to do: CPU seconds a minute and memory, by part.

    .venv/bin/python benchmarks/at_rest.py                    # the stack that runs (MLOPS_HOME, or var/)
    .venv/bin/python benchmarks/at_rest.py --models 50        # one of its own: so many models, no DAG paused

A process's CPU seconds count with those of the children that it has waited for: the parsing of DAG files, in processes
that live for a second, is in the DAG processor's line. RSS counts shared pages once for each process, PSS once in all:
the sum of PSS is what the stack takes from the machine.

In a stack of its own edits are made afterwards, of a model in params.yaml and of a DAG file in turns, each when nothing
is left to parse; printed are the seconds from the save until Airflow's API shows the model's new manual, or the file's
new text.
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
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from include.stack import lifecycle, machine, shutdown, status
from include.stack.airflow_api import Airflow
from include.stack.progress import Progress
from include.stack.supervision import processes

ROOT = Path(__file__).resolve().parent.parent
MB = 1024**2


def part_of(process: psutil.Process, parts: dict[int, str]) -> str:
    """The part whose process it is, or is a descendant of."""
    if part := processes.part_of(process):
        return part
    with contextlib.suppress(psutil.Error):
        for ancestor in (process, *process.parents()):
            if ancestor.pid in parts:
                return parts[ancestor.pid]
    return "other"


def cpu_seconds(stack: machine.Stack) -> dict[str, float]:
    """CPU seconds since each part's start, with those of the children that have ended."""
    parts = {line.pid: line.part for line in status.status(ROOT, stack.home) if line.pid}
    seconds: defaultdict[str, float] = defaultdict(float)
    for process in of(stack):
        with contextlib.suppress(psutil.Error):
            seconds[part_of(process, parts)] += sum(process.cpu_times()[:4])
    return seconds


def of(stack: machine.Stack) -> list[psutil.Process]:
    """The stack's processes."""
    return [*processes.marked(stack.stack_id), *processes.postgres(stack.home / "postgres")]


def memory(stack: machine.Stack) -> dict[str, tuple[int, int, int]]:
    """Processes, RSS and PSS in bytes, by part."""
    parts = {line.pid: line.part for line in status.status(ROOT, stack.home) if line.pid}
    found: dict[str, tuple[int, int, int]] = {}
    for process in of(stack):
        with contextlib.suppress(psutil.Error):
            info, part = process.memory_full_info(), part_of(process, parts)
            number, rss, pss = found.get(part, (0, 0, 0))
            found[part] = (number + 1, rss + info.rss, pss + info.pss)
    return found


def measure(stack: machine.Stack, seconds: float) -> None:
    """Print a line for each part, and their sum."""
    began, before = time.monotonic(), cpu_seconds(stack)
    time.sleep(seconds)
    after, minutes = cpu_seconds(stack), (time.monotonic() - began) / 60
    used = memory(stack)
    spent = {part: after.get(part, 0.0) - before.get(part, 0.0) for part in used}
    print(f"{'part':<14} {'CPU s/min':>9} {'processes':>9} {'RSS MB':>8} {'PSS MB':>8}")
    for part in sorted(used, key=lambda name: -spent[name]):
        number, rss, pss = used[part]
        print(f"{part:<14} {spent[part] / minutes:>9.2f} {number:>9} {rss / MB:>8.0f} {pss / MB:>8.0f}")
    number, rss, pss = (sum(values) for values in zip(*used.values(), strict=True))
    print(f"{'all':<14} {sum(spent.values()) / minutes:>9.2f} {number:>9} {rss / MB:>8.0f} {pss / MB:>8.0f}")


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


def checkout(folder: Path, models: int) -> Path:
    """A folder that stands for the checkout, with that params.yaml and DAG files of its own, which may be edited."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("dags", "params.yaml", "var"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(yaml.safe_dump(params(models), sort_keys=False), encoding="utf-8")
    return folder


@contextlib.contextmanager
def own_stack(models: int) -> Iterator[tuple[machine.Stack, Path]]:
    """A fresh stack on free ports, and its checkout; it is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="mlops-at-rest-"))
    root = checkout(home / "checkout", models)
    ports = {f"MLOPS_{part}_PORT": str(free_port()) for part in ("AIRFLOW", "MLFLOW", "SERVING", "POSTGRES")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")}
    try:
        inherited = {**kept, **ports, "MLOPS_PARAMS": str(root / "params.yaml")}
        yield lifecycle.up(root, home, inherited=inherited, progress=Progress(io.StringIO())), root
    finally:
        shutdown.down(root, home)
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


def seconds_to_see(shown: Callable[[], str], file: Path, old: str, new: str) -> float:
    """Seconds from an edit of a file until what is shown of it has changed as well."""
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    began = time.monotonic()
    while new not in shown():
        time.sleep(0.05)
    return time.monotonic() - began


def rest(stack: machine.Stack) -> None:
    """Wait until the DAG processor has nothing left to parse: after an edit of some entries every file comes again."""
    before = -1.0
    while (now := cpu_seconds(stack)["dag-processor"]) - before > 0.1:
        before = now
        time.sleep(3)


def watch_edits(stack: machine.Stack, airflow: Airflow, root: Path, times: int = 3) -> None:
    """Edit a model and a DAG file, some times in turns, and print how long each edit took to be seen."""

    def manual() -> str:
        return str(airflow.call("GET", "/dags/train_m00/details")["doc_md"])

    def source() -> str:
        return str(airflow.call("GET", "/dagSources/train_m00", headers={"Accept": "application/json"})["content"])

    described = str(params(1)["models"]["m00"]["description"])
    models, files = [], []
    for number in range(times):
        new = f"{described} Edit {number}."
        rest(stack)
        models.append(seconds_to_see(manual, root / "params.yaml", described, new))
        rest(stack)
        files.append(seconds_to_see(source, root / "dags" / "train.py", '"""', f'"""Edit {number}. '))
        described = new
    for what, seconds in (("a model in params.yaml", models), ("a DAG file", files)):
        print(f"an edit of {what} is seen after " + ", ".join(f"{one:.1f}" for one in seconds) + " s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, help="start a stack of its own with so many models")
    parser.add_argument("--seconds", type=float, default=60, help="for how long it is watched")
    parser.add_argument("--settle", type=float, default=60, help="how long it rests before")
    asked = parser.parse_args()
    if asked.models is None:
        home = Path(os.environ.get("MLOPS_HOME") or ROOT / "var").absolute()
        measure(machine.load(ROOT, home), asked.seconds)
        return
    with own_stack(asked.models) as (stack, root):
        airflow = Airflow(stack.address("airflow"), "admin", stack.credentials().airflow_admin_password)
        print(f"{asked.models} models, {unpause_all(airflow, asked.models)} DAGs, none paused")
        run_tasks(airflow)
        time.sleep(asked.settle)
        measure(stack, asked.seconds)
        watch_edits(stack, airflow, root)


if __name__ == "__main__":
    main()
