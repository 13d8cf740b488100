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

from include.inference.predictor import Predictor
from include.inference.served_form import BadServedForm, verify
from include.training import tracking
from include.training.tracking import registration, runs, server
from include.training.tracking.registry import fetch
from tests.include.training.conftest import ROOT, Laboratory, Trained

pytestmark = pytest.mark.slow
Shared = Callable[[str], Trained]


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_study_becomes_a_registered_version_that_answers_its_golden_rows(
    shared: Shared, tmp_path: Path, task: str
) -> None:
    laboratory, prepared, fitted = (trained := shared(task)).laboratory, trained.prepared, trained.fitted
    candidate = laboratory.register(fitted)
    assert candidate.version == 1
    lower = candidate.direction == "minimize"
    assert candidate.value < candidate.baseline if lower else candidate.value > candidate.baseline
    form = tracking.download(laboratory.model, 1, tmp_path / "served", **laboratory.registry)
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
    assert laboratory.versions == [1]
    evidence = tracking.evidence(laboratory.model, 1, tmp_path / "evidence", **laboratory.registry)
    assert json.loads((evidence / "split.json").read_bytes())["rows"]["test"] == prepared["test_rows"]


def test_mlflow_shows_the_run_with_lineage_pictures_and_every_trial(shared: Shared) -> None:
    laboratory, prepared, fitted = (trained := shared("regression")).laboratory, trained.prepared, trained.fitted
    laboratory.register(fitted)
    client = server.client(laboratory.mlflow_url)
    run = client.get_run(fitted["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["feature_version"] == "f" * 32
    assert run.data.params["seed"] == "7"
    assert run.data.params["content_hash"] == fitted["content_hash"]
    assert run.data.params["code_version"].startswith(("git-", "include-"))
    assert run.data.params["estimator"] == fitted["estimator"]
    chosen = {f"{fitted['estimator']}.{name}": str(value) for name, value in fitted["params"].items()}
    assert chosen.items() <= run.data.params.items()
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 32
    assert run.data.metrics["mae"] == pytest.approx(fitted["metrics"]["mae"])
    assert run.data.metrics["baseline_mae"] == pytest.approx(fitted["baseline"])
    assert sum(run.data.metrics.get(f"trials_{state}", 0) for state in ("complete", "pruned", "failed")) == 5
    assert run.data.tags["mlops.airflow_run"] == "http://airflow/dags/train_ride/runs/run%201"
    assert run.info.run_name.startswith(f"{fitted['estimator']}: mae ")
    if fitted["code_version"].startswith("git-"):
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    pictures = {file.path for file in client.list_artifacts(fitted["run_id"], "plots")}
    assert {"plots/learning_curve.png", "plots/residuals.png", "plots/importance.png"} <= pictures
    assert "evidence/dvc.lock" in {file.path for file in client.list_artifacts(fitted["run_id"], "evidence")}

    children = list(runs._children(client, run.info.experiment_id, fitted["run_id"]))
    assert {child.data.tags["mlops.state"] for child in children} <= {"complete", "pruned"}
    assert {child.data.tags[runs.TRIAL] for child in children} == {str(n) for n in range(prepared["trials"])}
    assert all("value" in child.data.metrics for child in children if child.data.tags["mlops.state"] == "complete")


def test_mlflow_loads_the_model_with_signature_and_example_and_it_answers_as_the_service(shared: Shared) -> None:
    import mlflow
    import pandas as pd

    laboratory, prepared, fitted = (trained := shared("regression")).laboratory, trained.prepared, trained.fitted
    laboratory.register(fitted)
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


def test_registering_again_gives_the_same_version(laboratory: Laboratory, fitted: dict[str, Any]) -> None:
    """I5; promise 14."""
    one, two = (laboratory.register(fitted) for _ in range(2))
    assert (one.version, one.content_hash) == (two.version, two.content_hash)
    client = server.client(laboratory.mlflow_url)
    assert len(client.search_model_versions(f"name = '{laboratory.model}'")) == 1
    with pytest.raises(BadServedForm):
        laboratory.register({**fitted, "content_hash": "0" * 64})
    assert laboratory.versions == [1]


def test_a_run_whose_version_has_other_content_takes_no_second_one(
    laboratory: Laboratory, fitted: dict[str, Any]
) -> None:
    """Promise 31: whoever changed the tag of its version."""
    laboratory.register(fitted)
    client = server.client(laboratory.mlflow_url)
    client.set_model_version_tag(laboratory.model, "1", tracking.CONTENT_HASH, "0" * 64)
    with pytest.raises(tracking.NotRegistered, match="version 1 of this run was registered with other content"):
        laboratory.register(fitted)


KILLED = """
import json, os, signal, sys
import mlflow
from include.training import tracking
from include.training.tracking import registration
at, fitted, mlflow_url, database_url = json.loads(sys.argv[1])
target, name = {"before": (mlflow.MlflowClient, "create_model_version"),
                "after": (registration, "Candidate"),
                "in the middle": (registration, "_log_flavour")}[at]
setattr(target, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
tracking.register(fitted, mlflow_url=mlflow_url, database_url=database_url)
"""


@pytest.mark.parametrize("at", ["in the middle", "before", "after"])
def test_killed_around_the_creation_of_the_version_a_retry_ends_with_exactly_one(
    laboratory: Laboratory, fitted: dict[str, Any], at: str
) -> None:
    """Promise 20: kill -9 in the upload, between upload and version, and after it; orphans are collected."""
    argument = json.dumps([at, fitted, laboratory.mlflow_url, laboratory.database_url])
    killed = subprocess.run([sys.executable, "-c", KILLED, argument], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert laboratory.versions == ([1] if at == "after" else [])

    candidate = laboratory.register(fitted)
    client = server.client(laboratory.mlflow_url)
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
    mlflow_server = next(
        p
        for p in psutil.process_iter(["cmdline"])
        if {"server", "--artifacts-destination", port} <= set(p.info["cmdline"] or ())
    )
    command = mlflow_server.info["cmdline"]
    root = Path(command[command.index("--artifacts-destination") + 1])
    [path] = [path for path in root.rglob(name) if run_id in path.parts]
    return path


def test_a_file_that_the_server_does_not_give_back_as_sent_keeps_the_version_from_being_ready(
    laboratory: Laboratory, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 21: corrupted on the server's disk between upload and check; a retry with a whole upload succeeds."""
    real = registration._read_back
    for name in ("model.onnx", "golden.json", "holdout.parquet"):

        def corrupted(*args: Any, name: str = name) -> None:
            artifact_of(laboratory.mlflow_url, fitted["run_id"], name).write_bytes(b"half of a fi")
            real(*args)

        monkeypatch.setattr(registration, "_read_back", corrupted)
        wrong = rf"{name} on the MLflow server is not the file that was uploaded \(1 of \d+ differ\)"
        with pytest.raises(tracking.NotRegistered, match=wrong):
            laboratory.register(fitted)
        assert laboratory.versions == []
    monkeypatch.undo()
    assert laboratory.register(fitted).version == 1
    assert laboratory.versions == [1]


def test_an_mlflow_model_that_is_not_whole_keeps_the_version_from_being_ready(
    laboratory: Laboratory, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 21: what MLflow loads is checked as what a service loads."""

    def incomplete(mlflow_url: str, uri: str, into: Path) -> Path:
        folder = fetch(mlflow_url, uri, into)
        if uri.startswith("models:/"):
            (folder / "data" / "served" / "model.onnx").write_bytes(b"other")
        return folder

    monkeypatch.setattr(registration, "fetch", incomplete)
    with pytest.raises(tracking.NotRegistered, match=r"the MLflow model at models:/\S+ is not whole: .*model\.onnx"):
        laboratory.register(fitted)
    monkeypatch.setattr(registration, "fetch", lambda url, uri, into: _without_requirements(fetch(url, uri, into)))
    with pytest.raises(tracking.NotRegistered, match=r"is not whole: requirements\.txt is missing; retry"):
        laboratory.register(fitted)
    assert laboratory.versions == []


def _without_requirements(folder: Path) -> Path:
    (folder / "requirements.txt").unlink(missing_ok=True)
    return folder


def test_a_served_form_that_was_changed_before_it_was_uploaded_is_not_registered(
    laboratory: Laboratory, fitted: dict[str, Any]
) -> None:
    """Promise 31."""
    (Path(fitted["work"]) / "served" / "preprocessing.json").write_text("{}")
    with pytest.raises(BadServedForm, match=r"preprocessing\.json is corrupt"):
        laboratory.register(fitted)
    assert tracking.aliases(laboratory.model, mlflow_url=laboratory.mlflow_url) == {}


def test_a_registered_model_says_who_sets_its_aliases_and_takes_a_new_description(
    laboratory: Laboratory, fitted: dict[str, Any]
) -> None:
    laboratory.register(fitted)
    client = server.client(laboratory.mlflow_url)
    registered = client.get_registered_model(laboratory.model)
    assert "one that is set or deleted here by hand is set back within a minute" in registered.description
    registration._registered_model(client, laboratory.model, "How long a ride takes.")
    registered = client.get_registered_model(laboratory.model)
    assert registered.description.startswith("How long a ride takes.\n\nThe aliases `champion`")


def test_a_registered_file_that_was_changed_on_the_server_is_refused_when_it_is_used(
    laboratory: Laboratory, fitted: dict[str, Any], tmp_path: Path
) -> None:
    """Promises 21, 22 and 31: model, held-out rows, or nothing at all."""
    laboratory.register(fitted)
    model = artifact_of(laboratory.mlflow_url, fitted["run_id"], "model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BadServedForm, match=r"model\.onnx is corrupt"):
        tracking.download(laboratory.model, 1, tmp_path / "a", **laboratory.registry)
    artifact_of(laboratory.mlflow_url, fitted["run_id"], "holdout.parquet").write_bytes(b"")
    with pytest.raises(tracking.NotRegistered, match=r"holdout.parquet is missing or changed"):
        tracking.evidence(laboratory.model, 1, tmp_path / "b", **laboratory.registry)
    artifact_of(laboratory.mlflow_url, fitted["run_id"], "split.json").unlink()
    with pytest.raises(tracking.NotRegistered, match=r"split\.json is missing or changed"):
        tracking.evidence(laboratory.model, 1, tmp_path / "c", **laboratory.registry)
    with pytest.raises(tracking.NotRegistered, match="has no version 99"):
        tracking.download(laboratory.model, 99, tmp_path / "d", **laboratory.registry)


def test_a_version_that_only_mlflow_knows_or_that_was_changed_there_is_not_used(
    laboratory: Laboratory, fitted: dict[str, Any], tmp_path: Path, database_url: str
) -> None:
    """Promise 31: whoever may write to MLflow registers no version of this platform."""
    laboratory.register(fitted)
    client = server.client(laboratory.mlflow_url)
    run_id = fitted["run_id"]
    foreign = client.create_model_version(laboratory.model, source=f"runs:/{run_id}/served", run_id=run_id)
    with pytest.raises(tracking.NotRegistered, match="was not registered by this platform: its files were never"):
        tracking.download(laboratory.model, int(foreign.version), tmp_path / "a", **laboratory.registry)
    client.set_model_version_tag(laboratory.model, foreign.version, tracking.READY, "true")
    with pytest.raises(tracking.NotRegistered, match="PostgreSQL has no record of it, whatever MLflow says"):
        tracking.download(laboratory.model, int(foreign.version), tmp_path / "a", **laboratory.registry)
    client.set_model_version_tag(laboratory.model, "1", tracking.CONTENT_HASH, "0" * 64)
    with pytest.raises(tracking.NotRegistered, match=r"has other content in MLflow \(0{12}…\) than"):
        tracking.download(laboratory.model, 1, tmp_path / "a", **laboratory.registry)
    assert laboratory.versions == [1]


def test_aliases_and_the_verdict_are_what_is_set(laboratory: Laboratory, fitted: dict[str, Any]) -> None:
    url = laboratory.mlflow_url
    assert tracking.aliases("absent", mlflow_url=url) == {}
    laboratory.register(fitted)
    tracking.set_alias(laboratory.model, "champion", 1, mlflow_url=url)
    assert tracking.aliases(laboratory.model, mlflow_url=url) == {"champion": 1}
    tracking.set_alias(laboratory.model, "champion", None, mlflow_url=url)
    assert tracking.aliases(laboratory.model, mlflow_url=url) == {}
    tracking.show_verdict(laboratory.model, 1, verdict="HOLD", summary="not better", mlflow_url=url)
    tags = server.client(url).get_model_version(laboratory.model, "1").tags
    assert (tags["mlops.verdict"], tags["mlops.verdict_summary"]) == ("HOLD", "not better")
