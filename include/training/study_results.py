"""What a study found: its finished trials, and which of them is refitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.settings import Model
from include.training import studies, tracking, tuning


@dataclass(frozen=True)
class Finished:
    """A trial that will not run again."""

    trial: tracking.Trial
    settled: Mapping[str, Any] | None
    """The `estimator` and the `params` that rebuild its model; None: it gave none."""


@dataclass(frozen=True)
class Choice:
    """The trial whose model is refitted."""

    trial: tracking.Trial
    estimator: str
    params: dict[str, Any]


def finished(study: str, *, optuna_url: str) -> list[Finished]:
    """Every finished trial of a study; those put back into the queue are left out."""
    import optuna

    loaded = optuna.load_study(study_name=study, storage=studies.open_storage(optuna_url))
    return finished_of(loaded.get_trials(deepcopy=False))


def finished_of(trials: Sequence[Any]) -> list[Finished]:
    """The same of Optuna's trials."""
    from optuna.trial import TrialState

    requeued = studies.requeued(trials)
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    return [
        Finished(_trial(trial, states[trial.state]), trial.user_attrs.get("settled"))
        for trial in trials
        if trial.state in states and not (trial.state == TrialState.FAIL and trial.number in requeued)
    ]


def _trial(trial: Any, state: str) -> tracking.Trial:
    """Optuna's trial as MLflow shows it, without numbers that are not finite."""
    return tracking.Trial(
        number=trial.number,
        state=state,
        value=trial.value if trial.value is not None and np.isfinite(trial.value) else None,
        params=dict(trial.params),
        curve={step: value for step, value in tuning.curve_of(trial).items() if np.isfinite(value)},
        began=(trial.datetime_start or trial.datetime_complete).timestamp(),
        ended=(trial.datetime_complete or trial.datetime_start).timestamp(),
        error=trial.user_attrs.get("error"),
    )


def choose(results: Sequence[Finished], entry: Model, prepared: Mapping[str, Any]) -> Choice:
    """The best complete trial, the first of equal ones.

    Raises:
        StudyFailed: no trial gave a model; the message says what became of them.
    """
    usable = [(each.trial, each.settled) for each in results if each.trial.state == "complete" and each.settled]
    if not usable:
        states = Counter(each.trial.state for each in results)
        reasons = Counter(each.trial.error for each in results if each.trial.error).most_common(1)
        counts = ", ".join(f"{n} {state}" for state, n in states.items()) or "none finished"
        why = f" Most often: {reasons[0][0]}" if reasons else ""
        raise tuning.StudyFailed(
            f"{prepared['model']}: no trial of the study {prepared['study']} gave a model ({counts}); nothing"
            f" is registered.{why}"
        )
    sign = 1 if entry.direction == "minimize" else -1
    trial, settled = min(usable, key=lambda pair: (sign * float(pair[0].value or 0.0), pair[0].number))
    return Choice(trial, settled["estimator"], settled["params"])
