"""Finished trials as MLflow shows them, and the one that is refitted."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from include.training import study_results, tracking, tuning
from tests.include.training.conftest import entry_for

PREPARED = {"model": "ride", "study": "ride/run 1"}


def finished(number: int, value: float | None, state: str = "complete", **changes: Any) -> study_results.Finished:
    trial = tracking.Trial(number, state, value, {}, {}, 0.0, 1.0, changes.get("error"))
    settled = {"estimator": "linear", "params": {"alpha": float(number)}}
    return study_results.Finished(trial, changes.get("settled", settled))


@pytest.mark.parametrize(("task", "chosen"), [("regression", 1), ("binary", 2)])  # mae: minimize; roc_auc: maximize
def test_the_best_complete_trial_is_chosen_and_the_first_of_equal_ones(task: str, chosen: int) -> None:
    results = [finished(0, 0.5), finished(3, 0.2), finished(1, 0.2), finished(2, 0.9), finished(4, 0.9)]
    results.append(finished(5, 0.0 if task == "regression" else 1.0, "pruned"))
    results.append(finished(6, 0.0 if task == "regression" else 1.0, settled=None))
    choice = study_results.choose(results, entry_for(task), PREPARED)
    assert (choice.trial.number, choice.estimator, choice.params) == (chosen, "linear", {"alpha": float(chosen)})


def test_a_study_without_a_model_names_what_became_of_its_trials() -> None:
    failed = [finished(n, None, "failed", error=error) for n, error in enumerate(["ValueError: a", "b", "b"])]
    expected = r"ride: no trial of the study ride/run 1 gave a model \(3 failed, 1 pruned\); .*Most often: b$"
    with pytest.raises(tuning.StudyFailed, match=expected):
        study_results.choose([*failed, finished(3, None, "pruned")], entry_for("regression"), PREPARED)
    with pytest.raises(tuning.StudyFailed, match=r"\(none finished\); nothing is registered\.$"):
        study_results.choose([], entry_for("regression"), PREPARED)


def test_optunas_trials_become_plain_data_without_those_that_run_again() -> None:
    from optuna.trial import TrialState, create_trial

    def trial(number: int, state: TrialState, value: float | None = None, **attributes: Any) -> Any:
        made = create_trial(state=state, value=value, **attributes)
        made.number, made.datetime_start = number, dt.datetime.fromtimestamp(100.0)
        if state.is_finished():
            made.datetime_complete = dt.datetime.fromtimestamp(160.0)
        return made

    curve = [[10, 2.0], [20, float("inf")], [40, 1.0]]
    settled = {"estimator": "linear", "params": {}}
    found = study_results.finished_of(
        [
            trial(0, TrialState.FAIL),
            trial(1, TrialState.COMPLETE, 1.5, user_attrs={"curve": curve, "settled": settled}),
            trial(2, TrialState.FAIL, user_attrs={"error": "ValueError: no"}),
            trial(3, TrialState.RUNNING),
            trial(4, TrialState.PRUNED, system_attrs={"retry_history": [0]}),
        ]
    )
    assert [(each.trial.number, each.trial.state, each.settled) for each in found] == [
        (1, "complete", settled), (2, "failed", None), (4, "pruned", None),
    ]  # fmt: skip
    complete, failed, _ = (each.trial for each in found)
    assert (complete.value, complete.curve) == (1.5, {10: 2.0, 40: 1.0})
    assert (complete.began, complete.ended) == (100.0, 160.0)
    assert failed.error == "ValueError: no"
