"""A table with strange names and values goes through the real steps, or is refused before the first of them.

Read, features, preparation, a fit of small estimators, their served form, and a request of it: no server is needed.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import preflight, storage
from include.features import feature_file
from include.features.columns import from_arrow, types_of
from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet
from include.features.plan import Plan
from include.features.profile import profile
from include.inference.predictor import Predictor
from include.inference.served_form import ServedForm
from include.ingestion import sources
from include.settings import FilesSource, Model
from include.training import estimators, evaluation, export
from include.training.preparation import request_contract
from include.training.preparation import target as targets
from tests.include.training.conftest import ROOT

ROWS = 240
RANDOM = np.random.default_rng(11)
NAMES = [
    "price [EUR]", "a<b", "x$y$z_", "Größe", "with space", " leads", "trails ", "a.b", "a/b", "a,b", "a:b", "100%",
    "it's", "1st", "class", "f0", "rows", "columns", "\N{SNOWMAN}", "a=b", "{c}", "#", "null", "__proto__", "-",
    "a\u200bb",
    "x" * 200, "%(s)s", "*", "$ref", "<script>", "entity", "X", "prediction", "e\u0301", "\N{NO-BREAK SPACE}x", "true",
]  # fmt: skip
"""Each is a column of numbers, of text, or of both with gaps."""


def strange(rows: int = ROWS) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}
    for place, name in enumerate(NAMES):
        if place % 3 == 2:
            words = ['he said "hi"', "back\\slash", "$a$_", "<b>", "ü\N{SNOWMAN}", "", "a,b", "NULL "]
            table[name] = RANDOM.choice(words, rows).tolist()
        else:
            values = np.round(RANDOM.normal(size=rows) * 10.0 ** RANDOM.integers(-6, 12), 9)
            table[name] = ["" if place % 3 == 1 and RANDOM.random() < 0.1 else value for value in values.tolist()]
    return table


def write(path: Path, table: dict[str, list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def served(folder: Path, entry: Model, name: str) -> tuple[ServedForm, FeatureSet]:
    """From the file to the served form, each step by the code that does it in a DAG."""
    source = FilesSource(type="files", path=str(folder / "strange.csv"))
    [(_, table)] = sources.read_partitions(source, ["all"])
    features = compile_features(
        entry.features,
        source_columns=types_of(table.schema),
        target=entry.target,
        entity=None,
        time_column=None,
        root=ROOT,
    )
    plan = Plan("m", {}, "s", features, entry.target, (*features.inputs, entry.target), "1")
    stored = storage.write_table(str(folder / "all.parquet"), table)
    feature_file.build_partition(
        plan, "all", storage.read_bytes(str(folder / "all.parquet"), stored.sha256), folder / "f.parquet"
    )
    spec = json.loads(json.dumps(features.spec))
    features = FeatureSet.from_spec(spec)
    made = pq.read_table(folder / "f.parquet")
    raw = from_arrow(made, features.inputs)
    computed = from_arrow(made, {**features.outputs, **features.inputs})
    labels = targets.read(made, entry, types_of(made.schema))
    classes = targets.classes("m", entry, labels)
    y = evaluation.encode(labels, classes)
    fitted, X = features.fit(computed, y, task=entry.task, seed=1)
    estimator = estimators.load(name)
    params = {**estimators.defaults(name, {}, entry.task), **({"n_estimators": 8} if name != "linear" else {})}
    data = estimators.Data(X, y, None, None, entry.task, entry.metric_name, len(classes or ()))
    model = estimator.fit(params, data, seed=1, threads=1, progress=None)
    golden = request_contract.as_rows(raw, features.inputs, list(range(12)))
    inputs = request_contract.describe_inputs(raw, features.inputs)
    prediction = estimator.predict(model, X)
    share = estimator.importance(model)
    importance = {} if share is None else dict(zip(features.names(fitted), share.tolist(), strict=True))
    pictures = evaluation.plots(
        entry.task, y, prediction, metric="m", classes=classes, importance=importance, curves={}, trials=[]
    )
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    form = export.export(
        folder / name,
        onnx=estimator.to_onnx(model),
        booster=estimator.to_booster(model),
        explanation=estimator.explanation(model),
        predict=lambda matrix: estimator.predict(model, matrix),
        feature_set=features,
        preprocessing=json.loads(json.dumps(fitted)),
        profile={"columns": profile({**raw, **computed})},
        golden_rows=golden,
        manifest={
            "model": "m", "task": entry.task, "target": entry.target, "classes": classes, "inputs": inputs,
            "max_batch": 100, "feature_names": features.names(fitted),
        },
        real=raw,
    )  # fmt: skip
    return form, features


@pytest.mark.parametrize(
    ("task", "estimator"), [("regression", "xgboost"), ("binary", "linear"), ("multiclass", "xgboost")]
)
def test_strange_names_and_values_are_trained_on_and_served(tmp_path: Path, task: str, estimator: str) -> None:
    table = strange()
    numbers = RANDOM.gamma(2.0, 3.0, ROWS)
    labels = ["$_$", "<b>_$", 'q"'] if task == "multiclass" else ["$_$", "<b>_$"]
    table["the $answer$_"] = (
        np.round(numbers, 3).tolist() if task == "regression" else RANDOM.choice(labels, ROWS).tolist()
    )
    write(tmp_path / "strange.csv", table)
    entry = Model.model_validate({"source": "s", "target": "the $answer$_", "task": task})
    form, features = served(tmp_path, entry, estimator)
    assert set(features.inputs) == {name.strip() for name in NAMES}, "the source trims names, like all text"
    predictor = Predictor.load(form)
    row = form.json("golden.json")["rows"][3]
    alone = predictor.predict(predictor.schema.one(json.dumps(row).encode()))
    many = predictor.predict(predictor.schema.unlimited(json.dumps({"rows": [row] * 2}).encode()))
    np.testing.assert_allclose(alone[0], form.json("golden.json")["expected"][3], rtol=1e-5)
    np.testing.assert_allclose(many[1], alone[0], rtol=1e-6)


@pytest.mark.parametrize("name", ['he said "hi"', "back\\slash", "two\nlines", "", "  ", "a\ttab"])
def test_a_name_that_cannot_be_served_is_refused_by_the_check_and_by_the_features_alike(
    tmp_path: Path, name: str
) -> None:
    table = {"x": RANDOM.normal(size=400).tolist(), name: RANDOM.normal(size=400).tolist()}
    write(tmp_path / "strange.csv", {**table, "y": RANDOM.choice(["no", "yes"], 400).tolist()})
    (tmp_path / "suites").mkdir()
    rule = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}
    (tmp_path / "suites" / "s.json").write_text(json.dumps({"expectations": [rule]}))

    def found(features: str, source: str = "") -> list[str]:
        (tmp_path / "params.yaml").write_text(
            f"sources: {{s: {{type: files, path: {tmp_path / 'strange.csv'}{source}}}}}\n"
            f"models: {{m: {{source: s, target: y, task: binary, features: {features}}}}}\n"
        )
        return [str(f) for f in preflight.check(tmp_path / "params.yaml", suites=tmp_path / "suites")]

    [refused] = found("{}")
    assert "rename" in refused
    assert "its name" in refused or "name of blanks" in refused or "has no name" in refused
    assert found("{}", f", rename: {{{json.dumps(name.strip())}: plain}}") == []
    if name.strip():  # a name of blanks is none, and no source is read that has such a column
        assert found(f"{{exclude: [{json.dumps(name)}]}}") == []
        assert found("{columns: [x]}") == []


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_infinity_is_missing_where_null_values_declares_it_and_only_there(tmp_path: Path, form: str) -> None:
    path, values = tmp_path / f"strange.{form}", [1.5, np.inf, -np.inf, 2.5]
    if form == "csv":
        write(path, {"x": values, "y": [1, 2, 3, 4]})
    else:
        pq.write_table(pa.table({"x": values, "y": [1, 2, 3, 4]}), path)

    def read(*null_values: str) -> list[float | None]:
        source = FilesSource(type="files", path=str(path), null_values=null_values)
        [(_, table)] = sources.read_partitions(source, ["all"])
        return table["x"].to_pylist()

    assert read() == values
    assert read("inf") == [1.5, None, -np.inf, 2.5]
    assert read("inf", "-inf") == [1.5, None, None, 2.5]
