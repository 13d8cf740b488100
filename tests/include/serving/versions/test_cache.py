"""The versions in memory: a budget that champions may exceed and nothing else, and memory that comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from onnx import helper
from prometheus_client import CollectorRegistry

from include.deployment import rollouts
from include.inference.predictor import estimated_bytes
from include.serving.control.reconciler import Reconciler
from include.serving.metrics.prometheus import Metrics
from tests.conftest import ROOT
from tests.include.serving.control.test_reconciler import running, version_of
from tests.include.serving.crafted import Crafted, champion_of, craft, craft_trees, graph_of, promote, try_out
from tests.include.serving.routing.test_table import change, route_of
from tests.waiting import until

BUDGET_MB = 30


def large(directory: Path, megabytes: float, *, model: str = "trips", scale: float = 1.0) -> Crafted:
    """A form that is taken to need so much memory: right, with numbers in it that add nothing."""
    none, some = (weighted(directory, size, model, scale) for size in (0, 100_000))
    base, each = estimated_bytes(none.form), estimated_bytes(some.form) - estimated_bytes(none.form)
    return weighted(directory, int((megabytes * 1024 * 1024 - base) / each * 100_000), model, scale)


def weighted(directory: Path, numbers: int, model: str, scale: float) -> Crafted:
    """Below the directory, in a folder of its own."""
    plain = craft(directory / f"{numbers}-plain", model=model, scale=scale)
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["answer"]),
        helper.make_node("ReduceSum", ["ballast"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["prediction"]),
    ]
    constants = {"W": plain.weights, "ballast": np.zeros(numbers), "zero": np.zeros(())}
    graph = graph_of(nodes, constants, plain.weights.shape[0], 1)
    return craft(directory / str(numbers), model=model, scale=scale, graph=graph)


def models_within(database_url: str, home: Path, registry: CollectorRegistry | None = None) -> Reconciler:
    return Reconciler(
        Metrics(registry or CollectorRegistry()),
        database_url=database_url,
        copies=home / "serving",
        home=home,
        poll_seconds=0.05,
        memory_megabytes=BUDGET_MB,
    )


def test_a_tried_version_that_would_exceed_the_budget_is_refused_with_the_reason(
    database_url: str, tmp_path: Path
) -> None:
    promote(database_url, champion_of(large(tmp_path / "1", 18), 1))
    with running(models_within(database_url, tmp_path / "home")) as models:
        rollout = try_out(database_url, champion_of(large(tmp_path / "2", 18, scale=2), 2), "canary", steps=(50,))
        until(lambda: models.problems())
        [problem] = models.problems()
        assert "trips version 2 was not loaded as canary: it needs about 18 MB of memory" in problem
        assert f"of the {BUDGET_MB} MB for models" in problem
        assert (version_of(models), route_of(models).challenger) == (1, None)
        change(database_url, rollouts.stop, rollout)
        try_out(database_url, champion_of(large(tmp_path / "3", 6, scale=3), 3), "canary", steps=(50,))
        until(lambda: route_of(models).challenger)
        assert models.status == "ok"


def test_a_shadow_makes_room_for_a_canary(database_url: str, tmp_path: Path) -> None:
    promote(database_url, champion_of(large(tmp_path / "1", 9), 1))
    with running(models_within(database_url, tmp_path / "home")) as models:
        try_out(database_url, champion_of(large(tmp_path / "2", 9, scale=2), 2), "shadow")
        until(lambda: route_of(models).shadow)
        try_out(database_url, champion_of(large(tmp_path / "3", 14, scale=3), 3), "canary", steps=(50,))
        until(lambda: route_of(models).challenger)
        assert route_of(models).shadow is None
        assert "trips version 2 was not loaded as shadow" in " ".join(models.problems())


def test_champions_are_loaded_whatever_they_take_and_what_is_tried_makes_room(
    database_url: str, tmp_path: Path
) -> None:
    registry, home = CollectorRegistry(), tmp_path / "home"
    promote(database_url, champion_of(large(tmp_path / "1", 9), 1))
    with running(models_within(database_url, home, registry)) as models:
        try_out(database_url, champion_of(large(tmp_path / "2", 9, scale=2), 2), "canary", steps=(50,))
        until(lambda: route_of(models).challenger)
        promote(database_url, champion_of(large(tmp_path / "o", 16, model="other"), 1))
        until(lambda: models.route("other"))
        assert route_of(models).challenger is None
        assert "trips version 2 was not loaded as canary" in " ".join(models.problems())
        promote(database_url, champion_of(large(tmp_path / "p", 18, model="third"), 1))
        until(lambda: models.route("third"))
        until(lambda: "the champions take" in " ".join(models.problems()))
        assert sorted(models.routes) == ["other", "third", "trips"]
        assert registry.get_sample_value("mlops_serving_models_bytes") > BUDGET_MB * 1024 * 1024
        until(lambda: '"event": "models_over_budget"' in (home / "logs" / "alerts.jsonl").read_text())


SWAPPING = """
import json, os, sys, threading, time, weakref
from pathlib import Path
from include.serving.metrics.prometheus import Metrics
from include.serving.control.reconciler import Reconciler
from include.inference.predictor import estimated_bytes
url, home = sys.argv[1], Path(sys.argv[2])
models = Reconciler(Metrics(), database_url=url, copies=home / "serving", home=home, poll_seconds=0.02)
models.start()
wrong, answered, stop = [], 0, False

def ask():
    global answered
    expected = {}
    while not stop:
        loaded = models.get("trips")
        if loaded is None:
            continue
        golden = loaded.predictor.golden
        body = json.dumps(golden["rows"][5]).encode()
        found = float(loaded.predictor.predict(loaded.predictor.schema.one(body))[0])
        many = json.dumps({"rows": golden["rows"] * 8}).encode()
        batch = loaded.predictor.predict(loaded.predictor.schema.many(many).columns)
        answered += 2
        if abs(found - golden["expected"][5]) > 1e-3 or len(batch) != 96:
            wrong.append((loaded.version, found))
        loaded = golden = None
        time.sleep(0.002)

asker = threading.Thread(target=ask)
asker.start()
alive = []
for line in sys.stdin:
    version = int(line)
    while (loaded := models.get("trips")) is None or loaded.version != version:
        time.sleep(0.005)
    alive.append(weakref.ref(loaded.predictor))
    loaded = None
    if version % 10 == 0:
        time.sleep(1.3)  # until what was dropped is given back
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    said = {"version": version, "rss": pages * os.sysconf("SC_PAGE_SIZE"), "wrong": wrong, "answered": answered}
    said |= {"alive": sum(ref() is not None for ref in alive), "threads": threading.active_count()}
    print(json.dumps(said), flush=True)
stop = True
asker.join()
models.stop()
"""


@pytest.mark.slow
def test_memory_returns_to_its_baseline_after_a_hundred_swaps(database_url: str, tmp_path: Path) -> None:
    """Promise 34, with models of 300 trees that answer all the while; each swap is a download and a load."""
    forms = [craft_trees(tmp_path / f"f{seed}", seed=seed) for seed in range(4)]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    (tmp_path / "metrics").mkdir()
    command = [sys.executable, "-c", SWAPPING, database_url, str(tmp_path / "home")]
    with (tmp_path / "log").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdin is not None
    assert process.stdout is not None
    told, took = [], []
    for version in range(1, 121):
        promote(database_url, champion_of(forms[version % len(forms)], version))
        began = time.monotonic()
        process.stdin.write(f"{version}\n")
        process.stdin.flush()
        told.append(json.loads(process.stdout.readline() or "null"))
        took.append(time.monotonic() - began)
    process.stdin.close()
    process.stdout.close()
    assert process.wait(30) == 0, (tmp_path / "log").read_text()[-3000:]
    settled = [entry["rss"] / 1024 / 1024 for entry in told if entry["version"] % 10 == 0]
    print(
        f"RSS after 10, 20, … 120 swaps: {', '.join(f'{mb:.1f}' for mb in settled)} MB;"
        f" a swap {median(took) * 1e3:.0f} ms; {told[-1]['answered']} calls"
    )
    assert told[-1]["wrong"] == []
    assert max(entry["alive"] for entry in told) <= 2
    assert settled[-1] - settled[1] < 10, settled
    assert told[-1]["threads"] <= 5
    assert sum(1 for _ in (tmp_path / "metrics").iterdir()) < 10
    assert sum(p.is_dir() for p in (tmp_path / "home" / "serving" / "trips").iterdir()) == 2
