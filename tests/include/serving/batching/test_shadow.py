"""Shadows score what others answer: everything, in their own time, and at nobody's expense."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from prometheus_client import CollectorRegistry

from include.inference.predictor import Predictor
from include.serving.batching import shadow as shadows
from include.serving.batching.scoring import Scored, recorded
from include.serving.batching.shadow import Shadow
from include.serving.metrics.counters import ArmCounters, Watch
from include.serving.metrics.prometheus import Metrics
from include.serving.prediction_log.log import PredictionLog
from include.serving.routing.route import Arm
from include.serving.versions.loader import Loaded, LoadedModel
from include.serving.versions.response_encoder import prediction_ids
from tests.include.serving.crafted import ROWS, Crafted, champion_of, craft, craft_trees, graph_of, slow_graph
from tests.waiting import until

MODEL = {"model": "trips"}


class Written:
    """Everything that was to be recorded."""

    writing = False

    def __init__(self) -> None:
        self.lines = b""
        self.rows = 0

    def append(self, lines: bytes, rows: int, table: str = "predictions") -> None:
        assert table == "predictions"
        self.lines += lines
        self.rows += rows

    def commit(self, lines: bytes, rows: int, done: Callable[[Exception | None], None], table: str = "") -> None:
        raise AssertionError("nobody waits for a shadow")

    def afterwards(self, call: Callable[[], object]) -> None:
        raise AssertionError("nothing is being written")

    def state(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def shadow(registry: CollectorRegistry) -> Iterator[Shadow]:
    found = Shadow(Metrics(registry))
    yield found
    found.stop()


def arm_of(crafted: Crafted, name: str = "shadow", version: int = 2) -> Arm:
    """As `Reconciler` makes it, but without golden rows, which some of these shadows do not give."""
    held = LoadedModel(Predictor.load(crafted.form), (10.0, 20.0))
    tally = ArmCounters("trips", name, version)
    tally.watch(Watch(((1, name),), held.edges))
    return Arm(name, Loaded(champion_of(crafted, version), held, "ledger"), 1, tally)


def columns_of(arm: Arm, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return dict(arm.loaded.predictor.schema.many(json.dumps({"rows": rows}).encode()).columns)


def scorers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shadow-trips"]


def dropped(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("mlops_serving_shadow_dropped_rows_total", MODEL) or 0.0


def test_it_scores_every_row_and_writes_it_down_beside_the_answer(
    shadow: Shadow, registry: CollectorRegistry, tmp_path: Path
) -> None:
    arm, written = arm_of(craft(tmp_path / "2")), Written()
    columns, ids = columns_of(arm, ROWS), prediction_ids(len(ROWS) * 50)
    for turn in range(50):
        shadow.score(arm, columns, ids[turn * len(ROWS) : (turn + 1) * len(ROWS)], written)
    until(lambda: written.rows == len(ids))
    window = arm.tally.take()
    assert (window.requests, window.errors, window.rows) == (600, 0, 600)
    right = arm.loaded.predictor.predict(columns)
    counts = np.bincount(np.searchsorted([10.0, 20.0], right, side="right"), minlength=3) * 50
    assert window.predictions() == counts.tolist()
    lines = written.lines.decode().splitlines()
    assert len(lines) == 600
    for line, prediction_id, value in zip(lines, ids, right.tolist() * 50, strict=True):
        assert prediction_id in line.replace("-", "")
        assert "\tshadow\t" in line
        assert f'"prediction":{json.dumps(value)}' in line.replace('\\"', '"')
    assert dropped(registry) == 0


def test_its_predictions_stand_beside_the_answers_in_the_prediction_log(
    shadow: Shadow, database_url: str, tmp_path: Path
) -> None:
    """In PostgreSQL, by the same id."""
    import sqlalchemy as sa

    champion, beside = arm_of(craft(tmp_path / "1"), "champion", 1), arm_of(craft(tmp_path / "2", scale=2))
    columns, ids = columns_of(beside, ROWS), prediction_ids(len(ROWS))

    async def serve() -> None:
        log = PredictionLog(tmp_path / "spool", database_url=database_url, registry=CollectorRegistry())
        log.start(asyncio.get_running_loop())
        predictions = champion.loaded.predictor.predict(columns)
        scored = Scored(ids, predictions, champion.loaded.answers.outputs(predictions), None)
        nobody: list[str | None] = [None] * len(ids)
        inputs = [json.dumps(row).encode() for row in ROWS]
        log.append(recorded(champion, scored, inputs, callers=nobody, entities=None, seconds=0.001), len(ids))
        shadow.score(beside, columns, ids, log)
        scored_rows = 0
        while scored_rows < len(ids):
            await asyncio.sleep(0.01)
            scored_rows += beside.tally.take().rows
        await asyncio.sleep(0.2)  # from its thread to the loop, and from there to the disk
        await log.stop()

    asyncio.run(serve())
    engine = sa.create_engine(database_url)
    pairs = sa.text(
        "select c.inputs, c.prediction, s.version, s.arm, s.inputs, s.prediction from predictions c"
        " join predictions s on s.id = c.id and s.arm <> c.arm where c.arm = 'champion'"
    )
    with engine.connect() as connection:
        found = list(connection.execute(pairs))
    engine.dispose()
    assert len(found) == len(ROWS)
    for inputs, prediction, version, arm, nothing, doubled in found:
        assert (version, arm, nothing) == (2, "shadow", {})
        assert inputs in ROWS
        assert doubled == pytest.approx(2 * prediction)


def test_handing_rows_on_waits_for_nothing(shadow: Shadow, tmp_path: Path) -> None:
    arm = arm_of(craft(tmp_path / "2", graph=slow_graph(craft(tmp_path / "1").weights, turns=10**5)))
    columns, ids, written = columns_of(arm, ROWS), prediction_ids(len(ROWS)), Written()
    for _ in range(2000):
        shadow.score(arm, columns, ids, written)
    assert written.rows < 2000 * len(ROWS) / 10  # the model takes many times as long as they did


def slow(tmp_path: Path, turns: int) -> Crafted:
    return craft(tmp_path / "slow", graph=slow_graph(craft(tmp_path / "weights").weights, turns=turns))


def latencies(shadow: Shadow, champion: Arm, beside: Arm | None, written: Written, seconds: float) -> np.ndarray:
    """Seconds of single answers on an event loop, with everything handed on to the shadow."""
    body = json.dumps(ROWS[5]).encode()

    async def one() -> float:
        began = time.perf_counter()
        await asyncio.sleep(0)
        columns = champion.loaded.predictor.schema.one(body)
        predictions = champion.loaded.predictor.predict(columns)
        champion.loaded.answers.outputs(predictions)
        if beside is not None:
            shadow.score(beside, dict(columns), prediction_ids(1), written)
        return time.perf_counter() - began

    async def many() -> list[float]:
        found, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            found += await asyncio.gather(*(one() for _ in range(4)))
            await asyncio.sleep(0.002)
        return found

    return np.array(asyncio.run(many()))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("kind", ["slow", "quick"])
def test_answers_take_no_longer_beside_a_shadow(
    shadow: Shadow, registry: CollectorRegistry, tmp_path: Path, kind: str
) -> None:
    """Beside one that needs half a second of a core for a call, and beside one that keeps up with real trees.

    Interleaved, medians of five rounds: the machine has other things to do.
    """
    champion = arm_of(craft_trees(tmp_path / "1", seed=1), "champion", 1)
    beside = arm_of(slow(tmp_path, 2 * 10**5) if kind == "slow" else craft_trees(tmp_path / "2", seed=2))
    written = Written()
    latencies(shadow, champion, None, written, 0.3)
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(5):
        for shadowed in (False, True):
            seconds = latencies(shadow, champion, beside if shadowed else None, written, 1.0)
            found[shadowed].append((float(np.median(seconds)) * 1e3, float(np.quantile(seconds, 0.99)) * 1e3))
            time.sleep(0.3)
    (p50, p99), (p50_beside, p99_beside) = (np.median(found[k], axis=0) for k in (False, True))
    window = beside.tally.take()
    print(
        f"{kind}: p50 {p50:.3f} → {p50_beside:.3f} ms, p99 {p99:.2f} → {p99_beside:.2f} ms;"
        f" scored {window.rows}, dropped {dropped(registry):.0f}"
    )
    assert p50_beside < 2 * p50 + 0.5
    assert p99_beside < 3 * p99 + 20


def test_what_a_slow_shadow_cannot_do_is_dropped_and_counted(registry: CollectorRegistry, tmp_path: Path) -> None:
    shadow, written = Shadow(Metrics(registry), queue_rows=1000), Written()
    arm = arm_of(slow(tmp_path, 10**5))
    columns, ids = columns_of(arm, ROWS), prediction_ids(len(ROWS))
    for _ in range(1000):
        shadow.score(arm, columns, ids, written)
    assert 12_000 - 1000 - 12 * 256 <= dropped(registry) <= 12_000 - 984
    shadow.stop()
    until(lambda: not scorers())
    assert dropped(registry) + written.rows == 12_000


def test_a_shadow_that_hangs_costs_its_queue_and_nothing_else(registry: CollectorRegistry, tmp_path: Path) -> None:
    shadow, written = Shadow(Metrics(registry), queue_rows=100), Written()
    hanging, quick = arm_of(slow(tmp_path, 10**6)), arm_of(craft(tmp_path / "3", scale=3), version=3)
    columns = columns_of(quick, ROWS)
    for _ in range(50):
        shadow.score(hanging, columns, prediction_ids(len(ROWS)), written)
    left = scorers()
    time.sleep(0.2)
    shadow.score(quick, columns, prediction_ids(len(ROWS)), written)  # another version is tried
    until(lambda: written.rows == len(ROWS))
    assert any(thread.is_alive() for thread in left)
    assert dropped(registry) >= 50 * len(ROWS) - 256
    shadow.stop()
    for thread in left:  # at the interpreter's end C++ would not let it go
        thread.join()


def test_a_shadow_that_always_fails_is_counted_and_not_looked_into_for_long(
    shadow: Shadow, registry: CollectorRegistry, tmp_path: Path
) -> None:
    arm, written = arm_of(craft(tmp_path / "2")), Written()
    columns = columns_of(arm, ROWS)
    del columns["trip_distance"]  # as from a champion that takes other fields
    for _ in range(20):
        shadow.score(arm, columns, prediction_ids(len(ROWS)), written)
    until(lambda: arm.tally.take().errors or dropped(registry))
    until(lambda: dropped(registry) == 240 - shadows.FAILURES)
    assert written.rows == 0


def test_a_row_that_fails_is_found_and_the_others_are_scored(shadow: Shadow, tmp_path: Path) -> None:
    """The logarithm of a negative number is not finite: one row in a batch of many."""
    weights = craft(tmp_path / "1").weights
    nodes = [helper.make_node("MatMul", ["X", "W"], ["sum"]), helper.make_node("Log", ["sum"], ["prediction"])]
    arm = arm_of(craft(tmp_path / "2", graph=graph_of(nodes, {"W": weights}, len(weights), 1)))
    rows = [ROWS[5 + n % 5] for n in range(200)]
    rows[77] = {**ROWS[5], "trip_distance": -1e6}
    written = Written()
    shadow.score(arm, columns_of(arm, rows[:100]), prediction_ids(100), written)
    shadow.score(arm, columns_of(arm, rows[100:]), prediction_ids(100), written)
    until(lambda: written.rows == 199)
    window = arm.tally.take()
    assert (window.requests, window.errors, window.rows) == (200, 1, 199)


def test_answers_of_versions_that_take_other_fields_do_not_meet(shadow: Shadow, tmp_path: Path) -> None:
    arm, written = arm_of(craft(tmp_path / "2")), Written()
    columns = columns_of(arm, ROWS)
    more = {**columns, "colour": np.array(["red"] * len(ROWS), dtype=object)}
    for turn in range(6):
        shadow.score(arm, more if turn % 2 else columns, prediction_ids(len(ROWS)), written)
    until(lambda: written.rows == 6 * len(ROWS))
    assert arm.tally.take().errors == 0


def test_an_idle_shadow_lets_its_model_go(shadow: Shadow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "IDLE_SECONDS", 0.1)
    arm, written = arm_of(craft(tmp_path / "2")), Written()
    columns = columns_of(arm, ROWS)
    shadow.score(arm, columns, prediction_ids(len(ROWS)), written)
    until(lambda: written.rows == len(ROWS))
    until(lambda: not scorers())
    shadow.score(arm, columns, prediction_ids(len(ROWS)), written)
    until(lambda: written.rows == 2 * len(ROWS))
    predictor = weakref.ref(arm.loaded.predictor)
    until(lambda: not scorers())
    del arm
    assert predictor() is None
