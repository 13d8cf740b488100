"""Every expectation of Great Expectations' core: a table that passes, one that fails, and the rows that it blames."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.ingestion import expectations, judgement, runner, suites
from include.ingestion.expectations import aggregate, column_set, distribution, records, types, values
from include.ingestion.runner import Runner

DAYS = [dt.datetime(2018, 1, day) for day in (1, 2, 3)]
HISTOGRAM = {"partition_object": {"bins": [0, 5, 10], "weights": [0.5, 0.5]}, "threshold": 0.1}
Z_SCORE = {"threshold": 1.2, "double_sided": True}
DAY = {"strftime_format": "%Y-%m-%d"}
HALF = {"quantile_ranges": {"quantiles": [0.5], "value_ranges": [[1, 3]]}}
SCHEMA = {"json_schema": {"type": "object"}}

ONE_COLUMN: list[tuple[str, dict[str, Any], list[Any], list[Any], list[int]]] = [
    # type, arguments, values that pass, values that fail, the positions of those that are blamed
    ("column_distinct_values_to_be_in_set", {"value_set": [1, 2]}, [1, 2, 2], [1, 2, 3], []),
    ("column_distinct_values_to_contain_set", {"value_set": [1, 2]}, [1, 2, 3], [1, 3, 3], []),
    ("column_distinct_values_to_equal_set", {"value_set": [1, 2]}, [1, 2, 1], [1, 1, 1], []),
    ("column_kl_divergence_to_be_less_than", HISTOGRAM, [1, 2, 7, 8], [1, 1, 1, 8], []),
    ("column_max_to_be_between", {"max_value": 5}, [1, 5], [1, 6], []),
    ("column_mean_to_be_between", {"max_value": 5}, [4, 6], [4, 8], []),
    ("column_median_to_be_between", {"max_value": 5}, [1, 5, 99], [1, 6, 99], []),
    ("column_min_to_be_between", {"min_value": 1}, [1, 5], [0, 5], []),
    ("column_most_common_value_to_be_in_set", {"value_set": ["a"]}, ["a", "a", "b"], ["a", "b", "b"], []),
    ("column_proportion_of_non_null_values_to_be_between", {"min_value": 0.5}, [1, None], [1, None, None], []),
    ("column_proportion_of_unique_values_to_be_between", {"min_value": 1}, [1, 2], [1, 1], []),
    ("column_quantile_values_to_be_between", HALF, [1, 2, 9], [1, 8, 9], []),
    ("column_stdev_to_be_between", {"max_value": 1}, [1, 2, 1], [1, 90, 1], []),
    ("column_sum_to_be_between", {"max_value": 10}, [4, 6], [4, 7], []),
    ("column_type_to_be", {"type_": "int64"}, [1, 2], [1.5, 2.5], []),
    ("column_unique_value_count_to_be_between", {"min_value": 2}, [1, 2], [1, 1], []),
    ("column_value_lengths_to_be_between", {"max_value": 2}, ["a", "bb"], ["a", "bbb"], [1]),
    ("column_value_lengths_to_equal", {"value": 2}, ["aa", "bb"], ["aa", "b"], [1]),
    ("column_value_z_scores_to_be_less_than", Z_SCORE, [1, 2, 1, 2], [1, 1, 1, 99], [3]),
    ("column_values_to_be_between", {"min_value": 1, "max_value": 3}, [1, 3, None], [1, 4, None, 0], [1, 3]),
    ("column_values_to_be_dateutil_parseable", {}, ["2018-01-01", "2 May"], ["2018-01-01", "soon"], [1]),
    ("column_values_to_be_decreasing", {}, [3, 2, 1], [3, 4, 1], [1]),
    ("column_values_to_be_in_set", {"value_set": ["a", "b"]}, ["a", "b", None], ["a", "c", None], [1]),
    ("column_values_to_be_in_type_list", {"type_list": ["int64", "float64"]}, [1, 2], ["a", "b"], []),
    ("column_values_to_be_increasing", {}, [1, 2, 3], [1, 3, 2], [2]),
    ("column_values_to_be_json_parseable", {}, ["{}", "[1]"], ["{}", "{"], [1]),
    ("column_values_to_be_null", {}, [None, None], [None, 1.0], [1]),
    ("column_values_to_be_of_type", {"type_": "datetime64"}, DAYS, ["a", "b"], []),
    ("column_values_to_be_unique", {}, [1, 2, 3, None, None], [1, 2, 2], [1, 2]),
    ("column_values_to_match_json_schema", SCHEMA, ["{}"], ["{}", "[1]"], [1]),
    ("column_values_to_match_like_pattern", {"like_pattern": "a%"}, None, None, None),
    ("column_values_to_match_like_pattern_list", {"like_pattern_list": ["a%"]}, None, None, None),
    ("column_values_to_match_regex", {"regex": "^[0-9]+$"}, ["1", "22"], ["1", "b"], [1]),
    ("column_values_to_match_regex_list", {"regex_list": ["^1", "^2"]}, ["1", "22"], ["1", "3"], [1]),
    ("column_values_to_match_strftime_format", DAY, ["2018-01-01"], ["2018-01-01", "1.1."], [1]),
    ("column_values_to_not_be_in_set", {"value_set": ["c"]}, ["a", "b"], ["a", "c"], [1]),
    ("column_values_to_not_be_null", {}, [1, 2], [1, None], [1]),
    ("column_values_to_not_be_outliers", {"method": "iqr", "multiplier": 1.5}, [1, 2, 3, 4], [1, 2, 3, 4, 99], [4]),
    ("column_values_to_not_match_like_pattern", {"like_pattern": "a%"}, None, None, None),
    ("column_values_to_not_match_like_pattern_list", {"like_pattern_list": ["a%"]}, None, None, None),
    ("column_values_to_not_match_regex", {"regex": "^[0-9]+$"}, ["a", "b"], ["a", "1"], [1]),
    ("column_values_to_not_match_regex_list", {"regex_list": ["^1", "^2"]}, ["3", "4"], ["3", "1"], [1]),
]  # fmt: skip
"""No values: pandas cannot evaluate it, and the partition is not validated."""

PAIR = {"column_A": "x", "column_B": "y"}
BOTH = {"column_list": ["x", "y"]}
TWO_COLUMNS: list[tuple[str, dict[str, Any], list[tuple[Any, Any]], list[tuple[Any, Any]], list[int]]] = [
    ("column_pair_values_a_to_be_greater_than_b", PAIR, [(2, 1), (3, 2)], [(2, 1), (2, 3)], [1]),
    ("column_pair_values_to_be_equal", PAIR, [(1, 1), (2, 2)], [(1, 1), (2, 3), (4, None)], [1, 2]),
    ("column_pair_values_to_be_in_set", PAIR | {"value_pairs_set": [[1, 2]]}, [(1, 2)], [(1, 2), (2, 1)], [1]),
    ("compound_columns_to_be_unique", BOTH, [(1, 1), (1, 2)], [(1, 1), (1, 2), (1, 1)], [0, 2]),
    ("multicolumn_sum_to_equal", BOTH | {"sum_total": 10}, [(4, 6), (5, 5)], [(4, 6), (5, 6)], [1]),
    ("multicolumn_values_to_be_equal", BOTH, [(1, 1), (2, 2)], [(1, 1), (1, 2)], [1]),
    ("select_column_values_to_be_unique_within_record", BOTH, [(1, 2)], [(1, 2), (3, 3)], [1]),
    ("column_to_exist", {"column": "y"}, [(1, 2)], None, None),
    ("table_column_count_to_be_between", {"max_value": 2}, [(1, 2)], None, None),
    ("table_column_count_to_equal", {"value": 2}, [(1, 2)], None, None),
    ("table_columns_to_match_ordered_list", BOTH, [(1, 2)], None, None),
    ("table_columns_to_match_set", {"column_set": ["x", "y"]}, [(1, 2)], None, None),
    ("table_row_count_to_be_between", {"min_value": 2}, [(1, 2)] * 2, [(1, 2)], []),
    ("table_row_count_to_equal", {"value": 2}, [(1, 2)] * 2, [(1, 2)], []),
]  # fmt: skip
"""Nothing that fails: a table with a third column does, or one without the second."""

ELSEWHERE = {  # what only a database can answer, and the base without a type
    "", "expect_query_results_to_match_comparison", "expect_table_row_count_to_equal_other_table",
}  # fmt: skip


def cases() -> Iterator[Any]:
    for kind, kwargs, good, bad, blamed in ONE_COLUMN:
        tables = [None if column is None else pa.table({"x": column}) for column in (good, bad)]
        yield pytest.param(f"expect_{kind}", {"column": "x", **kwargs}, *tables, blamed, id=kind)
    for kind, kwargs, pairs, others, blamed in TWO_COLUMNS:
        good_table, bad_table = (None if rows is None else table_of(rows) for rows in (pairs, others))
        if bad_table is None:
            bad_table = table_of(pairs).append_column("z", pa.array([0] * len(pairs)))
            bad_table = bad_table.drop_columns(["y"]) if kind == "column_to_exist" else bad_table
        yield pytest.param(f"expect_{kind}", kwargs, good_table, bad_table, blamed or [], id=kind)


def table_of(rows: list[tuple[Any, Any]]) -> pa.Table:
    return pa.table({"x": [row[0] for row in rows], "y": [row[1] for row in rows]})


def core() -> dict[str, type]:
    from great_expectations.expectations import core

    return {kind.expectation_type: kind for name, kind in vars(core).items() if name.startswith("Expect")}


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner.started() as started:
        yield started


def loaded(folder: Path, kind: str, kwargs: dict[str, Any], severity: str) -> suites.Suite:
    path = folder / "one.json"
    path.write_text(
        json.dumps({"name": "one", "expectations": [{"type": kind, "kwargs": kwargs, "severity": severity}]})
    )
    return suites.load(path)


@pytest.mark.slow
def test_there_is_a_case_for_every_core_expectation() -> None:
    assert {f"expect_{case[0]}" for case in (*ONE_COLUMN, *TWO_COLUMNS)} == set(core()) - ELSEWHERE


@pytest.mark.parametrize(("kind", "kwargs", "good", "bad", "blamed"), cases())
def test_it_passes_fails_and_blames_the_rows_that_break_it_and_no_other(
    kind: str, kwargs: dict[str, Any], good: Any, bad: Any, blamed: list[int], run: Runner, tmp_path: Path
) -> None:
    suite = loaded(tmp_path, kind, kwargs, "warning")
    if good is None:
        with pytest.raises(runner.NotValidated, match="could not be evaluated"):
            judgement.judge_by(run, pa.table({"x": ["a", "b"]}), suite, 1.0, {})
        return
    passed = judgement.judge_by(run, good, suite, 0.0, {})
    assert (passed.refused, passed.quality, passed.row_reasons.null_count) == (None, 1.0, good.num_rows)
    (rule,) = suite.rules
    failed = judgement.judge_by(run, bad, suite, 1.0, {})
    assert failed.row_reasons.is_valid().to_pylist() == [row in blamed for row in range(bad.num_rows)]
    assert rule.about_rows == bool(blamed)
    expected = 1 - len(blamed) / bad.num_rows if blamed else 0.0
    assert failed.quality == pytest.approx(expected, abs=1e-6)
    assert failed.reasons == ({rule.text: len(blamed)} if blamed else {})


@pytest.mark.parametrize(
    ("kind", "kwargs", "good", "bad", "blamed"), [case for case in cases() if case.values[2] is not None]
)
def test_where_it_is_critical_it_refuses_the_table_with_a_cause(
    kind: str, kwargs: dict[str, Any], good: Any, bad: Any, blamed: list[int], run: Runner, tmp_path: Path
) -> None:
    suite = loaded(tmp_path, kind, kwargs, "critical")
    assert judgement.judge_by(run, good, suite, 0.0, {}).refused is None
    refused = judgement.judge_by(run, bad, suite, 0.0, {}).refused
    assert refused
    if blamed:
        assert refused == f"{suite.rules[0].text} ({len(blamed)} rows)"


# ------------------------------------------------------------------------------------------------ the families


def test_each_class_has_one_family_and_each_family_has_the_names() -> None:
    owned = [kind for name in expectations.names() for kind in expectations.load(name).classes()]
    assert len(owned) == len(set(owned))
    for name in expectations.names():
        family = expectations.load(name)
        assert isinstance(family.ABOUT_ROWS, bool)
        assert isinstance(family.OF_ONE_PARTITION, bool)
        assert not (family.ABOUT_ROWS and family.OF_ONE_PARTITION)


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("expect_column_values_to_be_between", values),
        ("expect_column_values_to_be_of_type", types),
        ("expect_column_type_to_be", types),
        ("expect_column_pair_values_to_be_equal", records),
        ("expect_compound_columns_to_be_unique", records),
        ("expect_column_kl_divergence_to_be_less_than", distribution),
        ("expect_table_columns_to_match_set", column_set),
        ("expect_column_distinct_values_to_be_in_set", aggregate),
        ("expect_table_row_count_to_equal_other_table", aggregate),
    ],
)
def test_an_expectation_belongs_to_the_family_of_its_nearest_class(kind: str, family: Any) -> None:
    assert expectations.family_of(core()[kind]) is family


def test_a_subclass_is_of_the_family_of_its_base() -> None:
    own = type("ExpectColumnValuesToBeOurs", (core()["expect_column_values_to_be_between"],), {})
    assert expectations.family_of(own) is values


def test_a_type_that_great_expectations_does_not_have_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(suites.SuiteError, match=r"does not know it; did you mean 'expect_column_values_to_be_unique'"):
        loaded(tmp_path, "expect_column_values_to_be_uniqe", {"column": "x"}, "critical")
