"""What a worker reads when it starts."""

from __future__ import annotations

from pathlib import Path

from include.serving.worker import _params

TEXT = """sources:
  cells: {type: sample, dataset: breast_cancer}
models:
  one: {source: cells, target: diagnosis, task: binary}
  two: {source: cells, target: diagnosis, task: binary, serving: {default: true}}
service: {max_concurrency: 7}
"""


def test_a_mistake_in_one_models_entry_changes_neither_the_limits_nor_the_default_model(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(TEXT.replace("one: {source", "one: {sorce"))
    service, default = _params({"MLOPS_HOME": str(tmp_path / "home")}, tmp_path)
    assert (service.max_concurrency, default) == (7, "two")
