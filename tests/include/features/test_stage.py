"""The stage: only what changed, each file whole, unusable features refused by name."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.features import feature_file, stage
from include.features.columns import types_of
from include.features.compiler import compile_features
from include.features.plan import Plan, StageError
from include.settings import ROOT, Features

from .conftest import day, trips


def plan_for(partitions: dict[str, str], features: dict[str, object] | None = None, fingerprint: str = "1") -> Plan:
    given = {"definition": "trip_duration"} if features is None else features
    types = types_of(trips(day(0)).schema)
    made = compile_features(
        Features.model_validate(given),
        source_columns=types,
        target="duration_minutes",
        entity=None,
        time_column="pickup_datetime",
        root=ROOT,
    )
    kept = tuple(dict.fromkeys([*made.inputs, "pickup_datetime", "duration_minutes"]))
    return Plan("ride", partitions, "rides", made, "duration_minutes", kept, fingerprint)


def publish(data: Path, key: str, table: pa.Table) -> str:
    return storage.write_table(storage.join(str(data), "validated", "rides", f"{key}.parquet"), table).sha256


def content(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_only_what_changed_is_computed_and_what_is_not_wanted_is_removed(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    wanted = {day(n): publish(data, day(n), trips(day(n))) for n in range(3)}
    assert stage.run(plan_for(wanted), output, str(data))["computed"] == list(wanted)
    first = {p.name: p.read_bytes() for p in output.iterdir()}
    assert stage.run(plan_for(wanted), output, str(data))["computed"] == []
    assert {p.name: p.read_bytes() for p in output.iterdir()} == first

    wanted[day(1)] = publish(data, day(1), trips(day(1), slower=2))
    del wanted[day(0)]
    (output / "stray.parquet").write_bytes(b"")
    assert stage.run(plan_for(wanted), output, str(data)) == {
        "computed": [day(1)],
        "reused": 1,
        "rows": 100,
        "dropped": 0,
    }
    assert sorted(p.name for p in output.glob("*.parquet")) == [f"{day(1)}.parquet", f"{day(2)}.parquet"]
    assert stage.run(plan_for(wanted, fingerprint="2"), output, str(data))["reused"] == 0, "other features or code"


def test_a_file_that_is_not_what_the_index_says_is_computed_again(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    wanted = {day(n): publish(data, day(n), trips(day(n))) for n in range(2)}
    stage.run(plan_for(wanted), output, str(data))
    good = (output / f"{day(1)}.parquet").read_bytes()
    (output / f"{day(1)}.parquet").write_bytes(good[:-8])
    assert stage.run(plan_for(wanted), output, str(data))["computed"] == [day(1)]
    assert (output / f"{day(1)}.parquet").read_bytes() == good
    (output / stage.INDEX).write_text("{broken")
    assert stage.run(plan_for(wanted), output, str(data))["reused"] == 0


def test_a_feature_file_holds_raw_columns_features_and_target(tmp_path: Path) -> None:
    table = trips(day(0))
    file = tmp_path / "f.parquet"
    plan = plan_for({})
    entry = feature_file.build_partition(plan, day(0), content(table), file)
    made = pq.read_table(file)
    assert made.select(list(plan.columns)).equals(
        table.select(list(plan.columns)).cast(made.select(list(plan.columns)).schema)
    )
    assert set(plan.feature_set.kinds) <= set(made.column_names)
    assert entry["bytes"] == file.stat().st_size


def test_many_batches_give_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = trips(day(0), 1000)
    plan = plan_for({})
    feature_file.build_partition(plan, day(0), content(table), tmp_path / "whole.parquet")
    monkeypatch.setattr(feature_file, "BATCH_ROWS", 64)
    feature_file.build_partition(plan, day(0), content(table), tmp_path / "parts.parquet")
    whole, parts = pq.read_table(tmp_path / "whole.parquet"), pq.read_table(tmp_path / "parts.parquet")
    assert parts.equals(whole)
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 16


def test_rows_without_a_target_are_left_out_and_counted(tmp_path: Path) -> None:
    table = trips(day(0), 100)
    target = np.where(np.arange(100) % 4 == 0, np.nan, 5.0)
    with_gaps = table.set_column(table.column_names.index("duration_minutes"), "duration_minutes", pa.array(target))
    entry = feature_file.build_partition(plan_for({}), day(0), content(with_gaps), tmp_path / "f.parquet")
    assert (entry["rows"], entry["dropped"]) == (75, 25)
    nulls = table.set_column(
        table.column_names.index("duration_minutes"), "duration_minutes", pa.nulls(100, pa.float64())
    )
    with pytest.raises(StageError, match=f"{day(0)}.*none of its 100 rows"):
        feature_file.build_partition(plan_for({}), day(0), content(nulls), tmp_path / "g.parquet")
    assert not (tmp_path / "g.parquet").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["f.parquet"], "no temporary file is left"


@pytest.mark.parametrize(
    ("derived", "message"),
    [
        ("log(0 - trip_distance - 1)", "'x' has no value in any of 50 rows"),
        ("where(vendor_id > 9, 1, 0 / 0)", "'x' has no value"),
    ],
)
def test_a_feature_without_any_value_is_refused(tmp_path: Path, derived: str, message: str) -> None:
    plan = plan_for({}, {"columns": ["trip_distance", "vendor_id"], "derived": {"x": derived}})
    with pytest.raises(StageError, match=message):
        feature_file.build_partition(plan, day(0), content(trips(day(0))), tmp_path / "f.parquet")


def test_infinite_features_are_refused_with_their_count(tmp_path: Path) -> None:
    plan = plan_for({})
    table = trips(day(0))
    infinite = table.set_column(1, "trip_distance", pa.array(np.where(np.arange(50) < 3, np.inf, 1.0)))
    with pytest.raises(StageError, match="'trip_distance' is infinite in 3 of 50 rows"):
        feature_file.build_partition(plan, day(0), content(infinite), tmp_path / "f.parquet")


@pytest.mark.parametrize("column", ["trip_distance", "duration_minutes"])
@pytest.mark.parametrize(
    ("value", "what"), [(np.inf, "infinite"), (-np.inf, "infinite"), (1e39, "too large for 32 bit")]
)
def test_a_number_that_nothing_can_learn_from_is_found_with_column_partition_count_row_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: float, what: str
) -> None:
    """One raw infinity in one row; a target's too; all batches are counted."""
    monkeypatch.setattr(feature_file, "BATCH_ROWS", 16)
    table = trips(day(0))
    numbers = np.where(np.isin(np.arange(50), [20, 49]), value, 1.5)
    dirty = table.set_column(table.column_names.index(column), column, pa.array(numbers))
    role = "target" if column == "duration_minutes" else "input"
    text = rf"{day(0)} of rides: the {role} '{column}' is {what}.* in 2 of 50 rows, first in row 21 .*null_values"
    with pytest.raises(StageError, match=text):
        feature_file.build_partition(
            plan_for({}, {"columns": ["trip_distance", "vendor_id"]}), day(0), content(dirty), tmp_path / "f.parquet"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_infinite_input_is_named_even_where_only_a_formula_reads_it(tmp_path: Path) -> None:
    plan = plan_for({}, {"columns": ["vendor_id"], "derived": {"x": "where(trip_distance > 5, 1, 0)"}})
    table = trips(day(0))
    dirty = table.set_column(1, "trip_distance", pa.array([np.inf] + [1.5] * 49))
    with pytest.raises(StageError, match="the input 'trip_distance' is infinite in 1 of 50"):
        feature_file.build_partition(plan, day(0), content(dirty), tmp_path / "f.parquet")


def test_a_computed_feature_beyond_32_bits_is_refused_with_advice_about_its_formula(tmp_path: Path) -> None:
    plan = plan_for({}, {"columns": ["vendor_id"], "derived": {"x": "vendor_id * 1e300"}})
    with pytest.raises(StageError, match=r"the feature 'x' is infinite.*guard the division"):
        feature_file.build_partition(plan, day(0), content(trips(day(0))), tmp_path / "f.parquet")


def test_a_column_that_never_has_a_value_asks_to_be_excluded(tmp_path: Path) -> None:
    table = trips(day(0))
    empty = table.set_column(4, "vendor_id", pa.nulls(50, pa.int64()))
    wanted = {day(0): publish(tmp_path / "data", day(0), empty)}
    plan = plan_for(wanted, {"columns": ["trip_distance", "vendor_id"]})
    with pytest.raises(StageError, match=r"exclude: \[vendor_id\]"):
        stage.run(plan, tmp_path / "out", str(tmp_path / "data"))
    some = publish(tmp_path / "data", day(1), trips(day(1)))
    both = dataclasses.replace(plan, partitions={**wanted, day(1): some})
    assert stage.run(both, tmp_path / "out", str(tmp_path / "data"))["rows"] == 100, "a day without values is no fault"


def test_the_stage_ends_when_the_owner_of_its_workspace_dies(tmp_path: Path) -> None:
    """Promise 9: DVC may be killed, its child must not go on."""
    lock = tmp_path / stage.OWNER_LOCK
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code = (
            "import time, pathlib; from include.features import stage;"
            f"stage.end_with_owner(pathlib.Path({str(lock)!r})); print('up', flush=True); time.sleep(60)"
        )
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        time.sleep(0.2)
        assert child.poll() is None
    assert child.wait(5) == 70
    child.stdout.close()


def test_without_a_workspace_the_command_explains_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "include.features.stage"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "usage" in done.stderr) == (2, True)
