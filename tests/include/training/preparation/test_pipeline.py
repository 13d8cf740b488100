"""From features to a study: clear refusals, one run, one study, and the newest partitions."""

from __future__ import annotations

import json
import select
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.training import preparation, tracking
from include.training.preparation import Untrainable
from tests.include.training.conftest import Laboratory, entry_for, free_laboratory, rides


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("binary", ["yes"] * 100, "one class only, 'yes'"),
        ("binary", ["a", "b", "c", "d"] * 25, "has 4 classes"),
        ("regression", [None] * 100, "none of 100 rows has a target"),
        ("regression", [3.5] * 100, "is 3.5 in all 100 rows"),
        (
            "regression",
            [float("inf")] * 2 + [1.0, 2.0] * 49,
            "the target minutes is infinite in 2 of 100 rows.*null_values",
        ),
        ("regression", [float("-inf")] + [1.0] * 99, "infinite in 1 of 100 rows"),
        ("binary", ["Yes", "No"] * 49 + ["Yes ", "?"], "'Yes ' is 'Yes' but for blanks or capitals"),
        ("binary", ["Yes", "No"] * 49 + ["yes"] * 2, "'yes' is 'Yes' but for blanks or capitals"),
        ("binary", ["Yes", "No"] * 49 + ["?", "-"], "'No' in 49 rows.*if '\\?', '-' means that it is not known"),
        ("binary", [0, 1] * 49 + [9, 9], "9 in 2 rows.*if 9 means that it is not known"),
        ("multiclass", [n / 7 for n in range(100)], "100 distinct values in 100 rows, numbers with fractions"),
        ("multiclass", list(range(100)), "100 classes in 100 rows, fewer than 3 rows each; choose task: regression"),
        ("multiclass", [f"c{n}" for n in range(100)], "fewer than 3 rows each; choose a target with fewer"),
        ("regression", [None] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0], "the train part has [34] of 5 rows"),
        ("binary", ["yes"] * 90 + ["no"] * 10, "part has one class only"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_the_reason(
    tmp_path: Path, task: str, target: list[Any], message: str
) -> None:
    """Promise 18: before MLflow holds a run and before a study exists."""
    table = rides(100, "regression").drop_columns(["minutes"]).append_column("minutes", pa.array(target))
    with pytest.raises(Untrainable, match=message):
        free_laboratory(tmp_path).materialize(entry_for(task), table)


def test_a_feature_too_large_to_compute_with_is_named(tmp_path: Path) -> None:
    entry = entry_for("regression", features={"exclude": ["at", "zone"], "derived": {"ratio": "distance * 1e300"}})
    with pytest.raises(Untrainable, match="'ratio' is infinite"):
        free_laboratory(tmp_path).materialize(entry, rides(100, "regression"))


def test_mlflow_is_asked_first_and_its_absence_ends_it_within_seconds(tmp_path: Path, database_url: str) -> None:
    """Promise 17: nothing was restored, nothing written; a server that never answers is absent too."""
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", "http://127.0.0.1:9", ""):
            with pytest.raises(tracking.MLflowDown, match=r"nothing was begun|not configured"):
                preparation.prepare(
                    "m",
                    entry_for("regression"),
                    run_key="k",
                    work=str(tmp_path / "work"),
                    time_column=None,
                    overrides={},
                    feature_version=None,
                    database_url=database_url,
                    remote_url="",
                    home=tmp_path,
                    optuna_url="",
                    mlflow_url=url,
                )
        tries = 0
        while select.select([deaf], [], [], 0)[0]:
            deaf.accept()[0].close()
            tries += 1
        assert 1 <= tries <= 2  # its own client would go on for many minutes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_evidence_names_who_was_held_out_and_proves_it(laboratory: Laboratory) -> None:
    """Promise 22."""
    prepared = laboratory.materialize(entry_for("regression"), rides(400, "regression"), window=2, trials=9)
    work = Path(prepared["work"])
    record = json.loads((work / "evidence" / "split.json").read_bytes())
    assert record["held_out_rows_that_were_trained_on"] == 0
    assert record["by"] == "time"
    assert record["bounds"]["validation"][1] < record["bounds"]["test"][0]
    assert prepared["trials"] == 9
    assert prepared["rows"] == sum(record["rows"].values()) == 400
    held, trained = (np.load(work / "evidence" / f"{name}_rows.npy") for name in ("holdout", "training"))
    assert (len(held), len(trained)) == (prepared["test_rows"], prepared["train_rows"] + prepared["validation_rows"])
    assert not np.isin(held, trained).any()
    learned = json.loads((work / "preprocessing.json").read_bytes())
    assert learned
    inputs = {entry["name"]: entry for entry in json.loads((work / "inputs.json").read_bytes())}
    assert inputs["zone"]["categories"] == ["harbour", "north", "south"]
    assert inputs["zone"]["required"] is False
    assert np.load(work / "X_train.npy").shape == (prepared["train_rows"], prepared["features"])


@pytest.mark.slow
def test_the_same_training_materialized_twice_is_one_run_and_one_study(laboratory: Laboratory) -> None:
    """I5."""
    entry, table = entry_for("regression"), rides(300, "regression")
    one, two = (laboratory.materialize(entry, table) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


@pytest.mark.slow
def test_the_newest_partitions_of_the_window_are_trained_on(laboratory: Laboratory) -> None:
    prepared = laboratory.materialize(entry_for("regression"), rides(300, "regression"), window=1)
    assert prepared["partitions"] == ["2024-01-02"]
    assert prepared["rows"] == 150
