"""Features of 5 million taxi trips, parquet to parquet: the feature stage beside the same columns in pandas on the whole frame.

    python benchmarks/features.py [--rows 5000000] [--rounds 3]

Both read the same file and write raw inputs, target and the 18 features of trip_duration. Each run is a process of its own; rounds are
interleaved; wall clock, CPU and peak memory (VmHWM) are the process's, imports included. The results are compared value by value
before anything is reported. The trips are generated, in one partition: the worst case for the stage's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def generate(path: Path, rows: int) -> None:
    """Trips in batches, written as ingestion writes a partition."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    writer = None
    for begin in range(0, rows, 1 << 20):
        n = min(1 << 20, rows - begin)
        seconds = np.sort(rng.integers(0, 180 * 86_400, n))
        distance = np.round(rng.gamma(1.6, 1.9, n), 2)
        table = pa.table(
            {
                "pickup_datetime": np.datetime64("2018-01-01", "us") + seconds * np.timedelta64(1_000_000, "us"),
                "trip_distance": distance,
                "pickup_location_id": rng.integers(1, 266, n),
                "dropoff_location_id": rng.integers(1, 266, n),
                "vendor_id": rng.integers(1, 3, n),
                "passenger_count": rng.integers(1, 7, n),
                "rate_code_id": np.where(rng.random(n) < 0.02, 2, 1),
                "duration_minutes": np.round(2 + distance * 3.5 * rng.lognormal(0, 0.3, n), 2),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()


def with_pandas(source: Path, target: Path) -> None:
    """The straightforward way: one frame, one column after the other, vectorised throughout."""
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(source)
    frame = frame[frame["duration_minutes"].notna()]
    pickup, dropoff = frame["pickup_location_id"], frame["dropoff_location_id"]
    time_of = frame["pickup_datetime"].dt
    frame["hour"] = time_of.hour.astype("float64")
    frame["minute_of_day"] = (time_of.hour * 60 + time_of.minute).astype("float64")
    angle = frame["minute_of_day"] * (2 * np.pi / 1440)
    frame["minute_sine"] = np.sin(angle)
    frame["minute_cosine"] = np.cos(angle)
    frame["weekday"] = time_of.weekday.astype("float64")
    frame["hour_of_week"] = frame["weekday"] * 24 + frame["hour"]
    frame["weekend"] = (frame["weekday"] >= 5).astype("float64")
    frame["rush_hour"] = (frame["hour"].isin([7, 8, 9, 16, 17, 18, 19]) & (frame["weekday"] < 5)).astype("float64")
    frame["distance"] = frame["trip_distance"]
    frame["log_distance"] = np.log1p(frame["trip_distance"].clip(lower=0))
    frame["pickup_zone"] = pickup.astype("float64")
    frame["dropoff_zone"] = dropoff.astype("float64")
    frame["route"] = pickup * 1000.0 + dropoff
    frame["same_zone"] = (pickup == dropoff).astype("float64")
    frame["airport"] = (pickup.isin([132, 138]) | dropoff.isin([132, 138, 1])).astype("float64")
    frame["vendor"] = frame["vendor_id"].astype("float64")
    frame["passengers"] = frame["passenger_count"].astype("float64")
    frame["rate_code"] = frame["rate_code_id"].astype("float64")
    frame.to_parquet(target, index=False)


def with_stage(source: Path, target: Path) -> None:
    """What `python -m include.features.stage` does with one partition, hashing and checks included."""
    from include import storage
    from include.features import stage
    from include.features.columns import types_of
    from include.features.feature_set import compile_features
    from include.settings import Features

    import pyarrow.parquet as pq

    made = compile_features(
        Features(definition="trip_duration"),
        source_columns=types_of(pq.read_schema(source)),
        target="duration_minutes",
        entity=None,
        time_column="pickup_datetime",
        root=ROOT,
    )
    kept = (*made.inputs, "duration_minutes")
    plan = stage.Plan("trip_duration", {}, "trips", made, "duration_minutes", kept, "benchmark")
    stage.build_partition(plan, "all", storage.read_bytes(str(source)), target)


CONTENDERS = {"pandas": with_pandas, "stage": with_stage}


def peak_memory_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measure(name: str, source: Path, target: Path) -> dict[str, float]:
    """One run in a process of its own."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--run", name, str(source), str(target)], check=True, capture_output=True, text=True
    )
    wall = time.perf_counter() - begun
    return {"wall": wall, **json.loads(done.stdout)}


def compare(one: Path, other: Path) -> None:
    """Every column of both files, batch by batch, equal to 1e-12."""
    import numpy as np
    import pyarrow.parquet as pq

    names = sorted(pq.read_schema(one).names)
    assert names == sorted(pq.read_schema(other).names), set(names) ^ set(pq.read_schema(other).names)
    for name in names:
        a, b = (pq.read_table(path, columns=[name]).column(0).to_numpy() for path in (one, other))
        if a.dtype.kind == "M":
            assert (a == b).all(), name
        else:
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-12, atol=1e-12, err_msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, source, target = arguments.run
        CONTENDERS[name](Path(source), Path(target))
        used = os.times()
        print(json.dumps({"cpu": used.user + used.system, "memory": peak_memory_mb()}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = folder / "trips.parquet"
        generate(source, arguments.rows)
        print(f"{arguments.rows:,} rows, {source.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for round_ in range(arguments.rounds):
            for name in CONTENDERS:
                target = folder / f"{name}.parquet"
                results[name].append(measure(name, source, target))
                last = results[name][-1]
                print(f"round {round_ + 1} {name:7} {last['wall']:6.2f} s  CPU {last['cpu']:6.2f} s  {last['memory']:6.0f} MB")
        compare(folder / "pandas.parquet", folder / "stage.parquet")
        print("both files hold the same values")
        middle = {n: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for n, runs in results.items()}
        size = {name: (folder / f"{name}.parquet").stat().st_size / 1e6 for name in CONTENDERS}
        for name, m in middle.items():
            print(f"median  {name:7} {m['wall']:6.2f} s  CPU {m['cpu']:6.2f} s  {m['memory']:6.0f} MB  file {size[name]:.0f} MB")
        ratio, share = middle["pandas"]["wall"] / middle["stage"]["wall"], middle["stage"]["memory"] / middle["pandas"]["memory"]
        cpu = middle["pandas"]["cpu"] / middle["stage"]["cpu"]
        print(f"the stage is {ratio:.1f} times as fast (CPU {cpu:.1f}), with {share:.0%} of the memory; to reach: 4 times, under 1 GB")


if __name__ == "__main__":
    main()
