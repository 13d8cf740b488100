"""Rows of a feature version: those with a target, of the newest partitions, and a fingerprint of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.features.feature_set import FeatureSet
from include.settings import Model
from include.training.preparation import Untrainable
from include.training.preparation import rows as feature_rows
from include.training.preparation.rows import Rows, fingerprints
from tests.include.training.conftest import entry_for, rides, write_features

PINNED = 15627194990155169028


def test_fingerprints_are_equal_for_equal_rows_only_and_the_same_on_every_machine() -> None:
    columns = {
        "a": np.array([1.0, 1.0, 2.0, np.nan, 0.0, -0.0]),
        "b": np.array(["x", "x", "x", None, "y", "y"], dtype=object),
        "t": np.array(["2024-01-01"] * 6, dtype="datetime64[us]"),
    }
    found = fingerprints(columns)
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert len(set(found.tolist())) == 4
    assert fingerprints({"a": np.array([1.0])}).tolist() == [PINNED]
    swapped = fingerprints({"a": np.array([1.0]), "b": np.array([2.0])})
    assert swapped != fingerprints({"a": np.array([2.0]), "b": np.array([1.0])})


def test_a_mask_takes_the_same_rows_of_everything() -> None:
    values = np.arange(4.0)
    times = np.datetime64("2024-01-01", "us") + np.arange(4) * np.timedelta64(1, "D")
    rows = Rows(pa.table({"x": values}), {"x": values}, {"z": values * 2}, values + 1, times, None, ["a", "b"])
    found = rows.where(np.array([True, False, False, True]))
    assert len(found) == 2
    assert found.table.column("x").to_pylist() == found.raw["x"].tolist() == [0.0, 3.0]
    assert (found.computed["z"].tolist(), found.target.tolist()) == ([0.0, 6.0], [1.0, 4.0])
    assert found.times is not None
    assert found.times.tolist() == times[[0, 3]].tolist()
    assert (found.entity, found.partitions) == (None, ["a", "b"])


def read(folder: Path, entry: Model, window: int | None = None) -> Rows:
    described = json.loads((folder / "feature_set.json").read_bytes())
    feature_set = FeatureSet.from_spec(described["spec"], described["definition"])
    return feature_rows.read("ride", entry, folder, feature_set, time_column=entry.time_column, window=window)


def test_rows_without_a_target_are_left_out_and_the_window_takes_the_newest_partitions(tmp_path: Path) -> None:
    table = rides(100, "regression")
    minutes = [None if n % 10 == 0 else float(n) for n in range(100)]
    table = table.drop_columns(["minutes"]).append_column("minutes", pa.array(minutes))
    entry = entry_for("regression")
    folder = write_features(tmp_path, entry, table)
    rows = read(folder, entry)
    assert (len(rows), rows.partitions) == (90, ["2024-01-01", "2024-01-02"])
    assert rows.target.tolist() == rows.table.column("minutes").to_pylist() == [n for n in minutes if n is not None]
    assert set(rows.raw) == {"distance", "zone"}
    assert {"distance", "zone", "longer"} <= set(rows.computed)
    newest = read(folder, entry, window=1)
    assert (len(newest), newest.partitions, newest.target[0]) == (45, ["2024-01-02"], 51.0)


def test_no_partition_and_partitions_of_two_types_are_refused_with_the_remedy(tmp_path: Path) -> None:
    entry = entry_for("regression")
    folder = write_features(tmp_path, entry, rides(100, "regression"))
    changed = folder / "2024-01-02.parquet"
    table = pq.read_table(changed)
    place = table.column_names.index("minutes")
    pq.write_table(table.set_column(place, "minutes", pa.array(["ten"] * len(table))), changed)
    with pytest.raises(Untrainable, match=r"do not go together: .*ingest the partition again with `replace`"):
        read(folder, entry)
    for file in folder.glob("*.parquet"):
        file.unlink()
    with pytest.raises(Untrainable, match="the feature version holds no partition; run features_ride first"):
        read(folder, entry)
