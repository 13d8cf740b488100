"""Suites: edited by hand, so every mistake has its own message; proposed from data for a start."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest

from include.ingestion import judgement, suites
from include.ingestion.sources import columns_of
from include.settings import ROOT, load_params
from tests.include.ingestion.conftest import SUITES

FIRST = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0}}


def _write(folder: Path, *expectations: object) -> Path:
    path = folder / "s.json"
    path.write_text(json.dumps({"name": "s", "expectations": expectations}))
    return path


def test_every_shipped_source_has_a_suite_that_loads_and_fits_its_columns() -> None:
    params = load_params(ROOT / "params.yaml")
    for name, source in params.sources.items():
        path = suites.path_of(SUITES, name, source.suite)
        assert suites.check(path, columns_of(source)) == []
        assert suites.load(path).rules


def test_nothing_but_data_lies_in_the_folder_of_suites() -> None:
    assert not list((ROOT / "great_expectations").rglob("*.py"))


def test_a_missing_suite_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(suites.SuiteError, match=r"shops\.json is missing.*mlops suite shops"):
        suites.load(tmp_path / "shops.json")


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"expectations": [\n  {"type": }\n]}')
    with pytest.raises(suites.SuiteError, match=r"s\.json: not valid JSON: .*line 2"):
        suites.load(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"type": "expect_column_values_to_be_betwen", "kwargs": {}},
            "did you mean 'expect_column_values_to_be_between'?",
        ),
        ({**FIRST, "severity": "fatal"}, "severity is one of critical, warning, info, not 'fatal'"),
        ({**FIRST, "severty": "info"}, "unknown key 'severty'"),
        ({**FIRST, "kwargs": {"colum": "x"}}, "column"),
        ({**FIRST, "kwargs": []}, "kwargs is a mapping"),
        ("expect", "write"),
    ],
)
def test_a_wrong_expectation_is_named_by_its_place(entry: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(suites.SuiteError, match=r"s\.json: expectation 2") as caught:
        suites.load(_write(tmp_path, FIRST, entry))
    assert message in str(caught.value)


def test_a_column_that_the_source_does_not_have_is_found_without_data(tmp_path: Path) -> None:
    (mistake,) = suites.check(_write(tmp_path, {**FIRST, "kwargs": {"column": "pricee"}}), ["price", "shop"])
    assert "the source has no column 'pricee'; did you mean 'price'?" in mistake


def test_a_hand_edited_file_needs_no_ids(tmp_path: Path) -> None:
    rules = suites.load(_write(tmp_path, FIRST, {**FIRST, "severity": "info"})).rules
    assert [rule.severity for rule in rules] == ["critical", "info"]
    assert rules[0].id != rules[1].id


def _customers() -> pa.Table:
    n = 200
    return pa.table(
        {
            "customer": pa.array(range(n)),
            "age": pa.array([None if i % 10 == 0 else 20 + i % 50 for i in range(n)], pa.int64()),
            "plan": pa.array(["basic", "pro"] * (n // 2)),
            "city": pa.array([f"city {i}" for i in range(n)]),
            "balance": pa.array([i - 50.5 for i in range(n)]),
            "active": pa.array([i % 3 == 0 for i in range(n)]),
            "note": pa.nulls(n, pa.float64()),
        }
    )


def test_a_proposed_suite_accepts_what_it_was_proposed_from(tmp_path: Path) -> None:
    table = _customers()
    path = tmp_path / "customers.json"
    path.write_text(json.dumps(suites.propose_suite("customers", table)))
    assert suites.check(path, table.column_names) == []
    judged = judgement.judge(
        table, suites.load(path), quarantine_share=0.0, given=judgement.parameters("all", 200, dt.date.max)
    )
    assert (judged.refused, judged.quality) == (None, 1.0)


def test_a_proposed_suite_refuses_what_is_not_like_it(tmp_path: Path) -> None:
    table = _customers()
    path = tmp_path / "customers.json"
    path.write_text(json.dumps(suites.propose_suite("customers", table)))
    suite, given = suites.load(path), judgement.parameters("all", 200, dt.date.max)

    def refused(changed: pa.Table) -> str:
        return judgement.judge(changed, suite, quarantine_share=0.05, given=given).refused or ""

    def replace(name: str, values: pa.Array) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, values)

    assert "column plan is missing" in refused(table.drop_columns(["plan"]))
    assert "column balance is string" in refused(replace("balance", pa.array(["much"] * 200)))
    assert "age is missing too often" in refused(replace("age", pa.nulls(200, pa.int64())))
    assert "plan has a value that was not seen before" in refused(replace("plan", pa.array(["gold"] * 200)))
    assert "balance lies outside" in refused(replace("balance", pa.array([1e9] * 200)))
    assert "unusual number of rows" in refused(table.slice(0, 5))
