"""The access log: whole lines of JSON, nothing that was sent, and no answer that waits for it."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from include.serving.http import access_log
from include.serving.http.access_log import AccessLog
from include.serving.metrics.prometheus import Metrics
from tests.waiting import until


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(file: Path, registry: CollectorRegistry) -> Iterator[AccessLog]:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    made = AccessLog("all", Metrics(registry), descriptor)
    made.start()
    yield made
    made.stop()
    os.close(descriptor)


def note(log: AccessLog, **changed: Any) -> None:
    entry = {"request_id": "r1", "method": "POST", "path": "/predict", "status": 200, "seconds": 0.001234}
    log.note(**{**entry, "caller": "billing", "model": "trips", "version": 7, "size": 321, **changed})


def lines(log: AccessLog, file: Path) -> list[dict[str, Any]]:
    log.stop()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_says_who_asked_what_and_how_it_was_answered(log: AccessLog, file: Path) -> None:
    note(log)
    [line] = lines(log, file)
    moment = dt.datetime.fromisoformat(line.pop("time"))
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(seconds=5)
    assert line == {
        "request_id": "r1", "method": "POST", "path": "/predict", "caller": "billing", "model": "trips", "version": 7,
        "status": 200, "ms": 1.23, "bytes": 321,
    }  # fmt: skip


def test_a_line_appears_without_another_request(log: AccessLog, file: Path) -> None:
    note(log)
    until(lambda: file.read_text().endswith("}\n"))


@pytest.mark.parametrize("path", ['/"\n{}\\', "/é\u2028\x00\x7f", "/" + "a" * 10_000, "/\udcff"])
def test_a_path_cannot_break_out_of_its_line_nor_fill_the_memory(log: AccessLog, file: Path, path: str) -> None:
    note(log, path=path, status=404, caller=None, model=None, version=None)
    [line] = lines(log, file)
    assert line["path"] == path[: access_log.LONGEST_PATH]
    assert not log._beginnings


def test_endpoints_that_come_and_go_do_not_fill_the_memory(log: AccessLog) -> None:
    for version in range(5 * access_log.ENDPOINTS):
        note(log, version=version)
    assert len(log._beginnings) <= access_log.ENDPOINTS


@pytest.mark.parametrize("sent", [b"0af7651916cd43dd8448eb211c80319c", b"a", b"A.b_c-9", b"x" * 64])
def test_a_sane_request_id_is_kept(log: AccessLog, sent: bytes) -> None:
    assert log.request_id(sent) == sent.decode()


@pytest.mark.parametrize("sent", [None, b"", b"x" * 65, b"a b", b'a"b', b"a\n", b"\xff", b"a\r\nx: y", b"\xc3\xa9"])
def test_any_other_is_made_anew_and_no_two_are_the_same(log: AccessLog, sent: bytes | None) -> None:
    made = {log.request_id(sent) for _ in range(1000)}
    assert len(made) == 1000
    assert all(access_log._SANE(one.encode()) for one in made)


@pytest.mark.parametrize(("which", "statuses"), [("all", [200, 404, 503]), ("errors", [404, 503]), ("off", [])])
def test_what_is_noted_is_declared(file: Path, registry: CollectorRegistry, which: Any, statuses: list[int]) -> None:
    with file.open("ab") as opened:
        log = AccessLog(which, Metrics(registry), opened.fileno())
        log.start()
        for status in (200, 404, 503):
            note(log, status=status)
        assert [line["status"] for line in lines(log, file)] == statuses


def test_the_lines_of_two_workers_in_one_pipe_stay_whole(registry: CollectorRegistry) -> None:
    reading, writing = os.pipe()
    received = bytearray()

    def read() -> None:
        while some := os.read(reading, 1 << 16):
            received.extend(some)

    reader = threading.Thread(target=read)
    reader.start()
    logs = [AccessLog("all", Metrics(CollectorRegistry()), writing) for _ in range(2)]
    for log in logs:
        log.start()
    for n in range(5000):
        for log in logs:
            note(log, request_id=str(n))
    until(lambda: received.count(b"\n") == 10_000)
    for log in logs:
        log.stop()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert sorted(int(json.loads(line)["request_id"]) for line in received.splitlines()) == sorted([*range(5000)] * 2)


def test_a_reader_that_is_stuck_holds_nobody_up_and_what_is_lost_is_counted(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MOST_LINES", 2000)
    reading, writing = os.pipe()
    log = AccessLog("all", Metrics(registry), writing)
    log.start()
    for _ in range(10_000):  # the pipe holds 64 kB of 2 MB: nothing reads it before all are noted
        note(log)
        time.sleep(0)
    os.set_blocking(reading, False)
    received = b""
    deadline = time.monotonic() + 5
    while not registry.get_sample_value("mlops_serving_access_log_lost_lines_total"):
        try:
            received += os.read(reading, 1 << 16)
        except BlockingIOError:
            time.sleep(0.01)
        assert time.monotonic() < deadline
    while True:
        try:
            received += os.read(reading, 1 << 16)
        except BlockingIOError:
            log.stop(0.5)
            break
    lost = registry.get_sample_value("mlops_serving_access_log_lost_lines_total")
    assert lost is not None
    assert 2000 < received.count(b"\n") < 10_000
    os.close(reading)
    os.close(writing)


def test_a_closed_pipe_is_said_and_harms_nobody(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog("all", Metrics(registry), writing)
    log.start()
    note(log)
    log.stop()
    os.close(writing)
    assert registry.get_sample_value("mlops_serving_access_log_lost_lines_total") == 1
    assert "access log: lines lost" in caplog.messages
