"""Several real processes on one study in a real PostgreSQL; some of them are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.settings import Choices, Model, Range
from include.training import studies, study_results, tuning

ROOT = Path(__file__).resolve().parents[3]

WORKER = """
import json, sys, time
from include.settings import Model
from include.training import tuning
from include.training.estimators import linear
entry, prepared, optuna_url, database_url, slow = json.loads(sys.argv[1])
if slow:
    fit = linear.fit
    def slowly(*args, **kwargs):
        print("fitting", flush=True)
        time.sleep(slow)
        return fit(*args, **kwargs)
    linear.fit = slowly
tuned = tuning.tune("m", Model.model_validate(entry), prepared, worker=1, optuna_url=optuna_url,
                    database_url=database_url, threads=1, heartbeat=1, grace=2)
print(json.dumps(tuned.__dict__))
"""


def entry_for(**changes: Any) -> Model:
    values = {"source": "s", "target": "y", "task": "regression", "metric": "mae", "estimators": {"linear": {}}}
    return Model.model_validate({**values, **changes})


def study_of(folder: Path, entry: Model, optuna_url: str, *, trials: int, budget: float = 300, y: Any = None) -> Any:
    random = np.random.default_rng(2)
    X = random.normal(size=(300, 4))
    target = X[:, 0] + X[:, 1] ** 2 + random.normal(size=300) * 0.1 if y is None else y
    parts = {"X_train": X[:200], "y_train": target[:200], "X_validation": X[200:], "y_validation": target[200:]}
    for name, part in parts.items():
        np.save(folder / f"{name}.npy", part)
    prepared: dict[str, Any] = {
        "model": "m", "work": str(folder), "study": f"m/{folder.name}", "trials": trials, "time_budget": budget,
        "seed": 7, "task": entry.task, "metric": entry.metric_name, "classes": None,
    }  # fmt: skip
    studies.create(prepared["study"], entry, optuna_url=optuna_url, heartbeat=1, grace=2)
    return prepared


def tune(entry: Model, prepared: Any, optuna_url: str, database_url: str) -> tuning.Tuned:
    return tuning.tune(
        "m",
        entry,
        prepared,
        worker=0,
        optuna_url=optuna_url,
        database_url=database_url,
        threads=1,
        heartbeat=1,
        grace=2,
    )


def start_worker(
    entry: Model, prepared: Any, optuna_url: str, database_url: str, slow: float = 0
) -> subprocess.Popen[str]:
    argument = json.dumps([entry.model_dump(mode="json"), prepared, optuna_url, database_url, slow])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, argument],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def trials_of(prepared: Any, optuna_url: str) -> list[Any]:
    import optuna

    return optuna.load_study(study_name=prepared["study"], storage=studies.open_storage(optuna_url)).trials


@pytest.mark.slow
def test_a_trial_whose_worker_was_killed_is_run_again_and_the_total_is_exact(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    """Promise 13: kill -9 in mid-trial."""
    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=6)
    victim = start_worker(entry, prepared, optuna_url, database_url, slow=600)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "fitting\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)
    tuned = tune(entry, prepared, optuna_url, database_url)
    assert (tuned.finished, tuned.complete, tuned.ran) == (6, 6, 6)
    trials = trials_of(prepared, optuna_url)
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") == 6
    assert states.count("FAIL") == 1
    killed = next(trial for trial in trials if trial.state.name == "FAIL")
    [again] = [trial for trial in trials if killed.number in trial.system_attrs.get("retry_history", [])]
    assert again.params == killed.params
    assert len(study_results.finished(prepared["study"], optuna_url=optuna_url)) == 6


@pytest.mark.slow
def test_several_workers_share_one_study_and_run_no_trial_too_many(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=11)
    workers = [start_worker(entry, prepared, optuna_url, database_url, slow=0.2) for _ in range(3)]
    ended = [json.loads(worker.communicate(timeout=120)[0].splitlines()[-1]) for worker in workers]
    assert sum(worker["ran"] for worker in ended) == 11
    assert all(worker["finished"] == 11 for worker in ended)
    assert len(trials_of(prepared, optuna_url)) == 11


@pytest.mark.slow
def test_the_result_of_a_worker_that_was_given_up_for_dead_is_not_counted_twice(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    """Promise 15: an old attempt wakes up after its trial was given to another."""
    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=3)
    sleeper = start_worker(entry, prepared, optuna_url, database_url, slow=1)
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    sleeper.send_signal(signal.SIGSTOP)
    try:
        tuned = tune(entry, prepared, optuna_url, database_url)
    finally:
        sleeper.send_signal(signal.SIGCONT)
    late = json.loads(sleeper.communicate(timeout=60)[0].splitlines()[-1])
    assert tuned.finished == late["finished"] == 3
    assert tuned.ran == 3
    assert late["ran"] == 0


def test_a_retried_task_finishes_the_remaining_trials_only(tmp_path: Path, optuna_url: str, database_url: str) -> None:
    """Promise 13."""
    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=6)
    assert tune(entry, {**prepared, "trials": 4}, optuna_url, database_url).ran == 4
    assert tune(entry, prepared, optuna_url, database_url).ran == 2
    assert tune(entry, prepared, optuna_url, database_url).ran == 0


def test_a_worker_that_died_while_it_claimed_a_trial_leaves_nothing_running(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    """Promise 13: killed after the trial was taken, before its first sign of life."""
    import optuna

    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=3)
    optuna.load_study(study_name=prepared["study"], storage=optuna_url).ask()
    assert tune(entry, prepared, optuna_url, database_url).finished == 3
    assert "RUNNING" not in {trial.state.name for trial in trials_of(prepared, optuna_url)}


def test_the_first_trials_are_the_estimators_own_defaults(tmp_path: Path, optuna_url: str, database_url: str) -> None:
    space = {"linear": {}, "xgboost": {"n_estimators": 10, "max_depth": {"choices": [2, 3]}, "learning_rate": 0.5}}
    entry = entry_for(estimators=space)
    prepared = study_of(tmp_path, entry, optuna_url, trials=3)
    tune(entry, prepared, optuna_url, database_url)
    first, second, third = trials_of(prepared, optuna_url)
    assert first.params == {"estimator": "linear", "linear.alpha": 1.0}
    assert second.params["estimator"] == "xgboost"
    assert second.params["xgboost.max_depth"] == 2
    assert second.params["xgboost.subsample"] == 1.0
    assert {"xgboost.n_estimators", "xgboost.learning_rate"}.isdisjoint({**second.params, **third.params})


def test_the_same_seed_tries_the_same_points_with_the_same_values(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    """Promise 19."""
    entry = entry_for(estimators={"linear": {}, "xgboost": {"n_estimators": 30}})
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepared = study_of(tmp_path / name, entry, optuna_url, trials=10)
        tune(entry, prepared, optuna_url, database_url)
        runs.append([(t.params, t.value, t.state) for t in trials_of(prepared, optuna_url)])
    assert runs[0] == runs[1]


def test_a_loss_that_is_no_number_fails_its_trial_and_a_study_of_such_trials_says_so(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    """Promise 18."""
    entry = entry_for(estimators={"xgboost": {"n_estimators": 5, "objective": "reg:gamma"}})
    prepared = study_of(tmp_path, entry, optuna_url, trials=2, y=np.full(300, -1.0))
    tuned = tune(entry, prepared, optuna_url, database_url)
    assert (tuned.failed, tuned.best) == (2, None)
    results = study_results.finished(prepared["study"], optuna_url=optuna_url)
    with pytest.raises(tuning.StudyFailed, match=r"no trial .* gave a model \(2 failed\); nothing is registered. Most"):
        study_results.choose(results, entry, prepared)


def test_a_study_ends_with_its_time_and_has_at_least_one_result(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    entry = entry_for()
    prepared = study_of(tmp_path, entry, optuna_url, trials=10_000, budget=0.5)
    tuned = tune(entry, prepared, optuna_url, database_url)
    assert 1 <= tuned.complete < 10_000


def test_the_study_goes_on_with_the_estimator_that_leads(tmp_path: Path, optuna_url: str, database_url: str) -> None:
    """The sampler does not choose the estimator; a parameter that is fixed is no reason to try a point twice."""
    space = {"linear": {}, "dummy": {"strategy": "mean"}, "random_forest": {"n_estimators": 5}}
    entry = entry_for(estimators=space)
    prepared = study_of(tmp_path, entry, optuna_url, trials=14)
    tune(entry, prepared, optuna_url, database_url)
    names = [trial.params["estimator"] for trial in trials_of(prepared, optuna_url)]
    assert names[:4] == ["linear", "dummy", "random_forest", "random_forest"]
    assert names.count("dummy") == 1
    assert names[4:].count("random_forest") >= 6


def test_a_first_trial_that_outlasts_the_studys_time_is_judged_by_what_it_has(
    tmp_path: Path, optuna_url: str, database_url: str
) -> None:
    entry = entry_for(estimators={"xgboost": {"early_stopping_rounds": 100_000, "n_estimators": 100_000}})
    prepared = study_of(tmp_path, entry, optuna_url, trials=2, budget=0.5)
    tuned = tune(entry, prepared, optuna_url, database_url)
    assert (tuned.finished, tuned.complete) == (1, 1)
    [result] = study_results.finished(prepared["study"], optuna_url=optuna_url)
    assert result.trial.value == tuned.best
    assert result.settled is not None
    assert 1 <= result.settled["params"]["n_estimators"] < 100_000


def test_what_params_yaml_fixes_is_not_asked_of_the_study() -> None:
    import optuna

    entry = entry_for(
        estimators={
            "xgboost": {
                "max_depth": Range(low=2, high=4, scale="int"),
                "subsample": Choices(choices=(0.5, 1.0)),
                "gamma": 3.0,
            }
        }
    )
    trial = optuna.create_study().ask()
    name, params = tuning.suggest(trial, entry)
    assert name == "xgboost"
    assert 2 <= params["max_depth"] <= 4
    assert params["subsample"] in (0.5, 1.0)
    assert params["gamma"] == 3.0
    assert "xgboost.gamma" not in trial.params


def test_a_trial_reads_and_writes_the_studys_records_once_however_many_steps_it_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One read and one write for each step cost more CPU than the trees between two steps of a small table."""
    import optuna

    study, calls = optuna.create_study(), []
    read, write = study.get_trials, optuna.Trial.set_user_attr
    monkeypatch.setattr(study, "get_trials", lambda *args, **kwargs: calls.append("read") or read(*args, **kwargs))
    monkeypatch.setattr(optuna.Trial, "set_user_attr", lambda *args: calls.append("write") or write(*args))
    trial = study.ask()
    progress = tuning._Progress(study, trial, "xgboost", {}, entry_for(), deadline=float("inf"))
    for step in range(10, 40):
        progress.report(step, 1.0 / step)
    progress.record()
    study.tell(trial, 1 / 39)
    assert calls == ["read", "write"]
    assert tuning.curve_of(study.trials[0]) == {step: 1.0 / step for step in range(10, 40)}
