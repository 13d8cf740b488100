"""When the scheduler rests, and when its workers end."""

from __future__ import annotations

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
