"""Registration against a real MLflow server: interrupted, corrupted, repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from include.inference.predictor import Predictor
from include.inference.served_form import BadServedForm, verify
from include.training import tracking
from tests.include.training.conftest import ROOT, Laboratory

pytestmark = pytest.mark.slow
Train = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_study_becomes_a_registered_version_that_answers_its_golden_rows(
    laboratory: Laboratory, trained: Train, tmp_path: Path, task: str
) -> None:
    prepared, fitted = trained(task)
    candidate = laboratory.register(fitted)
    assert candidate.version == 1
    lower = candidate.direction == "minimize"
    assert candidate.value < candidate.baseline if lower else candidate.value > candidate.baseline
    form = tracking.download(
        laboratory.model, 1, tmp_path / "served", mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
    )
    assert form.content_hash == candidate.content_hash
    Predictor.load(form).replay_golden()
    rows = form.json("golden.json")["rows"]
    assert any(row["zone"] is None for row in rows)
    assert any(row["distance"] is None for row in rows)
    assert {"north", "south"} <= {row["zone"] for row in rows}
    info = tracking.version_info(laboratory.model, 1, mlflow_url=laboratory.mlflow_url)
    assert info.ready
    assert info.metrics[candidate.metric] == pytest.approx(candidate.value)
    assert f"baseline_{candidate.metric}" in info.metrics
    assert tracking.versions(
        laboratory.model, mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
    ) == [1]
    evidence = tracking.evidence(
        laboratory.model,
        1,
        tmp_path / "evidence",
        mlflow_url=laboratory.mlflow_url,
        database_url=laboratory.database_url,
    )
    assert json.loads((evidence / "split.json").read_bytes())["rows"]["test"] == prepared["test_rows"]


def test_mlflow_shows_the_model_with_signature_example_lineage_pictures_and_every_trial(
    laboratory: Laboratory, trained: Train
) -> None:
    import mlflow
    import pandas as pd

    prepared, fitted = trained(tuning={"trials": 6, "time_budget": 120})
    laboratory.register(fitted)
    client = tracking._client(laboratory.mlflow_url)
    run = client.get_run(fitted["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["feature_version"] == "f" * 32
    assert run.data.params["seed"] == "7"
    assert run.data.params["code_version"].startswith(("git-", "include-"))
    assert run.data.params["estimator"] == fitted["estimator"]
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 32
    pictures = {file.path for file in client.list_artifacts(fitted["run_id"], "plots")}
    assert {"plots/learning_curve.png", "plots/residuals.png", "plots/importance.png"} <= pictures
    assert "evidence/dvc.lock" in {file.path for file in client.list_artifacts(fitted["run_id"], "evidence")}

    children = list(tracking._children(client, run.info.experiment_id, fitted["run_id"]))
    assert {child.data.tags["mlops.state"] for child in children} <= {"complete", "pruned"}
    assert {child.data.tags[tracking.TRIAL] for child in children} == {str(n) for n in range(6)}
    assert all("value" in child.data.metrics for child in children if child.data.tags["mlops.state"] == "complete")

    mlflow.set_tracking_uri(laboratory.mlflow_url)
    model = mlflow.pyfunc.load_model(f"models:/{laboratory.model}/1")
    assert model.metadata.signature.inputs.input_names() == ["distance", "zone"]
    assert model.input_example is not None
    rows = pd.DataFrame([{"distance": 3, "zone": "south"}, {"distance": None, "zone": None}], index=[7, 9])
    answer = model.predict(rows)
    assert answer.index.tolist() == [7, 9]
    predictor = Predictor.load(verify(Path(prepared["work"]) / "served", fitted["content_hash"]))
    body = b'{"rows": [{"distance": 3, "zone": "south"}, {"distance": null, "zone": null}]}'
    np.testing.assert_array_equal(answer["prediction"], predictor.predict(predictor.schema.many(body).columns))
    assert run.data.tags["mlops.airflow_run"] == "http://airflow/dags/train_ride/runs/run%201"
    assert run.info.run_name.startswith(f"{fitted['estimator']}: mae ")
    if fitted["code_version"].startswith("git-"):
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    registered = client.get_registered_model(laboratory.model)
    assert "one that is set or deleted here by hand is set back within a minute" in registered.description
    tracking.show_verdict(laboratory.model, 1, verdict="HOLD", summary="not better", mlflow_url=laboratory.mlflow_url)
    tags = client.get_model_version(laboratory.model, "1").tags
    assert (tags["mlops.verdict"], tags["mlops.verdict_summary"]) == ("HOLD", "not better")


def test_registering_again_gives_the_same_version(laboratory: Laboratory, trained: Train) -> None:
    """I5; promise 14."""
    _, fitted = trained()
    one, two = (laboratory.register(fitted) for _ in range(2))
    assert (one.version, one.content_hash) == (two.version, two.content_hash)
    client = tracking._client(laboratory.mlflow_url)
    assert len(client.search_model_versions(f"name = '{laboratory.model}'")) == 1


KILLED = """
import json, os, signal, sys
import mlflow
from include.training import tracking
at, fitted, mlflow_url, database_url = json.loads(sys.argv[1])
target, name = {"before": (mlflow.MlflowClient, "create_model_version"),
                "after": (tracking, "Candidate"),
                "in the middle": (tracking, "_log_flavour")}[at]
setattr(target, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
tracking.register(fitted, mlflow_url=mlflow_url, database_url=database_url)
"""


@pytest.mark.parametrize("at", ["in the middle", "before", "after"])
def test_killed_around_the_creation_of_the_version_a_retry_ends_with_exactly_one(
    laboratory: Laboratory, trained: Train, at: str
) -> None:
    """Promise 20: kill -9 in the upload, between upload and version, and after it; orphans are collected."""
    _, fitted = trained()
    argument = json.dumps([at, fitted, laboratory.mlflow_url, laboratory.database_url])
    killed = subprocess.run([sys.executable, "-c", KILLED, argument], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    found = tracking.versions(laboratory.model, mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url)
    assert found == ([1] if at == "after" else [])

    candidate = laboratory.register(fitted)
    client = tracking._client(laboratory.mlflow_url)
    [version] = client.search_model_versions(f"name = '{laboratory.model}'")
    assert int(version.version) == candidate.version == 1
    run = client.get_run(fitted["run_id"])
    assert run.info.status == "FINISHED"
    [logged] = client.search_logged_models([run.info.experiment_id])
    assert version.source == f"models:/{logged.model_id}"


def artifact_of(mlflow_url: str, run_id: str, name: str) -> Path:
    """Where the test's own server keeps an artifact on disk."""
    import psutil

    port = mlflow_url.rsplit(":", 1)[1]
    server = next(
        p
        for p in psutil.process_iter(["cmdline"])
        if {"server", "--artifacts-destination", port} <= set(p.info["cmdline"] or ())
    )
    command = server.info["cmdline"]
    root = Path(command[command.index("--artifacts-destination") + 1])
    [path] = [path for path in root.rglob(name) if run_id in path.parts]
    return path


@pytest.mark.parametrize("name", ["model.onnx", "golden.json", "holdout.parquet"])
def test_a_file_that_the_server_does_not_give_back_as_sent_keeps_the_version_from_being_ready(
    laboratory: Laboratory, trained: Train, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 21: corrupted on the server's disk between upload and check; a retry with a whole upload succeeds."""
    _, fitted = trained()
    real = tracking._read_back

    def corrupted(*args: Any) -> None:
        artifact_of(laboratory.mlflow_url, fitted["run_id"], name).write_bytes(b"half of a fi")
        real(*args)

    monkeypatch.setattr(tracking, "_read_back", corrupted)
    with pytest.raises(tracking.NotRegistered, match=rf"{name} on the MLflow server is not the file that was uploaded"):
        laboratory.register(fitted)
    assert (
        tracking.versions(laboratory.model, mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url)
        == []
    )
    monkeypatch.undo()
    assert laboratory.register(fitted).version == 1
    assert tracking.versions(
        laboratory.model, mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
    ) == [1]


def test_a_registered_file_that_was_changed_on_the_server_is_refused_when_it_is_used(
    laboratory: Laboratory, trained: Train, tmp_path: Path
) -> None:
    """Promises 21, 22 and 31: model, held-out rows, or nothing at all."""
    _, fitted = trained()
    laboratory.register(fitted)
    model = artifact_of(laboratory.mlflow_url, fitted["run_id"], "model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BadServedForm, match=r"model\.onnx is corrupt"):
        tracking.download(
            laboratory.model, 1, tmp_path / "a", mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
        )
    artifact_of(laboratory.mlflow_url, fitted["run_id"], "holdout.parquet").write_bytes(b"")
    with pytest.raises(tracking.NotRegistered, match=r"holdout.parquet is missing or changed"):
        tracking.evidence(
            laboratory.model, 1, tmp_path / "b", mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
        )
    with pytest.raises(tracking.NotRegistered, match="has no version 99"):
        tracking.download(
            laboratory.model, 99, tmp_path / "c", mlflow_url=laboratory.mlflow_url, database_url=laboratory.database_url
        )


def test_a_served_form_that_was_changed_before_it_was_uploaded_is_not_registered(
    laboratory: Laboratory, trained: Train
) -> None:
    """Promise 31."""
    _, fitted = trained()
    (Path(fitted["work"]) / "served" / "preprocessing.json").write_text("{}")
    with pytest.raises(BadServedForm, match=r"preprocessing\.json is corrupt"):
        laboratory.register(fitted)
    assert tracking.aliases(laboratory.model, mlflow_url=laboratory.mlflow_url) == {}


def test_aliases_follow_what_is_set(laboratory: Laboratory, trained: Train) -> None:
    url = laboratory.mlflow_url
    assert tracking.aliases("nobody", mlflow_url=url) == {}
    _, fitted = trained()
    laboratory.register(fitted)
    tracking.set_alias(laboratory.model, "champion", 1, mlflow_url=url)
    assert tracking.aliases(laboratory.model, mlflow_url=url) == {"champion": 1}
    tracking.set_alias(laboratory.model, "champion", None, mlflow_url=url)
    assert tracking.aliases(laboratory.model, mlflow_url=url) == {}


def test_a_trial_is_three_small_requests_and_is_logged_once(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracking.start_run(laboratory.mlflow_url, model=laboratory.model, run_key="r", tags={})
    trials = [
        tracking.Trial(
            n, "complete", 1.0 + n, {"estimator": "xgboost", "xgboost.max_depth": n}, {10: 2.0, 20: 1.0}, 1.0, 2.0, None
        )
        for n in range(40)
    ]
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials[:1])
    sent, send = [], requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda *args, **kwargs: (sent.append(args), send(*args, **kwargs))[1])
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials)
    assert 3 * 39 <= len(sent) <= 3 * 39 + 3  # and the run, its experiment and its children
    tracking.log_trials(laboratory.mlflow_url, run.run_id, trials)
    client = tracking._client(laboratory.mlflow_url)
    children = list(tracking._children(client, run.experiment_id, run.run_id))
    assert len(children) == 40
    assert all(child.info.status == "FINISHED" for child in children)
