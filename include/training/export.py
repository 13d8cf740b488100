"""The served form of a model, sealed only if it answers as the trained model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from include.features.columns import Columns, from_rows
from include.features.feature_set import FeatureSet
from include.inference import served_form
from include.inference.explanation import Explanation
from include.inference.predictor import Predictor
from include.inference.served_form import ServedForm

TOLERANCE = 1e-5
"""Relative; the golden rows are held against the same."""
CHECKED_ROWS = 5_000
EXPLAINED_ROWS = 3


class NotEqual(RuntimeError):
    """The served form does not answer as the trained model; it is not registered."""


def export(
    into: Path,
    *,
    onnx: bytes,
    predict: Callable[[np.ndarray], np.ndarray],
    feature_set: FeatureSet,
    preprocessing: dict[str, Any],
    profile: Mapping[str, Any],
    golden_rows: list[dict[str, Any]],
    manifest: Mapping[str, Any],
    real: Mapping[str, np.ndarray],
    booster: bytes | None = None,
    explanation: Mapping[str, Any] | None = None,
) -> ServedForm:
    """Write the served form, load it with the code that serves, and compare its answers with the trained model's.

    Each kernel's answers are compared, and what the first explanations add up to.

    Args:
        into: a folder; what is in it is replaced.
        onnx: the estimator's graph.
        predict: the trained estimator's own answer for a matrix.
        feature_set: the features.
        preprocessing: what they learned.
        profile: of the training set, with that of the predictions.
        golden_rows: rows as a client sends them.
        manifest: see include/inference/served_form.py.
        real: raw columns of held-out rows that the service would answer; at most the first `CHECKED_ROWS` are compared.
        booster: the same trees as XGBoost's binary model, which answers many rows faster and explains.
        explanation: how a score is taken apart; see include/inference/explanation.py.

    Raises:
        NotEqual: an answer differs by more than the tolerance, or an explanation adds up to something else.
    """

    def trained(raw: Columns) -> np.ndarray:
        return predict(feature_set.transform(preprocessing, feature_set.compute(raw)))

    expected = trained(from_rows(golden_rows, feature_set.inputs))
    golden = {"rows": golden_rows, "expected": expected.tolist(), "tolerance": TOLERANCE}
    documents: dict[str, Any] = {"preprocessing.json": preprocessing, "profile.json": profile, "golden.json": golden}
    files: dict[str, bytes] = {"model.onnx": onnx}
    if explanation is not None:
        documents["explanation.json"] = dict(explanation)
    if booster is not None:
        files["booster.ubj"] = booster
    if feature_set.definition is not None:
        files["definition.py"] = feature_set.definition.encode()
    _write(into, documents, files)
    form = served_form.seal(into, {**manifest, "features": feature_set.spec})
    _prove_equal(form, trained, real)
    return form


def _write(into: Path, documents: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name, document in documents.items():
        (into / name).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    for name, content in files.items():
        (into / name).write_bytes(content)


def _prove_equal(form: ServedForm, trained: Callable[[Columns], np.ndarray], real: Columns) -> None:
    """Load the served form as a service does, and compare what it computes with the trained model's answers."""
    predictor = Predictor.load(form)
    if predictor.without_booster:
        raise NotEqual(f"the estimator's to_booster cannot be used: {predictor.without_booster}. Nothing is registered")
    checked = {name: values[:CHECKED_ROWS] for name, values in real.items()}
    answers = trained(checked)
    for kernel, served in predictor.predict_by_each(checked).items():
        compare(served, answers, kernel)
    if (form.directory / "explanation.json").exists():
        for row in range(min(EXPLAINED_ROWS, len(answers))):
            alone = slice(row, row + 1)
            explained = predictor.explain({name: values[alone] for name, values in real.items()})
            _check_explanation(explained, answers[alone])
    predictor.replay_golden()


def _check_explanation(explanation: Explanation, trained: np.ndarray) -> None:
    added = explanation.predictions()
    size = np.abs(explanation.base).max() + np.abs(explanation.contributions).sum(axis=2).max()  # what float32 rounds
    if not np.allclose(added, trained, rtol=1e-4, atol=TOLERANCE * size):
        raise NotEqual(
            f"an explanation adds up to {added.tolist()}, but the trained model answers {trained.tolist()}."
            " Nothing is registered. The estimator's explanation and its predict must do the same"
        )


def compare(served: np.ndarray, trained: np.ndarray, kernel: str = "onnxruntime") -> None:
    """Hold the answers of one of the served form's kernels against the trained model's.

    Raises:
        NotEqual: naming how many differ, the first of them and the largest difference.
    """
    if served.shape != trained.shape:
        raise NotEqual(
            f"the served form answers {served.shape}, the trained model {trained.shape}; nothing is registered"
        )
    # of probabilities in 32 bits, the smaller one is only as exact as the larger one that it is the rest of
    scale = np.maximum(np.abs(trained), 1e-1 if trained.ndim == 2 else 1e-6)
    difference = np.abs(served - trained) / scale
    wrong = ~(difference <= TOLERANCE)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise NotEqual(
            f"the served form differs from the trained model in {int(wrong.sum())} of {wrong.size} answers by up to"
            f" {np.nanmax(difference):.2g} (relative; {TOLERANCE:g} is allowed): row {row} is {served[row]},"
            f" not {trained[row]}, by {kernel}."
            " Nothing is registered. The estimator's to_onnx, its to_booster and its predict must do the same"
        )
