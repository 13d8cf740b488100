"""Everyone on the same model and the same requests: started anew in each round, then measured turn by turn.

All servers of a round are up, each pinned to the server's core; one at a time gets load, the others are at rest. A cell
(so many rows, so many connections) goes through all contenders before the next, there and back from round to round, so
that what disturbs the machine for a minute disturbs all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving import environments, load, ours
from benchmarks.serving.contenders import ALL, Contender
from benchmarks.serving.ledger import Ledger, promote, running_ledger
from benchmarks.serving.processes import GENERATOR_CORE, SERVER_CORE, free_port, pin, running
from benchmarks.serving.servers import MANY, Asked, Cell, Server, plain, started

CELLS = tuple(Cell(rows, connections) for rows in (1, MANY) for connections in (1, 16, 64))
Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """Where the benchmark works, and how long."""

    root: Path
    folder: Path
    """Environments, the model, and what the servers write."""
    rounds: int
    seconds: float
    """Of a cell's measured part."""
    say: Say

    @property
    def model(self) -> Path:
        """What `model.make` writes."""
        return self.folder / "model"

    def home(self, name: str) -> Path:
        """A server's own folder, empty."""
        home = self.folder / "homes" / name
        shutil.rmtree(home, ignore_errors=True)
        return home


@dataclass
class Record:
    """What one contender showed in all rounds."""

    contender: Contender
    versions: Mapping[str, str] = field(default_factory=dict)
    startup: list[float] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    cells: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    """By the cell's name, one for each round; None where it failed."""
    failure: str = ""

    def plain(self) -> dict[str, Any]:
        """As it is written to JSON."""
        return {
            "title": self.contender.title,
            "note": self.contender.note,
            "versions": dict(self.versions),
            "startup": [round(seconds, 3) for seconds in self.startup],
            "memory": self.memory,
            "cells": self.cells,
            "failure": self.failure,
        }


def compare(bench: Bench, only: Sequence[str] = (), cells: Sequence[Cell] = CELLS) -> dict[str, dict[str, Any]]:
    """All rounds of all contenders (or of `only` these); key → what `Record.plain` says."""
    records = {c.key: Record(c) for c in ALL if not only or c.key in only}
    pythons: dict[str, Path] = {}
    for record in records.values():
        with _failing(record, bench.say):
            pythons[record.contender.key] = environments.python(record.contender.environment, bench.folder)
            record.versions = environments.versions(pythons[record.contender.key], record.contender.packages)
    for number in range(bench.rounds):
        bench.say(f"round {number + 1} of {bench.rounds}: starting {len(pythons)} servers")
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(running_ledger(bench.folder / "ledger"))
            promote(ledger.engine, 1, bench.model / "served")
            servers = _start_all(bench, records, pythons, ledger, stack)
            for cell in cells:
                turn = servers if number % 2 == 0 else servers[::-1]
                for server in turn:
                    if cell.rows in server.contender.sizes:
                        _measure(bench, records[server.contender.key], server, cell, number)
            for server in servers:
                records[server.contender.key].memory.append(plain(server.memory()))
    return {key: record.plain() for key, record in records.items()}


def _start_all(
    bench: Bench,
    records: Mapping[str, Record],
    pythons: Mapping[str, Path],
    ledger: Ledger,
    stack: contextlib.ExitStack,
) -> list[Server]:
    asked, servers = Asked(bench.model), []
    for key, python in pythons.items():
        record = records[key]
        if record.failure:
            continue
        home, mine = bench.home(key), key == "ours"
        with _failing(record, bench.say):
            started_server = started(
                record.contender,
                root=bench.root,
                python=python,
                model=bench.model,
                home=home,
                asked=asked,
                environment=ours.environment(bench.root, home, ledger) if mine else {},
                ledger=ledger if mine else None,
            )
            server = stack.enter_context(started_server)
            record.startup.append(server.startup)
            servers.append(server)
            bench.say(f"  {record.contender.title} answers after {server.startup:.2f} s")
    return servers


@contextlib.contextmanager
def _failing(record: Record, say: Say) -> Any:
    """A contender that cannot take part is reported as such; the others go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever a contender provokes is said in the report
        record.failure = f"{type(error).__name__}: {error}"
        say(f"  {record.contender.title} does not take part: {record.failure}")


def _measure(bench: Bench, record: Record, server: Server, cell: Cell, number: int) -> None:
    runs = record.cells.setdefault(cell.name, [None] * bench.rounds)
    try:
        measured = server.run(cell, seconds=bench.seconds)
    except Exception as error:  # noqa: BLE001  as above: this cell is missing
        bench.say(f"  {cell.name}: {record.contender.title} failed: {error}")
        return
    runs[number] = plain(measured)
    trouble = f", {measured.failed} FAILED ({measured.errors[0][:200]})" if measured.failed else ""
    if measured.recorded is not None and measured.recorded < measured.acknowledged * cell.rows:
        trouble += f", {measured.recorded} of {measured.acknowledged * cell.rows} predictions RECORDED"
    bench.say(
        f"  {cell.name:20} {record.contender.title:34} {measured.throughput:8,.0f}/s"
        f"  p50 {measured.p50:7.2f}  p99 {measured.p99:7.2f} ms  {measured.cpu:6.0f} µs"
        f"  at rest after {measured.settled:.1f} s{trouble}"
    )


def generator_limit(bench: Bench) -> dict[str, dict[str, float]]:
    """How far the load generator goes: against a server that answers a constant, on the server's core."""
    port, found = free_port(), {}
    command = [str(environments.python("", bench.folder)), "-m", "benchmarks.serving.load", str(port)]
    with running(command, {"PYTHONPATH": str(bench.root)}, bench.home("constant"), cores=(SERVER_CORE,)) as tree:
        pin((GENERATOR_CORE,))
        request = load.request("/predict", b"{}".ljust(210), {"Authorization": "Bearer benchmark"})
        tree.wait_until(lambda: _listens(port), 10)
        for connections in (1, 16, 64):
            result = load.run(port, [request], connections=connections, seconds=min(2.0, bench.seconds))
            cost = result.cpu / max(result.answered, 1) * 1e6
            found[str(connections)] = {
                "throughput": round(result.throughput),
                "cpu": round(cost, 2),
                "p99": round(result.percentile(0.99) * 1e3, 3),
            }
            bench.say(
                f"  the generator alone, {connections} at once: {result.throughput:,.0f}/s, {cost:.1f} µs a request"
            )
    return found


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
