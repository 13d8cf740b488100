"""Splits, evidence and clear refusals."""

from __future__ import annotations

import json
import select
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet, UnknownCategory
from include.settings import Features, FieldPolicy, Serving, Split
from include.training import preparation, tracking
from include.training.preparation import Untrainable, fingerprints, split
from tests.include.training.conftest import ROOT, Laboratory, entry_for, free_laboratory, rides

DAY = np.timedelta64(86_400, "s")


def parts(rule: Split, rows: int, **columns: Any) -> np.ndarray:
    values = {
        "times": None,
        "y": None,
        "groups": np.arange(rows, dtype=np.uint64),
        "entity": None,
        "seed": 7,
        **columns,
    }
    return split(rule, rows, **values)


def share(part: np.ndarray) -> dict[str, float]:
    return {name: float((part == name).mean()) for name in ("train", "validation", "test")}


def test_a_split_by_time_holds_the_newest_out_whatever_the_order_of_the_rows() -> None:
    times = np.random.default_rng(1).permutation(
        np.datetime64("2024-01-01", "us") + np.arange(1000) * np.timedelta64(60, "s")
    )
    part = parts(Split(), 1000, times=times)
    assert times[part == "train"].max() < times[part == "validation"].min()
    assert times[part == "validation"].max() < times[part == "test"].min()
    assert share(part) == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.002)


def test_rows_of_one_moment_stay_on_one_side() -> None:
    times = np.repeat(np.datetime64("2024-01-01", "us") + np.arange(10) * np.timedelta64(60, "s"), 13)
    part = parts(Split(), 130, times=times)
    assert all(len(set(part[times == moment])) == 1 for moment in np.unique(times))


def test_with_many_days_a_part_begins_with_a_day() -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(3000) * np.timedelta64(1800, "s")
    part = parts(Split(), 3000, times=times)
    days = times.astype("datetime64[D]")
    assert all(len(set(part[days == day])) == 1 for day in np.unique(days))
    assert share(part)["train"] == pytest.approx(0.7, abs=0.02)


def test_a_stratified_split_keeps_the_share_of_each_class() -> None:
    y = np.array([1.0] * 60 + [0.0] * 540)
    part = parts(Split(), 600, y=y)
    for name in ("train", "validation", "test"):
        assert y[part == name].mean() == pytest.approx(0.1, abs=0.02)
    assert (part == parts(Split(), 600, y=y)).all()


def test_equal_rows_and_rows_of_one_entity_stay_on_one_side() -> None:
    """Promise 22."""
    groups = np.repeat(np.arange(100, dtype=np.uint64), 4)
    entity = np.repeat(np.array([f"patient {n}" for n in range(50)], dtype=object), 8)
    for columns in ({"groups": groups}, {"groups": groups, "y": groups % 2}, {"entity": entity}):
        part = parts(Split(), 400, **columns)
        code = columns.get("entity", groups)
        assert all(
            len(set(part[code == c])) == 1 for c in np.unique(code.astype(str) if code.dtype == object else code)
        )


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


PINNED = 15627194990155169028


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
        free_laboratory(tmp_path).lay_down(entry_for(task), table)


def test_a_feature_too_large_to_compute_with_is_named(tmp_path: Path) -> None:
    entry = entry_for("regression", features={"exclude": ["at", "zone"], "derived": {"ratio": "distance * 1e300"}})
    with pytest.raises(Untrainable, match="'ratio' is infinite"):
        free_laboratory(tmp_path).lay_down(entry, rides(100, "regression"))


@pytest.mark.parametrize(
    ("rows", "changes", "test"),
    [
        (400, {}, 0.15),
        (334, {}, 0.15),
        (200, {}, 53 / 200),
        (159, {}, 53 / 159),
        (158, {}, 0.15),
        (200, {"split": {"train": 0.7, "validation": 0.15, "test": 0.15}}, 0.15),
        (100, {"gate": {"minimum_rows": 20}}, 23 / 100),
    ],
)
def test_a_small_table_holds_out_as_many_rows_as_its_gate_needs_unless_the_split_is_declared(
    rows: int, changes: dict[str, Any], test: float
) -> None:
    entry = entry_for("binary", **changes)
    rule = preparation.split_rule(entry, rows, ["early", "late"])
    assert rule.test == pytest.approx(test)
    y = np.arange(rows) % 3 == 0
    part = parts(rule, rows, y=y * 1.0)
    enough = int((part == "test").sum()) >= entry.gate.minimum_rows
    assert enough == (rows * test >= entry.gate.minimum_rows)
    warnings = preparation.split_warnings(entry, rule, part, np.where(y, "late", "early").astype(object), None)
    assert bool(warnings) == (rule.test != 0.15 or not enough)


def test_the_warning_of_a_table_that_is_too_small_has_the_numbers_and_the_remedy() -> None:
    entry = entry_for("binary")
    part = parts(entry.split, 120)
    (warning,) = preparation.split_warnings(entry, entry.split, part, np.array(["a", "b"] * 60, dtype=object), None)
    assert "18 of 120 rows are held out, and the gate needs 50: its verdict will be HOLD" in warning
    assert "train on at least 334 rows, or declare a `split` with test: 0.43 or more" in warning


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
def test_what_is_laid_down_tells_who_was_held_out_and_proves_it(laboratory: Laboratory) -> None:
    """Promise 22."""
    prepared = laboratory.lay_down(entry_for("regression"), rides(400, "regression"), window=2, trials=9)
    work = Path(prepared["work"])
    record = json.loads((work / "evidence" / "split.json").read_bytes())
    assert record["held_out_rows_that_were_trained_on"] == 0
    assert record["by"] == "time"
    assert record["bounds"]["validation"][1] < record["bounds"]["test"][0]
    assert prepared["trials"] == 9
    assert prepared["rows"] == sum(record["rows"].values()) == 400
    assert preparation.leaked(work / "evidence", work / "evidence") == 0
    rows = np.load(work / "evidence" / "holdout_rows.npy")
    np.save(work / "evidence" / "training_rows.npy", np.sort(rows[:7]))
    assert preparation.leaked(work / "evidence", work / "evidence") == 7
    learned = json.loads((work / "preprocessing.json").read_bytes())
    assert learned
    inputs = {entry["name"]: entry for entry in json.loads((work / "inputs.json").read_bytes())}
    assert inputs["zone"]["categories"] == ["harbour", "north", "south"]
    assert inputs["zone"]["required"] is False
    assert np.load(work / "X_train.npy").shape == (prepared["train_rows"], prepared["features"])


@pytest.mark.slow
def test_the_same_training_laid_down_twice_is_one_run_and_one_study(laboratory: Laboratory) -> None:
    """I5."""
    entry, table = entry_for("regression"), rides(300, "regression")
    one, two = (laboratory.lay_down(entry, table) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


@pytest.mark.slow
def test_the_newest_partitions_of_the_window_are_trained_on(laboratory: Laboratory) -> None:
    prepared = laboratory.lay_down(entry_for("regression"), rides(300, "regression"), window=1)
    assert prepared["partitions"] == ["2024-01-02"]
    assert prepared["rows"] == 150


# ---------------------------------------------------------------------------------------------- requests

TRIPS: dict[str, np.ndarray] = {
    "distance": np.array([0.5, np.nan, 9.0, 2.0]),
    "seats": np.array([1.0, 4.0, 2.0, 2.0]),
    "zone": np.array(["north", "south", "north", "south"], dtype=object),
    "night": np.array([1.0, 0.0, 0.0, 1.0]),
}
TYPES: dict[str, Any] = {"distance": "float", "seats": "int", "zone": "string", "night": "bool"}


def described(serving: Serving | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in preparation.describe_inputs(TRIPS, TYPES, serving=serving, **options)}


def test_by_default_what_training_missed_is_imputed_and_what_it_never_missed_is_demanded() -> None:
    entries = described()
    assert {name: (entry["missing"], entry["required"]) for name, entry in entries.items()} == {
        "distance": ("impute", False), "seats": ("error", True), "zone": ("error", True), "night": ("error", True),
    }  # fmt: skip
    assert {name: entry["out_of_range"] for name, entry in entries.items()} == {
        "distance": "warn", "seats": "warn", "zone": None, "night": None,
    }  # fmt: skip
    assert entries["zone"]["unknown_category"] == "other"
    assert (entries["seats"]["minimum"], entries["seats"]["maximum"]) == (1, 4)


def test_a_field_s_own_policy_comes_before_the_model_s() -> None:
    serving = Serving(
        missing="error",
        out_of_range="clip",
        fields={"seats": FieldPolicy(missing="impute", out_of_range="error", unknown_category="error")},
        units={"distance": "miles"},
    )
    entries = described(serving, learned={"seats": [1.0, 2.0]})
    assert entries["distance"]["missing"] == entries["zone"]["missing"] == "error"
    assert (entries["distance"]["out_of_range"], entries["distance"]["unit"]) == ("clip", "miles")
    seats = entries["seats"]
    assert (seats["missing"], seats["required"], seats["out_of_range"]) == ("impute", False, "error")
    assert (seats["unknown_category"], seats["categories"]) == ("error", [1, 2])


def test_a_text_says_whether_training_saw_white_space_around_it() -> None:
    raw = {"a": np.array(["x", None, "y z"], dtype=object), "b": np.array([" x", "y", "z"], dtype=object)}
    found = preparation.describe_inputs({**raw, "n": np.ones(3)}, {"a": "string", "b": "string", "n": "int"})
    assert [entry["trimmed"] for entry in found] == [True, False, False]


def test_all_texts_of_a_column_that_is_used_as_categories_are_listed_however_many() -> None:
    many = [f"zone {n:04d}" for n in range(300)]
    raw, types = {"zone": np.array(many, dtype=object)}, {"zone": "string"}
    [used] = preparation.describe_inputs(raw, types, learned={"zone": many[:20]})  # type: ignore[arg-type]
    [unused] = preparation.describe_inputs(raw, types)  # type: ignore[arg-type]
    assert used["categories"] == many  # those that became one category, too: training saw them
    assert unused["categories"] is None


def test_a_model_that_refuses_unknown_categories_lists_all_that_it_knows() -> None:
    many = [f"zone {n:03d}" for n in range(preparation.MANY_CATEGORIES + 1)]
    entries = described(learned={"zone": many}, unknown_category="error")
    assert entries["zone"]["categories"] == many
    assert entries["zone"]["unknown_category"] == "error"
    assert entries["seats"]["unknown_category"] is None


def test_a_text_that_is_no_category_is_not_closed_by_the_model_s_policy() -> None:
    """`length(zone)` may be a feature of names that nobody has listed."""
    assert described(learned={}, unknown_category="error")["zone"]["unknown_category"] == "other"


def features_of(unknown: str) -> tuple[FeatureSet, dict[str, Any]]:
    features = Features.model_validate({"one_hot": ["zone", "seats"], "unknown_category": unknown})
    compiled = compile_features(
        features, source_columns={**TYPES, "y": "float"}, target="y", entity=None, time_column=None, root=ROOT
    )
    fitted, _ = compiled.fit(compiled.compute(TRIPS), np.arange(4.0), task="regression", seed=1)
    return compiled, fitted


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_field_may_take_an_unknown_category_though_the_model_does_not(rows: int) -> None:
    compiled, fitted = features_of("error")
    preparation.tolerate(fitted, Serving(fields={"zone": FieldPolicy(unknown_category="other")}))
    fitted = json.loads(json.dumps(fitted))
    new = {name: np.repeat(values[:1], rows) for name, values in TRIPS.items()}
    zones = new | {"zone": np.full(rows, "moon", dtype=object)}
    assert compiled.transform(fitted, compiled.compute(zones)).shape == (rows, len(compiled.names(fitted)))
    with pytest.raises(UnknownCategory, match="seats"):
        compiled.transform(fitted, compiled.compute(new | {"seats": np.full(rows, 99.0)}))


def test_golden_rows_are_such_as_the_service_takes_and_those_without_a_warning_come_first() -> None:
    compiled, fitted = features_of("other")
    held = {
        "distance": np.array([99.0, 1.0, np.nan, 1.0, 1.0, 1.0]),
        "seats": np.array([2.0, 7.0, 2.0, 2.0, 2.0, np.nan]),
        "zone": np.array(["north", "north", "north", "moon", "south", "north"], dtype=object),
        "night": np.zeros(6),
    }
    policies = {"seats": FieldPolicy(out_of_range="clip"), "zone": FieldPolicy(unknown_category="error")}
    serving = Serving(fields=policies)
    inputs = list(described(serving, learned={"zone": ["north", "south"]}).values())
    assert preparation.golden_rows(held, compiled, fitted, inputs) == [2, 4, 0]
    assert set(preparation.golden_rows(held, compiled, fitted, list(described().values()))) == {0, 1, 2, 3, 4}
