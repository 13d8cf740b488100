"""The service of this checkout beside that of another, an earlier one say: the same model and load, by turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving import environments, ours
from benchmarks.serving.comparison import Bench
from benchmarks.serving.contenders import ALL, Contender, Place
from benchmarks.serving.ledger import promote, running_ledger
from benchmarks.serving.price import CELLS
from benchmarks.serving.servers import Asked, Measured, Server, plain, started

SERVE = """
import json, pathlib, sys
try:
    from include.serving.process.command import serve_command
except ImportError:  # before the service had rooms
    from include.serving.command import serve_command
print(json.dumps(list(serve_command(int(sys.argv[1]), pathlib.Path.cwd()))))
"""


def against(bench: Bench, other: Path) -> dict[str, Any]:
    """Cell → both throughputs and p99s, and the median over the rounds of this checkout's by the other's."""
    roots = {"this": bench.root, "other": other.absolute()}
    runs: dict[str, dict[str, list[Measured]]] = {cell.name: {name: [] for name in roots} for cell in CELLS}
    for number in range(bench.rounds):
        bench.say(f"round {number + 1} of {bench.rounds}: beside {other}")
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(running_ledger(bench.folder / "ledger"))
            promote(ledger.engine, 1, bench.model / "served")
            servers: dict[str, Server] = {}
            for name, root in roots.items():
                home = bench.home(f"against-{name}")
                servers[name] = stack.enter_context(
                    started(
                        _of(root),
                        root=root,
                        python=environments.python("", bench.folder),
                        model=bench.model,
                        home=home,
                        asked=Asked(bench.model),
                        environment=ours.environment(root, home, ledger),
                        ledger=ledger,
                    )
                )
            for cell in CELLS:
                for name in roots if number % 2 == 0 else [*roots][::-1]:
                    measured = servers[name].run(cell, seconds=bench.seconds)
                    runs[cell.name][name].append(measured)
                    bench.say(f"  {cell.name:20} {name:6} {measured.throughput:8,.0f}/s  p99 {measured.p99:6.2f} ms")
    return {"cells": {name: _summary(measured) for name, measured in runs.items()}}


def _of(root: Path) -> Contender:
    """Our service, with the command that the checkout itself starts it by."""
    mine = next(contender for contender in ALL if contender.key == "ours")

    def command(place: Place) -> list[str]:
        asked = [str(place.python), "-c", SERVE, str(place.port)]
        done = subprocess.run(
            asked, cwd=root, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
        )
        return [str(part) for part in json.loads(done.stdout)]

    return dataclasses.replace(mine, command=command)


def _summary(measured: dict[str, list[Measured]]) -> dict[str, Any]:
    pairs = list(zip(measured["this"], measured["other"], strict=True))
    return {
        "throughput": {name: round(median(m.throughput for m in each), 1) for name, each in measured.items()},
        "p99": {name: round(median(m.p99 for m in each), 3) for name, each in measured.items()},
        "ratio of throughput": round(median(a.throughput / b.throughput for a, b in pairs), 4),
        "ratio of processor time": round(median(a.cpu / b.cpu for a, b in pairs), 4),
        "rounds": {name: [plain(m) for m in each] for name, each in measured.items()},
    }
