"""Runs and trials on a real MLflow server; the code's version from a real checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import requests

from include.training import tracking
from include.training.tracking import runs, server
from tests.include.training.conftest import Laboratory


def trial(number: int, state: str = "complete", value: float | None = 1.0, error: str | None = None) -> tracking.Trial:
    params = {"estimator": "xgboost", "xgboost.max_depth": number}
    return tracking.Trial(number, state, value, params, {10: 2.0, 20: 1.0}, 1.0, 2.0, error)


@pytest.mark.slow
def test_a_trial_is_three_small_requests_and_is_logged_once(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracking.start_run(laboratory.mlflow_url, model=laboratory.model, run_key="r", tags={})
    trials = [trial(n) for n in range(12)]
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials[:1])
    sent, send = [], requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda *args, **kwargs: (sent.append(args), send(*args, **kwargs))[1])
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials)
    assert 3 * 11 <= len(sent) <= 3 * 11 + 3  # and the run, its experiment and its children
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials)
    client = server.client(laboratory.mlflow_url)
    children = list(runs._children(client, run.experiment_id, run.run_id))
    assert len(children) == 12
    assert all(child.info.status == "FINISHED" for child in children)


@pytest.mark.slow
def test_a_trial_shows_how_it_ended_and_its_curve(laboratory: Laboratory) -> None:
    url = laboratory.mlflow_url
    run = tracking.start_run(url, model=laboratory.model, run_key="r", tags={})
    ended = [trial(0, value=2.51449), trial(1, "pruned", None), trial(2, "failed", None, "ValueError: no")]
    tracking.log_trials(url, run.run_id, ended)
    client = server.client(url)
    found = {int(c.data.tags[runs.TRIAL]): c for c in runs._children(client, run.experiment_id, run.run_id)}
    assert [found[n].info.run_name for n in range(3)] == [
        "trial 0: xgboost, 2.514", "trial 1: xgboost, pruned", "trial 2: xgboost, failed",
    ]  # fmt: skip
    assert [found[n].info.status for n in range(3)] == ["FINISHED", "KILLED", "FAILED"]
    assert [found[n].data.metrics.get("value") for n in range(3)] == [2.51449, None, None]
    assert found[2].data.tags["mlops.error"] == "ValueError: no"
    assert found[1].data.params == {"estimator": "xgboost", "xgboost.max_depth": "1"}
    curve = client.get_metric_history(found[1].info.run_id, "validation")
    assert [(point.step, point.value) for point in curve] == [(10, 2.0), (20, 1.0)]


@pytest.mark.slow
def test_a_run_is_found_by_its_key_also_after_its_experiment_was_deleted(laboratory: Laboratory) -> None:
    url, client = laboratory.mlflow_url, server.client(laboratory.mlflow_url)
    first = tracking.start_run(url, model=laboratory.model, run_key="one", tags={"mlops.reason": "drift"})
    assert client.get_run(first.run_id).data.tags["mlops.reason"] == "drift"
    assert first.url == f"{url}/#/experiments/{first.experiment_id}/runs/{first.run_id}"
    client.delete_experiment(first.experiment_id)
    again = tracking.start_run(url, model=laboratory.model, run_key="two", tags={})
    assert again.experiment_id == first.experiment_id
    assert tracking.start_run(url, model=laboratory.model, run_key="two", tags={}) == again
    with pytest.raises(ValueError, match="must not hold a quote: it's"):
        tracking.start_run(url, model=laboratory.model, run_key="it's", tags={})


@pytest.mark.slow
def test_a_failed_run_says_why_and_takes_files(laboratory: Laboratory, tmp_path: Path) -> None:
    url, client = laboratory.mlflow_url, server.client(laboratory.mlflow_url)
    run = tracking.start_run(url, model=laboratory.model, run_key="r", tags={})
    tracking.fail_run(url, run.run_id, "no trial gave a model")
    found = client.get_run(run.run_id)
    assert (found.info.status, found.data.tags["mlops.error"]) == ("FAILED", "no trial gave a model")
    (tmp_path / "report.html").write_text("<p>")
    tracking.attach(run.run_id, tmp_path, "gate", mlflow_url=url)
    assert [file.path for file in client.list_artifacts(run.run_id, "gate")] == ["gate/report.html"]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.check_output(["git", "-C", str(folder), *who, *arguments], text=True).strip()


def test_the_codes_version_is_the_commit_and_what_differs_from_it(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    file = tmp_path / "include" / "a.py"
    file.write_text("a = 1\n")
    without_git = tracking.code_version(tmp_path)
    assert without_git.startswith("include-")
    git(tmp_path, "init", "--quiet")
    assert tracking.code_version(tmp_path) == without_git  # no commit yet
    git(tmp_path, "add", "include")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert tracking.code_version(tmp_path) == f"git-{commit}"
    (tmp_path / "README.md").write_text("no code\n")
    assert tracking.code_version(tmp_path) == f"git-{commit}"
    file.write_text("a = 2\n")
    changed = tracking.code_version(tmp_path)
    assert changed.startswith(f"git-{commit}+include-")
    assert without_git not in changed
