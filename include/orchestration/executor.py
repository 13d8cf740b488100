"""Airflow's LocalExecutor, with a scheduler that rests while there is nothing to do, and workers that go then; and
without the loss of an answer that comes at once.

It is where the scheduler can be made to do something of ours: its loop calls `heartbeat` outside any transaction.
"""

from __future__ import annotations

import time
from typing import Any

from airflow.executors.local_executor import LocalExecutor

from include.orchestration.overlooked import Overlooked

BUSY_SECONDS = 15.0
"""For so long after the last task the scheduler goes on at its full pace: one task follows another."""
REST_SECONDS = 1.0
IDLE_SECONDS = 120.0
"""After this without a task the workers end; the next ones are forked in a moment from what they share."""


class RestingExecutor(LocalExecutor):  # type: ignore[misc]
    """Lets the scheduler's loop, which calls `heartbeat` each time round, take a breath of a second when all is quiet.

    The loop asks PostgreSQL some twenty questions each time. `scheduler_idle_sleep_time` is short, since it stands
    between each task and the next; here the pauses between runs are made longer, and those between tasks are not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy_at = time.monotonic()
        self._released = False
        self._overlooked = Overlooked()
        self._unreported: set[Any] = set()
        """Keys of what was started and has not been reported; LocalExecutor itself notes nothing of the kind."""

    def heartbeat(self) -> None:
        """As ever; then what the scheduler passes over; then a rest when no task is there or was a moment ago."""
        super().heartbeat()
        self._overlooked.check_when_due()
        now = time.monotonic()
        rest = self.rest(now)
        if now - self._busy_at > IDLE_SECONDS and not self._released:
            self._release_workers()
        if rest:
            time.sleep(rest)

    def rest(self, now: float) -> float:
        """Seconds to rest at this moment."""
        if self.running or self.queued_tasks or self.queued_callbacks:
            self._busy_at, self._released = now, False
        return REST_SECONDS if now - self._busy_at > BUSY_SECONDS else 0.0

    def _get_workloads_to_schedule(self, open_slots: int) -> list[tuple[Any, Any]]:
        """What is to be started, but for a task whose earlier process has ended and is not reported yet.

        A task that waits for a person is resumed under the key that it had. Started before the end of its first process
        is read, it would lose its place to that report: the scheduler finds it running, takes it for killed, and the
        question that was answered is put again. The trial of some seconds is Airflow's, which does not use it any more.
        """
        due = []
        for key, workload in super()._get_workloads_to_schedule(open_slots):
            if key in self._unreported and self.attempts[key].can_try_again():
                continue
            due.append((key, workload))
        return due

    def _process_workloads(self, workload_list: list[Any]) -> None:
        """As ever; which are at work is noted."""
        super()._process_workloads(workload_list)
        self._unreported |= {workload.key for workload in workload_list}

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """As ever; it is reported."""
        self._unreported.discard(key)
        super().change_state(key, state, info, remove_running)

    def _release_workers(self) -> None:
        """Let each worker end as at a shutdown; LocalExecutor notices it, and starts others when there is a task."""
        self._released = True
        for worker in self.workers.values():
            if worker.is_alive():
                self.activity_queue.put(None)
