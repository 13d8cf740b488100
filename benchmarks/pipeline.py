"""The pipeline on a running stack: a day from ingest to features, Airflow's own share of a task, DAG parsing.

    make demo && .venv/bin/python benchmarks/pipeline.py

The new day is ingested as an operator would do it, by the form of `ingest_trips`; what follows, the assets start.
Overhead is what a step costs beyond its work: the gap before it, and the whole of `check`, a task whose own work takes
a tenth of a second or two, once its worker is warm.
"""

from __future__ import annotations

import datetime as dt
import statistics
import subprocess
import sys
import time
from pathlib import Path

from include import settings
from include.stack.airflow_api import Airflow, Run
from include.stack.machine import load

ROOT = Path(__file__).resolve().parent.parent
PARSE = """
import sys, time, importlib.util
import airflow.sdk, include.settings
from include.orchestration import assets
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("benchmarked", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
heavy = {"pandas", "sklearn", "xgboost", "mlflow", "dvc", "great_expectations", "bentoml", "evidently", "optuna"}
heavy &= set(sys.modules)
print(time.perf_counter() - began, ",".join(sorted(heavy)) or "none")
"""


def parse_times() -> None:
    for file in sorted((ROOT / "dags").glob("*.py")):
        seconds, heavy = [], ""
        for _ in range(3):
            command = [sys.executable, "-W", "ignore", "-c", PARSE, str(file)]
            answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
            seconds.append(float(answer[-2]))
            heavy = answer[-1]
        print(f"parse {file.name:<12} {statistics.median(seconds):.3f} s   heavy libraries imported: {heavy}")


def one_more_day(airflow: Airflow, day: dt.date) -> tuple[float, list[Run]]:
    """Seconds from the click to `features_trip_duration` green, and the two runs."""
    since, began = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1), time.monotonic()
    airflow.trigger("ingest_trips", {"from": str(day), "to": str(day), "replace": True})
    while True:
        runs = airflow.runs(["ingest_trips", "features_trip_duration"], since=since)
        done = [run for run in runs if run.state == "success"]
        if failed := [run for run in runs if run.state == "failed"]:
            raise SystemExit(f"{failed[0].dag} failed")
        if {run.dag for run in done} == {"ingest_trips", "features_trip_duration"}:
            return time.monotonic() - began, done
        if time.monotonic() - began > 120:
            raise SystemExit("no features after two minutes")
        time.sleep(0.2)


def overhead(airflow: Airflow, runs: list[Run]) -> list[float]:
    """Per run: the mean of (gap before a task), plus the whole of `check`."""
    found = []
    for run in runs:
        tasks = airflow.tasks([run])
        timed = [(t.started, t.seconds, t) for t in tasks if t.started is not None and t.seconds is not None]
        timed.sort(key=lambda ran: ran[0])
        ends = [started + dt.timedelta(seconds=seconds) for started, seconds, _ in timed]
        gaps = [(started - end).total_seconds() for end, (started, *_) in zip(ends, timed[1:], strict=False)]
        check = next(seconds for _, seconds, t in timed if t.task == "check")
        found.append(statistics.mean(gap for gap in gaps if gap >= 0) + check)
        print(f"  {run.dag:<24} " + " · ".join(f"{t.name} {seconds:.2f}" for _, seconds, t in timed))
    return found


def main() -> None:
    parse_times()
    stack = load(ROOT, settings.environment().home)
    airflow = Airflow(stack.address("airflow"), "admin", stack.credentials().airflow_admin_password)
    first = dt.datetime.now(dt.UTC).date() - dt.timedelta(70)
    seconds, shares = [], []
    for number in range(4):
        taken, runs = one_more_day(airflow, first + dt.timedelta(number))
        own = overhead(airflow, runs)
        if number:  # the first one warms the workers
            seconds.append(taken)
            shares += own
    print(f"one more day, ingest to features: median {statistics.median(seconds):.1f} s of {len(seconds)}")
    print(f"a warm task: median {statistics.median(shares):.2f} s (gap before it, process, and a check of params.yaml)")


if __name__ == "__main__":
    main()
