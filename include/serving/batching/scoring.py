"""Checked rows → predictions, their ids, what the client is told, and what the prediction log keeps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.features.feature_set import FeatureError, UnknownCategory
from include.inference.errors import Refused
from include.inference.predictor import NotComputable
from include.inference.schema import Checked
from include.serving.prediction_log.copy_text import prediction_lines
from include.serving.routing.route import Arm
from include.serving.versions.response_encoder import prediction_ids

log = logging.getLogger("mlops.serving")


@dataclass(slots=True)
class Scored:
    """Predictions with everything that goes with them: one entry a row."""

    ids: list[str]
    predictions: np.ndarray
    outputs: list[bytes]
    more: list[dict[str, Any] | None] | None
    """Warnings and explanations; None where no row has any."""


def score(arm: Arm, checked: Checked, *, explain: bool = False, predictions: np.ndarray | None = None) -> Scored:
    """Predict, and explain where it is asked for.

    Args:
        arm: that answers.
        checked: the rows.
        explain: whether each feature's contribution is asked for.
        predictions: of these rows, where they are known already.

    Raises:
        Refused: the model cannot be explained.
        NotComputable, UnknownCategory, FeatureError: see `refusal`.
    """
    predictor = arm.loaded.predictor
    if predictions is None:
        predictions = predictor.predict(checked.columns)
    more: list[dict[str, Any] | None] | None = None
    if checked.warnings is not None or explain:
        more = [{"warnings": [w.as_dict() for w in found]} if found else None for found in checked.warnings or ()]
        more = more or [None] * checked.count
    if explain and more is not None:
        explanation = predictor.explain(checked.columns)
        more = [{**(extra or {}), "explanation": explanation.row(n)} for n, extra in enumerate(more)]
    outputs = arm.loaded.answers.outputs(predictions)
    if checked.unusual is not None:
        arm.tally.warned(checked.unusual)
    return Scored(prediction_ids(checked.count), predictions, outputs, more)


def recorded(
    arm: Arm,
    scored: Scored,
    inputs: Sequence[bytes],
    *,
    callers: Sequence[str | None],
    entities: Sequence[str | None] | None,
    seconds: float,
) -> bytes:
    """The prediction log's lines for scored rows."""
    loaded = arm.loaded
    return prediction_lines(
        scored.ids,
        loaded.model,
        loaded.version,
        arm.name,
        time.time(),
        seconds * 1e3,
        inputs,
        scored.outputs,
        loaded.answers.scores(scored.predictions),
        entities,
        callers,
    )


def refusal(error: Exception, arm: Arm, path: Callable[[int, str | None], str | None] | None = None) -> Refused:
    """What a client is told when rows could not be answered; what is not the client's fault is written to the log.

    Args:
        path: where a row, or its value in a column, stands in the body: `Checked.path`; None: the body is one row.
    """
    where = path or _in_a_row
    if isinstance(error, Refused):
        return error
    if isinstance(error, NotComputable):
        field = where(error.row, None)
        return Refused(422, "not_computable", f"the model has no finite answer for {field or 'this row'}", field)
    if isinstance(error, UnknownCategory):
        field = where(error.row, str(error.column))
        return Refused(422, "unknown_category", f"{field} is a category that the model was not trained on", field)
    fields = {"model": arm.loaded.model, "version": arm.loaded.version, "arm": arm.name}
    log.error("prediction failed", exc_info=error, extra={"fields": fields})
    if isinstance(error, FeatureError):  # it computed the golden rows: these rows are beyond what it was written for
        return Refused(422, "not_computable", "the model's features cannot be computed from these values")
    return Refused(500, "internal", "the service failed to answer this request; its log says why")


def _in_a_row(row: int, column: str | None) -> str | None:
    """Where a value stands in a body that is one row."""
    return column


def is_the_arms_fault(error: Exception) -> bool:
    """Whether another version might have answered: everything but a request that its own contract refuses."""
    return not isinstance(error, Refused | UnknownCategory)
