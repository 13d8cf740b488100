"""The study: several processes work on one, each trial is run once, and a process that dies loses nothing but its time.

Optuna's records in PostgreSQL are the only state. A trial is claimed under the platform's lock, so that the number of
finished trials is exactly the declared one, whoever works, dies or comes back. A worker shows that it lives by a
heartbeat; the trial of one that stopped is put back into the queue with the same parameters.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from include import database
from include.settings import Choices, Dimension, Model, Range, cores
from include.training import allocation, estimators, evaluation, layouts, pruning

LOG = logging.getLogger(__name__)

HEARTBEAT = 5
"""Seconds between two signs of life of a trial."""
GRACE = 30
"""Seconds without a sign of life after which a trial is given to another worker."""
RETRIES = 3
"""How often a trial whose worker died is begun again, before it counts as failed."""
CLAIMED, KIND, CURVE = "claimed_by", "kind", "curve"
LAYOUTS: tuple[estimators.Layout, ...] = ("one_hot", "codes")
STARTUP = 10
"""Trials before the sampler learns from them."""


class StudyFailed(RuntimeError):
    """No trial gave a model; the message says what became of them."""


@dataclass(frozen=True)
class Tuned:
    """What one worker did, and how the whole study stands."""

    study: str
    worker: int
    ran: int
    """Trials that this worker finished."""
    finished: int
    """Trials of the whole study that are finished."""
    complete: int
    pruned: int
    failed: int
    best: float | None
    seconds: float


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


def create_study(
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


def delete_study(name: str, *, optuna_url: str) -> None:
    """Forget a study; one that is not there is no error."""
    import optuna

    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name=name, storage=open_storage(optuna_url, HEARTBEAT, GRACE))


def tune(
    model: str,
    entry: Model,
    prepared: Mapping[str, Any],
    *,
    worker: int,
    optuna_url: str,
    database_url: str,
    threads: int | None = None,
    heartbeat: int = HEARTBEAT,
    grace: int = GRACE,
) -> Tuned:
    """Work on the study until it has its number of finished trials, or its time is over.

    Args:
        model: the registered model's name.
        entry: its entry in params.yaml.
        prepared: what `preparation.prepare` returned, as a mapping.
        worker: this worker's number, for the record.
        optuna_url: the studies' database.
        database_url: the platform's database, for its locks.
        threads: of the estimators; None: the cores divided by the workers.
        heartbeat: seconds between two signs of life.
        grace: seconds without one, after which a trial is given to another worker.
    """
    import optuna

    began = time.monotonic()
    study = optuna.load_study(
        study_name=prepared["study"],
        storage=open_storage(optuna_url, heartbeat, grace),
    )
    data = {layout: load(prepared, layout) for layout in LAYOUTS}
    threads = threads or cores(entry.tuning.workers)
    trials, seed = int(prepared["trials"]), int(prepared["seed"])
    engine = database.connect(database_url)
    ran = 0
    try:
        while True:
            with database.advisory_lock(engine, f"study:{prepared['study']}"):
                _requeue_dead(study)
                now = tally(study)
                if now.finished >= trials or (now.complete and time.time() > _deadline(study, prepared)):
                    break
                trial = None
                if now.finished + now.running < trials:
                    study.sampler = _sampler(seed + now.finished + now.running)
                    trial = _claim(study, entry, worker)
            if trial is None:  # others run the last ones: stay, in case one of them dies
                time.sleep(min(0.5, grace / 4))
                continue
            try:
                with _alive(study, trial, heartbeat):
                    ran += _run(study, trial, entry, data, prepared, seed=seed, threads=threads)
            except optuna.exceptions.UpdateFinishedTrialError:
                LOG.warning("trial %d was given to another worker, for this one was not heard of in time", trial.number)
    finally:
        engine.dispose()
    best = study.best_value if now.complete else None
    seconds = round(time.monotonic() - began, 2)
    return Tuned(prepared["study"], worker, ran, now.finished, now.complete, now.pruned, now.failed, best, seconds)


def load(prepared: Mapping[str, Any], layout: estimators.Layout = "one_hot") -> estimators.Data:
    """The matrices of a prepared study in one layout, mapped into memory, not read."""
    work = Path(prepared["work"])
    folder, coded = layouts.find(work, layout)
    X, y, X_val, y_val = (
        np.load(path, mmap_mode="r", allow_pickle=False)
        for part in ("train", "validation")
        for path in (folder / f"X_{part}.npy", work / f"y_{part}.npy")
    )
    classes = len(prepared["classes"] or ())
    return estimators.Data(X, y, X_val, y_val, prepared["task"], prepared["metric"], classes, coded)


def tally(study: Any) -> Tally:
    """Count the study's trials."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    requeued = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    states = [t.state for t in trials if not (t.state == TrialState.FAIL and t.number in requeued)]
    return Tally(
        *(states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING))
    )


# ---------------------------------------------------------------------------------------------- one trial


def _run(
    study: Any,
    trial: Any,
    entry: Model,
    matrices: Mapping[estimators.Layout, estimators.Data],
    prepared: Mapping[str, Any],
    *,
    seed: int,
    threads: int,
) -> int:
    """Fit, score and record one trial; returns 1 if it was this worker that finished it."""
    import optuna
    from optuna.trial import TrialState

    name, params = suggest(trial, entry)
    estimator = estimators.load(name)
    data = matrices[estimator.layout(params)]
    trial.set_user_attr(KIND, pruning.kind(name, params))
    progress = _Progress(study, trial, name, params, entry, deadline=_deadline(study, prepared))
    value: float | None = None
    state = TrialState.FAIL
    try:
        fitted = estimator.fit(params, data, seed=seed, threads=threads, progress=progress)
        assert data.X_val is not None  # noqa: S101  (for the type checker: a study has a validation part)
        assert data.y_val is not None  # noqa: S101
        value = evaluation.score(data.metric, data.task, data.y_val, estimator.predict(fitted, data.X_val))
        if np.isfinite(value):
            state = TrialState.COMPLETE
            trial.set_user_attr("settled", {"estimator": name, "params": estimator.settled(params, fitted)})
        else:
            trial.set_user_attr("error", f"the {data.metric} is {value}: a prediction is not a finite number")
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except (ValueError, ArithmeticError, MemoryError) as error:  # the point is bad, the study goes on
        LOG.warning("trial %d failed: %s", trial.number, error)
        trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
    progress.record()
    done = study.tell(trial, value if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)
    LOG.info("trial %d: %s %s → %s %s", trial.number, name, data.metric, done.value, done.state.name.lower())
    return int(done.state == state)


def suggest(trial: Any, entry: Model) -> tuple[str, dict[str, Any]]:
    """The estimator and the parameters of a trial: what params.yaml fixes is not asked of the study."""
    name = trial.suggest_categorical("estimator", list(entry.estimators))
    space = estimators.space(name, entry.estimators[name], entry.task, entry.metric_name)
    return name, {key: _suggested(trial, f"{name}.{key}", dimension) for key, dimension in space.items()}


def _suggested(trial: Any, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(name, list(dimension.choices))
    if not isinstance(dimension, Range):
        return dimension
    if dimension.scale in ("int", "log_int"):
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.scale == "log_int")
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.scale == "log")


def _searched(entry: Model, name: str) -> list[str]:
    space = estimators.space(name, entry.estimators[name], entry.task, entry.metric_name)
    return [key for key, dimension in space.items() if isinstance(dimension, Range | Choices)]


class _Progress:
    """What a trial reports as it advances: recorded, and ended where it is hopeless or late.

    One that is late is judged by the model that it has by then, so that even a study that has time for less than one
    trial has a result.
    """

    def __init__(
        self, study: Any, trial: Any, estimator: str, params: Mapping[str, Any], entry: Model, *, deadline: float
    ) -> None:
        self._study, self._trial, self._entry, self._deadline = study, trial, entry, deadline
        self._kind = pruning.kind(estimator, params)
        self._curve: pruning.Curve = {}
        self._finished: list[Any] = []
        self._read = -np.inf

    def report(self, step: int, value: float) -> None:
        """Note the study's metric at a step.

        Raises:
            TrialPruned: the trial will not become the best.
        """
        import optuna

        self._curve[step] = value
        if not self._entry.tuning.pruning:
            return
        sign = 1.0 if self._entry.direction == "minimize" else -1.0
        finished = self._complete()
        alike = [(curve_of(t), t.value) for t in finished if t.user_attrs.get(KIND) == self._kind]
        best = min((sign * t.value for t in finished), default=np.inf)
        if pruning.hopeless(self._curve, alike, best, sign=sign):
            raise optuna.TrialPruned

    def record(self) -> None:
        """Write the whole curve at once: a write for each step cost more than the step's trees on a small table."""
        if self._curve:
            self._trial.set_user_attr(CURVE, sorted(self._curve.items()))

    def _complete(self) -> list[Any]:
        """The study's complete trials, read again after a heartbeat's time: other workers finish some meanwhile."""
        from optuna.trial import TrialState

        if time.monotonic() > self._read + HEARTBEAT:
            self._finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            self._read = time.monotonic()
        return self._finished

    def time_is_up(self) -> bool:
        """Whether the study's time is over."""
        return time.time() > self._deadline


def curve_of(trial: Any) -> pruning.Curve:
    """What a trial reported: step → the study's metric on the validation part."""
    return dict(trial.user_attrs.get(CURVE, ()))


def _deadline(study: Any, prepared: Mapping[str, Any]) -> float:
    """Seconds since the epoch at which the study's time is over; it begins with the first trial."""
    return float(study.user_attrs.get("began", np.inf)) + float(prepared["time_budget"])


# ---------------------------------------------------------------------------------------------- claims and heartbeats


def _claim(study: Any, entry: Model, worker: int) -> Any:
    """Take the next trial; only ever called under the study's lock."""
    from optuna.trial import TrialState

    if "began" not in study.user_attrs:
        study.set_user_attr("began", time.time())
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # else one is tried again
        study.enqueue_trial(_next_point(study, entry))
    with warnings.catch_warnings():  # Optuna warns that `ask` alone sends no heartbeat; `_alive` does
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


def _requeue_dead(study: Any) -> None:
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
def _alive(study: Any, trial: Any, interval: int) -> Iterator[None]:
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


def _sampler(seed: int) -> Any:
    """Seeded anew for each trial by its place in the study, so that a point does not depend on which worker asks for
    it."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
