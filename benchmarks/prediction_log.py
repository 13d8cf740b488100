"""The prediction log: what a row costs the event loop, how fast PostgreSQL has it, and ten million of them asked.

    python benchmarks/prediction_log.py [--rows 10000000] [--drained 500000]

What a request pays in all is measured on the service itself: `python -m benchmarks.serving --price-of-log`. To reach:
100,000 rows a second copied; ten million predictions of 30 days and 3 models counted and averaged by day and model in
less than a second. PostgreSQL is the stack's, with the stack's settings; the rows of the last part are made in it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.serving.ledger import running_ledger
from include.monitoring import predictions
from include.serving.prediction_log.copy_text import prediction_lines
from include.serving.prediction_log.log import PredictionLog
from include.serving.versions.response_encoder import prediction_ids
from include.settings import cores

GROUP = 16
"""Rows of a turn."""
MODELS = ("trip_duration", "churn", "credit_risk")
DAYS = 30
FIRST = dt.date(2026, 1, 1)
NOWHERE = "postgresql://127.0.0.1:1/nowhere"
INPUTS = (
    b'{"n0":1.5,"n1":2.25,"n2":3.5,"n3":4.5,"n4":5.5,"n5":6.5,"n6":7.5,"n7":8.5,"c0":"a","c1":"b","c2":"c","c3":"a"}'
)
ANSWER = b'"prediction":12.345678'


def lines(ids: list[str], model: str = MODELS[0]) -> bytes:
    count = len(ids)
    told = ([INPUTS] * count, [ANSWER] * count, [12.345678] * count, None, ["shop"] * count)
    return prediction_lines(ids, model, 7, "champion", time.time(), 1.25, *told)


def per_row(run: Callable[[], object], rows: int, rounds: int = 9, repeat: int = 300) -> float:
    """Microseconds of the processor's time."""
    found = []
    for _ in range(rounds):
        started = time.thread_time()
        for _ in range(repeat):
            run()
        found.append((time.thread_time() - started) / repeat / rows * 1e6)
    return min(found)


async def on_the_loop(folder: Path, fsync: Literal["always", "interval", "never"]) -> tuple[float, float, float]:
    """Microseconds a row of the event loop's thread, in all; and a group's wait in ms: median and 99th percentile."""
    log = PredictionLog(folder / fsync, database_url=NOWHERE, fsync=fsync, registry=CollectorRegistry())
    loop, groups = asyncio.get_running_loop(), 3000
    waits: list[float] = []
    log.start(loop)
    content = lines(prediction_ids(GROUP))
    for n in range(groups + 50):
        if n == 50:  # the first segment is there
            waits, began = [], time.thread_time()
        done, started = loop.create_future(), time.perf_counter()
        log.commit(content, GROUP, done.set_result)
        await done
        waits.append((time.perf_counter() - started) * 1e3)
    used = time.thread_time() - began
    await log.stop()
    waits.sort()
    return used / groups / GROUP * 1e6, statistics.median(waits), waits[int(len(waits) * 0.99)]


async def drained(folder: Path, url: str, engine: sa.Engine, rows: int) -> float:
    """Rows a second that are copied from a spool that has filled up."""
    log = PredictionLog(folder / "spool", database_url=NOWHERE, fsync="never", registry=CollectorRegistry())
    loop = asyncio.get_running_loop()
    log.start(loop)
    for n in range(rows // GROUP):
        done = loop.create_future()
        log.commit(lines(prediction_ids(GROUP)), GROUP, done.set_result)
        assert await done is None
        if n % 1000 == 0:
            await asyncio.sleep(0.01)
    await log.stop()
    log = PredictionLog(folder / "spool", database_url=url, fsync="never", registry=CollectorRegistry())
    log.start(loop)
    copied: Callable[[], float] = log.metrics.drained._value.get
    times: list[tuple[float, float]] = []
    while copied() < rows // GROUP * GROUP:
        if copied() or times:
            times.append((time.perf_counter(), copied()))
        await asyncio.sleep(0.01)
    times.append((time.perf_counter(), copied()))
    await log.stop()
    with engine.begin() as connection:
        found = connection.execute(sa.text("select count(*), count(distinct id) from predictions")).one()
        connection.execute(sa.text("truncate predictions"))
    assert found == (rows // GROUP * GROUP,) * 2, found
    (first, some), (last, all_of_them) = times[0], times[-1]
    return (all_of_them - some) / (last - first)


FILL = """
insert into predictions
select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
    (cast(:models as text[]))[1 + n % 3], 7, 'champion', at, cast(:inputs as json), cast(:answer as json),
    random() * 100, 1.25, null, 'shop'
from (select n, cast(:day as date)::timestamp at time zone 'UTC' + n * make_interval(secs => 86400.0 / :rows) as at
    from generate_series(0, :rows - 1) n) made
"""


def fill(engine: sa.Engine, rows: int) -> None:
    told = {"models": list(MODELS), "inputs": INPUTS.decode(), "answer": f"{{{ANSWER.decode()}}}", "rows": rows // DAYS}
    predictions.make_partitions(engine, FIRST, DAYS - 1)
    for n in range(DAYS):
        with engine.begin() as connection:
            connection.execute(sa.text(FILL), told | {"day": FIRST + dt.timedelta(n)})
    predictions.settle(engine, FIRST + dt.timedelta(DAYS), DAYS)


def asked(engine: sa.Engine, rounds: int = 5) -> dict[str, tuple[float, int]]:
    """Question → the median of its seconds, and how many rows the answer is about."""
    day = FIRST + dt.timedelta(17)
    questions: dict[str, Callable[[], list[predictions.Total] | list[predictions.Count]]] = {
        "all, by day and model": lambda: predictions.totals(engine),
        "a model, by day, version and arm": lambda: predictions.counts(engine, MODELS[1]),
        "a model on a day": lambda: predictions.counts(engine, MODELS[1], day, day),
    }
    found = {}
    for question, ask in questions.items():
        seconds = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            answer = ask()
            seconds.append(time.perf_counter() - started)
        found[question] = statistics.median(seconds[1:]), sum(each.rows for each in answer)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="that are asked; 0: none")
    parser.add_argument("--drained", type=int, default=500_000, help="that are copied to PostgreSQL")
    given = parser.parse_args()
    ids = prediction_ids(GROUP)
    print(f"lines for a group of {GROUP} rows  {per_row(lambda: lines(ids), GROUP):10.2f} µs a row")
    with tempfile.TemporaryDirectory(dir=Path(__file__).resolve().parent) as folder:
        for fsync in ("always", "interval", "never"):
            used, median, p99 = asyncio.run(on_the_loop(Path(folder), fsync))
            print(
                f"commit, fsync {fsync:<9}      {used:10.2f} µs a row on the event loop;"
                f" a group waits {median:.2f} ms, p99 {p99:.2f} ms"
            )
    with (
        tempfile.TemporaryDirectory(prefix="mlops-log-") as folder,
        running_ledger(Path(folder) / "postgres", cores=tuple(range(cores()))) as ledger,
    ):
        rate = asyncio.run(drained(Path(folder), ledger.url, ledger.engine, given.drained))
        print(f"copied to PostgreSQL          {rate:10,.0f} rows/s")
        if given.rows:
            fill(ledger.engine, given.rows)
            for question, (seconds, rows) in asked(ledger.engine).items():
                print(f"{question:34} {seconds:6.3f} s  ({rows:,} rows)")


if __name__ == "__main__":
    main()
