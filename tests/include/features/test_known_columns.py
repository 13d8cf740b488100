"""Which columns a model of all columns takes: an edit of params.yaml changes them, a file does not."""

from __future__ import annotations

from typing import Any

import pytest

from include.features import known_columns
from include.features.feature_set import FeatureError
from include.settings import FilesSource, Model


def source(**settings: Any) -> FilesSource:
    return FilesSource(type="files", path="rides.csv", **settings)


def entry(**features: Any) -> Model:
    given = {"source": "rides", "target": "minutes", "task": "regression", "features": features}
    return Model.model_validate(given)


@pytest.mark.parametrize(
    ("settings", "features"),
    [
        ({}, {"exclude": ["fee"]}),
        ({"exclude": ["fee"]}, {}),
        ({"rename": {"fee": "toll"}}, {}),
    ],
)
def test_a_column_that_params_yaml_takes_away_may_be_absent(settings: dict[str, Any], features: dict[str, Any]) -> None:
    known_columns.require(["km", "fee"], ["km"], source(**settings), entry(**features), "2025-01-05")


def test_a_column_that_a_file_lacks_is_an_error_with_advice_for_each_cause() -> None:
    with pytest.raises(
        FeatureError, match=r"2025-01-05 of rides has no column 'fee' any more.*`replace`.*`rename`.*exclude"
    ):
        known_columns.require(["km", "fee"], ["km", "cbd_fee"], source(), entry(), "2025-01-05")


def test_what_the_source_derives_or_renames_is_taken_although_it_came_later() -> None:
    made = source(derive={"speed": "km / hours"}, rename={"fee": "toll"})
    assert known_columns.named(["km"], made) == {"km", "speed", "toll"}


@pytest.mark.parametrize(
    ("features", "all_columns"),
    [({}, True), ({"exclude": ["fee"]}, True), ({"columns": ["km"]}, False), ({"definition": "trip_duration"}, False)],
)
def test_a_model_takes_all_columns_unless_it_lists_or_defines_them(features: dict[str, Any], all_columns: bool) -> None:
    assert known_columns.takes_all(entry(**features)) == all_columns
