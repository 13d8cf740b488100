"""Metrics of predictions, and pictures of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from include.settings import TASK_METRICS, Task

FLOOR = 1e-15
"""The smallest probability that the log loss is taken of."""


class Unscorable(ValueError):
    """A metric is not defined on these rows; the message says why."""


def encode(target: np.ndarray, classes: Sequence[Any] | None) -> np.ndarray:
    """Targets as float64: numbers as they are, classes as their position in `classes`.

    Raises:
        Unscorable: a target is none of the classes.
    """
    if classes is None:
        return np.asarray(target, np.float64)
    positions = {label: float(i) for i, label in enumerate(classes)}
    try:
        return np.array([positions[label] for label in target.tolist()], np.float64)
    except KeyError as error:
        raise Unscorable(f"the class {error.args[0]!r} is none of the trained {list(classes)}") from error


def score(metric: str, task: Task, y: np.ndarray, prediction: np.ndarray) -> float:
    """One metric of `metrics`; NaN where a prediction is not a finite number.

    Raises:
        Unscorable: the metric is not defined on these rows.
    """
    if not np.isfinite(prediction).all():
        return float("nan")
    if task == "regression":
        return float(_REGRESSION[metric](y, prediction))
    return _classification(metric, task, y, prediction)


def metrics(task: Task, y: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """All metrics of the task that are defined on these rows.

    Args:
        task: regression, binary or multiclass.
        y: what `encode` gives, (n,).
        prediction: numbers (n,), or probabilities (n, classes).
    """
    found = {}
    for metric in sorted(TASK_METRICS[task]):
        try:
            found[metric] = score(metric, task, y, prediction)
        except Unscorable:
            continue
    return found


def errors(task: Task, y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Each row's share in the loss, (n,): the absolute error, or minus the log of the true class's probability."""
    if task == "regression":
        return np.asarray(np.abs(y - prediction))
    return np.asarray(-np.log(np.maximum(prediction[np.arange(len(y)), y.astype(np.int64)], FLOOR)))


def _r2(y: np.ndarray, prediction: np.ndarray) -> float:
    spread = float(np.square(y - y.mean()).sum())
    if spread == 0:
        raise Unscorable("r2 is not defined where all targets are equal")
    return 1 - float(np.square(y - prediction).sum()) / spread


_REGRESSION: dict[str, Any] = {
    "mae": lambda y, p: float(np.abs(y - p).mean()),
    "mse": lambda y, p: float(np.square(y - p).mean()),
    "rmse": lambda y, p: float(np.sqrt(np.square(y - p).mean())),
    "r2": _r2,
}


def _classification(metric: str, task: Task, y: np.ndarray, prediction: np.ndarray) -> float:
    truth = y.astype(np.int64)
    if metric == "log_loss":
        return float(errors(task, y, prediction).mean())
    if metric == "roc_auc":
        return _roc_auc(truth, prediction)
    chosen = prediction.argmax(axis=1)
    if metric == "accuracy":
        return float((chosen == truth).mean())
    table = confusion(y, prediction)
    positive = [1] if task == "binary" else [c for c in range(len(table)) if table[c].sum() or table[:, c].sum()]
    values = []
    for c in positive:
        hit = table[c, c]
        precision, recall = hit / max(table[:, c].sum(), 1), hit / max(table[c].sum(), 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-300)
        values.append({"precision": precision, "recall": recall, "f1": f1}[metric])
    return float(np.mean(values))


def _roc_auc(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mann-Whitney's U over the pairs; of several classes the mean over one against the rest."""
    from scipy.stats import rankdata

    present = np.unique(truth)
    if len(present) < 2:
        raise Unscorable("roc_auc needs rows of at least two classes")
    areas = []
    for c in [1] if prediction.shape[1] == 2 else present:
        inside = truth == c
        n, m = int(inside.sum()), int((~inside).sum())
        areas.append((rankdata(prediction[:, c])[inside].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(areas))


def confusion(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Counts by true class (rows) and predicted class (columns)."""
    k = prediction.shape[1]
    flat = y.astype(np.int64) * k + prediction.argmax(axis=1)
    return np.bincount(flat, minlength=k * k).reshape(k, k)


# ---------------------------------------------------------------------------------------------- pictures


def plots(
    task: Task,
    y: np.ndarray,
    prediction: np.ndarray,
    *,
    metric: str,
    classes: Sequence[Any] | None,
    importance: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    trials: Sequence[tuple[int, str, float]],
) -> dict[str, bytes]:
    """PNG files by name.

    Args:
        task: regression, binary or multiclass.
        y: the held-out part's targets, encoded.
        prediction: the model's answers for them.
        metric: the study's metric, for the axes.
        classes: the labels of classes, in order.
        importance: feature → share.
        curves: name of a trial → (step, metric on the validation part) pairs.
        trials: number, estimator and value of each finished trial.
    """
    pictures = {"learning_curve.png": _learning_curve(metric, curves, trials)}
    if importance:
        pictures["importance.png"] = _importance(importance)
    if task == "regression":
        pictures["residuals.png"] = _residuals(y, prediction)
    else:
        pictures["calibration.png"] = _calibration(y, prediction, classes or [])
        pictures["confusion_matrix.png"] = _confusion_matrix(y, prediction, classes or [])
    return pictures


def _figure(columns: int = 1) -> tuple[Any, Any]:
    """A figure of its own, without pyplot's global state, so that it may be drawn in any thread."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # names come from data: `$10-$20` is no formula
    figure = Figure(figsize=(6 * columns, 4), layout="constrained")
    return figure, figure.subplots(1, columns)


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


def _learning_curve(
    metric: str, curves: Mapping[str, Sequence[tuple[int, float]]], trials: Sequence[tuple[int, str, float]]
) -> bytes:
    figure, (left, right) = _figure(2)
    for name, points in curves.items():
        left.plot(*zip(*points, strict=True), label=name, linewidth=1)
    left.set(title="Trials as they advanced", xlabel="step", ylabel=f"{metric} on the validation part")
    if curves:
        left.legend(fontsize=7)
    for estimator in sorted({name for _, name, _ in trials}):
        points = [(number, value) for number, name, value in trials if name == estimator]
        right.plot(*zip(*points, strict=True), "o", markersize=4, label=estimator)
    right.set(title="Trials", xlabel="trial", ylabel=f"{metric} on the validation part")
    if trials:
        right.legend(fontsize=7)
    return _png(figure)


def _importance(importance: Mapping[str, float]) -> bytes:
    top = sorted(importance.items(), key=lambda item: item[1])[-25:]
    figure, axes = _figure()
    axes.barh([name for name, _ in top], [share for _, share in top])
    axes.set(title="Importance", xlabel="share")
    axes.tick_params(axis="y", labelsize=7)
    return _png(figure)


def _residuals(y: np.ndarray, prediction: np.ndarray) -> bytes:
    figure, (left, right) = _figure(2)
    residuals = y - prediction
    low, high = np.percentile(residuals, [0.5, 99.5])
    left.hist(residuals, bins=60, range=(low, high) if high > low else None)
    left.set(title="Residuals on the held-out part (middle 99 %)", xlabel="truth - prediction", ylabel="rows")
    shown = slice(None, None, max(1, len(y) // 4000))
    right.plot(prediction[shown], y[shown], ".", markersize=2, alpha=0.4)
    span = [float(np.min(prediction)), float(np.max(prediction))]
    right.plot(span, span, "k-", linewidth=1)
    right.set(title="Prediction and truth", xlabel="prediction", ylabel="truth")
    return _png(figure)


def _calibration(y: np.ndarray, prediction: np.ndarray, classes: Sequence[Any]) -> bytes:
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], "k--", linewidth=1)
    for c in [1] if prediction.shape[1] == 2 else range(prediction.shape[1]):
        chance, happened = prediction[:, c], y == c
        bins = np.minimum((chance * 10).astype(np.int64), 9)
        filled = [b for b in range(10) if (bins == b).any()]
        points = [(chance[bins == b].mean(), happened[bins == b].mean()) for b in filled]
        axes.plot(*zip(*points, strict=True), "o-", label=str(classes[c]), linewidth=1)
    axes.set(title="Calibration on the held-out part", xlabel="predicted probability", ylabel="observed share")
    axes.legend(fontsize=7)
    return _png(figure)


def _confusion_matrix(y: np.ndarray, prediction: np.ndarray, classes: Sequence[Any]) -> bytes:
    table = confusion(y, prediction)
    figure, axes = _figure()
    axes.imshow(table, cmap="Blues")
    if len(table) <= 15:
        for row, column in np.ndindex(table.shape):
            dark = table[row, column] > table.max() / 2
            axes.text(column, row, str(table[row, column]), ha="center", va="center", color="w" if dark else "k")
    names = [str(label) for label in classes]
    axes.set(title="Confusion matrix on the held-out part", xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return _png(figure)
