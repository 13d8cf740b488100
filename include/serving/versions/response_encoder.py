"""How predictions are told: to the client as JSON, and to the prediction log as what it keeps.

A row's answer is the version's unchanging beginning, the prediction id, and the prediction: three joins of bytes. The
same numbers come out of `msgspec.json.encode`, of which the contract test makes sure.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from include.inference.predictor import Predictor

_encode = msgspec.json.Encoder().encode


class Answers:
    """Writes the answers of one loaded version."""

    def __init__(self, model: str, version: int, predictor: Predictor) -> None:
        self._classes = predictor.classes
        self._head = f'"model":{json.dumps(model)},"version":{version}'.encode()
        self._keys = [class_key(label) for label in self._classes or ()]
        positive = predictor.manifest.get("positive")
        self._score = self._classes.index(positive) if self._classes and positive in self._classes else -1

    def as_dict(self, prediction: Any) -> dict[str, Any]:
        """One prediction, a number or probabilities in the order of the classes, as a client is told it."""
        if self._classes is None:
            return {"prediction": prediction}
        likeliest = max(range(len(prediction)), key=prediction.__getitem__)
        return {
            "prediction": self._classes[likeliest],
            "probabilities": dict(zip(self._keys, prediction, strict=True)),
        }

    def row(self, prediction_id: str, output: bytes, more: dict[str, Any] | None) -> bytes:
        """The answer to one row; `output` is from `outputs`, `more` holds warnings and an explanation."""
        answer = b'{%b,"prediction_id":"%b",%b}' % (self._head, prediction_id.encode(), output)
        return answer if not more else answer[:-1] + b"," + _encode(more)[1:]

    def batch(
        self, ids: Sequence[str], outputs: Sequence[bytes], more: Sequence[dict[str, Any] | None] | None
    ) -> bytes:
        """The answer to several rows, in their order."""
        if more is not None:
            outputs = [o + b"," + _encode(m)[1:-1] if m else o for o, m in zip(outputs, more, strict=True)]
        rows = map(b'",'.join, zip(map(str.encode, ids), outputs, strict=True))
        return b'{%b,"predictions":[{"prediction_id":"%b}]}' % (self._head, b'},{"prediction_id":"'.join(rows))

    def outputs(self, predictions: np.ndarray) -> list[bytes]:
        """For each row the members `"prediction": …[, "probabilities": …]` of its answer."""
        if self._classes is None:
            return [b'"prediction":' + value for value in _encode(predictions.tolist())[1:-1].split(b",")]
        return [_encode(self.as_dict(row))[1:-1] for row in predictions.tolist()]

    def scores(self, predictions: np.ndarray) -> list[float | None]:
        """For the log, one number a row: the prediction, the positive class's probability, or none of many classes."""
        if self._classes is None:
            return list(predictions.tolist())
        return list(predictions[:, self._score].tolist()) if self._score >= 0 else [None] * len(predictions)


def class_key(label: Any) -> str:
    """A class label as a JSON object's key."""
    return label if isinstance(label, str) else json.dumps(label)


def prediction_ids(count: int) -> list[str]:
    """128 bits in hexadecimal that sort by time: 48 of milliseconds, 80 at random."""
    moment, chance = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10 * count).hex()
    return [moment + chance[start : start + 20] for start in range(0, 20 * count, 20)]
