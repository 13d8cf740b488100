"""The preprocessing that somebody writes by hand: means, deviations and categories of `preprocessing.json` in NumPy."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(os.environ["BENCHMARK_MODEL"])
_LEARNED = json.loads((MODEL / "preprocessing.json").read_bytes())
NUMBERS: list[str] = list(_LEARNED["numbers"])
CATEGORIES: list[str] = list(_LEARNED["categories"])
_SCALES = list(map(tuple, _LEARNED["numbers"].values()))
_MEANS = np.array([mean for mean, _ in _SCALES])
_DEVIATIONS = np.array([deviation for _, deviation in _SCALES])
_FIND = [{category: place for place, category in enumerate(known)} for known in _LEARNED["categories"].values()]
_HOT = [np.vstack([np.eye(len(known), dtype=np.float32), np.zeros((1, len(known)), np.float32)]) for known in _FIND]
_PLACED = [
    {category: tuple(hot[place].tolist()) for category, place in known.items()}
    for known, hot in zip(_FIND, _HOT, strict=True)
]
_NONE = [tuple(hot[-1].tolist()) for hot in _HOT]


def of_row(values: Sequence[Any]) -> np.ndarray:
    """The matrix of one row, the numbers and then the categories: (1, k), float32."""
    found = [(value - mean) / deviation for value, (mean, deviation) in zip(values, _SCALES, strict=False)]
    for value, placed, none in zip(values[len(_SCALES) :], _PLACED, _NONE, strict=True):
        found += placed.get(value, none)
    return np.array((found,), dtype=np.float32)


def of_rows(rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """The matrix of many rows: (n, k), float32."""
    columns = list(zip(*rows, strict=True))
    numbers = (np.array(columns[: len(_SCALES)]).T - _MEANS) / _DEVIATIONS
    blocks = [numbers.astype(np.float32)]
    for column, known, hot in zip(columns[len(_SCALES) :], _FIND, _HOT, strict=True):
        unknown = len(known)
        blocks.append(hot[[known.get(value, unknown) for value in column]])
    return np.concatenate(blocks, axis=1)
