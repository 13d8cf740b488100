"""When the scheduler rests, and when its workers end."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest

from include.orchestration.executor import BUSY_SECONDS, IDLE_SECONDS, REST_SECONDS, RestingExecutor


def test_the_scheduler_rests_only_when_no_task_is_there_and_none_was_a_moment_ago() -> None:
    executor = RestingExecutor(parallelism=1)
    began = executor._busy_at
    assert executor.rest(began + BUSY_SECONDS + 1) == REST_SECONDS
    executor.running.add("a task")
    assert executor.rest(began + 100) == 0
    executor.running.clear()
    assert executor.rest(began + 100 + BUSY_SECONDS - 1) == 0  # the next task of a run follows at full pace
    assert executor.rest(began + 100 + BUSY_SECONDS + 1) == REST_SECONDS
    executor.queued_tasks["key"] = "a task"
    assert executor.rest(began + 200) == 0


class Resumed:
    """A task as the scheduler queues it: at first, and again, under the same key, once it has its answer."""

    key = "approve"


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> RestingExecutor:
    """One whose workers are not there: what would be started is in `started`."""
    started: list[Any] = []
    made = RestingExecutor(parallelism=2)
    monkeypatch.setattr(made, "activity_queue", SimpleNamespace(put=started.append), raising=False)
    monkeypatch.setattr(made, "_unread_messages", multiprocessing.Value("i"), raising=False)
    monkeypatch.setattr(made, "_check_workers", lambda: None)
    monkeypatch.setattr(made, "order_queued_tasks_by_priority", lambda: list(made.queued_tasks.items()))
    made.started = started
    return made


def test_a_task_that_is_resumed_starts_when_the_end_of_its_first_process_is_read(executor: RestingExecutor) -> None:
    """Else that end would count as its own: the scheduler takes it for killed, and a person is asked twice."""
    first, resumed = Resumed(), Resumed()
    executor.queued_tasks[first.key] = first
    executor.trigger_tasks(2)
    assert executor.started == [first]
    executor.queued_tasks[resumed.key] = resumed
    executor.trigger_tasks(2)
    assert executor.started == [first]
    assert resumed.key in executor.queued_tasks  # so `has_task`: the report is not taken for the resumed one's
    executor.change_state(first.key, "success")
    executor.trigger_tasks(2)
    assert executor.started == [first, resumed]


def test_a_task_whose_first_process_never_reports_starts_all_the_same(executor: RestingExecutor) -> None:
    first, resumed = Resumed(), Resumed()
    executor.queued_tasks[first.key] = first
    executor.trigger_tasks(2)
    executor.queued_tasks[resumed.key] = resumed
    executor.attempts[resumed.key].MIN_SECONDS = -1  # its time is over
    executor.trigger_tasks(2)
    executor.trigger_tasks(2)
    assert executor.started == [first, resumed]


def test_workers_end_after_a_while_without_a_task_and_not_before() -> None:
    executor = RestingExecutor(parallelism=2)
    executor.start()
    try:
        executor._spawn_worker()
        workers = list(executor.workers.values())
        executor.heartbeat()
        assert all(worker.is_alive() for worker in workers)
        executor._busy_at -= IDLE_SECONDS + 1
        executor.heartbeat()
        for worker in workers:
            worker.join(30)
            assert worker.exitcode == 0
        executor.heartbeat()
        assert executor.workers == {}
        assert executor.activity_queue.empty()  # one word to each, once
    finally:
        executor.end()
