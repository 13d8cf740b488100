"""Alerts reach every channel in order and at least once, and no channel harms another or the sender."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from include import alerting
from include.alerting import delivery, journal
from include.alerting.alert import Alert
from include.alerting.delivery import Delivery, undelivered
from include.alerting.place import Failure, Place
from include.home import Home
from tests.waiting import until


@dataclass
class Memory:
    """A channel that remembers what it was given, and does beforehand what a test wants."""

    name: str = "memory"
    batch: int = 1
    history: bool = True
    longest_wait: float = 0.05
    before: Callable[[], object] = lambda: None
    messages: list[str] = field(default_factory=list)

    def deliver(self, alerts: Sequence[Alert]) -> None:
        self.before()
        self.messages += [alert.message for alert in alerts]


def failing(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def send(home: Path, *messages: str) -> None:
    for message in messages:
        alerting.send(home, "task_failed", message)


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), MemoryError()])
def test_a_channel_that_raises_or_hangs_stops_no_other_and_no_sender(
    tmp_path: Path, serve: Callable[..., None], error: BaseException
) -> None:
    released = threading.Event()
    hanging, raising, well = Memory("hanging", before=released.wait), Memory("raising", before=failing(error)), Memory()
    send(tmp_path, "1")
    serve(hanging, raising, well)
    send(tmp_path, "2", "3")
    until(lambda: well.messages == ["1", "2", "3"])
    send(tmp_path, "4")
    until(lambda: well.messages == ["1", "2", "3", "4"])
    assert (hanging.messages, raising.messages) == ([], [])
    behind = {each.channel: each for each in undelivered(tmp_path)}
    assert [alert.message for alert in behind["raising"].alerts] == ["1", "2", "3", "4"]
    raising.before = lambda: None
    released.set()
    until(lambda: (hanging.messages, raising.messages) == (["1", "2", "3", "4"],) * 2)
    until(lambda: undelivered(tmp_path) == [])


def test_what_a_channel_accepted_before_it_failed_is_not_delivered_again(tmp_path: Path) -> None:
    left, channel = iter([True, True, False, True, True]), Memory()

    def third_fails() -> None:
        if not next(left):
            raise RuntimeError

    channel.before = third_fails
    send(tmp_path, "1", "2", "3", "4")
    with pytest.raises(RuntimeError):
        Delivery(tmp_path, channel).drain()
    assert Delivery(tmp_path, channel).drain() == 2
    assert channel.messages == ["1", "2", "3", "4"]


def test_a_batch_that_failed_is_repeated_as_a_whole(tmp_path: Path) -> None:
    channel = Memory(batch=3, before=failing(RuntimeError("no")))
    send(tmp_path, "1", "2", "3", "4")
    with pytest.raises(RuntimeError):
        Delivery(tmp_path, channel).drain()
    channel.before = lambda: None
    assert Delivery(tmp_path, channel).drain() == 4
    assert channel.messages == ["1", "2", "3", "4"]


def test_a_new_channel_gets_the_alerts_of_before_only_if_it_wants_history(tmp_path: Path) -> None:
    with_history, without = Memory("with"), Memory("without", history=False)
    send(tmp_path, "old")
    for channel in (with_history, without):
        Delivery(tmp_path, channel).drain()
    send(tmp_path, "new")
    for channel in (with_history, without):
        Delivery(tmp_path, channel).drain()
    assert (with_history.messages, without.messages) == (["old", "new"], ["new"])


def test_a_failure_is_recorded_with_its_reason_its_attempts_and_the_next_one(tmp_path: Path) -> None:
    channel = Memory("chat", longest_wait=5.0)
    send(tmp_path, "1", "2")
    failures = [Delivery(tmp_path, channel)._note(RuntimeError(f"no\nanswer {number}")) for number in range(5)]
    waits = [(failure.next_attempt - failure.since).total_seconds() for failure in failures]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(delivery.FIRST_WAIT)
    [behind] = undelivered(tmp_path)
    assert behind.failure == failures[-1]
    assert (failures[-1].attempts, failures[-1].since) == (5, failures[0].since)
    assert str(behind).startswith("chat: 2 alerts not delivered, the oldest of ")
    assert "5 attempts since " in str(behind)
    assert str(behind).endswith(": no answer 4")
    Delivery(tmp_path, channel).drain()
    assert undelivered(tmp_path) == []


def test_waits_double_up_to_the_channels_longest(tmp_path: Path) -> None:
    slow = Delivery(tmp_path, Memory(longest_wait=300))
    waits = []
    for _ in range(40):
        before = dt.datetime.now(dt.UTC)
        waits.append(round((slow._note(RuntimeError()).next_attempt - before).total_seconds()))
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[9:]) == {300}


def test_a_channel_that_was_turned_off_is_forgotten_and_begins_anew(tmp_path: Path, serve: Callable[..., None]) -> None:
    send(tmp_path, "1")
    with pytest.raises(RuntimeError):
        Delivery(tmp_path, Memory("off", before=failing(RuntimeError("no")))).drain()
    Delivery(tmp_path, Memory("off"))._note(RuntimeError("no"))
    assert [each.channel for each in undelivered(tmp_path)] == ["off"]
    serve(Memory("on"))
    assert "off" not in [each.channel for each in undelivered(tmp_path)]
    assert not (Home(tmp_path).alert_channels / "off.json").exists()


# ------------------------------------------------------------------------------------------------ the journal changes


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_place_is_found_again_in_a_journal_that_was_shortened(tmp_path: Path, cut: int) -> None:
    channel, file = Memory(), Home(tmp_path).alerts
    send(tmp_path, "1", "2", "3")
    Delivery(tmp_path, channel).drain()
    send(tmp_path, "4")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[cut:]))
    send(tmp_path, "5")
    Delivery(tmp_path, channel).drain()
    assert channel.messages == ["1", "2", "3", "4", "5"]


def test_a_journal_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    channel = Memory()
    send(tmp_path, "1", "2", "3")
    Delivery(tmp_path, channel).drain()
    Home(tmp_path).alerts.unlink()
    send(tmp_path, "4")
    Delivery(tmp_path, channel).drain()
    assert channel.messages == ["1", "2", "3", "4"]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    channel, file = Memory(), Home(tmp_path).alerts
    send(tmp_path, "1", "2")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    Delivery(tmp_path, channel).drain()
    assert channel.messages == ["1"]
    file.write_bytes(whole)
    Delivery(tmp_path, channel).drain()
    assert channel.messages == ["1", "2"]


def test_a_place_that_cannot_be_written_repeats_nothing_while_the_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Memory()
    served = Delivery(tmp_path, channel)
    monkeypatch.setattr("include.alerting.place.storage.write_bytes", lambda *_, **__: failing(OSError(28, "full"))())
    send(tmp_path, "1", "2")
    assert served.drain() == 2
    send(tmp_path, "3")
    assert served.drain() == 1
    assert channel.messages == ["1", "2", "3"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"offset": 1}', b'{"offset": 0, "unknown": 1, "failure": null}']
)
def test_a_damaged_place_is_the_beginning(tmp_path: Path, content: bytes) -> None:
    send(tmp_path, "1")
    file = Home(tmp_path).alert_channels / "memory.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    channel = Memory()
    Delivery(tmp_path, channel).drain()
    assert channel.messages == ["1"]


def test_a_place_survives_its_file(tmp_path: Path) -> None:
    moment = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    failure = Failure(moment, 3, "no answer", moment + dt.timedelta(minutes=1))
    place = Place(tmp_path, "chat")
    place.note(failure)
    assert Place(tmp_path, "chat").position().failure == failure


# ------------------------------------------------------------------------------------------------ the sender


def test_on_an_event_loop_a_thread_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, really = threading.Event(), journal._append

    def slow_disk(path: Path, line: str) -> None:
        assert released.wait(60)
        really(path, line)

    monkeypatch.setattr(journal, "_append", slow_disk)

    async def raise_alerts() -> None:
        send(tmp_path, "1")  # returns although the disk does not
        assert not Home(tmp_path).alerts.exists()
        released.set()
        await asyncio.to_thread(until, Home(tmp_path).alerts.exists)

    asyncio.run(raise_alerts())
    until(lambda: '"1"' in Home(tmp_path).alerts.read_text())
