"""The best by hand with the usual tools: FastAPI checks, NumPy prepares, the booster predicts in place."""

from typing import Any

import xgboost
from fastapi import FastAPI
from pydantic import create_model

from benchmarks.serving.contenders import preprocessing

_fields: Any = dict.fromkeys(preprocessing.NUMBERS, (float, ...)) | dict.fromkeys(preprocessing.CATEGORIES, (str, ...))
Row = create_model("Row", **_fields)
Rows = create_model("Rows", rows=(list[Row], ...))
_names = [*preprocessing.NUMBERS, *preprocessing.CATEGORIES]
_booster = xgboost.Booster({"nthread": 1}, model_file=preprocessing.MODEL / "booster.ubj")
_booster.set_param({"nthread": 1})
application = FastAPI()


def _values(row: Any) -> tuple[Any, ...]:
    known = row.__dict__
    return tuple([known[name] for name in _names])


@application.post("/predict")
async def predict(row: Row) -> dict[str, float]:
    return {"prediction": float(_booster.inplace_predict(preprocessing.of_row(_values(row)))[0])}


@application.post("/batch-predict")
async def batch_predict(rows: Rows) -> dict[str, list[float]]:
    found: Any = rows
    matrix = preprocessing.of_rows([_values(row) for row in found.rows])
    return {"predictions": _booster.inplace_predict(matrix).tolist()}
