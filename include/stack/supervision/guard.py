"""Watches the supervisor and its parts: restarts it when it dies, and what it has given up; alerts; rotates the logs.

    python -m include.stack.supervision.guard               # run by the supervisor
    python -m include.stack.supervision.guard --revive      # start a supervisor if there is none, and end

The supervisor restarts every part, and this is the one that restarts it: it runs below the supervisor, which starts it
again when it dies, and hears of each part's state through a pipe. The pipe's end means that the supervisor has died;
then another one is started, which adopts the parts that live (part.py). `down` ends both. Where both
were killed at once, a part's first process sees to the same within seconds.

Nothing here depends on the disk. An alert that cannot be written waits until it can be; so does a supervisor that
cannot be started.

- A part that ended by itself is an alert, `part_died`.
- One that ended three times within ten minutes is another one, `part_flaps`; then no more of it for half an hour.
- A part that the supervisor has given up is started again half a minute later, for as long as it takes.
- A log above 10 MB is copied to <name>.log.1, in place of the older one, and begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from include import alerting
from include.home import Home

FLAPS, FLAP_SECONDS, QUIET_SECONDS = 3, 600.0, 1800.0
AGAIN_SECONDS = 30.0
RETRY_SECONDS = 5.0
LOG_BYTES = 10 * 1024**2

log = logging.getLogger("mlops.guard")


@dataclass(frozen=True)
class Alert:
    """What an operator should see."""

    event: str
    message: str
    part: str


@dataclass
class Watch:
    """What follows from the supervisor's events; times are seconds on a clock that only goes forward."""

    ended: dict[str, deque[float]] = field(default_factory=dict)
    quiet_until: dict[str, float] = field(default_factory=dict)
    again: dict[str, float] = field(default_factory=dict)

    def observe(self, event: str, part: str, now: float) -> Alert | None:
        """Take note of a part's new state; returns the alert that it is worth."""
        if event == "PROCESS_STATE_FATAL":
            self.again[part] = now + AGAIN_SECONDS
        if event == "PROCESS_STATE_RUNNING":
            self.again.pop(part, None)
        if event not in ("PROCESS_STATE_EXITED", "PROCESS_STATE_BACKOFF"):
            return None
        ends = self.ended.setdefault(part, deque(maxlen=FLAPS))
        ends.append(now)
        if now < self.quiet_until.get(part, 0.0):
            return None
        if len(ends) == FLAPS and now - ends[0] <= FLAP_SECONDS:
            self.quiet_until[part] = now + QUIET_SECONDS
            minutes = FLAP_SECONDS / 60
            text = f"{part} has ended {FLAPS} times within {minutes:.0f} minutes, and is started again and again"
            return Alert("part_flaps", f"{text}; `mlops logs {part}` says why", part)
        return Alert("part_died", f"{part} has ended by itself and is started again; see `mlops logs {part}`", part)

    def due(self, now: float) -> list[str]:
        """The parts that the supervisor gave up and that are started again now."""
        parts = [part for part, moment in self.again.items() if now >= moment]
        for part in parts:
            self.again[part] = now + AGAIN_SECONDS
        return parts


@dataclass
class Alerts:
    """Sends alerts, in order; those that cannot be written now are sent later."""

    home: Path
    waiting: deque[Alert] = field(default_factory=lambda: deque(maxlen=1000))

    def add(self, alert: Alert) -> None:
        """Send it as soon as it can be."""
        self.waiting.append(alert)
        self.send()

    def send(self) -> None:
        """Send what waits."""
        with contextlib.suppress(OSError):
            while self.waiting:
                alert = self.waiting[0]
                alerting.write(self.home, alert.event, alert.message, part=alert.part)
                self.waiting.popleft()


def listen(events: BinaryIO, answers: BinaryIO, handle: Callable[[str, dict[str, str]], None]) -> None:
    """Speak the supervisor's protocol for event listeners until it has gone, at whatever point of it that is."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            answers.write(b"READY\n")
            answers.flush()
            line = events.readline()
            if not line.endswith(b"\n"):
                return
            header = _pairs(line)
            content = events.read(int(header["len"]))
            if len(content) < int(header["len"]):
                return
            handle(header["eventname"], _pairs(content))
            answers.write(b"RESULT 2\nOK")
            answers.flush()


def _pairs(line: bytes) -> dict[str, str]:
    return dict(pair.split(":", 1) for pair in line.decode().split() if ":" in pair)


def rotate(logs: Path, limit: int = LOG_BYTES) -> None:
    """Copy each log above the limit to <name>.1 and begin it anew; one that cannot be copied goes on."""
    for file in logs.glob("*.log"):
        with contextlib.suppress(OSError):
            if file.stat().st_size > limit:
                older = file.with_name(f"{file.name}.1")
                older.unlink(missing_ok=True)
                shutil.copyfile(file, older)
                older.chmod(0o600)
                os.truncate(file, 0)


def start_again(home: Home, parts: list[str]) -> None:
    """Start parts that the supervisor has given up."""
    from include.stack import credentials
    from include.stack.supervision import supervisor

    password = credentials.read(home.credentials).supervisor_password
    control = supervisor.connect(supervisor.socket_path(home.run), password)
    if control is None:
        return
    with contextlib.suppress(supervisor.SupervisorError, OSError):
        for part in parts:
            control.start(part)
    control.close()


def revive(home: Home, sent: Alerts) -> None:
    """Start a supervisor in place of the one that died, unless the stack was stopped, or somebody else did."""
    from include.stack import credentials
    from include.stack.supervision import supervisor

    alerted = False
    while home.meant_to_run.exists():
        try:
            with home.up_lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # an `up` or `down` at work comes first
                socket = supervisor.socket_path(home.run)
                password = credentials.read(home.credentials).supervisor_password
                if not home.meant_to_run.exists() or supervisor.connect(socket, password) is not None:
                    return
                if not alerted:
                    alerted = True
                    sent.add(Alert("supervisor_died", "the supervisor has died; another one is started", "supervisor"))
                control = supervisor.launch(home.run, home.logs, socket, password, _plain_environment())
                for part in control.states():
                    control.start(part)
            break
        except (OSError, supervisor.SupervisorError) as error:
            log.warning("the supervisor cannot be started yet: %s", error)
            time.sleep(RETRY_SECONDS)
    while sent.waiting:
        sent.send()
        time.sleep(RETRY_SECONDS if sent.waiting else 0)


def _plain_environment() -> dict[str, str]:
    """What the supervisor that died was started with, without what it added for this program."""
    own = ("SUPERVISOR_", "MLOPS_HOME", "MLOPS_PART", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def main() -> None:
    """Watch until the supervisor has gone, and start another one then; with --revive that at once."""
    home = Home(Path(os.environ["MLOPS_HOME"]))
    os.umask(0o077)
    _log_to(home.log("guard"))
    watch, sent = Watch(), Alerts(home.path)
    if sys.argv[1:] == ["--revive"]:
        revive(home, sent)
        return

    def handle(event: str, payload: dict[str, str]) -> None:
        now = time.monotonic()
        if event.startswith("TICK_60"):
            rotate(home.logs)
        elif event.startswith("TICK"):
            sent.send()
            if parts := watch.due(now):
                start_again(home, parts)
        elif payload.get("processname") not in (None, "guard"):
            log.info("%s %s", event.removeprefix("PROCESS_STATE_"), payload)
            if alert := watch.observe(event, payload["processname"], now):
                sent.add(alert)

    listen(sys.stdin.buffer, sys.stdout.buffer, handle)
    revive(home, sent)


def _log_to(file: Path) -> None:
    """A small log of its own, in which a full disk makes gaps, and nothing else."""
    logging.raiseExceptions = False
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=1024**2, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    main()
