"""What every transform keeps to: one file in include/features/transforms/ is one entry in `EXAMPLES`."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.features import transforms
from include.features.columns import Columns, ColumnType, from_arrow, from_rows, to_arrow
from include.features.compiler import compile_features
from include.features.feature_set import FeatureError, FeatureSet, FitError
from include.features.pipeline import BATCH_ROWS
from include.settings import ROOT, Features, transform_names

ROWS = BATCH_ROWS + 300
"""More than are transformed at once."""
SOURCE: dict[str, ColumnType] = {
    "price": "float", "age": "float", "whole": "int", "city": "string", "size": "string", "y": "float",
}  # fmt: skip
COLUMNS = [name for name in SOURCE if name != "y"]


@dataclasses.dataclass(frozen=True)
class Example:
    """A transform as it can be declared, and as it cannot."""

    features: dict[str, Any]
    mistakes: list[tuple[Any, str]]
    """What params.yaml must not hold, with the key and the remedy of the message."""
    unlearnable: list[tuple[dict[str, Any], str]]
    """What is declared well and cannot be learned from the rows of `odd_rows`, with the message."""


EXAMPLES = {
    "clip": Example(
        {"clip": {"price": [0.01, 0.99], "whole": [0, 0.9]}},
        [
            ({"price": 0.99}, "features.clip.price: expected a list, not 0.99"),
            ({"price": [0.99, 0.01]}, "features.clip.price: the quantiles must rise, as in [0.01, 0.99], not"),
            ({"price": [0, 500]}, "a formula: `derived: {price_bounded: clip(price, 0, 500)}`"),
            ({"city": [0.1, 0.9]}, "features.clip: 'city' is text; declare it under one_hot, ordinal or"),
            ({"prise": [0.1, 0.9]}, "features.clip.prise: there is no column 'prise'; did you mean 'price'?"),
        ],
        [({"clip": {"age": [0.1, 0.9]}}, "clip.age: the training part has no value; exclude the column")],
    ),
    "impute": Example(
        {"impute": {"price": "mean", "age": -1, "whole": "median", "city": "most_frequent", "size": "none"}},
        [
            ({"price": [1]}, "features.impute.price: expected a number or text, not [1]"),
            ({"prize": "mean"}, "features.impute.prize: there is no column 'prize'; did you mean 'price'?"),
        ],
        [
            ({"impute": {"city": "mean"}}, "impute.city: 'mean' needs numbers, the column is text; use most_frequent"),
            ({"impute": {"price": "max"}}, "impute.price: expected mean, median, most_frequent or a number, not 'max'"),
            ({"impute": {"age": "median"}}, "impute.age: the training part has no value; exclude the column, or give"),
        ],
    ),
    "bin": Example(
        {"bin": {"price": 7, "age": [20, 40.5, 60]}},
        [
            ({"price": "x"}, "features.bin.price: expected a whole number or a list, not 'x'"),
            ({"city": 3}, "features.bin: 'city' is text; declare it under one_hot, ordinal or target_encoding"),
        ],
        [
            ({"bin": {"price": 1}}, "bin.price: at least 2 bins, not 1"),
            ({"bin": {"price": [3, 1]}}, "bin.price: edges must rise, not [3.0, 1.0]"),
            ({"bin": {"age": 3}}, "bin.age: the training part has no value; exclude the column, or give the edges"),
        ],
    ),
    "one_hot": Example(
        {"one_hot": ["city", "whole"]},
        [
            ("city", "features.one_hot: expected a list, not 'city'"),
            (["cty"], "features.one_hot: there is no column 'cty'; did you mean 'city'?"),
        ],
        [({"one_hot": ["price"]}, "600 categories in the training part, each a column; declare `target_encoding")],
    ),
    "ordinal": Example(
        {"ordinal": {"size": ["S", "M", "L"], "city": None, "whole": ["3", "2", "1"]}},
        [
            (3, "features.ordinal: expected a mapping or a list, not 3"),
            (["since"], "features.ordinal: there is no column 'since'"),
        ],
        [({"ordinal": {"price": ["low", "high"]}}, "ordinal.price: the column holds numbers, its categories must be")],
    ),
    "target_encoding": Example(
        {"target_encoding": ["city", "whole", "size"]},
        [({"city": 1}, "features.target_encoding: expected a list, not {'city': 1}")],
        [],
    ),
    "standard_scaler": Example(
        {"standard_scaler": ["price", "whole", "city"], "target_encoding": ["city"]},
        [
            ("som", "features.standard_scaler: expected a list or all, not 'som'"),
            (["city"], "features.standard_scaler: 'city' is text; declare it under one_hot, ordinal or target"),
        ],
        [],
    ),
    "pca": Example(
        {
            "pca": {"p": {"columns": ["age", "whole", "size"], "components": 2}},
            "impute": {"age": 0, "whole": 0}, "ordinal": ["size"],
        },
        [
            ({"p": {"columns": ["age"], "components": 1}}, "features.pca.p.columns: needs at least 2, but has 1"),
            ({"p": {"columns": ["age", "whole"], "components": 0}}, "features.pca.p.components: must be greater than"),
            ({"p": {"columns": ["age", "whole"], "components": 3}}, "features.pca.p: 3 components of 2 columns; decl"),
            ({"p": {"columns": ["age", "city"], "components": 1}}, "features.pca.p: 'city' is text; principal compo"),
        ],
        [({"pca": {"p": {"columns": ["age", "price"], "components": 1}}}, "'age' has missing values; declare `impute")],
    ),
}  # fmt: skip

every_transform = pytest.mark.parametrize("name", transforms.names())


def compiled(features: dict[str, Any]) -> FeatureSet:
    """With all columns of the source that are not the target."""
    return compile_features(
        Features.model_validate({"columns": COLUMNS, **features}),
        source_columns=SOURCE, target="y", entity=None, time_column=None, root=ROOT,
    )  # fmt: skip


def rows(count: int, seed: int, cities: str = "abcde") -> list[dict[str, Any]]:
    """As a client sends them, a tenth of the values missing."""
    random = np.random.default_rng(seed)
    drawn = {
        "price": (random.lognormal(size=count) * 1e3).tolist(),
        "age": random.normal(40, 20, count).tolist(),
        "whole": random.integers(0, 9, count).tolist(),
        "city": random.choice([*cities], count).tolist(),
        "size": random.choice(["S", "M", "L", "XL"], count).tolist(),
    }
    there = random.random((count, len(drawn))) > 0.1
    return [
        {name: values[row] if there[row, column] else None for column, (name, values) in enumerate(drawn.items())}
        for row in range(count)
    ]


def target(count: int) -> np.ndarray:
    return np.random.default_rng(8).normal(size=count)


def fitted(name: str) -> tuple[FeatureSet, dict[str, Any], np.ndarray, Columns]:
    """The example's set, what it learned of `ROWS` rows, their matrix, and their columns."""
    made = compiled(EXAMPLES[name].features)
    columns = made.compute(from_rows(rows(ROWS, seed=1), made.inputs))
    learned, X = made.fit(columns, target(ROWS), task="regression", seed=3)
    return made, learned, X, columns


def test_every_transform_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(transforms.names())


@every_transform
def test_a_table_a_batch_and_a_row_alone_have_the_same_bits(name: str) -> None:
    """Of rows that training did not see, unknown categories among them: from Arrow offline, from JSON online."""
    made, learned, _, _ = fitted(name)
    sent = rows(ROWS, seed=2, cities="abcdz")
    table = to_arrow(from_rows(sent, made.inputs))
    offline = made.transform(learned, made.compute(from_arrow(table, made.inputs)))
    for size in (1, 2, 7, BATCH_ROWS):
        for start in {0, size, ROWS - size}:
            batch = made.compute(from_rows(sent[start : start + size], made.inputs))
            online = made.transform(learned, batch)
            np.testing.assert_array_equal(online, offline[start : start + size], strict=True)


@every_transform
def test_the_training_rows_are_what_is_served_unless_they_are_cross_fitted(name: str) -> None:
    made, learned, X, columns = fitted(name)
    again = made.transform(learned, columns)
    whole = np.array(["_target" not in column for column in made.names(learned)])
    np.testing.assert_array_equal(X[:, whole], again[:, whole])


@every_transform
def test_what_was_learned_comes_back_from_its_stored_form(name: str) -> None:
    made, learned, _, columns = fitted(name)
    stored = json.dumps([made.spec, learned], allow_nan=False)
    spec, state = json.loads(stored)
    again = FeatureSet.from_spec(spec, made.definition)
    np.testing.assert_array_equal(again.transform(state, columns), made.transform(learned, columns))
    assert again.names(state) == made.names(learned)
    assert json.dumps([spec, state]) == stored
    refitted, _ = again.fit(columns, target(ROWS), task="regression", seed=3)
    assert refitted == learned


@every_transform
def test_it_changes_the_matrix_and_neither_its_columns_nor_what_was_learned(name: str) -> None:
    made, learned, _, columns = fitted(name)
    kept, before = copy.deepcopy(learned), {column: values.copy() for column, values in columns.items()}
    X = made.transform(learned, columns)
    assert learned == kept
    for column, values in columns.items():
        np.testing.assert_array_equal(values, before[column], strict=True)
    bare = compiled({})
    plain, _ = bare.fit(columns, target(ROWS), task="regression", seed=3)
    untouched = bare.transform(plain, columns)
    assert X.shape != untouched.shape or not np.array_equal(X, untouched, equal_nan=True)


@every_transform
def test_missing_values_alone_are_transformed(name: str) -> None:
    made, learned, _, _ = fitted(name)
    found = made.transform(learned, made.compute(from_rows([{}], made.inputs)))
    assert found.shape == (1, len(made.names(learned)))
    assert not np.isinf(found).any()


@pytest.mark.parametrize(
    ("name", "declared", "message"), [(n, *mistake) for n, example in EXAMPLES.items() for mistake in example.mistakes]
)
def test_a_mistake_is_refused_with_its_key_and_the_remedy(name: str, declared: Any, message: str) -> None:
    with pytest.raises(FeatureError) as refused:
        compiled({name: declared})
    assert message in str(refused.value)


@every_transform
def test_nothing_given_is_refused(name: str) -> None:
    with pytest.raises(FeatureError, match=rf"^features\.{name}: expected .*, but nothing is given"):
        compiled({name: None})


@pytest.mark.parametrize(
    ("features", "message"), [case for example in EXAMPLES.values() for case in example.unlearnable]
)
def test_what_cannot_be_learned_is_refused_with_the_column_and_the_remedy(
    features: dict[str, Any], message: str
) -> None:
    made = compiled(features)
    odd = [{**row, "price": float(number), "age": None} for number, row in enumerate(rows(600, seed=4))]
    with pytest.raises(FitError) as refused:
        made.fit(made.compute(from_rows(odd, made.inputs)), target(600), task="regression", seed=3)
    assert message in str(refused.value)


@every_transform
def test_a_part_that_no_transform_learns_is_refused_and_not_left_out(name: str) -> None:
    """As it would be met where a version is served by a program that lacks the transform."""
    made, learned, _, columns = fitted(name)
    key = transforms.load(name).LEARNS[0]
    if transforms.load(name).STAGE is transforms.Stage.PROJECT:
        learned[f"{name}s"] = learned.pop(name)
        meant = name
    else:
        entry = next(entry for entry in learned["columns"] if key in entry)
        entry[f"{key}s"] = entry.pop(key)
        meant = key
    with pytest.raises(FeatureError, match=f"'{meant}s'.*did you mean '{meant}'"):
        made.transform(learned, columns)


@every_transform
def test_a_transform_is_found_by_its_files_name(name: str) -> None:
    assert (ROOT / "include" / "features" / "transforms" / f"{name}.py").is_file()
    with pytest.raises(FeatureError, match=f"did you mean '{name}'"):
        transforms.load(f"{name}_")


def test_the_folder_holds_transforms_alone() -> None:
    folder = Path(transforms.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} == {"__init__", *transforms.names()}
    assert sorted(transforms.names()) == transform_names(), "params.yaml takes the same keys"
