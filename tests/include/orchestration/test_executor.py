"""When the scheduler rests, and when its workers end."""

from __future__ import annotations

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
    """A task as the scheduler queues it again, once it has its answer."""

    key = "approve"


def test_a_task_that_is_resumed_starts_when_the_end_of_its_first_process_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else that end would count as its own: the scheduler takes it for killed, and a person is asked twice."""
    executor, started = RestingExecutor(parallelism=2), []
    monkeypatch.setattr(executor, "_process_workloads", lambda workloads: started.extend(workloads))
    monkeypatch.setattr(executor, "order_queued_tasks_by_priority", lambda: list(executor.queued_tasks.items()))
    task = Resumed()
    executor.running.add(task.key)
    executor.queued_tasks[task.key] = task
    executor.trigger_tasks(2)
    assert started == []
    assert task.key in executor.queued_tasks  # so `has_task`: the report is not taken for the resumed one's
    executor.change_state(task.key, "success")
    executor.trigger_tasks(2)
    assert started == [task]


def test_a_task_whose_first_process_never_reports_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, started = RestingExecutor(parallelism=2), []
    monkeypatch.setattr(executor, "_process_workloads", lambda workloads: started.extend(workloads))
    monkeypatch.setattr(executor, "order_queued_tasks_by_priority", lambda: list(executor.queued_tasks.items()))
    task = Resumed()
    executor.running.add(task.key)
    executor.queued_tasks[task.key] = task
    executor.attempts[task.key].MIN_SECONDS = -1  # its time is over
    executor.trigger_tasks(2)
    executor.trigger_tasks(2)
    assert started == [task]


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
