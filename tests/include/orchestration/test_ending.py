"""The last line of a task's log."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from include.orchestration import alerts, assets, before, ending, runs


def context(**more: Any) -> dict[str, Any]:
    task = SimpleNamespace(outlets=[assets.candidate("m"), assets.CAUGHT_UP])
    ti = SimpleNamespace(dag_id="train_m", task_id="fit", try_number=2, max_tries=3, task=task)
    return {"ti": ti, "outlet_events": OutletEventAccessors(), **more}


def test_a_tasks_log_ends_with_its_answers_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlops")
    now = context()
    ending.summarised(now, {"version": 7, "summary": "version 7: mae 2.31"})
    assert caplog.messages == []  # Airflow has lines of its own to come
    ending.succeeded(now)
    assert caplog.messages == ["::endgroup::", "version 7: mae 2.31"]
    assert caplog.records[-1].levelname == "INFO"


def test_a_task_emits_the_events_that_it_spoke_of_and_no_other() -> None:
    quiet, told = context(), context()
    ending.summarised(quiet, runs.idle("no training requested"))
    assert quiet["ti"].task.outlets == [assets.CAUGHT_UP]  # which emits what was added to it
    made = runs.emit(told["outlet_events"], assets.candidate("m"), runs.result({"version": 7}, "version 7"))
    ending.summarised(told, made)
    assert told["ti"].task.outlets == [assets.candidate("m"), assets.CAUGHT_UP]


@pytest.mark.parametrize("answer", [None, {}, {"summary": None}, "done"])
def test_a_task_without_a_line_is_a_mistake_in_the_dag_file(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"train_m\.fit answered without a summary"):
        ending.summarised(context(), answer)


def test_a_failure_ends_with_its_reason_and_a_retry_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerted: list[Any] = []
    monkeypatch.setattr(alerts, "task_failed", alerted.append)
    failed = context(exception=ValueError("no column fare\nin 2026-03-01"))
    ending.failed(failed)
    assert (caplog.records[-1].levelname, caplog.messages[-1]) == ("ERROR", "failed: no column fare in 2026-03-01")
    ending.failed_again(failed)
    assert alerted == [failed]
    ending.tried_again(context(exception=ConnectionError("MLflow is away")))
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.messages[-1] == "try 2 of 4 failed, another one follows: MLflow is away"


def test_a_librarys_lines_reach_the_log_once_and_with_their_level(tmp_path: Any) -> None:
    chatty, kept = logging.getLogger("a_chatty_library"), logging.FileHandler(tmp_path / "own.log")
    chatty.addHandler(logging.StreamHandler())
    chatty.addHandler(kept)
    chatty.propagate = False
    try:
        before.one_way_to_the_log()
        assert chatty.handlers == [kept]
        assert chatty.propagate
    finally:
        chatty.removeHandler(kept)
        kept.close()


def test_a_librarys_news_are_left_out_whatever_level_it_gives_itself(tmp_path: Any) -> None:
    shown = logging.FileHandler(tmp_path / "task.log")
    logging.root.addHandler(shown)
    handlers = list(logging.root.handlers)
    try:
        before.one_way_to_the_log()
        for name in ("great_expectations.core.suite_parameters", "dvc.stage.run", "mlops", "my.own.definition"):
            logger = logging.getLogger(name)
            logger.setLevel(logging.INFO)  # as some libraries do when they are imported
            logger.info("news of %s", name)
            logger.warning("warning of %s", name)
    finally:
        logging.root.removeHandler(shown)
        for handler in handlers:
            handler.filters.clear()
        shown.close()
    lines = (tmp_path / "task.log").read_text().splitlines()
    assert [line for line in lines if line.startswith("news")] == ["news of mlops", "news of my.own.definition"]
    assert len([line for line in lines if line.startswith("warning")]) == 4
