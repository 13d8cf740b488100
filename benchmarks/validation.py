"""Validation with quarantine of a million rows: 10 columns, 15 expectations, and of a range of small partitions.

    python benchmarks/validation.py            needs no server; prints seconds

To reach: 1,000,000 rows in under 5 s (the import of Great Expectations is paid before, by the preloading executor).
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from include import storage
from include.ingestion import judgement, outcomes, runner, suites

ROWS = 1_000_000
COLUMNS = 10


def table(rows: int, bad: float = 0.01) -> pa.Table:
    """Six numbers, two counts, a text and a time; a share of them outside their range, a few missing."""
    rng = np.random.default_rng(1)
    found: dict[str, pa.Array] = {}
    for index in range(6):
        values = rng.random(rows)
        values[rng.random(rows) < bad / 6] = 99.0
        found[f"x{index}"] = pa.array(values)
    for index in range(2):
        found[f"n{index}"] = pa.array(rng.integers(0, 100, rows), mask=rng.random(rows) < 0.001)
    found["kind"] = pa.array(np.array(["a", "b", "c"])[rng.integers(0, 3, rows)].tolist(), pa.string())
    found["at"] = pa.array(np.datetime64("2018-01-01", "us") + np.sort(rng.integers(0, 86_400, rows)).astype("m8[s]"))
    return pa.table(found)


def suite(folder: Path) -> suites.Suite:
    """Fifteen expectations, nine of them about rows."""
    between = "expect_column_values_to_be_between"
    rows = [(between, {"column": f"x{index}", "min_value": 0, "max_value": 1}) for index in range(6)]
    rows += [(between, {"column": "n0", "min_value": 0, "max_value": 100})]
    rows += [("expect_column_values_to_not_be_null", {"column": "n1"})]
    rows += [("expect_column_values_to_be_in_set", {"column": "kind", "value_set": ["a", "b", "c"]})]
    whole = [("expect_table_columns_to_match_set", {"column_set": table(1).column_names})]
    whole += [("expect_column_values_to_be_of_type", {"column": f"x{index}", "type_": "float64"}) for index in range(3)]
    whole += [("expect_table_row_count_to_be_between", {"min_value": 1})]
    whole += [("expect_column_max_to_be_between", {"column": "at", "min_value": {"$PARAMETER": "day_start"}})]
    listed = [{"type": kind, "kwargs": given, "severity": "warning"} for kind, given in rows]
    listed += [{"type": kind, "kwargs": given, "severity": "critical"} for kind, given in whole]
    path = folder / "benchmark.json"
    path.write_text(json.dumps({"name": "benchmark", "expectations": listed}))
    return suites.load(path)


def million(folder: Path, rows: int = ROWS, bad: float = 0.01) -> float:
    """Seconds from a staged parquet file to accepted rows and quarantine on disk."""
    rules = suite(folder)
    assert len(rules.rules) == 15
    data = table(rows, bad)
    assert data.num_columns == COLUMNS
    storage.write_table(str(folder / "staging" / "benchmark" / "r" / "2018-01-01.parquet"), data)
    given = judgement.parameters("2018-01-01", rows, dt.date(2018, 2, 1))
    judgement.judge(data.slice(0, 1000), rules, quarantine_share=0.05, given=given)  # imports
    begin = time.perf_counter()
    staged = storage.read_table(str(folder / "staging" / "benchmark" / "r" / "2018-01-01.parquet"))
    judged = judgement.judge(staged, rules, quarantine_share=0.05, given=given)
    stored = outcomes.store(
        "benchmark", "2018-01-01", outcomes.Judged(staged, None, judged), data_url=str(folder), run_id="r"
    )
    seconds = time.perf_counter() - begin
    print(
        f"{rows:,} rows x {COLUMNS} columns x {len(rules.rules)} expectations: {seconds:.2f} s;"
        f" accepted {0 if stored.refused else stored.rows:,}, quarantined {stored.quarantined:,}"
    )
    return seconds


def many(folder: Path, partitions: int = 60, rows: int = 2000) -> float:
    """Seconds for each of many small partitions."""
    rules, data = suite(folder), table(rows)
    given = judgement.parameters("2018-01-01", rows, dt.date(2018, 2, 1))
    begin = time.perf_counter()
    with runner.started() as run:
        for _ in range(partitions):
            judgement.judge_by(run, data, rules, 0.05, given)
    seconds = (time.perf_counter() - begin) / partitions
    print(f"{partitions} partitions of {rows:,} rows: {1000 * seconds:.0f} ms each")
    return seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        million(Path(temporary))
        million(Path(temporary), bad=0.4)
        many(Path(temporary))
