"""Alerts: a file first, PostgreSQL within seconds, a list, and who has seen what."""

from __future__ import annotations

import datetime as dt
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from include import alerting, database, storage
from include.alerting import table
from include.alerting.place import Place, forget_all_but
from include.home import Home


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def test_an_alert_is_copied_once_with_its_details_and_the_file_stays(engine: sa.Engine, tmp_path: Path) -> None:
    assert table.copy(engine, tmp_path) == 0
    alerting.send(tmp_path, "task_failed", "train_x failed", dag="train_x", tries=3)
    alerting.send(tmp_path, "task_failed", "train_x failed", dag="train_x", tries=3)
    assert table.copy(engine, tmp_path) == 2
    assert table.copy(engine, tmp_path) == 0
    (Home(tmp_path).alert_channels / "postgresql.json").unlink()
    alerting.send(tmp_path, "rollout_waits", "later")
    assert table.copy(engine, tmp_path) == 3, "read again from the beginning"
    found = table.listed(engine)
    assert sorted((each.event, each.message) for each in found) == [
        ("rollout_waits", "later"), ("task_failed", "train_x failed"), ("task_failed", "train_x failed"),
    ]  # fmt: skip
    assert {"dag": "train_x", "tries": 3} in [each.details for each in found]
    assert [each.event for each in table.listed(engine, event="rollout_waits", limit=1)] == ["rollout_waits"]
    assert len(Home(tmp_path).alerts.read_text().splitlines()) == 3


def test_a_damaged_line_one_without_an_id_and_half_a_line_lose_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    file = Home(tmp_path).alerts
    file.parent.mkdir(parents=True)
    old = json.dumps({"time": "2026-01-02T03:04:05+00:00", "event": "old", "message": "from before ids", "x": 1})
    file.write_text(f"{old}\nno JSON\n[1]\n\n{old}\n" + '{"time": "2026-')
    assert table.copy(engine, tmp_path) == 4
    assert sorted(each.event for each in table.listed(engine)) == ["alert_unreadable"] * 2 + ["old"] * 2
    with file.open("a") as rest:
        rest.write('01-02T03:04:06", "event": "whole", "message": "now"}\n')
    assert table.copy(engine, tmp_path) == 1
    assert table.listed(engine, event="whole")[0].at.tzinfo is not None


@pytest.mark.parametrize(
    ("message", "stored"), [("a\0b", "a\ufffdb"), ("half \ud800", "half ?"), ("\\u0000", "\\u0000"), ("ü😀", "ü😀")]
)
def test_what_postgresql_has_no_room_for_is_replaced(
    engine: sa.Engine, tmp_path: Path, message: str, stored: str
) -> None:
    alerting.send(tmp_path, "odd", message, value=math.nan, nested={"x": [message, math.inf]})
    assert table.copy(engine, tmp_path) == 1
    [found] = table.listed(engine)
    assert found.message == stored
    assert found.details == {"value": "NaN", "nested": {"x": [stored, "Infinity"]}}


def test_what_was_acknowledged_is_not_listed_again(engine: sa.Engine, tmp_path: Path) -> None:
    for number in range(3):
        alerting.send(tmp_path, "task_failed", f"number {number}")
    table.copy(engine, tmp_path)
    first = table.listed(engine)[0]
    assert table.acknowledge(engine, first.id.replace("-", "")[:8], actor="ann") == 1
    assert table.acknowledge(engine, first.id, actor="bob") == 0
    assert first.id not in [each.id for each in table.listed(engine)]
    seen = {each.id: each.acknowledged_by for each in table.listed(engine, acknowledged=True)}
    assert seen[first.id] == "ann"
    assert table.acknowledge(engine, "all", actor="bob") == 2
    assert table.listed(engine) == []
    for wrong in ("zzzz", "", "%", "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        with pytest.raises(table.NoSuchAlert, match="no alert's id begins"):
            table.acknowledge(engine, wrong, actor="ann")


def test_while_postgresql_is_away_the_file_is_read(tmp_path: Path) -> None:
    assert table.read_file(tmp_path, 10) == []
    for number in range(3):
        alerting.send(tmp_path, "task_failed", f"number {number}")
    assert [each.message for each in table.read_file(tmp_path, 2)] == ["number 2", "number 1"]


NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def said(home: Path, days_ago: int, event: str) -> None:
    """An alert of some days ago, as the file has it."""
    alerting.send(home, event, "message")
    file = Home(home).alerts
    *earlier, last = file.read_text().splitlines()
    entry = json.loads(last) | {"time": (NOW - dt.timedelta(days_ago)).isoformat()}
    file.write_text("\n".join([*earlier, json.dumps(entry), ""]))


def test_acknowledged_alerts_are_deleted_after_their_time_and_others_never(engine: sa.Engine, tmp_path: Path) -> None:
    for days_ago, event in ((200, "old_and_seen"), (199, "old"), (10, "young_and_seen"), (9, "young")):
        said(tmp_path, days_ago, event)
    table.copy(engine, tmp_path)
    for each in table.listed(engine):
        if each.event.endswith("_seen"):
            table.acknowledge(engine, each.id, actor="me")
    assert table.retain(engine, tmp_path, 90, NOW, dry_run=True) == 1
    assert len(table.listed(engine, acknowledged=True)) == 4
    said(tmp_path, 8, "not_copied_yet")
    for expected in (1, 0):
        assert table.retain(engine, tmp_path, 90, NOW) == expected
        table.copy(engine, tmp_path)
        found = [each.event for each in table.listed(engine, acknowledged=True)]
        assert found == ["not_copied_yet", "young", "young_and_seen", "old"]
        kept = [json.loads(line)["event"] for line in Home(tmp_path).alerts.read_text().splitlines()]
        assert kept == ["young_and_seen", "young", "not_copied_yet"]


@pytest.mark.parametrize("killed", ["before the file is replaced", "after it"])
def test_a_kill_while_the_file_is_shortened_loses_no_alert_and_brings_none_back(
    engine: sa.Engine, tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(tmp_path, 200, "old_and_seen")
    table.copy(engine, tmp_path)
    table.acknowledge(engine, "all", actor="me")
    for days_ago in (2, 1):
        said(tmp_path, days_ago, "young")
    table.copy(engine, tmp_path)
    really = storage.write_bytes

    class Killed(BaseException):
        pass

    def write(url: str, data: bytes, **how: int) -> None:
        if not url.endswith("alerts.jsonl"):
            really(url, data, **how)
            return
        if killed == "after it":
            really(url, data, **how)
        raise Killed

    monkeypatch.setattr(storage, "write_bytes", write)
    with pytest.raises(Killed):
        table.retain(engine, tmp_path, 90, NOW)
    monkeypatch.undo()
    said(tmp_path, 0, "afterwards")
    table.retain(engine, tmp_path, 90, NOW)
    assert table.copy(engine, tmp_path) == 0
    assert [each.event for each in table.listed(engine, acknowledged=True)] == ["afterwards", "young", "young"]


def test_the_file_keeps_what_a_channel_does_not_have_yet_and_waits_for_none_that_is_off(
    engine: sa.Engine, tmp_path: Path
) -> None:
    for days_ago in (200, 199, 198):
        said(tmp_path, days_ago, "old")
    chat = Place(tmp_path, "chat")
    chat.accept(chat.pending()[0])
    for _ in range(2):
        table.retain(engine, tmp_path, 90, NOW)
        assert len(Home(tmp_path).alerts.read_text().splitlines()) == 2
    assert len(chat.pending()) == 2
    forget_all_but(tmp_path, {"postgresql"})
    table.retain(engine, tmp_path, 90, NOW)
    assert Home(tmp_path).alerts.read_text() == ""


def test_alerts_that_come_while_the_file_is_shortened_are_all_there(engine: sa.Engine, tmp_path: Path) -> None:
    said(tmp_path, 200, "old")

    def flood() -> None:
        for _ in range(100):
            alerting.send(tmp_path, "flood", "another")

    floods = [threading.Thread(target=flood) for _ in range(2)]
    for each in floods:
        each.start()
    while any(each.is_alive() for each in floods):
        said_before = Home(tmp_path).alerts.stat().st_size
        table.retain(engine, tmp_path, 90, dt.datetime.now(dt.UTC) + dt.timedelta(days=91))
        assert said_before
    for each in floods:
        each.join()
    table.copy(engine, tmp_path)
    assert len(table.listed(engine, event="flood", limit=1000)) == 200


def test_a_file_that_cannot_be_written_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "no folder").write_text("")
    alerting.send(tmp_path / "no folder", "task_failed", "lost")
    alerting.send(tmp_path / "home", "task_failed", "train_x failed")
    assert "train_x failed" in (tmp_path / "home" / "logs" / "alerts.jsonl").read_text()
    (tmp_path / "no folder").unlink()
    alerting.write_waiting()
    assert "lost" in (tmp_path / "no folder" / "logs" / "alerts.jsonl").read_text()
