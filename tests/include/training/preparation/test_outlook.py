"""What `mlops check` foresees of a training is what the training would stop at, or warn of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.features.columns import types_of
from include.features.compiler import compile_features
from include.settings import Model
from include.training.preparation import Untrainable, outlook
from tests.include.training.conftest import ROOT, entry_for, free_laboratory, rides


def foreseen(entry: Model, table: pa.Table, *, whole: bool = True) -> list[outlook.Prospect]:
    feature_set = compile_features(
        entry.features,
        source_columns=types_of(table.schema),
        target=entry.target,
        entity=entry.entity,
        time_column=entry.time_column,
        root=ROOT,
    )
    return outlook.foresee("ride", entry, feature_set, table, time_column=entry.time_column, whole=whole)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        table = table.drop_columns([name])
    return table.append_column(name, pa.array(values, from_pandas=True))


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_of_sound_rows_nothing_is_foreseen(task: str) -> None:
    assert foreseen(entry_for(task), rides(400, task)) == []


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("binary", ["yes"] * 100, "one class only, 'yes'"),
        ("regression", [None] * 100, "none of 100 rows has a target"),
        ("regression", [float("inf")] + [1.0, 2.0] * 49 + [3.0], "infinite in 1 of 100 rows"),
    ],
)
def test_a_target_that_stops_a_training_is_foreseen_in_the_trainings_words(
    tmp_path: Path, task: str, target: list[Any], message: str
) -> None:
    entry, table = entry_for(task), with_column(rides(100, "regression"), "minutes", target)
    [prospect] = foreseen(entry, table)
    assert (prospect.certain, prospect.key) == (True, "target")
    assert message in prospect.text
    laboratory = free_laboratory(tmp_path)
    with pytest.raises(Untrainable) as stopped:
        laboratory.materialize(entry, table)
    assert str(stopped.value) == f"{laboratory.model}: {prospect.text}"
    [part] = foreseen(entry, table, whole=False)
    assert (part.certain, part.text) == (False, prospect.text)  # of some rows, it may only be these


def test_too_few_rows_for_a_split_are_foreseen_if_these_are_all(tmp_path: Path) -> None:
    entry, table = entry_for("regression"), rides(12, "regression")
    [prospect] = foreseen(entry, table)
    assert (prospect.certain, prospect.key) == (True, "split")
    assert "the train part has 8 of 12 rows, at least 20 are needed" in prospect.text
    with pytest.raises(Untrainable) as stopped:
        free_laboratory(tmp_path).materialize(entry, table)
    assert prospect.text in str(stopped.value)
    assert foreseen(entry, table, whole=False) == []


def test_a_small_table_is_warned_of_before_the_gate_holds_it_back() -> None:
    [prospect] = foreseen(entry_for("binary"), rides(120, "binary"))
    assert (prospect.certain, prospect.key) == (False, "split")
    assert "its verdict will be HOLD" in prospect.text


def test_infinite_inputs_and_features_beyond_32_bits_are_foreseen_by_name() -> None:
    table = rides(400, "regression")
    distance = table.column("distance").to_numpy(zero_copy_only=False).copy()
    distance[:3] = np.inf
    texts = [p.text for p in foreseen(entry_for("regression"), with_column(table, "distance", distance)) if p.certain]
    assert "the column 'distance' is infinite, or too large for 32 bits, in 3 of 400 rows" in texts[0]
    entry = entry_for("regression", features={"exclude": ["at", "zone"], "derived": {"ratio": "distance * 1e300"}})
    texts = [p.text for p in foreseen(entry, table) if p.certain]
    assert any("the feature 'ratio' is infinite, or too large for 32 bits" in text for text in texts)


def test_a_column_without_values_is_foreseen_once() -> None:
    table = with_column(rides(400, "regression"), "distance", np.full(400, np.nan))
    found = [p for p in foreseen(entry_for("regression"), table) if "'distance'" in p.text]
    assert [(p.certain, p.key) for p in found] == [(True, "features")]
    assert "has no value in any of 400 rows" in found[0].text


def test_suspects_and_doubtful_classes_are_warnings() -> None:
    table = rides(400, "binary")
    table = with_column(table, "code", [f"id {n}" for n in range(400)])
    labels = table.column("minutes").to_pylist()
    labels[:4] = ["Late "] * 4
    found = foreseen(entry_for("multiclass"), with_column(table, "minutes", labels))
    assert all(not prospect.certain for prospect in found)
    assert any(p.key == "features" and p.text.startswith("suspect: 'code' has 400 distinct values") for p in found)
    assert any(p.key == "target" and "differ in blanks or capitals only" in p.text for p in found)


def test_rows_whose_neighbours_are_alike_are_warned_of_even_if_these_are_not_all() -> None:
    table = rides(400, "regression").drop_columns(["at"])
    wave = np.sin(np.arange(400) / 20) * 10 + np.random.default_rng(1).normal(size=400)
    entry = entry_for("regression", time_column=None, features={"one_hot": ["zone"]})
    for whole in (True, False):
        found = foreseen(entry, with_column(table, "minutes", wave), whole=whole)
        assert [(p.certain, p.key) for p in found] == [(False, "split")]
        assert "neighbouring rows are alike" in found[0].text
