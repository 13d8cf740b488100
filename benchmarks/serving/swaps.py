"""Swapping under load: two versions promoted by turns through the ledger, while the generator never pauses.

Stretches with swaps and without take turns. A swap has happened when an answer names the promoted version; only then
comes the next.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving import environments, ours
from benchmarks.serving.comparison import Bench
from benchmarks.serving.contenders import ALL, HOST, OURS
from benchmarks.serving.ledger import Ledger, promote, running_ledger
from benchmarks.serving.servers import Asked, Cell, Measured, Server, plain, started

LOAD = Cell(1, 16)
STRETCH = 10
"""Swaps in a row."""
SWAP_SECONDS = 20.0
"""A promotion that is not answered with by then was not taken."""


def swap(bench: Bench, swaps: int) -> dict[str, Any]:
    """Swap so often; how many requests failed, the latencies with and without, and the memory before and after."""
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(running_ledger(bench.folder / "ledger"))
        promote(ledger.engine, 1, bench.model / "served")
        home = bench.home("swaps")
        server = stack.enter_context(
            started(
                next(c for c in ALL if c.key == "ours"),
                root=bench.root,
                python=environments.python("", bench.folder),
                model=bench.model,
                home=home,
                asked=Asked(bench.model),
                environment=ours.environment(bench.root, home, ledger),
                ledger=ledger,
            )
        )
        _stretch(bench, server, ledger, 2)  # both versions were loaded once: only what comes after is growth
        server.run(LOAD, seconds=bench.seconds)
        before = server.memory()
        quiet, swapped, took = [], [], []
        for start in range(0, swaps, STRETCH):
            quiet.append(server.run(LOAD, seconds=bench.seconds))
            measured, seconds = _stretch(bench, server, ledger, min(STRETCH, swaps - start))
            swapped.append(measured)
            took += seconds
            bench.say(
                f"  {len(took)} swaps: p99 {measured.p99:.2f} ms, without {quiet[-1].p99:.2f} ms; {measured.failed} of"
                f" {measured.acknowledged:,} requests failed {measured.errors[:1] or ''}"
            )
        server.run(LOAD, seconds=bench.seconds)
        after = server.memory()
    return {
        "swaps": len(took),
        "requests": sum(m.acknowledged for m in (*quiet, *swapped)),
        "failed": sum(m.failed for m in (*quiet, *swapped)),
        "errors": [error for m in (*quiet, *swapped) for error in m.errors][:5],
        "recorded": None if quiet[0].recorded is None else sum(m.recorded or 0 for m in (*quiet, *swapped)),
        "p99": {"with": _median(swapped, "p99"), "without": _median(quiet, "p99")},
        "p50": {"with": _median(swapped, "p50"), "without": _median(quiet, "p50")},
        "throughput": {"with": _median(swapped, "throughput"), "without": _median(quiet, "throughput")},
        "seconds until every answer": {"median": round(median(took), 3), "largest": round(max(took), 3)},
        "memory": {"before": plain(before), "after": plain(after)},
    }


def _median(measured: list[Measured], what: str) -> float:
    return round(median(float(getattr(m, what)) for m in measured), 3)


def _stretch(bench: Bench, server: Server, ledger: Ledger, swaps: int) -> tuple[Measured, list[float]]:
    """Load while another process promotes; the seconds from each promotion to the first answer with it."""
    command = [sys.executable, "-m", "benchmarks.serving.swaps", str(server.place.port), str(bench.model), str(swaps)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=bench.root
    ) as promoter:
        assert promoter.stdin is not None
        assert promoter.stdout is not None
        promoter.stdin.write(ledger.url + "\n")  # it holds a password: not for a process list
        promoter.stdin.flush()
        try:
            promoter.stdout.readline()  # imported and connected
            measured = server.run(LOAD, seconds=swaps * SWAP_SECONDS, until=lambda: promoter.poll() is not None)
        finally:
            promoter.kill()
        seconds = [float(line) for line in promoter.stdout]
    if len(seconds) < swaps:
        raise RuntimeError(f"only {len(seconds)} of {swaps} promotions were answered with: see {server.tree.log}")
    return measured, seconds


def _promote(port: int, model: Path, swaps: int) -> None:
    """The other process: promotes, waits for an answer of that version, and says how long it took."""
    from benchmarks.serving.model import NAME
    from include import database
    from include.deployment import ledger

    engine = database.connect(sys.stdin.readline().strip())
    row = json.loads((model / "rows.json").read_bytes())["rows"][0]
    champion = ledger.champion(engine, NAME)
    assert champion is not None
    print("ready", flush=True)
    time.sleep(1)
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    for version in range(champion.version + 1, champion.version + 1 + swaps):
        promote(engine, version, model / ("served-2" if version % 2 == 0 else "served"))
        began = time.monotonic()
        while _version(connection, row) != version:
            if time.monotonic() - began > SWAP_SECONDS:
                raise SystemExit(f"version {version} was not taken within {SWAP_SECONDS:g} s")
            time.sleep(0.02)
        print(time.monotonic() - began, flush=True)


def _version(connection: http.client.HTTPConnection, row: dict[str, Any]) -> int:
    headers = {"Content-Type": "application/json", **OURS.headers}
    connection.request("POST", OURS.one_path, json.dumps(row), headers)
    return int(json.loads(connection.getresponse().read())["version"])


if __name__ == "__main__":
    _promote(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
