"""When the scheduler rests."""

from __future__ import annotations

from include.orchestration.executor import BUSY_SECONDS, REST_SECONDS, RestingExecutor


def test_the_scheduler_rests_only_when_no_task_is_there_and_none_was_a_moment_ago() -> None:
    executor = RestingExecutor(parallelism=1)
    began = executor._busy_at
    assert executor.rest(began + BUSY_SECONDS + 1) == REST_SECONDS
    executor.running.add("a task")  # type: ignore[arg-type]
    assert executor.rest(began + 100) == 0
    executor.running.clear()
    assert executor.rest(began + 100 + BUSY_SECONDS - 1) == 0  # the next task of a run follows at full pace
    assert executor.rest(began + 100 + BUSY_SECONDS + 1) == REST_SECONDS
    executor.queued_tasks["key"] = "a task"  # type: ignore[index,assignment]
    assert executor.rest(began + 200) == 0
