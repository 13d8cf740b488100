"""Our prediction service beside raw uvicorn, FastAPI, LitServe, BentoML's defaults, MLflow and MLServer.

    PYTHONPATH=. python -m benchmarks.serving                    the comparison: about half an hour
    PYTHONPATH=. python -m benchmarks.serving --only ours raw    some of them
    PYTHONPATH=. python -m benchmarks.serving --workers 2        two workers on two cores beside one
    PYTHONPATH=. python -m benchmarks.serving --price-of-log     with and without the prediction log
    PYTHONPATH=. python -m benchmarks.serving --swaps 100        100 swaps under load
    PYTHONPATH=. python -m benchmarks.serving --against PATH     the service of another checkout, by turns: prints only
    PYTHONPATH=. python -m benchmarks.serving --all              everything

Writes benchmarks/results/serving.json, .md and .png; a part that is not run keeps its last results. It wants two cores
and a machine that nobody else uses.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving import report
from benchmarks.serving.against import against
from benchmarks.serving.comparison import Bench, compare, generator_limit
from benchmarks.serving.contenders import ALL
from benchmarks.serving.price import price
from benchmarks.serving.processes import GENERATOR_CORE, pin
from benchmarks.serving.scaling import scale
from benchmarks.serving.swaps import swap

ROOT = Path(__file__).parents[2]
SWAPS = 100


def main() -> None:
    """Run the parts that are asked for, and write the results."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends us ends the servers too
    pin((GENERATOR_CORE,))
    bench = Bench(
        ROOT, given.environments.absolute(), given.rounds, given.seconds, lambda text: print(text, flush=True)
    )
    bench.say("fitting the model")
    subprocess.run([sys.executable, "-m", "benchmarks.serving.model", str(bench.model)], cwd=ROOT, check=True)
    if given.against:
        for cell, found in against(bench, given.against)["cells"].items():
            print(cell, {name: value for name, value in found.items() if name != "rounds"})
        return
    results = report.load(given.results)
    for section, run in _parts(given, bench).items():
        circumstances = report.circumstances(f"python -m benchmarks.serving {' '.join(sys.argv[1:])}".strip(), ROOT)
        results[section] = {**circumstances, "rounds": given.rounds, "seconds": given.seconds, **run()}
        report.write(given.results, results)
    print()
    print(report.text(results))


def _parts(given: argparse.Namespace, bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    swaps = given.swaps or (SWAPS if given.all else 0)
    workers = given.workers or (2 if given.all else 0)
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if given.all or not (swaps or workers or given.price_of_log):
        parts["comparison"] = lambda: {"generator": generator_limit(bench), "contenders": compare(bench, given.only)}
    if workers:
        parts["workers"] = lambda: scale(bench, workers)
    if given.all or given.price_of_log:
        parts["price of the log"] = lambda: price(bench)
    if swaps:
        parts["swaps"] = lambda: swap(bench, swaps)
    return parts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (4)")
    parser.add_argument("--only", nargs="+", default=(), choices=[c.key for c in ALL], help="these contenders")
    parser.add_argument("--workers", type=int, help="so many workers of ours on as many cores, beside one on one")
    parser.add_argument("--price-of-log", action="store_true", help="ours with and without the prediction log")
    parser.add_argument("--swaps", type=int, help="so many swaps of ours under load")
    parser.add_argument("--against", type=Path, metavar="PATH", help="this checkout beside another one")
    parser.add_argument("--all", action="store_true", help="every part")
    parser.add_argument("--environments", type=Path, default=ROOT / "var" / "benchmarks", help="kept between runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
