"""BentoML as its documentation begins: a typed API around the Pipeline, nothing configured."""

import os
from pathlib import Path

import bentoml
import joblib
import pandas as pd
from pydantic import BaseModel


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


@bentoml.service
class Delivery:
    def __init__(self) -> None:
        self.pipeline = joblib.load(Path(os.environ["BENCHMARK_MODEL"]) / "pipeline.joblib")

    @bentoml.api
    def predict(self, row: Row) -> float:
        return float(self.pipeline.predict(pd.DataFrame([row.model_dump()]))[0])

    @bentoml.api
    def batch_predict(self, rows: list[Row]) -> list[float]:
        return list(map(float, self.pipeline.predict(pd.DataFrame([row.model_dump() for row in rows]))))
