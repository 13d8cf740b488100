"""The MLflow model: a caller's rows in, predictions out, by the served form and the very code that serves.

MLflow loads this module by its name (`loader_module`) from the model's own `code` folder, or from this repository:

    mlflow.pyfunc.load_model("models:/trip_duration@champion").predict(pandas.DataFrame([{"trip_distance": 2.1, …}]))

Nothing is unpickled. A row is checked as the service checks it: a refusal names the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from include.inference import served_form
from include.inference.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd

REQUIREMENTS = ("msgspec", "numpy", "onnxruntime", "pandas", "pyarrow", "xgboost")
"""What the code below needs besides MLflow."""


class CallersModel:
    """A served form behind MLflow's interface."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows' predictions.

        Args:
            model_input: the columns that a request carries; others are ignored. A missing value is None or NaN.
            params: MLflow's; there are none.

        Returns:
            `prediction`, and for a classification `probability_<class>` for each class, with the index of the rows.

        Raises:
            Refused: a row is not what the model takes; the message names the field.
            NotComputable: the model has no finite answer for a row.
        """
        import pandas as pd

        schema, classes = self._predictor.schema, self._predictor.classes
        rows = _rows(model_input, schema.inputs)
        size = max(1, schema.max_batch)
        answers = [
            self._predictor.predict(schema.many(json.dumps({"rows": rows[at : at + size]}).encode()).columns)
            for at in range(0, len(rows), size)
        ]
        if classes is None:
            found = np.concatenate([np.empty(0), *answers])
            return pd.DataFrame({"prediction": found}, index=model_input.index)
        found = np.concatenate([np.empty((0, len(classes))), *answers])
        labels = np.array([*classes, None], dtype=object)[:-1][found.argmax(axis=1)]
        shares = {f"probability_{label}": found[:, place] for place, label in enumerate(classes)}
        return pd.DataFrame({"prediction": labels, **shares}, index=model_input.index)


def _load_pyfunc(path: str) -> CallersModel:
    """Called by MLflow with the folder of the served form."""
    return CallersModel(Predictor.load(served_form.verify(Path(path))))


def _rows(frame: pd.DataFrame, inputs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [name for name in inputs if name in frame.columns]
    columns = [[_value(value, inputs[name]["type"]) for value in frame[name].tolist()] for name in names]
    return (
        [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] if names else [{}] * len(frame)
    )


def _value(value: Any, kind: str) -> Any:
    """A cell as JSON holds it."""
    import pandas as pd

    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()[:10] if kind == "date" else value.isoformat()
    if hasattr(value, "item"):
        value = value.item()
    return int(value) if kind == "int" and isinstance(value, float) and value.is_integer() else value
