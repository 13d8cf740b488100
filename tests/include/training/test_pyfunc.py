"""What MLflow loads: a caller's rows in, by the code that serves, whole in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from include.inference.errors import Refused
from include.inference.predictor import Predictor
from include.settings import Task
from include.training import pyfunc
from include.training.tracking import flavour
from tests.include.serving.planted import CLASSES, plant

ROWS: list[dict[str, Any]] = [
    {"a": 1, "b": None, "c": 0.25, "kind": "q"},
    {"a": -2, "b": 0.5, "c": 1.0, "kind": "p"},
    {"a": 0, "b": 3.0, "c": -1.5, "kind": "new"},
]


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_frame_of_a_callers_rows_gets_the_services_answers(tmp_path: Path, task: Task) -> None:
    form = plant(tmp_path / "form", task=task, n_estimators=5).form
    predictor = Predictor.load(form)
    expected = predictor.predict(predictor.schema.many(json.dumps({"rows": ROWS}).encode()).columns)
    frame = pd.DataFrame(ROWS, index=["x", "y", "z"]).assign(more="is ignored")
    answer = pyfunc._load_pyfunc(str(form.directory)).predict(frame)
    assert answer.index.tolist() == ["x", "y", "z"]
    classes = CLASSES[task]
    if classes is None:
        np.testing.assert_array_equal(answer["prediction"], expected)
    else:
        assert answer["prediction"].tolist() == [classes[place] for place in expected.argmax(axis=1)]
        np.testing.assert_array_equal(answer[[f"probability_{label}" for label in classes]], expected)


def test_what_the_service_refuses_is_refused_by_field_and_no_rows_give_no_answers(tmp_path: Path) -> None:
    model = pyfunc._load_pyfunc(str(plant(tmp_path / "form", n_estimators=5).form.directory))
    with pytest.raises(Refused, match="kind"):
        model.predict(pd.DataFrame(ROWS).drop(columns="kind"))
    with pytest.raises(Refused, match="a"):
        model.predict(pd.DataFrame(ROWS).assign(a="one"))
    assert model.predict(pd.DataFrame(ROWS).iloc[:0])["prediction"].tolist() == []


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (pd.Timestamp("2024-02-29 12:30"), "timestamp", "2024-02-29T12:30:00"),
        (pd.Timestamp("2024-02-29"), "date", "2024-02-29"),
        (pd.NaT, "timestamp", None),
        (float("nan"), "int", None),
        (3.0, "int", 3),
        (3.5, "int", 3.5),
        (np.int64(3), "float", 3),
        (np.bool_(True), "bool", True),
        ("007", "string", "007"),
    ],
)
def test_a_cell_becomes_what_a_request_would_carry(value: Any, kind: str, expected: Any) -> None:
    found = pyfunc._value(value, kind)
    assert found == expected
    assert type(found) is type(expected)


LOAD = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(pandas.DataFrame(json.loads(sys.argv[2])))
print(json.dumps([sys.modules["include"].__file__, answer["prediction"].tolist()]))
"""


@pytest.mark.slow
def test_it_loads_elsewhere_by_its_own_copy_of_the_code(tmp_path: Path) -> None:
    """Whole numbers for a float, a missing value, and an unknown category pass MLflow's own check of the signature."""
    import mlflow

    form = plant(tmp_path / "form", n_estimators=5).form
    mlflow.pyfunc.save_model(tmp_path / "saved", **flavour.log_arguments(form, tmp_path / "scratch"))
    command = [sys.executable, "-c", LOAD, str(tmp_path / "saved"), json.dumps(ROWS)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    out = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    file, answer = json.loads(out.splitlines()[-1])
    assert Path(file).is_relative_to(tmp_path / "saved" / "code")
    predictor = Predictor.load(form)
    expected = predictor.predict(predictor.schema.many(json.dumps({"rows": ROWS}).encode()).columns)
    np.testing.assert_array_equal(answer, expected)
    code = tmp_path / "saved" / "code"
    copied = {path.relative_to(code).as_posix() for path in code.rglob("*.py")}
    assert {"include/inference/predictor.py", "include/features/transforms/one_hot.py"} <= copied
    rooms = ("include/inference/", "include/features/", "include/settings/", "include/strategies/")
    alone = {"include/__init__.py", "include/home.py", "include/text.py", "include/formulas.py"}
    training = {"include/training/__init__.py", "include/training/pyfunc.py"}
    assert {file for file in copied - alone - training if not file.startswith(rooms)} == set()
