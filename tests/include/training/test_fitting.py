"""From a finished study to a served form: chosen, judged, equal, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.inference.errors import Refused
from include.inference.predictor import Predictor
from include.inference.schema import Schema
from include.inference.served_form import verify
from include.training import estimators, evaluation, export, fitting, layouts, tuning
from include.training.tracking import server
from tests.include.training.conftest import Laboratory, Trained, entry_for, rides

pytestmark = pytest.mark.slow
Train = Callable[..., tuple[dict[str, Any], dict[str, Any]]]
Shared = Callable[[str], Trained]


def test_the_same_data_and_seed_give_the_same_metrics_and_bytes(shared: Shared, trained: Train) -> None:
    """Promise 19: exactly the same with one worker, up to the run's id and the time in the manifest."""
    one, (_, two) = shared("regression").fitted, trained()
    assert one["work"] != two["work"]
    assert one["metrics"] == two["metrics"]
    assert one["params"] == two["params"]
    names = ("model.onnx", "booster.ubj", "explanation.json", "preprocessing.json", "golden.json", "profile.json")
    for name in [name for name in names if (Path(one["work"]) / "served" / name).exists()]:
        assert (Path(one["work"]) / "served" / name).read_bytes() == (Path(two["work"]) / "served" / name).read_bytes()


def test_fitting_again_gives_the_same_content(shared: Shared) -> None:
    """I5: a retried task converges."""
    finished = shared("regression")
    again = finished.laboratory.fit(entry_for("regression"), finished.prepared)
    assert {**again, "seconds": 0} == {**finished.fitted, "seconds": 0}


def test_the_manifest_says_what_a_service_and_a_gate_need(shared: Shared) -> None:
    prepared, fitted = (trained := shared("binary")).prepared, trained.fitted
    manifest = verify(Path(fitted["work"]) / "served").manifest
    assert manifest["classes"] == ["early", "late"]
    assert manifest["positive"] == "late"
    assert set(manifest["metrics"]) == {"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}
    assert set(manifest["baseline"]) == set(manifest["metrics"])
    assert manifest["run_id"] == prepared["run_id"]
    assert [entry["name"] for entry in manifest["inputs"]] == ["distance", "zone"]
    assert (manifest["extra_field"], manifest["target_unit"], manifest["entity"]) == ("error", None, None)
    profile = json.loads((Path(fitted["work"]) / "served" / "profile.json").read_bytes())
    assert profile["rows"] == prepared["train_rows"] + prepared["validation_rows"]
    assert {"distance", "zone", "longer"} <= set(profile["columns"])
    assert profile["prediction"]["kind"] == "number"
    assert profile["metric"] == {"name": "roc_auc", "value": fitted["value"]}


@pytest.mark.parametrize("estimator", ["dummy", "linear", "random_forest", "xgboost"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_every_estimator_is_served_as_it_was_trained(
    laboratory: Laboratory, trained: Train, task: str, estimator: str
) -> None:
    """On every held-out row, with missing values and rare categories, by the very code that serves."""
    small = {"random_forest": {"n_estimators": 8}, "xgboost": {"n_estimators": 20}}.get(estimator, {})
    _, fitted = trained(task, estimators={estimator: small}, tuning={"trials": 1, "time_budget": 60})
    Predictor.load(verify(Path(fitted["work"]) / "served")).replay_golden()


def test_text_that_is_not_declared_reaches_xgboost_as_categories_and_is_served_so(
    laboratory: Laboratory, trained: Train
) -> None:
    """Codes instead of 0/1 columns: an unknown category is answered as a missing one, and zone is one feature."""
    entry = {"features": {"exclude": ["at"]}, "estimators": {"xgboost": {"n_estimators": 30}}}
    prepared, fitted = trained("binary", **entry, tuning={"trials": 2, "time_budget": 60})
    assert fitted["params"]["categories"] == "native"
    form = verify(Path(fitted["work"]) / "served")
    assert form.manifest["feature_names"] == ["distance", "zone"]
    predictor = Predictor.load(form)
    rows = [{"distance": 3.8, "zone": zone} for zone in ("north", "south", "harbour", None, "moon")]
    answers = [predictor.predict(predictor.schema.unlimited(json.dumps({"rows": [row]}).encode())) for row in rows]
    together = predictor.predict(predictor.schema.unlimited(json.dumps({"rows": rows}).encode()))
    np.testing.assert_array_equal(np.concatenate(answers), together)
    assert together[0, 1] != together[1, 1]
    X = np.load(layouts.find(Path(prepared["work"]), "codes")[0] / "X_test.npy")
    held = fitting.held_out(Path(prepared["work"]), predictor._features)
    np.testing.assert_array_equal(predictor.matrix(held), X.astype(np.float32))


def test_a_served_form_that_answers_otherwise_is_not_registered(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 33: one threshold of one tree was rounded the wrong way; the run is marked as failed."""
    import onnx

    from include.training.estimators import xgboost

    entry = entry_for("regression", estimators={"xgboost": {"n_estimators": 20}}, tuning={"trials": 1})
    prepared = laboratory.materialize(entry, rides(400, "regression"))
    laboratory.tune(entry, prepared)
    exact = xgboost.to_onnx

    def shifted(fitted: Any) -> bytes:
        model = onnx.load_from_string(exact(fitted))
        ensemble = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
        thresholds = next(a for a in ensemble.attribute if a.name == "nodes_values")
        thresholds.floats[0] += 0.5
        return bytes(model.SerializeToString())

    monkeypatch.setattr(xgboost, "to_onnx", shifted)
    with pytest.raises(export.NotEqual, match=r"differs from the trained model in \d+ of 60 answers"):
        laboratory.fit(entry, prepared)
    client = server.client(laboratory.mlflow_url)
    run = client.get_run(prepared["run_id"])
    assert run.info.status == "FAILED"
    assert "differs from the trained model" in run.data.tags["mlops.error"]
    assert laboratory.versions == []


def test_a_booster_that_answers_otherwise_is_not_registered(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 33: the second kernel is held against the trained model as the first one is."""
    from include.training.estimators import xgboost

    entry = entry_for("regression", estimators={"xgboost": {"n_estimators": 20}}, tuning={"trials": 1})
    prepared = laboratory.materialize(entry, rides(400, "regression"))
    laboratory.tune(entry, prepared)
    monkeypatch.setattr(xgboost, "to_booster", lambda fitted: bytes(fitted.booster[:19].save_raw("ubj")))
    with pytest.raises(export.NotEqual, match=r"to_booster cannot be used: golden row \d+"):
        laboratory.fit(entry, prepared)
    assert laboratory.versions == []


def test_an_explanation_that_adds_up_to_something_else_is_not_registered(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.training.estimators import linear

    entry = entry_for("regression", estimators={"linear": {}}, tuning={"trials": 1})
    prepared = laboratory.materialize(entry, rides(400, "regression"))
    laboratory.tune(entry, prepared)
    right = linear.explanation
    monkeypatch.setattr(linear, "explanation", lambda fitted: {**right(fitted), "base": [0.0]})
    with pytest.raises(export.NotEqual, match="an explanation adds up to"):
        laboratory.fit(entry, prepared)


def test_a_study_without_a_result_registers_nothing_and_says_why(laboratory: Laboratory) -> None:
    """Promise 18."""
    entry = entry_for("regression", estimators={"xgboost": {"objective": "reg:gamma"}}, tuning={"trials": 2})
    table = rides(300, "regression")
    table = table.set_column(table.column_names.index("minutes"), "minutes", [(-np.arange(300.0)).tolist()])
    prepared = laboratory.materialize(entry, table)
    laboratory.tune(entry, prepared)
    with pytest.raises(tuning.StudyFailed, match=r"2 failed.*nothing is registered.*XGBoostError"):
        laboratory.fit(entry, prepared)
    assert laboratory.versions == []


def test_a_row_that_the_service_would_refuse_does_not_stop_a_model_with_that_policy(
    laboratory: Laboratory, trained: Train
) -> None:
    features = {"exclude": ["at"], "one_hot": ["zone"], "unknown_category": "error"}
    entry = entry_for("regression", features=features)
    table = rides(400, "regression")
    zones = table.column("zone").to_pylist()
    zones[-3:] = ["moon", "mars", "moon"]  # seen in the held-out part only
    table = table.set_column(table.column_names.index("zone"), "zone", [zones])
    prepared = laboratory.materialize(entry, table)
    laboratory.tune(entry, prepared)
    fitted = laboratory.fit(entry, prepared)
    golden = json.loads((Path(fitted["work"]) / "served" / "golden.json").read_bytes())
    assert not {"moon", "mars"} & {row["zone"] for row in golden["rows"]}


def test_the_policies_of_the_service_travel_with_the_version(laboratory: Laboratory, trained: Train) -> None:
    serving = {
        "extra_field": "ignore",
        "out_of_range": "clip",
        "fields": {"zone": {"unknown_category": "error", "missing": "impute"}},
        "units": {"distance": "km", "minutes": "minutes"},
    }
    table = rides(400, "regression")
    table = table.append_column("rider", [[f"rider {n % 90}" for n in range(400)]])
    entry = entry_for("regression", serving=serving, entity="rider")
    prepared = laboratory.materialize(entry, table)
    laboratory.tune(entry, prepared)
    form = verify(Path(laboratory.fit(entry, prepared)["work"]) / "served")
    assert (form.manifest["extra_field"], form.manifest["target_unit"]) == ("ignore", "minutes")
    schema = Schema.of(form.manifest)
    row = b'{"distance": 1e6, "rider": 7, "whatever": {}}'
    assert schema.entity_of(row) == "7"
    checked = schema.columns([schema.row(row)], batch=False)
    assert checked.columns["distance"].tolist() == [schema.inputs["distance"]["maximum"]]
    assert checked.warnings is None
    with pytest.raises(Refused, match="zone is 'moon', which the model was not trained on"):
        schema.columns([schema.row(b'{"distance": 1, "zone": "moon"}')], batch=False)


def test_the_refit_sees_the_validation_part_too(shared: Shared) -> None:
    prepared, fitted = (trained := shared("regression")).prepared, trained.fitted
    layout = estimators.load(fitted["estimator"]).layout(fitted["params"])
    data = fitting.train_and_validation(prepared, layout)
    assert len(data.X) == prepared["train_rows"] + prepared["validation_rows"]
    best = estimators.load(fitted["estimator"]).fit(
        fitted["params"], data, seed=prepared["seed"], threads=1, progress=None
    )
    work = Path(fitted["work"])
    X, y = np.load(layouts.find(work, layout)[0] / "X_test.npy"), np.load(work / "y_test.npy")
    answer = estimators.load(fitted["estimator"]).predict(best, X)
    assert np.abs(answer - y).mean() == pytest.approx(fitted["metrics"]["mae"])


def test_a_model_without_a_finite_score_on_the_held_out_part_is_not_registered(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 18: the validation part gave a number, the held-out part does not; the run is marked as failed."""
    finished = shared("multiclass")
    monkeypatch.setattr(evaluation, "score", lambda *arguments: float("nan"))
    with pytest.raises(tuning.StudyFailed, match=r"has no finite \w+ on the held-out part; nothing is registered"):
        finished.laboratory.fit(entry_for("multiclass"), finished.prepared)
    run = server.client(finished.laboratory.mlflow_url).get_run(finished.prepared["run_id"])
    assert run.info.status == "FAILED"
    assert "on the held-out part" in run.data.tags["mlops.error"]


def test_nothing_here_is_pickled() -> None:
    """Promise 32: neither we nor MLflow on our behalf."""
    import os

    server.client("http://127.0.0.1:1")
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    sources = [path.read_text() for path in Path(fitting.__file__).parent.rglob("*.py")]
    for text in sources:
        for word in ("import pickle", "import joblib", "cloudpickle", "allow_pickle=True", "joblib.load"):
            assert word not in text
