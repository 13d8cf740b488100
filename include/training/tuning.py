"""One worker of a study: it claims trials, fits and scores them, until the study is finished or its time is over.

Several processes work on one study; each trial is run once, and a process that dies loses nothing but its time: see
include/training/studies.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include import database
from include.settings import Choices, Dimension, Model, Range, cores
from include.training import estimators, evaluation, layouts, pruning, studies
from include.training.studies import GRACE, HEARTBEAT, Tally

if TYPE_CHECKING:
    import sqlalchemy as sa

LOG = logging.getLogger(__name__)

KIND, CURVE = "kind", "curve"
LAYOUTS: tuple[estimators.Layout, ...] = ("one_hot", "codes")


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
class Claim:
    """What a worker does next."""

    tally: Tally
    """How the study stands."""
    trial: Any
    """The trial to run; None: others run the last ones."""
    ended: bool
    """Whether the study has its number of finished trials, or its time is over."""


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
    study = optuna.load_study(study_name=prepared["study"], storage=studies.open_storage(optuna_url, heartbeat, grace))
    data = {layout: load(prepared, layout) for layout in LAYOUTS}
    threads, seed = threads or cores(entry.tuning.workers), int(prepared["seed"])
    ran = 0
    with database.connected(database_url) as engine:
        while not (claim := next_claim(engine, study, entry, prepared, worker)).ended:
            if claim.trial is None:  # stay, in case one of those who run the last ones dies
                time.sleep(min(0.5, grace / 4))
                continue
            try:
                with studies.alive(study, claim.trial, heartbeat):
                    ran += _run(study, claim.trial, entry, data, prepared, seed=seed, threads=threads)
            except optuna.exceptions.UpdateFinishedTrialError:
                LOG.warning("trial %d was given to another worker: no sign of life came in time", claim.trial.number)
    now = claim.tally
    best = study.best_value if now.complete else None
    seconds = round(time.monotonic() - began, 2)
    return Tuned(prepared["study"], worker, ran, now.finished, now.complete, now.pruned, now.failed, best, seconds)


def next_claim(engine: sa.Engine, study: Any, entry: Model, prepared: Mapping[str, Any], worker: int) -> Claim:
    """Claim the study's next trial, under its lock, once those of dead workers are back in the queue."""
    trials = int(prepared["trials"])
    with database.advisory_lock(engine, f"study:{prepared['study']}"):
        studies.requeue_dead(study)
        now = studies.tally(study)
        if now.finished >= trials or (now.complete and time.time() > _deadline(study, prepared)):
            return Claim(now, None, ended=True)
        if now.finished + now.running >= trials:
            return Claim(now, None, ended=False)
        study.sampler = studies.sampler(int(prepared["seed"]) + now.finished + now.running)
        return Claim(now, studies.claim(study, entry, worker), ended=False)


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
    """The estimator and the parameters of a trial: what params.yaml fixes is not searched."""
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
