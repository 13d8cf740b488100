"""Watches the rollouts that run, and decides every second: back at once, the next share, champion, or nothing yet.

    python -m include.deployment.controller

For each rollout:

1. The champion is another one than when it was started: stopped, as superseded.
2. Else its strategy (include/strategies/) decides on what the arms did: whether the tried one went beyond a limit
   (`arms.breach`), and whether its share has baked for `bake_minutes`, in which the arm had `minimum_requests`. It is
   rolled back with the numbers of both arms and an alert, or gets its next share, becomes champion, or waits.

In threads of their own, since they may take long: the labels of each test are read every minute, and at its
horizon it ends by its verdict (`experiment`); MLflow's aliases are made to say what the ledger says, every half a
minute (`ledger.project_aliases`); windows older than a day are deleted;
and the versions that Airflow's forms offer are kept as they are (`choices`). Alerts are delivered to their channels
from this process, too, each channel by its own thread (include/alerting/delivery.py).

Several controllers may run: a lock lets one act, and each decision is one transaction that changes nothing when the
rollout is no longer as it was seen. While PostgreSQL is away it keeps trying, and says so; what cannot be decided for
one rollout does not stop the others. An alert is written before its decision is committed: a kill between the two
repeats the alert, and never loses it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from include import alerting, database, settings
from include.alerting import channels, delivery
from include.deployment import arms, choices, decisions, experiment, ledger, rollouts
from include.deployment.rollouts import Rollout
from include.home import Home
from include.strategies import Evidence

ACTOR = decisions.CONTROLLER
LOCK, EXPERIMENTS_LOCK = "rollouts", "experiments"
WATCH_SECONDS, EXPERIMENTS_SECONDS, ALIASES_SECONDS, SWEEP_SECONDS = 1.0, 60.0, 30.0, 60.0
EXPERIMENTS_REST = 20
"""A look at the labels is followed by at least so many times its own duration without one."""
CHOICES_SECONDS = 5.0
AWAY_SECONDS = 10.0
"""PostgreSQL's absence, or silence, is alerted after this: rollouts run, and nobody watches them."""
RETENTION = dt.timedelta(days=1)
MINUTES = dt.timedelta(days=90)

log = logging.getLogger("mlops.rollouts")


# ------------------------------------------------------------------------------------------------ the limits


def watch(engine: sa.Engine, home: Path, alerted: dict[int, str]) -> bool:
    """Look at every running rollout once, alone; returns False where another controller is at work.

    Args:
        engine: the platform's database.
        home: below it, alerts are written.
        told: rollout → the failure that was alerted last, kept from call to call, so that each is alerted once.

    Raises:
        sqlalchemy.exc.OperationalError: PostgreSQL is away; nothing was half done.
    """
    try:
        with database.advisory_lock(engine, LOCK, wait=False):
            for rollout in rollouts.running(engine):
                _apart(partial(decide, engine, rollout, home), rollout, home, alerted)
    except database.Busy:
        return False
    return True


def decide(engine: sa.Engine, rollout: Rollout, home: Path) -> None:
    """What follows for one rollout that runs, now.

    Raises:
        rollouts.Ended: somebody was quicker.
    """
    with engine.connect() as connection:
        champion = ledger.champion(connection, rollout.model)
        is_current = champion is not None and champion.version == rollout.champion_version
        found = _evidence(connection, rollout) if is_current else None
    if found is None:
        _supersede(engine, rollout, champion, home)
        return
    window, evidence = found
    move = rollout.strategy.decide(rollout.declared, evidence)
    if move.action == "wait":
        return
    with engine.begin() as connection:
        rollouts.apply(connection, rollout, move, actor=ACTOR, evidence=window)
        if move.action == "roll_back":
            message = f"{rollout} was rolled back, version {rollout.champion_version} answers everything: {move.reason}"
            _alert(home, "rollout_rolled_back", rollout, message, evidence=window)
    log.info("%s: %s: %s", rollout, move.action.replace("_", " "), move.reason)


def _evidence(connection: sa.Connection, rollout: Rollout) -> tuple[dict[str, Any], Evidence]:
    """What both arms did, as a document and as the strategy needs it; nothing is read of what answers nobody."""
    if rollout.mirrored:
        return {}, Evidence(rollout.step, rollout.share)
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    window = arms.read(connection, rollout, now)
    evidence = Evidence(
        rollout.step,
        rollout.share,
        breach=arms.breach(window, arms.Limits.of(rollout)),
        baked=_has_baked(connection, rollout, now),
        minutes=(now - rollout.changed_at).total_seconds() / 60,
        requests=window.arm.requests,
    )
    return window.document(), evidence


def _apart(work: Callable[[], object], rollout: Rollout, home: Path, alerted: dict[int, str]) -> None:
    """Do something about one rollout; its failure is told and does not reach the others."""
    try:
        work()
    except (rollouts.Ended, ledger.Superseded) as late:
        log.info("%s", late)  # the next look sees how it stands
    except sa.exc.OperationalError:
        raise
    except Exception as error:
        log.exception("%s cannot be watched", rollout)
        reason = _one_line(error)
        if alerted.get(rollout.id) != reason:
            message = f"{rollout} cannot be watched, and goes on unwatched: {reason}"
            _alert(home, "rollout_unwatched", rollout, message)
            alerted[rollout.id] = reason
    else:
        alerted.pop(rollout.id, None)


def _has_baked(connection: sa.Connection, rollout: Rollout, now: dt.datetime) -> bool:
    declared = rollout.declared
    if now < rollout.changed_at + dt.timedelta(minutes=declared.bake_minutes):
        return False
    return arms.requests_since(connection, rollout, rollout.changed_at) >= declared.minimum_requests


def _supersede(engine: sa.Engine, rollout: Rollout, champion: ledger.Champion | None, home: Path) -> None:
    now = f"version {champion.version}" if champion else "none"
    reason = f"superseded: the champion was version {rollout.champion_version} when it was started, and is {now} now"
    with engine.begin() as connection:
        rollouts.stop(connection, rollout, actor=ACTOR, reason=reason)
        _alert(home, "rollout_superseded", rollout, f"{rollout} was stopped, {reason}")


def _alert(home: Path, event: str, rollout: Rollout, message: str, **details: Any) -> None:
    """Tell somebody."""
    about = {"rollout": rollout.id, "model": rollout.model, "version": rollout.version}
    alerting.send(home, event, message, **about, **details)


# ------------------------------------------------------------------------------------------------ beside that


def examine(engine: sa.Engine, home: Path, alerted: dict[int, str]) -> bool:
    """Read the labels of every running test once, alone; returns False where another controller does."""
    try:
        with database.advisory_lock(engine, EXPERIMENTS_LOCK, wait=False):
            for rollout in rollouts.running(engine):
                if rollout.strategy.labelled:
                    _apart(partial(experiment.examine, engine, rollout, actor=ACTOR), rollout, home, alerted)
    except database.Busy:
        return False
    return True


def follow(engine: sa.Engine, mlflow_url: str) -> None:
    """Let MLflow's aliases say what the ledger says, for every model that has a champion.

    Raises:
        ExceptionGroup: it could not be done for some; the others follow all the same.
    """
    with engine.connect() as connection:
        named = (sa.select(table.c.model) for table in (database.champions, database.retired_models))
        models = connection.execute(sa.union(*named)).scalars().all()
    failures = []
    for model in models:
        try:
            ledger.project_aliases(engine, model, mlflow_url=mlflow_url)
        except Exception as error:  # noqa: BLE001  what it is depends on MLflow's client
            failures.append(RuntimeError(f"{model}: {_one_line(error)}"))
    if failures:
        raise ExceptionGroup("; ".join(map(str, failures)), failures)


def sweep(engine: sa.Engine) -> int:
    """Delete the windows that are older than a day, and the minutes that are older than 90; returns how many."""
    windows, minutes = database.arm_windows, database.service_minutes
    with engine.begin() as connection:
        old = connection.execute(sa.delete(windows).where(windows.c.second < sa.func.now() - RETENTION)).rowcount
        return old + connection.execute(sa.delete(minutes).where(minutes.c.minute < sa.func.now() - MINUTES)).rowcount


# ------------------------------------------------------------------------------------------------ the loops


@dataclass(frozen=True)
class Loop:
    """Something done again and again in a thread of its own, however often it fails."""

    name: str
    work: Callable[[], object]
    seconds: float
    rest: float = 0.0
    """At least so many times the work's own duration passes before the next time."""

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; a failure is logged when it is new, and when it is over."""
        failing: str | None = None
        since = 0.0
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.work()
            except Exception as error:  # noqa: BLE001  whatever it is: it is said, and tried again
                reason = _one_line(error)
                if failing is None:
                    since = began
                if reason != failing:
                    log.warning("%s: %s; trying again every %g s", self.name, reason, self.seconds)
                failing = reason
            else:
                if failing is not None:
                    log.info("%s: at work again after %.0f s", self.name, time.monotonic() - since)
                failing = None
            stop.wait(max(self.seconds, self.rest * (time.monotonic() - began)))


def run(database_url: str, home: Path, mlflow_url: str, stop: threading.Event) -> None:
    """Watch until `stop`."""

    def engine() -> sa.Engine:
        return database.connect(_noticing_a_dead_peer(database_url))

    beat = Home(home).rollouts_beat
    watching, alerted, looked = engine(), dict[int, str](), [time.monotonic()]

    def check_rollouts() -> None:
        watch(watching, home, alerted)
        looked[0] = time.monotonic()
        with contextlib.suppress(OSError):
            beat.parent.mkdir(parents=True, exist_ok=True)
            beat.touch()

    loops = [
        Loop("watching rollouts", check_rollouts, WATCH_SECONDS),
        Loop("tests of labels", partial(examine, engine(), home, {}), EXPERIMENTS_SECONDS, rest=EXPERIMENTS_REST),
        Loop("aliases in MLflow", partial(follow, engine(), mlflow_url), ALIASES_SECONDS),
        Loop("old windows", partial(sweep, engine()), SWEEP_SECONDS),
        Loop("versions for Airflow's forms", choices.Projection(engine(), Home(home)).refresh, CHOICES_SECONDS),
    ]
    threads = [threading.Thread(target=loop.run, args=(stop,), name=loop.name, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    silence_alerted = False
    while not stop.wait(WATCH_SECONDS):
        silent = time.monotonic() - looked[0]
        if silent >= AWAY_SECONDS and not silence_alerted:
            _alert_unwatched(home, silent)
        silence_alerted = silent >= AWAY_SECONDS
    threads[0].join(timeout=5)


def _alert_unwatched(home: Path, seconds: float) -> None:
    message = (
        f"no rollout was watched for {seconds:.0f} s: PostgreSQL is away or hangs; the log of `rollouts` says more"
    )
    try:
        alerting.send(home, "rollouts_unwatched", message)
    except OSError:
        log.exception("an alert could not be written")


def _noticing_a_dead_peer(url: str) -> sa.URL:
    """A connection whose other side vanishes without a word is given up after seconds, not hours."""
    alive = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3", "tcp_user_timeout": "10000"}
    return sa.make_url(url).update_query_dict(alive)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """The stack's part `rollouts`: until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each question to MLflow
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    environment = settings.environment()
    log.info("watching rollouts")
    url = _noticing_a_dead_peer(environment.database_url).render_as_string(hide_password=False)
    delivery.start(environment.home, channels.declared(environment.model_copy(update={"database_url": url})), stop)
    run(environment.database_url, environment.home, environment.mlflow_url, stop)


if __name__ == "__main__":
    main()
