"""What the prediction log costs: the same service with it, by each policy, and without, by turns.

Without a log it is the service as a Bento runs by itself: the same code and model, no database.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving import environments, ours
from benchmarks.serving.comparison import Bench
from benchmarks.serving.contenders import ALL
from benchmarks.serving.ledger import Ledger, promote, running_ledger
from benchmarks.serving.model import NAME
from benchmarks.serving.servers import MANY, Asked, Cell, Measured, Server, plain, started

POLICIES = ("none", "never", "interval", "always")
CELLS = (Cell(1, 16), Cell(1, 64), Cell(MANY, 16))


def price(bench: Bench, cells: Sequence[Cell] = CELLS) -> dict[str, Any]:
    """Cell → each policy's medians, and the share of the throughput without a log that it costs."""
    runs: dict[str, dict[str, list[Measured]]] = {cell.name: {policy: [] for policy in POLICIES} for cell in cells}
    bare = _bento(bench)
    for number in range(bench.rounds):
        bench.say(f"round {number + 1} of {bench.rounds}: with and without the prediction log")
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(running_ledger(bench.folder / "ledger"))
            promote(ledger.engine, 1, bench.model / "served")
            servers = {policy: stack.enter_context(_server(bench, policy, bare, ledger)) for policy in POLICIES}
            for cell in cells:
                for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
                    measured = servers[policy].run(cell, seconds=bench.seconds)
                    runs[cell.name][policy].append(measured)
                    bench.say(
                        f"  {cell.name:20} {policy:9} {measured.throughput:8,.0f}/s  p99 {measured.p99:6.2f} ms"
                        f"  {measured.cpu:5.0f} µs a request, copied {measured.settled:.1f} s later"
                        + (f", {measured.failed} FAILED ({measured.errors[0][:200]})" if measured.failed else "")
                    )
    return {"cells": {name: _summary(by_policy) for name, by_policy in runs.items()}}


def _summary(by_policy: dict[str, list[Measured]]) -> dict[str, Any]:
    bare = by_policy["none"]
    return {
        policy: {
            "throughput": round(median(m.throughput for m in measured), 1),
            "p99": round(median(m.p99 for m in measured), 3),
            "cpu": round(median(m.cpu for m in measured), 1),
            "cost": round(median(1 - m.throughput / b.throughput for m, b in zip(measured, bare, strict=True)), 4),
            "cost in processor time": round(median(m.cpu / b.cpu - 1 for m, b in zip(measured, bare, strict=True)), 4),
            "rounds": [plain(m) for m in measured],
        }
        for policy, measured in by_policy.items()
    }


def _server(bench: Bench, policy: str, bare: Path, ledger: Ledger) -> contextlib.AbstractContextManager[Server]:
    logged = policy != "none"
    root, home = bench.root if logged else bare, bench.home(f"log-{policy}")
    environment = ours.environment(root, home, ledger, fsync=policy if logged else "always")
    if not logged:
        environment["MLOPS_DATABASE_URL"] = ""
    return started(
        next(c for c in ALL if c.key == "ours"),
        root=root,
        python=environments.python("", bench.folder),
        model=bench.model,
        home=home,
        asked=Asked(bench.model),
        environment=environment,
        ledger=ledger if logged else None,
    )


def _bento(bench: Bench) -> Path:
    """What is in a Bento: the code, and one served form that answers without a ledger."""
    from include.inference import served_form
    from include.serving.versions.disk_cache import write_bundle
    from include.serving.versions.version import Champion

    root = bench.home("bento")
    for name in ("include", "bentofiles"):
        shutil.copytree(bench.root / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    form = served_form.verify(bench.model / "served")
    champion = Champion(NAME, 1, form.content_hash, str(form.directory), "prediction:1", 1)
    (root / "served").mkdir()
    write_bundle(root / "served", form, champion)
    return root
