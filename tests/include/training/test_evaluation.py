"""Metrics against scikit-learn's, and pictures that are pictures."""

from __future__ import annotations

import numpy as np
import pytest

from include.settings import TASK_METRICS
from include.training import evaluation


def probabilities(rows: int, classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    prediction = random.dirichlet(np.ones(classes), size=rows).round(2)
    prediction[:, -1] = 1 - prediction[:, :-1].sum(axis=1)
    return random.integers(0, classes, rows).astype(float), prediction


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    random = np.random.default_rng(0)
    y, p = random.normal(size=50), random.normal(size=50)
    found = evaluation.metrics("regression", y, p)
    assert found == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(y, p),
            "mse": metrics.mean_squared_error(y, p),
            "rmse": metrics.root_mean_squared_error(y, p),
            "r2": metrics.r2_score(y, p),
        }
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_metrics_are_those_of_scikit_learn(classes: int) -> None:
    from sklearn import metrics

    y, p = probabilities(200, classes)
    chosen, average = p.argmax(axis=1), "binary" if classes == 2 else "macro"
    found = evaluation.metrics("binary" if classes == 2 else "multiclass", y, p)
    area = metrics.roc_auc_score(y, p[:, 1]) if classes == 2 else metrics.roc_auc_score(y, p, multi_class="ovr")
    assert found == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, chosen),
            "precision": metrics.precision_score(y, chosen, average=average),
            "recall": metrics.recall_score(y, chosen, average=average),
            "f1": metrics.f1_score(y, chosen, average=average),
            "roc_auc": area,
            "log_loss": metrics.log_loss(y, np.maximum(p, 1e-15), labels=range(classes)),
        },
        rel=1e-6,
    )


def test_a_metric_without_meaning_on_the_rows_is_left_out_and_asked_for_alone_refused() -> None:
    y, p = np.ones(5), np.full((5, 2), 0.5)
    assert "roc_auc" not in evaluation.metrics("binary", y, p)
    with pytest.raises(evaluation.Unscorable, match="two classes"):
        evaluation.score("roc_auc", "binary", y, p)


def test_a_prediction_that_is_no_number_has_no_score() -> None:
    """Promise 18."""
    assert np.isnan(evaluation.score("mae", "regression", np.ones(2), np.array([1.0, np.nan])))


def test_a_class_that_was_not_trained_is_named() -> None:
    with pytest.raises(evaluation.Unscorable, match="'z'"):
        evaluation.encode(np.array(["a", "z"], object), ["a", "b"])


@pytest.mark.parametrize("task", sorted(TASK_METRICS))
def test_every_task_has_its_pictures(task: str) -> None:
    classes = {"regression": 0, "binary": 2, "multiclass": 4}[task]
    y, p = probabilities(60, max(classes, 2))
    pictures = evaluation.plots(
        task,  # type: ignore[arg-type]
        y,
        p if classes else p[:, 0],
        metric="mae",
        classes=list("abcd")[:classes] or None,
        importance={"distance": 0.7, "hour": 0.3},
        curves={"trial 1": [(5, 2.0), (10, 1.0)]},
        trials=[(0, "linear", 2.0), (1, "xgboost", 1.0)],
    )
    expected = {"residuals.png"} if task == "regression" else {"calibration.png", "confusion_matrix.png"}
    assert set(pictures) == {"learning_curve.png", "importance.png", *expected}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
