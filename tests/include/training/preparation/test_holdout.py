"""The evidence of a split: who was held out, and proof that they were not trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.settings import Split
from include.training.preparation import Untrainable, holdout
from include.training.preparation.rows import Rows
from include.training.preparation.split import Division


def rows_of(count: int, *, times: np.ndarray | None = None) -> Rows:
    x = np.arange(count, dtype=np.float64)
    return Rows(pa.table({"x": x, "y": x, "note": ["n"] * count}), {"x": x}, {"x": x}, x, times, None, ["all"])


def division_of(part: list[str], *, by: str = "auto", identity: list[int] | None = None) -> Division:
    rows = np.array(identity or range(len(part)), dtype=np.uint64)
    return Division(Split.model_validate({"by": by}), np.array(part), np.zeros(len(part)), None, rows)


PART = ["train", "test", "train", "validation", "test"]


def test_the_evidence_has_the_held_out_rows_and_the_hashes_of_its_files(tmp_path: Path) -> None:
    division = division_of(PART, identity=[50, 40, 30, 20, 10])
    holdout.write(tmp_path / "e", rows_of(5), division, columns=["x", "y"], feature_version="f1")
    assert pq.read_table(tmp_path / "e" / "holdout.parquet").to_pydict() == {"x": [1.0, 4.0], "y": [1.0, 4.0]}
    assert np.load(tmp_path / "e" / "training_rows.npy").tolist() == [20, 30, 50]
    assert np.load(tmp_path / "e" / "holdout_rows.npy").tolist() == [40, 10]
    record = json.loads((tmp_path / "e" / "split.json").read_bytes())
    assert record["rows"] == {"train": 2, "validation": 1, "test": 2}
    assert (record["bounds"], record["feature_version"]) == ({}, "f1")
    assert record["files"] == {
        name: hashlib.sha256((tmp_path / "e" / name).read_bytes()).hexdigest() for name in holdout.FILES
    }


@pytest.mark.parametrize(
    ("by", "dated", "method"),
    [("auto", True, "time"), ("time", True, "time"), ("auto", False, "stratified"), ("random", True, "random"),
     ("random", False, "random"), ("stratified", True, "stratified")],
)  # fmt: skip
def test_the_evidence_names_how_the_rows_were_split(tmp_path: Path, by: str, dated: bool, method: str) -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(5) * np.timedelta64(1, "D") if dated else None
    holdout.write(tmp_path, rows_of(5, times=times), division_of(PART, by=by), columns=["x"], feature_version="f1")
    record = json.loads((tmp_path / "split.json").read_bytes())
    assert record["by"] == method
    if dated:
        assert record["bounds"]["train"] == ["2024-01-01T00:00:00.000000", "2024-01-03T00:00:00.000000"]
    assert set(record["bounds"]) == ({"train", "validation", "test"} if dated else set())


def test_a_held_out_row_that_is_also_trained_on_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Promise 22."""
    division = division_of(PART, identity=[1, 2, 3, 2, 5])
    with pytest.raises(Untrainable, match="1 held-out rows are also trained on; nothing can be judged on them"):
        holdout.write(tmp_path / "e", rows_of(5), division, columns=["x"], feature_version="f1")
    assert not (tmp_path / "e").exists()
