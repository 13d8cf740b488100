"""The client of Airflow's REST API, against a server that is slow, silent, or loses its answers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from include.stack.airflow_api import ANSWER_SECONDS, PATIENCE_SECONDS, Airflow, AirflowError, TaskRun

Answers = Callable[[str, str, Any], tuple[int, Any]]


class Server(ThreadingHTTPServer):
    """Airflow's API as far as a test needs it; `answers` decides by method, path and body."""

    daemon_threads = True
    answers: Answers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.path == "/auth/token":
            status, content = 201, {"access_token": "t"}
        else:
            status, content = self.server.answers(self.command, self.path, body)  # type: ignore[attr-defined]
        text = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            return  # the client did not wait

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815  (the names that http.server calls)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def test_there_is_time_for_several_slow_answers() -> None:
    assert PATIENCE_SECONDS >= 3 * ANSWER_SECONDS


def test_an_answer_that_did_not_come_is_asked_for_again(server: Server) -> None:
    released = threading.Event()
    asked: list[str] = []

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.append(path)
        if len(asked) == 1:
            released.wait(30)  # longer than the client waits
        return 200, {"dags": [{"dag_id": "d", "is_paused": False}]}

    server.answers = answers
    assert Airflow(server.url, "admin", "p", answer_seconds=0.3, patience_seconds=60).dags() == {"d": False}
    assert len(asked) == 2
    released.set()


def test_no_answer_at_all_is_one_line_that_says_where_to_look(server: Server) -> None:
    released = threading.Event()

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        released.wait(30)
        return 200, {}

    server.answers = answers
    airflow = Airflow(server.url, "admin", "p", answer_seconds=0.1, patience_seconds=0.2)
    with pytest.raises(AirflowError, match=r"has not answered.*`mlops status`") as error:
        airflow.dags()
    assert "\n" not in str(error.value)
    released.set()


def test_nobody_at_the_port_is_the_same_line() -> None:
    with pytest.raises(AirflowError, match="has not answered"):
        Airflow("http://127.0.0.1:1", "admin", "p", patience_seconds=0)


def test_a_run_whose_answer_was_lost_is_started_once(server: Server) -> None:
    made: list[str] = []

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return (200, {}) if path.rsplit("/", 1)[1] in made else (404, {})
        if body["dag_run_id"] in made:
            return 409, {"detail": "exists"}
        made.append(body["dag_run_id"])
        time.sleep(1)  # done, but its answer comes too late
        return 200, {"dag_run_id": body["dag_run_id"]}

    server.answers = answers
    run = Airflow(server.url, "admin", "p", answer_seconds=0.3, patience_seconds=60).trigger("d", {})
    assert made == [run]


def test_a_conflict_for_another_reason_is_an_error(server: Server) -> None:
    server.answers = lambda method, path, body: (404, {}) if method == "GET" else (409, {"detail": "no"})
    with pytest.raises(AirflowError, match="409"):
        Airflow(server.url, "admin", "p").trigger("d", {})


def test_a_question_is_one_line_and_a_task_that_asks_nothing_has_none(server: Server) -> None:
    task = TaskRun("deploy_m", "r", "approve", -1, "awaiting_input", 1, None, None)
    server.answers = lambda *_: (200, {"subject": "Promote a version of m?", "body": "version 3:\n0.9 against 0.8"})
    assert Airflow(server.url, "admin", "p").question(task) == "Promote a version of m? version 3: 0.9 against 0.8"
    server.answers = lambda *_: (404, {})
    assert Airflow(server.url, "admin", "p").question(task) == ""
