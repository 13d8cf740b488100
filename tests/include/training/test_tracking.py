"""Registration against a real MLflow server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.serving.predictor import Predictor
from include.training import tracking
from tests.include.training.conftest import Laboratory

pytestmark = pytest.mark.slow
Train = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_study_becomes_a_registered_version_that_answers_its_golden_rows(
    laboratory: Laboratory, trained: Train, tmp_path: Path, task: str
) -> None:
    _, fitted = trained(task)
    candidate = laboratory.register(fitted)
    assert candidate.version == 1
    better = (
        candidate.value < candidate.baseline
        if candidate.direction == "minimize"
        else candidate.value > candidate.baseline
    )
    assert better
    form = tracking.download(laboratory.model, 1, tmp_path / "served", mlflow_url=laboratory.mlflow_url)
    assert form.content_hash == candidate.content_hash
    Predictor.load(form).replay_golden()
    rows = form.json("golden.json")["rows"]
    assert any(row["zone"] is None for row in rows)
    assert any(row["distance"] is None for row in rows)
    assert {"north", "south", "harbour"} <= {row["zone"] for row in rows}
