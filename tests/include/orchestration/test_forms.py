"""Names in a form are checked like values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException

from include.orchestration import before, forms

INGEST = ("from", "to", "replace")


@pytest.mark.parametrize(
    ("conf", "fields", "hint"),
    [
        ({"dry-run": True}, ("dry_run",), "'dry-run' is no field of d; did you mean 'dry_run'?"),
        ({"dryrun": True}, ("dry_run",), "did you mean 'dry_run'?"),
        ({"DRY_RUN": True}, ("dry_run",), "did you mean 'dry_run'?"),
        ({"replce": True}, INGEST, "did you mean 'replace'?"),
        ({"windw": 1}, ("window",), "did you mean 'window'?"),
        ({"form": "2031-01-01"}, INGEST, "did you mean 'from'?"),
        ({"from ": "2031-01-01"}, INGEST, "did you mean 'from'?"),
        ({"colour": "red"}, INGEST, "'colour' is no field of d; it has from, to, replace"),
        ({"replace": True}, (), "it has no form"),
        ({"": 1}, ("window",), "'' is no field of d; it has window"),
        ([1], INGEST, "by name"),
        ({"window": 1, "a": 1, "b": 2}, ("window",), "'a' is no field of d; it has window; 'b' is"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_that_exists(conf: Any, fields: tuple[str, ...], hint: str) -> None:
    assert hint in (forms.refusal("d", conf, fields) or "")


@pytest.mark.parametrize("conf", [None, {}, {"from": None}, {"replace": False, "to": "2026-01-01"}])
def test_a_form_that_is_right_is_taken(conf: Any) -> None:
    assert forms.refusal("d", conf, INGEST) is None


def context(conf: Any = None, try_number: int = 1, **values: Any) -> dict[str, Any]:
    fields = {"window": Param(1, type=["null", "integer"]), "share": Param(5.0, type="number")}
    return {
        "dag": SimpleNamespace(dag_id="d", params=ParamsDict(fields)),
        "dag_run": SimpleNamespace(conf=conf),
        "params": values,
        "ti": SimpleNamespace(dag_id="d", task_id="fit", try_number=try_number, max_tries=3),
    }


def test_no_task_begins_with_a_name_that_the_form_does_not_have() -> None:
    before.task(context({"window": 2}, window=2))
    with pytest.raises(
        AirflowFailException, match=r"nothing was run: 'windw' is no field of d; did you mean 'window'\?"
    ):
        before.task(context({"windw": 2}))


def test_a_whole_number_of_json_is_one_of_python() -> None:
    """jsonschema takes 3.0 as an integer, `range(3.0)` does not."""
    given = context({"window": 3.0, "share": 3.0}, window=3.0, share=3.0)
    before.task(given)
    assert [type(given["params"][name]) for name in ("window", "share")] == [int, float]


@pytest.mark.parametrize(("try_number", "begins"), [(1, True), (4, True), (5, False), (40, False)])
def test_retries_bound_a_task_that_dies_with_its_scheduler(try_number: int, begins: bool) -> None:
    """The next scheduler begins an orphan again and counts nothing: a `fit` that took all memory went on for ever."""
    if begins:
        before.task(context(try_number=try_number))
    else:
        with pytest.raises(
            AirflowFailException, match=r"d.fit was begun \d+ times and its process was killed each time"
        ):
            before.task(context(try_number=try_number))
