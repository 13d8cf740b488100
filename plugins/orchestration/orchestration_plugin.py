"""What Airflow's own processes have to know of include/orchestration: its timetable, the names in a run's form, and
what a DAG missed while it was paused.

Every Airflow process loads this file: it imports no more than it must before it is used.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from airflow.plugins_manager import AirflowPlugin

from include.orchestration.timetable import DayTimetable

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

RUNS = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/?$")
BACKFILLS = re.compile(r"/api/v2/backfills(/dry_run)?/?$")
DAGS = re.compile(r"/api/v2/dags(/[^/]+)?/?$")
log = logging.getLogger("mlops")

MAXIMUM_BODY = 1_000_000
"""Bytes of a form that are read; a longer body is Airflow's to refuse, and the tasks check again."""


class FormNames:
    """Answers 400 to a run or a backfill whose form has a name that the DAG's form does not have.

    Airflow checks a form's values and takes any name. Those who may not use the API get Airflow's own answer.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        path = scope.get("path", "") if scope["type"] == "http" and scope.get("method") == "POST" else ""
        run = RUNS.search(path)
        if not run and not BACKFILLS.search(path):
            await self._app(scope, receive, send)
            return
        messages, body = await _read(receive)
        refused = await _refusal(scope, body, unquote(run[1]) if run else None)
        if refused:
            await _answer(send, refused)
        else:
            await self._app(scope, _again(messages, receive), send)


async def _read(receive: Receive) -> tuple[list[Any], bytes]:
    messages: list[Any] = []
    size = 0
    while size <= MAXIMUM_BODY:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if not messages[-1].get("more_body", False):
            break
    return messages, b"".join(message.get("body", b"") for message in messages)


def _again(messages: list[Any], receive: Receive) -> Receive:
    """The messages that were read, then those that come."""
    waiting = iter(messages)

    async def next_message() -> Any:
        for message in waiting:
            return message
        return await receive()

    return next_message


async def _refusal(scope: Scope, body: bytes, dag_id: str | None) -> str | None:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    dag_id, conf = (dag_id, given.get("conf")) if dag_id else (given.get("dag_id"), given.get("dag_run_conf"))
    if not conf or not isinstance(dag_id, str) or not await _is_user(scope):
        return None
    from anyio import to_thread

    return await to_thread.run_sync(_unknown, dag_id, conf)


async def _is_user(scope: Scope) -> bool:
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
    from airflow.api_fastapi.core_api.security import resolve_user_from_token
    from fastapi import HTTPException, Request

    request = Request(scope)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        await resolve_user_from_token(token if kind.lower() == "bearer" else request.cookies.get(COOKIE_NAME_JWT_TOKEN))
    except HTTPException:
        return False
    return True


def _unknown(dag_id: str, conf: object) -> str | None:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session

    from include.orchestration import forms

    with create_session() as session:
        dag = SerializedDagModel.get_dag(dag_id, session=session)
    return forms.refusal(dag_id, conf, dag.params) if dag is not None else None


async def _answer(send: Send, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class MissedEvents:
    """Queues, when a DAG is unpaused here, the events that came while it was paused, at once.

    The scheduler does so for a DAG that is unpaused by another way, some seconds later.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http" or scope.get("method") != "PATCH" or not DAGS.search(scope.get("path", "")):
            await self._app(scope, receive, send)
            return
        answer: list[Any] = []

        async def collect(message: Any) -> None:
            answer.append(message)

        # Whoever is told that the DAG is active finds what it missed in the queue. The change itself is committed when
        # the application returns, not when it sends.
        await self._app(scope, receive, collect)
        if answer and answer[0].get("status") == 200:
            await self._queue_missed()
        for message in answer:
            await send(message)

    async def _queue_missed(self) -> None:
        from anyio import to_thread

        from include.orchestration.overlooked import queue_missed

        try:
            await to_thread.run_sync(queue_missed)
        except Exception:  # the DAG is active, and the answer says so; the scheduler looks for missed events as well
            log.exception("events that came during the pause could not be looked for")


class OrchestrationPlugin(AirflowPlugin):
    """Registered by Airflow, which finds this file below its plugins folder."""

    name = "orchestration"
    timetables = [DayTimetable]
    fastapi_root_middlewares = [
        {"name": "form names", "middleware": FormNames},
        {"name": "missed events", "middleware": MissedEvents},
    ]
