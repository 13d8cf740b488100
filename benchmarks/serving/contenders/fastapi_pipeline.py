"""What most tutorials show: FastAPI around the unpickled scikit-learn Pipeline, a DataFrame for each request."""

import os
from pathlib import Path

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

_pipeline = joblib.load(Path(os.environ["BENCHMARK_MODEL"]) / "pipeline.joblib")
application = FastAPI()


class Row(BaseModel):
    weight: float
    volume: float
    distance: float
    stops: float
    traffic: float
    rain: float
    wind: float
    hour: float
    city: str
    carrier: str
    vehicle: str
    weekday: str


class Rows(BaseModel):
    rows: list[Row]


@application.post("/predict")
async def predict(row: Row) -> dict[str, float]:
    return {"prediction": float(_pipeline.predict(pd.DataFrame([row.model_dump()]))[0])}


@application.post("/batch-predict")
async def batch_predict(rows: Rows) -> dict[str, list[float]]:
    frame = pd.DataFrame([row.model_dump() for row in rows.rows])
    return {"predictions": _pipeline.predict(frame).tolist()}
