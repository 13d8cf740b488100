"""A served form, loaded: its answers, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from include.inference import served_form
from include.inference.predictor import GoldenMismatch, NotComputable, Predictor
from tests.include.serving.crafted import ROWS, constant_graph, craft, slow_graph


def test_it_answers_what_numpy_computes(tmp_path: Path) -> None:
    crafted = craft(tmp_path / "form")
    predictor = Predictor.load(crafted.form)
    answers = predictor.predict(predictor.schema.many(json.dumps({"rows": ROWS}).encode()).columns)
    assert answers.shape == (12,)
    np.testing.assert_allclose(answers, predictor.golden["expected"], rtol=1e-9)
    predictor.replay_golden()


def test_classification_answers_probabilities(tmp_path: Path) -> None:
    predictor = Predictor.load(craft(tmp_path / "form", task="binary").form)
    answers = predictor.predict(predictor.schema.one(json.dumps(ROWS[0]).encode()))
    assert answers.shape == (1, 2)
    assert answers.sum() == pytest.approx(1)
    predictor.replay_golden()


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "no finite answer"), (7.0, "expected"), (float("inf"), "no finite answer")]
)
def test_a_model_that_answers_nan_or_a_constant_does_not_reproduce_its_golden_rows(
    tmp_path: Path, value: float, says: str
) -> None:
    """Promise 33."""
    width = craft(tmp_path / "right").weights.shape[0]
    bad = craft(tmp_path / "bad", graph=constant_graph(width, value))
    with pytest.raises(GoldenMismatch, match=says):
        Predictor.load(bad.form).replay_golden()


def test_a_slow_model_is_refused_in_bounded_time(tmp_path: Path) -> None:
    """Promise 33: the run is ended by the watchdog, not waited for."""
    weights = craft(tmp_path / "right").weights
    slow = Predictor.load(craft(tmp_path / "slow", graph=slow_graph(weights, 2_000_000_000)).form)
    with pytest.raises(GoldenMismatch, match="too slow"):
        slow.replay_golden(seconds=0.5)


def test_a_model_whose_single_row_is_slow_is_refused(tmp_path: Path) -> None:
    """Promise 33."""
    weights = craft(tmp_path / "right").weights
    slow = Predictor.load(craft(tmp_path / "slow", graph=slow_graph(weights, 300_000)).form)
    with pytest.raises(GoldenMismatch, match="too slow: one row took"):
        slow.replay_golden(row_seconds=0.02, seconds=60)


def test_an_answer_that_is_not_finite_names_its_row(tmp_path: Path) -> None:
    predictor = Predictor.load(craft(tmp_path / "form", scale=1e300).form)
    rows = [ROWS[0], {**ROWS[1], "trip_distance": 3e38}]
    with pytest.raises(NotComputable) as refused:
        predictor.predict(predictor.schema.many(json.dumps({"rows": rows}).encode()).columns)
    assert refused.value.row == 1


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_in_place_of_the_model_is_never_deserialised(tmp_path: Path) -> None:
    """Promise 32: sealed with right hashes, and still nothing of it runs."""
    marker = tmp_path / "ran"
    for name in ("model.onnx", "preprocessing.json", "golden.json"):
        form = craft(tmp_path / name).form
        (form.directory / name).write_bytes(pickle.dumps(_Payload(marker)))
        manifest = {k: v for k, v in form.manifest.items() if k not in ("files", "format")}
        with pytest.raises(served_form.BadServedForm):
            Predictor.load(served_form.seal(form.directory, manifest))
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Payload(marker)))  # noqa: S301  (the payload is a real one)
    assert marker.exists()


def test_a_form_without_its_files_is_refused_by_name(tmp_path: Path) -> None:
    form = craft(tmp_path / "form").form
    (form.directory / "model.onnx").unlink()
    with pytest.raises(served_form.BadServedForm, match=r"model\.onnx"):
        Predictor.load(form)
