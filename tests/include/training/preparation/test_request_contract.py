"""What a request must carry, and the golden rows that show what is unusual."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet, UnknownCategory
from include.settings import Features, FieldPolicy, Serving
from include.training.preparation import request_contract
from tests.include.training.conftest import ROOT

TRIPS: dict[str, np.ndarray] = {
    "distance": np.array([0.5, np.nan, 9.0, 2.0]),
    "seats": np.array([1.0, 4.0, 2.0, 2.0]),
    "zone": np.array(["north", "south", "north", "south"], dtype=object),
    "night": np.array([1.0, 0.0, 0.0, 1.0]),
}
TYPES: dict[str, Any] = {"distance": "float", "seats": "int", "zone": "string", "night": "bool"}


def described(serving: Serving | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    return {
        entry["name"]: entry for entry in request_contract.describe_inputs(TRIPS, TYPES, serving=serving, **options)
    }


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
    found = request_contract.describe_inputs({**raw, "n": np.ones(3)}, {"a": "string", "b": "string", "n": "int"})
    assert [entry["trimmed"] for entry in found] == [True, False, False]


def test_all_texts_of_a_column_that_is_used_as_categories_are_listed_however_many() -> None:
    many = [f"zone {n:04d}" for n in range(300)]
    raw, types = {"zone": np.array(many, dtype=object)}, {"zone": "string"}
    [used] = request_contract.describe_inputs(raw, types, learned={"zone": many[:20]})  # type: ignore[arg-type]
    [unused] = request_contract.describe_inputs(raw, types)  # type: ignore[arg-type]
    assert used["categories"] == many  # those that became one category, too: training saw them
    assert unused["categories"] is None


def test_a_model_that_refuses_unknown_categories_lists_all_that_it_knows() -> None:
    many = [f"zone {n:03d}" for n in range(request_contract.MANY_CATEGORIES + 1)]
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
    request_contract.allow_unknown(fitted, Serving(fields={"zone": FieldPolicy(unknown_category="other")}))
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
    assert request_contract.golden_rows(held, compiled, fitted, inputs) == [2, 4, 0]
    assert set(request_contract.golden_rows(held, compiled, fitted, list(described().values()))) == {0, 1, 2, 3, 4}
