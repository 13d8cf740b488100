"""Served forms crafted by hand: small linear graphs over declared features, whose answers NumPy knows too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from include import settings
from include.features.columns import from_rows
from include.features.compiler import compile_features
from include.features.feature_set import FeatureSet
from include.inference import served_form
from include.serving.versions.version import Champion

if TYPE_CHECKING:
    from include.deployment.rollouts import Rollout

TYPES: dict[str, settings.ColumnType] = {
    "trip_distance": "float",
    "passenger_count": "int",
    "vendor": "string",
    "pickup": "timestamp",
    "night": "bool",
    "minutes": "float",
}
ROWS: list[dict[str, Any]] = [
    {
        "trip_distance": 0.5 + n,
        "passenger_count": 1 + n % 4,
        "vendor": "abc"[n % 3],
        "pickup": f"2018-01-{n + 1:02d}T{n:02d}:30:00",
        "night": n % 2 == 0,
    }
    for n in range(12)
]
OPTIONAL = frozenset({"night"})


@dataclass(frozen=True)
class Crafted:
    """A sealed form, with what is needed to compute its answers without it."""

    form: served_form.ServedForm
    features: FeatureSet
    fitted: dict[str, Any]
    weights: np.ndarray


def craft(
    directory: Path,
    *,
    model: str = "trips",
    task: str = "regression",
    scale: float = 1.0,
    graph: bytes | None = None,
    golden: dict[str, Any] | None = None,
    unknown: str = "other",
    max_batch: int = 100,
    more: dict[str, bytes] | None = None,
    described: dict[str, dict[str, Any]] | None = None,
) -> Crafted:
    """Seal a form whose answers are linear in its features; `graph` and `golden` replace the right ones.

    `more` are further files of it, `described` is what its manifest says of inputs besides their types.
    """
    entry = settings.Features(
        date_parts={"pickup": ("hour",)},
        one_hot=("vendor",),
        standard_scaler=("trip_distance",),
        unknown_category=unknown,
    )
    features = compile_features(
        entry, source_columns=TYPES, target="minutes", entity=None, time_column=None, root=Path(__file__).parents[3]
    )
    columns = from_rows(ROWS, features.inputs)
    classes = [False, True] if task == "binary" else None
    target = np.array([float(n % 2) if classes else 3.0 + n for n in range(len(ROWS))])
    fitted, matrix = features.fit(features.compute(columns), target, task=task, seed=1)
    fitted = json.loads(json.dumps(fitted))
    weights = scale * np.linspace(0.5, 1.5, matrix.shape[1] * (2 if classes else 1)).reshape(matrix.shape[1], -1)
    if classes:
        weights[:, 1] *= -0.7
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(graph or linear_graph(weights, softmax=bool(classes)))
    (directory / "preprocessing.json").write_text(json.dumps(fitted))
    right = {"rows": ROWS, "expected": expected(features, fitted, weights, classes is not None), "tolerance": 1e-5}
    (directory / "golden.json").write_text(json.dumps(golden or right))
    (directory / "profile.json").write_text("{}")
    for name, content in (more or {}).items():
        (directory / name).write_bytes(content)
    bare, described = {"categories": None, "minimum": None, "maximum": None}, described or {}
    inputs = [
        {"name": n, "type": k, "required": n not in OPTIONAL, "example": ROWS[0][n], **bare, **described.get(n, {})}
        for n, k in features.inputs.items()
    ]
    manifest = {
        "model": model, "task": task, "target": "minutes", "estimator": "linear", "classes": classes, "positive": True,
        "inputs": inputs, "features": features.spec, "unknown_category": unknown,
        "metric": "mae", "metrics": {"mae": 1.0},
        "run_id": "r", "feature_version": "f", "code_version": "c", "created_at": "2018-02-01T00:00:00+00:00",
        "max_batch": max_batch,
    }  # fmt: skip
    return Crafted(served_form.seal(directory, manifest), features, fitted, weights)


def craft_trees(directory: Path, *, seed: int, rounds: int = 300) -> Crafted:
    """Seal a form of as many trees as a real one has, by XGBoost, with its own file beside the graph."""
    import xgboost

    from include.training.estimators import xgboost as estimator

    plain = craft(directory.with_name(f"{directory.name}-linear"))
    matrix = plain.features.transform(plain.fitted, plain.features.compute(from_rows(ROWS, plain.features.inputs)))
    random = np.random.default_rng(seed)
    X = random.normal(matrix.mean(axis=0), matrix.std(axis=0) + 0.5, size=(4000, matrix.shape[1])).astype(np.float32)
    y = X @ random.normal(size=X.shape[1]) + np.sin(3 * X[:, 0]) + random.normal(size=len(X))
    settings = {"max_depth": 6, "tree_method": "hist", "seed": seed, "nthread": 1, "verbosity": 0}
    booster = xgboost.train(settings, xgboost.DMatrix(X, y), num_boost_round=rounds)
    graph = estimator.to_onnx(estimator.Fitted(booster, "reg:squarederror", X.shape[1], 1, 1))
    answers = booster.predict(xgboost.DMatrix(matrix.astype(np.float32)))
    golden = {"rows": ROWS, "expected": [float(a) for a in answers], "tolerance": 1e-4}
    return craft(directory, graph=graph, golden=golden, more={"booster.ubj": bytes(booster.save_raw("ubj"))})


def expected(features: FeatureSet, fitted: dict[str, Any], weights: np.ndarray, softmax: bool) -> list[Any]:
    """The answers to ROWS, by NumPy alone."""
    matrix = features.transform(fitted, features.compute(from_rows(ROWS, features.inputs)))
    scores = matrix @ weights
    if not softmax:
        return [float(v) for v in scores[:, 0]]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).tolist()


def linear_graph(weights: np.ndarray, *, softmax: bool = False) -> bytes:
    """X @ weights, in double precision."""
    last = "scores" if softmax else "prediction"
    nodes = [helper.make_node("MatMul", ["X", "W"], [last])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["prediction"], axis=1))
    return graph_of(nodes, {"W": weights}, weights.shape[0], weights.shape[1])


def constant_graph(width: int, value: float) -> bytes:
    """The same answer to every row."""
    nodes = [
        helper.make_node("ReduceSum", ["X", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["prediction"]),
    ]
    constants = {"axes": np.array([1], dtype=np.int64), "zero": np.zeros(1), "value": np.array([value])}
    return graph_of(nodes, constants, width, 1)


def slow_graph(weights: np.ndarray, turns: int) -> bytes:
    """X @ weights, after a loop of many turns that adds nothing."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_in"], ["going_out"]),
            helper.make_node("Add", ["sum_in", "none"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.DOUBLE, None),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.DOUBLE, None),
        ],
        [numpy_helper.from_array(np.zeros(1), "none")],
    )
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["start"]),
        helper.make_node("Loop", ["turns", "going", "start"], ["prediction"], body=body),
    ]
    constants = {"W": weights, "turns": np.array(turns, dtype=np.int64), "going": np.array(True)}
    return graph_of(nodes, constants, weights.shape[0], 1)


def graph_of(nodes: list[Any], constants: dict[str, np.ndarray], width: int, outputs: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "crafted",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def champion_of(crafted: Crafted, version: int, *, ledger_id: int = 1, url: str = "") -> Champion:
    """The row of the champions table that would name a crafted form, which lies in place."""
    form = crafted.form
    address = url or str(form.directory)
    return Champion(form.manifest["model"], version, form.content_hash, address, f"prediction:{version}", ledger_id)


def promote(database_url: str, champion: Champion, *, hidden: str | None = None) -> int:
    """Make it champion, by a verdict and the ledger; returns the ledger's id.

    A `hidden` table is there, under its own name, for this transaction only.
    """
    from include import database
    from include.deployment import ledger

    engine = database.connect(database_url)
    before, verdict_id = _judge(engine, champion)
    with engine.begin() as connection:
        if hidden:
            connection.exec_driver_sql(f"alter table hidden_{hidden} rename to {hidden}")
        entry = ledger.promote(
            connection, model=champion.model, to_version=champion.version, expected_from=before, url=champion.url,
            content_hash=champion.content_hash, bento=champion.bento, verdict_id=verdict_id, actor="test",
            reason="test",
        )  # fmt: skip
        if hidden:
            connection.exec_driver_sql(f"alter table {hidden} rename to hidden_{hidden}")
    engine.dispose()
    return entry.id


def try_out(database_url: str, version: Champion, kind: str, **declared: Any) -> Rollout:
    """Start a rollout of it beside the champion; `declared` are settings of the rollout."""
    from include import database
    from include.deployment import admission, rollouts

    engine = database.connect(database_url)
    _, verdict_id = _judge(engine, version)
    rollout = admission.start(
        engine,
        rollouts.Candidate(
            version.model, version.version, version.content_hash, version.url, version.bento, verdict_id
        ),
        kind=kind, settings=settings.Rollout(**declared), actor="test", reason="test",
    )  # fmt: skip
    engine.dispose()
    return rollout


def _judge(engine: Any, version: Champion) -> tuple[int | None, int]:
    """A PROMOTE verdict against the champion: its version, and the verdict's id."""
    import sqlalchemy as sa

    from include import database
    from include.deployment import ledger

    current = ledger.champion(engine, version.model)
    before = current.version if current else None
    verdict = sa.insert(database.verdicts).values(
        model=version.model, version=version.version, verdict="PROMOTE", champion_version=before,
        content_hash=version.content_hash, reasons=[], numbers={},
    )  # fmt: skip
    with engine.begin() as connection:
        return before, connection.execute(verdict.returning(database.verdicts.c.id)).scalar_one()
