"""Who asks for a model's first training, and how often."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
import sqlalchemy as sa

from include import database
from include.monitoring import first_model

PATIENCE = dt.timedelta(hours=2)


def requests(database_url: str) -> int:
    engine = database.connect(database_url)
    with engine.connect() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(database.retraining_requests)).scalar_one()
    engine.dispose()
    return count


def test_a_model_without_champion_is_asked_for_once(database_url: str) -> None:
    """Promise 51: thirty days of backfill ask for one training."""
    asked = [first_model.request("m", database_url, run_key=f"run {n}", patience=PATIENCE).requested for n in range(5)]
    assert asked == [True, False, False, False, False]
    assert requests(database_url) == 1


def test_a_retried_task_finds_the_request_it_made(database_url: str) -> None:
    for _ in range(2):
        assert first_model.request("m", database_url, run_key="same", patience=PATIENCE).requested
    assert requests(database_url) == 1


def test_a_training_that_led_to_nothing_is_asked_for_again(database_url: str) -> None:
    assert first_model.request("m", database_url, run_key="a", patience=PATIENCE).requested
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(sa.update(database.retraining_requests).values(created_at=sa.func.now() - 2 * PATIENCE))
    engine.dispose()
    assert first_model.request("m", database_url, run_key="b", patience=PATIENCE).requested


def judged(database_url: str, verdict: str, *, model: str = "m") -> None:
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(database.verdicts).values(
                model=model, version=1, verdict=verdict, content_hash="h", reasons=["too few rows"], numbers={}
            )
        )
    engine.dispose()


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT"])
def test_a_training_that_the_gate_did_not_pass_is_not_at_work_and_is_requested_again(
    database_url: str, verdict: str
) -> None:
    first_model.request("m", database_url, run_key="a", patience=PATIENCE, at_work=False)
    judged(database_url, verdict)
    assert first_model.request("m", database_url, run_key="b", patience=PATIENCE, at_work=False).requested


def test_another_models_verdict_answers_nothing(database_url: str) -> None:
    first_model.request("m", database_url, run_key="a", patience=PATIENCE)
    judged(database_url, "HOLD", model="other")
    asked = first_model.request("m", database_url, run_key="b", patience=PATIENCE)
    assert not asked.requested
    assert "not judged yet" in asked.reason


def test_a_training_that_is_queued_or_running_is_waited_for(database_url: str) -> None:
    first_model.request("m", database_url, run_key="a", patience=PATIENCE, at_work=False)
    judged(database_url, "HOLD")  # of an earlier one
    asked = first_model.request("m", database_url, run_key="b", patience=PATIENCE, at_work=True)
    assert not asked.requested
    assert "is at work" in asked.reason


def test_a_run_that_ended_without_a_verdict_is_requested_again_and_one_about_to_start_is_not(
    database_url: str,
) -> None:
    first_model.request("m", database_url, run_key="a", patience=PATIENCE, at_work=False)
    asked = first_model.request("m", database_url, run_key="b", patience=PATIENCE, at_work=False)
    assert (asked.requested, asked.reason.endswith("about to start")) == (False, True)
    engine = database.connect(database_url)
    with engine.begin() as connection:
        before = sa.func.now() - 2 * first_model.STARTS_WITHIN
        connection.execute(sa.update(database.retraining_requests).values(created_at=before))
    engine.dispose()
    assert first_model.request("m", database_url, run_key="b", patience=PATIENCE, at_work=False).requested


def test_two_at_once_ask_once(database_url: str) -> None:
    answers: list[bool] = []

    def ask(key: str) -> None:
        answers.append(first_model.request("m", database_url, run_key=key, patience=PATIENCE).requested)

    threads = [threading.Thread(target=ask, args=(key,)) for key in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, False, False, True]
