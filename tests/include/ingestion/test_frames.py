"""The table is judged, not a lossy copy: for every expectation of Great Expectations' core, a null changes nothing
about the other rows; and what an expectation is about is decided by its class."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.ingestion import frames, judgement, runner, suites
from include.ingestion.expectations import types

BIG = 2**60
VALUES: dict[str, tuple[list[Any], pa.DataType]] = {
    "identifiers beyond 2^53": ([BIG + 1, BIG + 2, BIG + 3, BIG + 4, BIG + 4, 7], pa.int64()),
    "integers": ([1, 2, 3, 4, 5, 5], pa.int64()),
    "floats": ([1.5, 2.5, 3.5, -4.0, 9.0, 9.0], pa.float64()),
    "texts": (["a1", "b2", "c3", "2018-01-01", "{}", "{}"], pa.string()),
    "booleans": ([True, False, True, True, False, False], pa.bool_()),
    "timestamps": ([dt.datetime(2018, 1, day, 3, 4, 5, 6) for day in (1, 2, 3, 4, 5, 5)], pa.timestamp("us")),
    "dates": ([dt.date(2018, 1, day) for day in (1, 2, 3, 4, 5, 5)], pa.date32()),
}
ELSEWHERE = {  # what pandas cannot evaluate: these ask a database, or are another's old name
    "",
    "expect_query_results_to_match_comparison",
    "expect_table_row_count_to_equal_other_table",
}


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value


def _catalogue(values: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every core expectation that pandas evaluates, with arguments for a column `x` of these values, and `y`."""
    v = [_json(value) for value in values]
    low, middle, high = (_json(value) for value in (min(values), sorted(values)[2], max(values)))
    x, text = {"column": "x"}, isinstance(values[0], str)
    bounds = {} if text else {"min_value": low, "max_value": high}
    wide = {} if text or isinstance(values[0], dt.date) else {"min_value": -1e30, "max_value": 1e30}
    pair = {"column_A": "x", "column_B": "y"}
    quantiles = {"quantiles": [0.5], "value_ranges": [[low, high]]}
    digits, like = r"^[0-9]+$", "a%"
    bins = {"bins": [0, 3, 10], "weights": [0.5, 0.5], "tail_weights": [0, 0]}
    found: list[tuple[str, dict[str, Any]]] = [
        ("column_distinct_values_to_be_in_set", {**x, "value_set": v}),
        ("column_distinct_values_to_contain_set", {**x, "value_set": [v[0]]}),
        ("column_distinct_values_to_equal_set", {**x, "value_set": list(dict.fromkeys(v))}),
        ("column_kl_divergence_to_be_less_than", {**x, "partition_object": bins, "threshold": 9}),
        ("column_max_to_be_between", {**x, **bounds}),
        ("column_mean_to_be_between", {**x, **wide}),
        ("column_median_to_be_between", {**x, **wide}),
        ("column_min_to_be_between", {**x, **bounds}),
        ("column_most_common_value_to_be_in_set", {**x, "value_set": [v[4]]}),
        ("column_proportion_of_non_null_values_to_be_between", {**x, "min_value": 0.5}),
        ("column_proportion_of_unique_values_to_be_between", {**x, "min_value": 5 / 6, "max_value": 5 / 6}),
        ("column_quantile_values_to_be_between", {**x, "quantile_ranges": quantiles}),
        ("column_stdev_to_be_between", {**x, **wide}),
        ("column_sum_to_be_between", {**x, **wide}),
        ("column_to_exist", x),
        ("column_type_to_be", {**x, "type_": "int64"}),
        ("column_unique_value_count_to_be_between", {**x, "min_value": 5, "max_value": 5}),
        ("column_value_lengths_to_be_between", {**x, "min_value": 1, "max_value": 1}),
        ("column_value_lengths_to_equal", {**x, "value": 1}),
        ("column_value_z_scores_to_be_less_than", {**x, "threshold": 1.2, "double_sided": True}),
        ("column_values_to_be_between", {**x, **({"max_value": "2018-01-01"} if text else {"min_value": middle})}),
        ("column_values_to_be_dateutil_parseable", x),
        ("column_values_to_be_decreasing", x),
        ("column_values_to_be_in_set", {**x, "value_set": v[:3]}),
        ("column_values_to_be_in_type_list", {**x, "type_list": ["int64", "datetime64"]}),
        ("column_values_to_be_increasing", {**x, "strictly": True}),
        ("column_values_to_be_json_parseable", x),
        ("column_values_to_be_null", x),
        ("column_values_to_be_of_type", {**x, "type_": "int64"}),
        ("column_values_to_be_unique", x),
        ("column_values_to_match_json_schema", {**x, "json_schema": {"type": "object"}}),
        ("column_values_to_match_like_pattern", {**x, "like_pattern": like}),
        ("column_values_to_match_like_pattern_list", {**x, "like_pattern_list": [like]}),
        ("column_values_to_match_regex", {**x, "regex": digits}),
        ("column_values_to_match_regex_list", {**x, "regex_list": [digits]}),
        ("column_values_to_match_strftime_format", {**x, "strftime_format": "%Y-%m-%d"}),
        ("column_values_to_not_be_in_set", {**x, "value_set": v[:3]}),
        ("column_values_to_not_be_null", {**x, "mostly": 0.5}),
        ("column_values_to_not_be_outliers", x),
        ("column_values_to_not_match_like_pattern", {**x, "like_pattern": like}),
        ("column_values_to_not_match_like_pattern_list", {**x, "like_pattern_list": [like]}),
        ("column_values_to_not_match_regex", {**x, "regex": digits}),
        ("column_values_to_not_match_regex_list", {**x, "regex_list": [digits]}),
        ("column_pair_values_a_to_be_greater_than_b", {**pair, "or_equal": True}),
        ("column_pair_values_to_be_equal", pair),
        ("column_pair_values_to_be_in_set", {**pair, "value_pairs_set": [[v[1], v[1]]]}),
        ("compound_columns_to_be_unique", {"column_list": ["x", "y"]}),
        ("multicolumn_sum_to_equal", {"column_list": ["x", "y"], "sum_total": 10}),
        ("multicolumn_values_to_be_equal", {"column_list": ["x", "y"]}),
        ("select_column_values_to_be_unique_within_record", {"column_list": ["x", "y"]}),
        ("table_column_count_to_be_between", {"min_value": 1}),
        ("table_column_count_to_equal", {"value": 2}),
        ("table_columns_to_match_ordered_list", {"column_list": ["x", "y"]}),
        ("table_columns_to_match_set", {"column_set": ["x", "y"]}),
        ("table_row_count_to_be_between", {"min_value": 5}),
        ("table_row_count_to_equal", {"value": 6}),
    ]
    return [("expect_" + kind, kwargs) for kind, kwargs in found]


def _core() -> dict[str, type]:
    from great_expectations.expectations import core

    return {kind.expectation_type: kind for name, kind in vars(core).items() if name.startswith("Expect")}


def _loaded(folder: Path, catalogue: Sequence[tuple[str, dict[str, Any]]]) -> suites.Suite:
    path = folder / "every.json"
    listed = [{"type": kind, "kwargs": kwargs, "severity": "warning"} for kind, kwargs in catalogue]
    path.write_text(json.dumps({"name": "every", "expectations": listed}))
    return suites.load(path)


def _table(values: Sequence[Any], kind: pa.DataType, missing: int = 0) -> pa.Table:
    other = [values[1], *values[1:]]
    nulls = [None] * missing
    return pa.table({"x": pa.array([*values, *nulls], kind), "y": pa.array([*other, *nulls], kind)})


def test_the_catalogue_has_every_core_expectation() -> None:
    assert {kind for kind, _ in _catalogue([1, 2, 3, 4, 5, 5])} == set(_core()) - ELSEWHERE


def test_what_an_expectation_is_about_is_its_class(tmp_path: Path) -> None:
    from great_expectations.expectations import expectation as bases

    rows = bases.ColumnMapExpectation | bases.ColumnPairMapExpectation | bases.MulticolumnMapExpectation
    by_type = {"expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list"}
    core = _core()
    for rule in _loaded(tmp_path, _catalogue([1, 2, 3, 4, 5, 5])).rules:
        assert rule.about_rows == (issubclass(core[rule.type], rows) and rule.type not in by_type), rule.type
        assert (rule.family is types) == (rule.type in {*by_type, "expect_column_type_to_be"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", VALUES)
def test_a_null_changes_no_verdict_on_the_other_rows(kind: str, tmp_path: Path) -> None:
    values, arrow = VALUES[kind]
    about_nulls = {"expect_column_values_to_be_null", "expect_column_proportion_of_non_null_values_to_be_between"}
    about_nulls |= {"expect_column_values_to_not_be_null", "expect_table_row_count_to_equal"}
    suite = _loaded(tmp_path, [entry for entry in _catalogue(values) if entry[0] not in about_nulls])
    whole, holey = (_verdicts(suite, _table(values, arrow, missing)) for missing in (0, 1))
    assert holey == whole
    assert any(rows for _, rows, _ in whole.values())


def _verdicts(suite: suites.Suite, table: pa.Table) -> dict[str, tuple[bool, list[int] | None, bool]]:
    """By expectation: passed, the rows that break it, and whether it could not be evaluated at all."""
    with runner.started() as run:
        found = judgement.Subject(run, table, suite, {}).evaluate(suite.rules, "COMPLETE")
    return {
        rule.type: (
            bool(found[rule.id].success),
            found[rule.id].result.get("unexpected_index_list") if rule.about_rows else None,
            runner.raised(found[rule.id]) is not None,
        )
        for rule in suite.rules
    }


def test_a_missing_partner_breaks_a_pair_and_no_other_row(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([BIG + 1, BIG, None, None]), "y": pa.array([BIG, BIG, BIG, None])})
    listed: list[tuple[str, dict[str, Any]]] = [
        ("expect_column_pair_values_to_be_equal", {"column_A": "x", "column_B": "y"}),
        ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "x", "column_B": "y", "or_equal": True}),
        ("expect_multicolumn_values_to_be_equal", {"column_list": ["x", "y"]}),
        ("expect_multicolumn_sum_to_equal", {"column_list": ["x", "y"], "sum_total": 2 * BIG}),
    ]
    found = {kind: rows for kind, (_, rows, _) in _verdicts(_loaded(tmp_path, listed), table).items()}
    assert found == {
        "expect_column_pair_values_to_be_equal": [0, 2],
        "expect_column_pair_values_a_to_be_greater_than_b": [2],
        "expect_multicolumn_values_to_be_equal": [0, 2],
        "expect_multicolumn_sum_to_equal": [0, 2],
    }


@pytest.mark.parametrize(
    ("values", "kind", "fits", "fits_not"),
    [
        ([1, None], pa.int64(), "int64", "float64"),
        ([None, None], pa.int64(), "int64", "str"),
        ([1.5, float("nan")], pa.float64(), "float64", "int64"),
        (["a", None], pa.string(), "str", "int64"),
        ([True, None], pa.bool_(), "bool", "int64"),
        ([dt.datetime(2018, 1, 1), None], pa.timestamp("us"), "datetime64", "str"),
        ([dt.datetime(2018, 1, 1), None], pa.timestamp("ns", tz="Europe/Berlin"), "datetime64", "str"),
        ([dt.date(2018, 1, 1), None], pa.date32(), "datetime64", "str"),
    ],
)
def test_a_type_rule_reads_the_tables_type(
    values: list[Any], kind: pa.DataType, fits: str, fits_not: str, tmp_path: Path
) -> None:
    def verdict(name: str) -> list[bool]:
        one = ("expect_column_values_to_be_of_type", {"column": "x", "type_": name})
        many = ("expect_column_values_to_be_in_type_list", {"column": "x", "type_list": [name]})
        found = _verdicts(_loaded(tmp_path, [one, many]), pa.table({"x": pa.array(values, kind)}))
        return [passed for passed, _, _ in found.values()]

    assert verdict(fits) == [True, True]
    assert verdict(fits_not) == [False, False]


def test_times_with_a_zone_are_compared_as_utc() -> None:
    table = pa.table({"at": pa.array([dt.datetime(2018, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", tz="Asia/Tokyo"))})
    assert frames.of_values(table)["at"].tolist() == [dt.datetime(2018, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "kwargs", "quality", "refused"),
    [
        ("expect_column_value_lengths_to_be_between", {"column": "text", "max_value": 2}, 0.75, False),
        ("expect_column_value_z_scores_to_be_less_than", {"column": "x", "threshold": 1.2, "double_sided": True},
         0.75, False),
        ("expect_column_quantile_values_to_be_between",
         {"column": "x", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[50, 60]]}}, 0.0, False),
        ("expect_column_distinct_values_to_be_in_set", {"column": "x", "value_set": [1]}, 0.0, False),
        ("expect_column_distinct_values_to_contain_set", {"column": "x", "value_set": [77]}, 0.0, False),
        ("expect_column_proportion_of_unique_values_to_be_between", {"column": "x", "min_value": 0.9}, 0.0, False),
        ("expect_column_unique_value_count_to_be_between", {"column": "x", "min_value": 9}, 0.0, False),
    ],
)  # fmt: skip
def test_a_failed_expectation_counts_by_its_rows_or_as_failed_whole(
    kind: str, kwargs: dict[str, Any], quality: float, refused: bool, tmp_path: Path
) -> None:
    """Its rows go to quarantine when it is about rows; else it is worth nothing, and no value is counted as a row."""
    table = pa.table({"x": [1, 1, 1, 100], "text": ["a", "b", "c", "long"]})
    judged = judgement.judge(table, _loaded(tmp_path, [(kind, kwargs)]), quarantine_share=0.5, given={})
    assert judged.quality == quality
    assert judged.refused is None
    assert judged.row_reasons is not None
    bad = judged.row_reasons.is_valid().to_pylist()
    assert bad == ([False, False, False, True] if quality else [False] * 4)
