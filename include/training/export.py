"""The served form of a model, sealed only if it answers as the trained model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from include import served_form
from include.features.columns import from_rows
from include.features.feature_set import FeatureSet
from include.served_form import ServedForm
from include.serving.predictor import Predictor

TOLERANCE = 1e-5
"""Relative; the golden rows are held against the same."""
CHECKED_ROWS = 5_000


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
) -> ServedForm:
    """Write the served form, load it with the code that serves, and compare its answers with the trained model's.

    Args:
        into: a folder; what is in it is replaced.
        onnx: the estimator's graph.
        predict: the trained estimator's own answer for a matrix.
        feature_set: the features.
        preprocessing: what they learned.
        profile: of the training set, with that of the predictions.
        golden_rows: rows as a client sends them.
        manifest: see include/served_form.py.
        real: raw columns of held-out rows that the service would answer; at most the first `CHECKED_ROWS` are compared.

    Raises:
        NotEqual: an answer differs by more than the tolerance.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)

    def trained(raw: Mapping[str, np.ndarray]) -> np.ndarray:
        return predict(feature_set.transform(preprocessing, feature_set.compute(raw)))

    expected = trained(from_rows(golden_rows, feature_set.inputs))
    golden = {"rows": golden_rows, "expected": expected.tolist(), "tolerance": TOLERANCE}
    documents = {"preprocessing.json": preprocessing, "profile.json": profile, "golden.json": golden}
    for name, document in documents.items():
        (into / name).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    (into / "model.onnx").write_bytes(onnx)
    if feature_set.definition is not None:
        (into / "definition.py").write_text(feature_set.definition, encoding="utf-8")
    form = served_form.seal(into, {**manifest, "features": feature_set.spec})

    predictor = Predictor.load(form)
    checked = {name: values[:CHECKED_ROWS] for name, values in real.items()}
    compare(predictor.predict(checked), trained(checked))
    predictor.replay_golden()
    return form


def compare(served: np.ndarray, trained: np.ndarray) -> None:
    """Hold the served answers against the trained model's.

    Raises:
        NotEqual: naming how many differ, the first of them and the largest difference.
    """
    if served.shape != trained.shape:
        raise NotEqual(
            f"the served form answers {served.shape}, the trained model {trained.shape}; nothing is registered"
        )
    scale = np.maximum(np.abs(trained), 1e-2 if trained.ndim == 2 else 1e-6)
    difference = np.abs(served - trained) / scale
    wrong = ~(difference <= TOLERANCE)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise NotEqual(
            f"the served form differs from the trained model in {int(wrong.sum())} of {wrong.size} answers by up to"
            f" {np.nanmax(difference):.2g} (relative; {TOLERANCE:g} is allowed): row {row} is {served[row]},"
            f" not {trained[row]}."
            " Nothing is registered. The estimator's to_onnx and its predict must do the same"
        )
