"""Who asks for a model's first training, and how often."""

from __future__ import annotations

import datetime as dt
import threading

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
    asked = [first_model.ask("m", database_url, run_key=f"run {n}", patience=PATIENCE).wanted for n in range(5)]
    assert asked == [True, False, False, False, False]
    assert requests(database_url) == 1


def test_a_retried_task_finds_the_request_it_made(database_url: str) -> None:
    for _ in range(2):
        assert first_model.ask("m", database_url, run_key="same", patience=PATIENCE).wanted
    assert requests(database_url) == 1


def test_a_training_that_led_to_nothing_is_asked_for_again(database_url: str) -> None:
    assert first_model.ask("m", database_url, run_key="a", patience=PATIENCE).wanted
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(sa.update(database.retraining_requests).values(created_at=sa.func.now() - 2 * PATIENCE))
    engine.dispose()
    assert first_model.ask("m", database_url, run_key="b", patience=PATIENCE).wanted


def test_two_at_once_ask_once(database_url: str) -> None:
    answers: list[bool] = []

    def ask(key: str) -> None:
        answers.append(first_model.ask("m", database_url, run_key=key, patience=PATIENCE).wanted)

    threads = [threading.Thread(target=ask, args=(key,)) for key in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, False, False, True]
