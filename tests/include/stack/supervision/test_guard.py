"""What the guard makes of the supervisor's events."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from include.stack.supervision import guard
from include.stack.supervision.guard import Alert, Alerts, Watch

EXITED, RUNNING, BACKOFF = "PROCESS_STATE_EXITED", "PROCESS_STATE_RUNNING", "PROCESS_STATE_BACKOFF"


def events(watch: Watch, *observed: tuple[float, str]) -> list[str]:
    alerts = [watch.observe(event, "mlflow", moment) for moment, event in observed]
    return [alert.event for alert in alerts if alert]


def test_each_death_is_an_alert_and_the_third_within_ten_minutes_says_that_it_flaps() -> None:
    assert events(Watch(), (0, EXITED), (1, RUNNING), (200, EXITED), (599, BACKOFF)) == [
        "part_died",
        "part_died",
        "part_flaps",
    ]


def test_three_deaths_in_an_hour_are_no_flapping() -> None:
    assert events(Watch(), (0, EXITED), (1200, EXITED), (2400, EXITED)) == ["part_died"] * 3


def test_a_part_that_flaps_is_told_of_every_half_an_hour_and_not_every_second() -> None:
    watch = Watch()
    found = events(watch, *((float(second), BACKOFF) for second in range(0, 4000, 10)))
    assert found == ["part_died", "part_died", "part_flaps", "part_flaps", "part_flaps"]


def test_parts_are_counted_apart() -> None:
    watch = Watch()
    watch.observe(EXITED, "mlflow", 0.0)
    watch.observe(EXITED, "scheduler", 1.0)
    alert = watch.observe(EXITED, "prediction", 2.0)
    assert alert is not None
    assert (alert.event, alert.part) == ("part_died", "prediction")


def test_the_supervisors_protocol_is_spoken() -> None:
    payload = b"processname:mlflow groupname:mlflow from_state:RUNNING expected:0 pid:12"
    header = f"ver:3.0 server:supervisor serial:1 pool:guard poolserial:1 eventname:{EXITED} len:{len(payload)}\n"
    sent, heard = io.BytesIO(), []
    guard.listen(io.BytesIO(header.encode() + payload), sent, lambda event, fields: heard.append((event, fields)))
    assert heard[0][0] == EXITED
    assert heard[0][1]["processname"] == "mlflow"
    assert sent.getvalue() == b"READY\nRESULT 2\nOKREADY\n"


def test_alerts_that_cannot_be_written_wait_and_are_sent_in_order(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file = tmp_path / "logs" / "alerts.jsonl"
    file.symlink_to("/dev/full")
    sent = Alerts(tmp_path)
    sent.add(Alert("part_died", "first", "mlflow"))
    sent.add(Alert("part_died", "second", "mlflow"))
    file.unlink()
    sent.send()
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["first", "second"]
    sent.send()
    assert len(file.read_text().splitlines()) == 2


def test_a_large_log_is_copied_and_begins_anew_for_whoever_has_it_open(tmp_path: Path) -> None:
    log, small = tmp_path / "mlflow.log", tmp_path / "small.log"
    small.write_text("short")
    with log.open("a") as open_log:
        open_log.write("x" * 50)
        open_log.flush()
        guard.rotate(tmp_path, limit=40)
        assert (tmp_path / "mlflow.log.1").read_text() == "x" * 50
        open_log.write("on it goes")
    assert log.read_text() == "on it goes"
    assert small.read_text() == "short"


@pytest.mark.parametrize("header", [b"", b"nothing that it knows"])
def test_the_end_of_the_pipe_ends_the_listening(header: bytes) -> None:
    guard.listen(io.BytesIO(header), io.BytesIO(), lambda *_: pytest.fail("there was no event"))
