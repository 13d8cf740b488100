"""Notifications reach a server that is slow, refuses, dies and comes back; no part of its URL reaches a log."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from include import alerting, settings
from include.alerting.alert import parse
from include.alerting.channels import apprise
from include.alerting.channels.apprise import Notification
from include.alerting.delivery import undelivered
from include.home import Home
from tests.conftest import ROOT
from tests.include.alerting.receiver import SECRET, Receiver
from tests.waiting import until


def send(home: Path, *numbers: int) -> None:
    for number in numbers:
        alerting.send(home, "task_failed", f"number {number}", model="trips")


def messages(*numbers: int) -> list[str]:
    return [f"number {number}" for number in numbers]


@pytest.fixture
def channel(receiver: Receiver, tmp_path: Path, serve: Callable[..., None]) -> Notification:
    """A channel that is on, with no history."""
    channel = Notification(receiver.url, history=True, longest_wait=0.1)
    serve(channel)
    return channel


def test_what_a_dead_server_missed_is_delivered_once_it_is_back_in_order(
    channel: Notification, receiver: Receiver, tmp_path: Path
) -> None:
    with receiver.up():
        send(tmp_path, 1, 2)
        until(lambda: receiver.messages == messages(1, 2))
    send(tmp_path, 3, 4)
    behind = until(lambda: [each for each in undelivered(tmp_path) if each.failure])
    assert [alert.message for alert in behind[0].alerts] == messages(3, 4)
    assert "onnection error" in str(behind[0])
    with receiver.up():
        send(tmp_path, 5)
        until(lambda: receiver.messages == messages(1, 2, 3, 4, 5))
    until(lambda: undelivered(tmp_path) == [])


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_what_a_server_refuses_is_tried_again_before_anything_newer(
    channel: Notification, receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.answer = lambda message: status if message == "number 2" and receiver.attempts.count(message) < 3 else 200
    with receiver.up():
        send(tmp_path, 1, 2, 3)
        until(lambda: receiver.messages == messages(1, 2, 3))
    assert receiver.attempts == messages(1, 2, 2, 2, 3)


def test_a_slow_server_delays_no_sender_and_gets_each_alert_once(
    channel: Notification, receiver: Receiver, tmp_path: Path
) -> None:
    released = threading.Event()
    receiver.answer = lambda message: 200 if released.wait(3) else 500  # within Apprise's time-out of 4 s
    with receiver.up():
        send(tmp_path, 1, 2, 3)
        until(lambda: receiver.attempts == messages(1))
        send(tmp_path, 4)
        assert [json.loads(line)["message"] for line in Home(tmp_path).alerts.read_text().splitlines()] == messages(
            1, 2, 3, 4
        )
        released.set()
        until(lambda: receiver.messages == messages(1, 2, 3, 4))
    assert receiver.attempts == messages(1, 2, 3, 4)


def test_a_server_that_never_answers_is_given_up_and_tried_again(
    receiver: Receiver, tmp_path: Path, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apprise, "SECONDS", 0.2)
    released = threading.Event()
    receiver.answer = lambda message: 200 if released.wait(60) else 500
    serve(Notification(receiver.url, history=True, longest_wait=0.1))
    with receiver.up():
        send(tmp_path, 1)
        until(lambda: receiver.attempts.count("number 1") >= 2)
        released.set()
        until(lambda: undelivered(tmp_path) == [])
    assert set(receiver.messages) == {"number 1"}


DELIVERY = """
import sys, threading
from pathlib import Path
from include.alerting import delivery
from include.alerting.channels.apprise import Notification
delivery.Delivery(Path(sys.argv[1]), Notification(sys.argv[2], history=True)).run(threading.Event())
"""


@pytest.mark.slow
@pytest.mark.parametrize("accepted", [False, True], ids=["before it was accepted", "after it was accepted"])
def test_a_kill_in_mid_delivery_loses_no_alert_and_repeats_at_most_that_one(
    receiver: Receiver, tmp_path: Path, accepted: bool
) -> None:
    command = [sys.executable, "-c", DELIVERY, str(tmp_path), receiver.url]
    process = subprocess.Popen(command, cwd=ROOT)

    def kill_at_the_third(message: str) -> int:
        if message == "number 3" and receiver.attempts.count(message) == 1:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return 200 if accepted else 500
        return 200

    receiver.answer = kill_at_the_third
    send(tmp_path, 1, 2, 3, 4)
    with receiver.up():
        assert process.wait(60) == -signal.SIGKILL
        assert receiver.attempts == messages(1, 2, 3)
        send(tmp_path, 5)
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            until(lambda: undelivered(tmp_path) == [])
        finally:
            process.kill()
            process.wait()
    assert receiver.attempts == messages(1, 2, 3, 3, 4, 5)
    assert list(dict.fromkeys(receiver.messages)) == messages(1, 2, 3, 4, 5)


@pytest.fixture
def root_log() -> Iterator[io.StringIO]:
    """What the controller's log would have: all that reaches the root logger, from INFO on."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_no_part_of_a_url_is_logged_or_shown(
    root_log: io.StringIO, channel: Notification, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda message: 403
    send(tmp_path, 1)
    until(lambda: [each for each in undelivered(tmp_path) if each.failure])
    with receiver.up():
        until(lambda: "403" in str(undelivered(tmp_path)[0]))
    until(lambda: "403" in root_log.getvalue())
    state = (Home(tmp_path).alert_channels / f"{channel.name}.json").read_text()
    for text in (str(undelivered(tmp_path)[0]), root_log.getvalue(), state):
        assert SECRET not in text
        assert "127.0.0.1" not in text
        assert str(receiver.port) not in text


@pytest.mark.parametrize("url", ["nothing", "foo://bar/secret", "json://", "://", "/etc/passwd"])
def test_a_url_that_apprise_does_not_know_fails_as_a_delivery_with_the_variables_name(url: str) -> None:
    alert = parse(b'{"time": "2026-01-01", "event": "x", "message": "y"}', 0)
    with pytest.raises(apprise.NotDelivered, match="MLOPS_ALERT_URLS"):
        Notification(url).deliver([alert])


def test_each_url_of_the_variable_is_a_channel_of_its_own() -> None:
    urls = SecretStr(" json://a/1  slack://b\njson://a/1 json://a/2,3 ")
    environment = settings.Environment(alert_urls=urls)
    declared = apprise.declared(environment)
    assert [channel.name.rpartition("-")[0] for channel in declared] == ["json", "slack", "json"]
    assert len({channel.name for channel in declared}) == 3
    assert "slack://b" not in f"{declared} {environment}"
