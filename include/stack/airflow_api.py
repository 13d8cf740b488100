"""Airflow's REST API, called as a user's script calls it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

ANSWER_SECONDS = 30.0
"""How long one answer may take, on a machine that trains."""
PATIENCE_SECONDS = 5 * ANSWER_SECONDS
"""How long a call is tried: a few slow answers, or the restart of the API server."""
_AIRFLOWS_OWN = ("::group", "::endgroup", "DAG bundles loaded", "Filling up the DagBag", "Worker startup", "/")
"""How the log lines begin that Airflow writes around a task."""


T = TypeVar("T")


class AirflowError(RuntimeError):
    """Airflow refused a call; the message is its answer."""


@dataclass(frozen=True)
class Run:
    """A run of a DAG."""

    dag: str
    run_id: str
    state: str
    kind: str
    started: dt.datetime | None
    ended: dt.datetime | None

    @property
    def active(self) -> bool:
        """Whether it is queued or at work."""
        return self.state in ("queued", "running")

    @property
    def seconds(self) -> float | None:
        """How long it took; none while it has not ended."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None


@dataclass(frozen=True)
class TaskRun:
    """A task of a run, or one of its mapped instances."""

    dag: str
    run_id: str
    task: str
    map_index: int
    state: str | None
    try_number: int
    started: dt.datetime | None
    seconds: float | None

    @property
    def name(self) -> str:
        """The task as the UI names it."""
        return self.task if self.map_index < 0 else f"{self.task}[{self.map_index}]"


def of_model(model: str) -> list[str]:
    """The DAGs of one model."""
    return [f"{step}_{model}" for step in ("features", "train", "deploy", "monitor", "rollout", "rollback")]


class Airflow:
    """A session of one user.

    Args:
        url: where the API server answers.
        user: who signs in.
        password: and with what.
        answer_seconds: how long one answer may take.
        patience_seconds: for how long a call is tried again when none came.

    Raises:
        AirflowError: the user is refused, or there is no answer.
    """

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.url, self._patience = url.rstrip("/"), patience_seconds
        self._client = httpx.Client(base_url=url, timeout=answer_seconds)
        self._login = {"username": user, "password": password}
        self._try_until_answered(self._sign_in)

    def _sign_in(self) -> None:
        answer = self._client.post("/auth/token", json=self._login)
        if answer.status_code not in (200, 201):
            raise AirflowError(f"Airflow refuses the user {self._login['username']!r}: {answer.text[:300]}")
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """One call below /api/v2, tried again while no answer comes: what it asks for must bear to be done twice.

        Raises:
            AirflowError: the answer is an error, or there is none.
        """
        answer = self._answer(method, path, **kwargs)
        if answer.status_code >= 400:
            raise AirflowError(f"{method} {path}: {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _answer(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        def once() -> httpx.Response:
            answer = self._client.request(method, f"/api/v2{path}", **kwargs)
            if answer.status_code == 401:
                self._sign_in()
                answer = self._client.request(method, f"/api/v2{path}", **kwargs)
            return answer

        return self._try_until_answered(once)

    def _try_until_answered(self, attempt: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(httpx.TransportError),
            stop=stop_after_delay(self._patience),
            wait=wait_fixed(1),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except httpx.TransportError as error:
            words = str(error) or type(error).__name__
            raise AirflowError(
                f"Airflow at {self.url} has not answered for {self._patience:.0f} s ({words}):"
                " see `mlops status` and `mlops logs api-server`"
            ) from error

    # --- DAGs

    def dags(self) -> dict[str, bool]:
        """Every DAG that is parsed, and whether it is paused."""
        found: dict[str, bool] = {}
        while True:
            page = self.call("GET", "/dags", params={"limit": 100, "offset": len(found)})["dags"]
            found |= {dag["dag_id"]: dag["is_paused"] for dag in page}
            if len(page) < 100:
                return found

    def import_errors(self) -> list[str]:
        """What keeps DAG files from being parsed: file and message."""
        errors = self.call("GET", "/importErrors", params={"limit": 20})["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip()}" for error in errors]

    def unpause(self, dag: str) -> None:
        """Let the DAG's runs begin."""
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run by hand, without a logical date; returns its id.

        The id is chosen here: a call whose answer was lost, and which is tried again, starts no second run.
        """
        run_id = f"manual__{dt.datetime.now(dt.UTC).isoformat()}_{uuid.uuid4().hex[:8]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        answer = self._answer("POST", f"/dags/{dag}/dagRuns", json=body)
        if answer.status_code >= 400 and not (answer.status_code == 409 and self._exists(dag, run_id)):
            raise AirflowError(f"POST /dags/{dag}/dagRuns: {answer.status_code}: {answer.text[:500]}")
        return run_id

    def _exists(self, dag: str, run_id: str) -> bool:
        return self._answer("GET", f"/dags/{dag}/dagRuns/{run_id}").status_code == 200

    # --- runs and tasks

    def runs(self, dags: Iterable[str], *, since: dt.datetime | None = None) -> list[Run]:
        """The runs of these DAGs that were created since then, oldest first; those of all time when not given."""
        body: dict[str, Any] = {"dag_ids": sorted(dags), "page_limit": 100, "order_by": "-id"}
        if not body["dag_ids"]:
            return []
        found: list[Run] = []
        for page in range(5):
            rows = self.call("POST", "/dags/~/dagRuns/list", json={**body, "page_offset": 100 * page})["dag_runs"]
            found += [
                Run(
                    row["dag_id"],
                    row["dag_run_id"],
                    row["state"],
                    row["run_type"],
                    _time(row["start_date"]),
                    _time(row["end_date"]),
                )
                for row in rows
                if since is None or _time(row.get("queued_at") or row["run_after"]) >= since  # type: ignore[operator]
            ]
            if len(rows) < 100:
                break
        return found[::-1]

    def end_runs(self, dags: Iterable[str], note: str) -> list[Run]:
        """Fail the runs of these DAGs that have not ended, of DAGs too that are no longer parsed; returns them."""
        active = [run for run in self.runs(dags) if run.active]
        for run in active:
            body = {"state": "failed", "note": note}
            self.call("PATCH", f"/dags/{run.dag}/dagRuns/{quote(run.run_id, safe='')}", json=body)
        return active

    def tasks(self, runs: Sequence[Run]) -> list[TaskRun]:
        """The tasks of these runs."""
        if not runs:
            return []
        body = {
            "dag_ids": sorted({run.dag for run in runs}),
            "dag_run_ids": sorted({run.run_id for run in runs}),
            "page_limit": 100,
        }
        rows: list[dict[str, Any]] = []
        while True:
            page = self.call("POST", "/dags/~/dagRuns/~/taskInstances/list", json={**body, "page_offset": len(rows)})[
                "task_instances"
            ]
            rows += page
            if len(page) < 100:
                break
        keys = {(run.dag, run.run_id) for run in runs}
        return [
            TaskRun(
                row["dag_id"],
                row["dag_run_id"],
                row["task_id"],
                row["map_index"],
                row["state"],
                row["try_number"],
                _time(row["start_date"]),
                row["duration"],
            )
            for row in rows
            if (row["dag_id"], row["dag_run_id"]) in keys
        ]

    def question(self, task: TaskRun) -> str:
        """What a task that waits for a person's answer asks, on one line; empty when it asks nothing."""
        path = f"/dags/{task.dag}/dagRuns/{task.run_id}/taskInstances/{task.task}/{task.map_index}/hitlDetails"
        try:
            detail = self.call("GET", path)
        except AirflowError:
            return ""
        return " ".join(f"{detail['subject']} {detail['body'] or ''}".split())

    def log(self, task: TaskRun, lines: int) -> list[str]:
        """The last lines of what a task itself said, its error at the end; empty when Airflow has no log."""
        path = f"/dags/{task.dag}/dagRuns/{task.run_id}/taskInstances/{task.task}/logs/{max(task.try_number, 1)}"
        try:
            answer = self.call("GET", path, params={"map_index": task.map_index, "full_content": True})
        except AirflowError:
            return []
        found: list[str] = []
        for entry in answer["content"]:
            event = str(entry.get("event", "")) if isinstance(entry, dict) else str(entry)
            errors = (entry.get("error_detail") or []) if isinstance(entry, dict) else []
            if errors:
                found += [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in errors]
                break  # what follows is Airflow's own tidying up
            if event and not event.startswith(_AIRFLOWS_OWN):
                found.append(event)
        return "\n".join(found).splitlines()[-lines:]


def _time(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None
