"""The same plain ASGI application, with XGBoost's own library for many rows: opened as our service opens it."""

from __future__ import annotations

from typing import Any

from benchmarks.serving.contenders import preprocessing
from benchmarks.serving.contenders.raw import decode_rows, encode, one, served_by, values
from include.inference.runtimes import Booster

_booster = Booster((preprocessing.MODEL / "booster.ubj").read_bytes())


def many(body: bytes) -> bytes:
    """The answer to `{"rows": […]}`."""
    rows: Any = decode_rows(body)
    predictions = _booster.predict(preprocessing.of_rows([values(row) for row in rows.rows]))
    return encode({"predictions": predictions[:, 0].tolist()})


application = served_by(one, many)
