"""A study's records in PostgreSQL: which trial is next, who runs it, and who has died.

Optuna's records are the only state. A trial is claimed under the platform's lock, so that the number of finished trials
is exactly the declared one, even when workers die or return. A worker shows that it lives by a heartbeat; the trial of
one that stopped is put back into the queue with the same parameters.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from include.settings import Choices, Model, Range
from include.training import allocation, estimators

LOG = logging.getLogger(__name__)

HEARTBEAT = 5
"""Seconds between two signs of life of a trial."""
GRACE = 30
"""Seconds without a sign of life after which a trial is given to another worker."""
RETRIES = 3
"""How often a trial whose worker died is begun again, before it counts as failed."""
CLAIMED = "claimed_by"
STARTUP = 10
"""Trials before the sampler learns from them."""


@dataclass(frozen=True)
class Tally:
    """How many trials are in which state; trials that were put back into the queue are not counted as failed."""

    complete: int
    pruned: int
    failed: int
    running: int

    @property
    def finished(self) -> int:
        """Trials that will not run again."""
        return self.complete + self.pruned + self.failed


def create(
    name: str,
    entry: Model,
    *,
    optuna_url: str,
    heartbeat: int = HEARTBEAT,
    grace: int = GRACE,
) -> None:
    """Create the study; what is there stays."""
    import optuna

    optuna.create_study(
        study_name=name,
        storage=open_storage(optuna_url, heartbeat, grace),
        direction=entry.direction,
        load_if_exists=True,
    )


def open_storage(url: str, heartbeat: int = HEARTBEAT, grace: int = GRACE) -> Any:
    """Optuna's records.

    Raises:
        ValueError: the database is not configured.
    """
    import optuna

    if not url:
        raise ValueError("Optuna's database is not configured: set MLOPS_OPTUNA_URL, or run `make up`")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs={"pool_size": 2, "pool_pre_ping": True, "connect_args": {"connect_timeout": 5}},
            heartbeat_interval=heartbeat,
            grace_period=grace,
            heartbeat_stale_trial_callback=_requeue,
        )


def tally(study: Any) -> Tally:
    """Count the study's trials."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    again = requeued(trials)
    states = [t.state for t in trials if not (t.state == TrialState.FAIL and t.number in again)]
    return Tally(
        *(states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING))
    )


# ---------------------------------------------------------------------------------------------- claims


def claim(study: Any, entry: Model, worker: int) -> Any:
    """Take the next trial; only ever called under the study's lock."""
    from optuna.trial import TrialState

    if "began" not in study.user_attrs:
        study.set_user_attr("began", time.time())
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # else one is tried again
        study.enqueue_trial(_next_point(study, entry))
    with warnings.catch_warnings():  # Optuna warns that `ask` alone sends no heartbeat; `alive` does
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        trial = study.ask()
    study._storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(CLAIMED, worker)
    return trial


def _next_point(study: Any, entry: Model) -> dict[str, Any]:
    """What is known of the next trial: all of it for one of the first points, else its estimator alone."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    queued = [trial.system_attrs.get("fixed_params", {}) for trial in trials]
    for point in _first_points(entry):
        if point not in queued:
            return point
    sign = 1.0 if entry.direction == "minimize" else -1.0
    past = [
        allocation.Past(
            fixed["estimator"], sign * trial.value if trial.state == TrialState.COMPLETE else None, len(fixed) == 1
        )
        for trial, fixed in zip(trials, queued, strict=True)
        if "estimator" in fixed and trial.state != TrialState.FAIL
    ]
    return {
        "estimator": allocation.next_estimator(past, {name: len(_searched(entry, name)) for name in entry.estimators})
    }


def _first_points(entry: Model) -> list[dict[str, Any]]:
    """The defaults of each estimator, then the further points of each, as a trial's parameters."""
    points = {
        name: estimators.first_points(name, params, entry.task, entry.metric_name)
        for name, params in entry.estimators.items()
    }
    ordered = [(name, found[0]) for name, found in points.items()]
    ordered += [(name, point) for name, found in points.items() for point in found[1:]]
    return [
        {"estimator": name, **{f"{name}.{key}": point[key] for key in _searched(entry, name)}}
        for name, point in ordered
    ]


def _searched(entry: Model, name: str) -> list[str]:
    space = estimators.space(name, entry.estimators[name], entry.task, entry.metric_name)
    return [key for key, dimension in space.items() if isinstance(dimension, Range | Choices)]


def sampler(seed: int) -> Any:
    """Seeded anew for each trial by its place in the study, so that a point does not depend on which worker claims
    it."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)


# ---------------------------------------------------------------------------------------------- heartbeats


def requeued(trials: Iterable[Any]) -> set[int]:
    """The numbers of failed trials whose parameters were put back into the queue."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}


def requeue_dead(study: Any) -> None:
    """Put trials of dead workers back; only ever called under the study's lock.

    A running trial without its claim's mark belongs to a worker that died inside this lock, before its first heartbeat.
    """
    import optuna
    from optuna.trial import TrialState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
        if CLAIMED not in trial.user_attrs:
            study.tell(trial.number, state=TrialState.FAIL)
            _requeue(study, trial)


def _requeue(study: Any, trial: Any) -> None:
    import optuna

    LOG.warning("trial %d: its worker died; the same parameters are tried again", trial.number)
    trial.user_attrs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


@contextlib.contextmanager
def alive(study: Any, trial: Any, interval: int) -> Iterator[None]:
    """Record a heartbeat while the trial runs; a database that is away for a moment does not end it."""
    import optuna
    import sqlalchemy as sa

    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(interval):
            try:
                study._storage.record_heartbeat(trial._trial_id)
            except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                LOG.warning("trial %d: no heartbeat could be recorded: %s", trial.number, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
