"""Two workers on two cores beside one worker on one: with what load generator and PostgreSQL take of the cores counted.

One worker has the server's core for itself, the generator and PostgreSQL have the other. Two workers have a core each
(`pin_workers`) and share both with them; so their throughput is also given for the two cores alone, in two ways: by the
share of the cores that was left to them, and by the processor time that a request costs.

As many clients as one worker has leave each of two with half of them, and what a turn of the loop and a write to the
disk cost is shared by half as many requests. So two are also asked by twice as many: what they bear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.serving import environments, ours
from benchmarks.serving.comparison import Bench
from benchmarks.serving.contenders import ALL
from benchmarks.serving.ledger import promote, running_ledger
from benchmarks.serving.processes import GENERATOR_CORE, SERVER_CORE, pin
from benchmarks.serving.servers import MANY, Asked, Cell, Measured, plain, started

CELLS = (Cell(1, 16), Cell(1, 64), Cell(MANY, 16))


def scale(bench: Bench, workers: int, cells: Sequence[Cell] = CELLS) -> dict[str, Any]:
    """Measure one worker and `workers`, by turns; cell → medians and ratios."""
    more = {cell: Cell(cell.rows, cell.connections * workers) for cell in cells}
    asked = {1: list(cells), workers: list(dict.fromkeys([*cells, *more.values()]))}
    runs: dict[int, dict[Cell, list[Measured]]] = {count: {cell: [] for cell in asked[count]} for count in asked}
    for number in range(bench.rounds):
        bench.say(f"round {number + 1} of {bench.rounds}: one worker and {workers}")
        for count in (1, workers) if number % 2 == 0 else (workers, 1):
            for cell, measured in _run(bench, count, asked[count]):
                runs[count][cell].append(measured)
                bench.say(
                    f"  {cell.name:20} {count} worker{'s' * (count > 1)}  {measured.throughput:8,.0f}/s"
                    f"  p99 {measured.p99:6.2f} ms  {measured.cpu:5.0f} µs a request; of a core: service"
                    f" {measured.busy:.2f}, generator {measured.generator_busy:.2f}, PostgreSQL"
                    f" {measured.ledger_busy:.2f}"
                    + (f", {measured.failed} FAILED ({measured.errors[0][:200]})" if measured.failed else "")
                )
    found = {}
    for cell in cells:
        found[cell.name] = _summary(runs[1][cell], runs[workers][cell], workers)
        found[f"{cell.name} each"] = _summary(runs[1][cell], runs[workers][more[cell]], workers)
    return {"workers": workers, "cells": found}


def _run(bench: Bench, workers: int, cells: Sequence[Cell]) -> list[tuple[Cell, Measured]]:
    alone = workers == 1
    everything = (SERVER_CORE, GENERATOR_CORE)
    around = (GENERATOR_CORE,) if alone else everything
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(running_ledger(bench.folder / "ledger", cores=around))
        promote(ledger.engine, 1, bench.model / "served")
        home = bench.home(f"workers-{workers}")
        server = stack.enter_context(
            started(
                next(c for c in ALL if c.key == "ours"),
                root=bench.root,
                python=environments.python("", bench.folder),
                model=bench.model,
                home=home,
                asked=Asked(bench.model),
                environment=ours.environment(bench.root, home, ledger, workers=workers),
                cores=(SERVER_CORE,) if alone else everything,
                ledger=ledger,
            )
        )
        pin(around)
        try:
            measured = [(cell, server.run(cell, seconds=bench.seconds, warm_up=1.0)) for cell in cells]
            if (found := len(server.memory().workers)) != workers:
                bench.say(f"  only {found} of {workers} workers had work to do: see {server.tree.log}")
            return measured
        finally:
            pin((GENERATOR_CORE,))


def _summary(one: list[Measured], many: list[Measured], workers: int) -> dict[str, Any]:
    left = [workers - m.generator_busy - m.ledger_busy for m in many]
    scaled = [m.throughput * workers / share for m, share in zip(many, left, strict=True)]
    return {
        "one": [plain(m) for m in one],
        "many": [plain(m) for m in many],
        "as measured": round(median(b.throughput / a.throughput for a, b in zip(one, many, strict=True)), 3),
        "on the cores left": round(median(s / a.throughput for s, a in zip(scaled, one, strict=True)), 3),
        "by processor time": round(median(workers * a.cpu / b.cpu for a, b in zip(one, many, strict=True)), 3),
        "cores left": round(median(left), 3),
    }
