"""Delivers the journal's alerts to every channel: in order, at least once, each channel by a thread of its own.

A channel that is slow, dead or raises stops no other and delays no code that raises an alert: it reads the journal
from where it stopped (include/alerting/place.py), after one second, then two, then four, up to its longest wait. The
position is written after each delivery, so a kill between the two repeats that delivery and loses none.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from include.alerting import place
from include.alerting.alert import Alert, parse
from include.alerting.channels import Channel
from include.alerting.place import Failure, Line, Place
from include.home import Home

POLL_SECONDS = 1.0
"""How often a channel that has everything reads the journal's end."""
FIRST_WAIT = 1.0
LONGEST_REASON = 300

log = logging.getLogger("mlops.alerts")


class Delivery:
    """Serves one channel from one home's journal."""

    def __init__(self, home: Path, channel: Channel) -> None:
        self._channel = channel
        self._place = Place(home, channel.name)

    def drain(self) -> int:
        """Deliver everything that waits, and return how many alerts that were.

        Raises:
            Exception: whatever the channel raised; what it accepted before is not delivered again.
        """
        with self._place.exclusive():
            if self._place.is_new and not self._channel.history:
                self._place.skip_history()
            count = 0
            while lines := self._place.pending():
                for batch in _batches(lines, self._channel.batch):
                    count += self._deliver(batch)
            self._place.note(None)
        return count

    def _deliver(self, lines: Sequence[Line]) -> int:
        alerts = [parse(line.content, line.offset) for line in lines if line.content.strip()]
        if alerts:
            self._channel.deliver(alerts)
        self._place.accept(lines[-1])
        return len(alerts)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`; a failure is logged when it is new and when it is over."""
        failed = ""
        while not stop.is_set():
            try:
                self.drain()
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a library of the channel's raises
                failure = self._note(error)
                if failure.reason != failed:
                    log.warning("%s: alerts cannot be delivered: %s", self._channel.name, failure.reason)
                failed = failure.reason
                stop.wait((failure.next_attempt - _now()).total_seconds())
            else:
                if failed:
                    log.info("%s: alerts are delivered again", self._channel.name)
                failed = ""
                stop.wait(POLL_SECONDS)

    def _note(self, error: BaseException) -> Failure:
        now, before = _now(), self._place.position().failure
        attempts = before.attempts + 1 if before else 1
        wait = min(FIRST_WAIT * 2 ** min(attempts - 1, 20), self._channel.longest_wait)
        reason = " ".join(str(error).split()) or type(error).__name__
        next_attempt = now + dt.timedelta(seconds=wait)
        failure = Failure(before.since if before else now, attempts, reason[:LONGEST_REASON], next_attempt)
        self._place.note(failure)
        return failure


def _now() -> dt.datetime:
    """Now, in UTC."""
    return dt.datetime.now(dt.UTC)


def _batches(lines: Sequence[Line], size: int) -> Iterator[list[Line]]:
    rest = iter(lines)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def start(home: Path, channels: Iterable[Channel], stop: threading.Event) -> list[threading.Thread]:
    """Serve every channel by a thread of its own until `stop`; channels that are no longer on are forgotten.

    The threads are daemons: a channel that hangs does not keep its process from ending.
    """
    deliveries = {channel.name: Delivery(home, channel) for channel in channels}
    place.forget_all_but(home, set(deliveries))
    threads = [
        threading.Thread(target=delivery.run, args=(stop,), name=f"alerts to {name}", daemon=True)
        for name, delivery in deliveries.items()
    ]
    for thread in threads:
        thread.start()
    return threads


@dataclass(frozen=True)
class Undelivered:
    """What one channel has not accepted yet."""

    channel: str
    alerts: list[Alert]
    """Oldest first, at most as many as one read of the journal has."""
    failure: Failure | None

    def __str__(self) -> str:
        count, failure = len(self.alerts), self.failure
        oldest = f", the oldest of {self.alerts[0].at:%Y-%m-%d %H:%M:%S}" if self.alerts else ""
        text = f"{self.channel}: {count} alert{'' if count == 1 else 's'} not delivered{oldest}"
        if failure is None:
            return f"{text}; not tried yet, or being tried now"
        times = f"{failure.attempts} attempt{'' if failure.attempts == 1 else 's'}"
        when = f"since {failure.since:%Y-%m-%d %H:%M:%S}, the next at {failure.next_attempt:%H:%M:%S}"
        return f"{text}; {times} {when}: {failure.reason}"


def undelivered(home: Path) -> list[Undelivered]:
    """The channels that are behind, by name; a channel that has everything is not among them."""
    found = []
    for file in sorted(Home(home).alert_channels.glob("*.json")):
        here = Place(home, file.stem)
        alerts = [parse(line.content, line.offset) for line in here.pending() if line.content.strip()]
        failure = here.position().failure
        if alerts or failure:
            found.append(Undelivered(file.stem, alerts, failure))
    return found
