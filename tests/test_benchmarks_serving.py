"""The serving benchmark compares what it says: the same rows and answers for all, and it counts what fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import load, model, report
from benchmarks.serving.contenders import ALL, Contender
from benchmarks.serving.processes import free_port, running
from benchmarks.serving.servers import Asked, Cell, started
from include.settings import ColumnType
from tests.conftest import ROOT

ROWS: list[dict[str, Any]] = [
    dict.fromkeys(model.NUMBERS, n + 0.5) | {name: f"{name} {n}" for name in model.CATEGORIES} for n in range(3)
]


@pytest.mark.parametrize("contender", ALL, ids=lambda contender: contender.key)
def test_every_contender_is_asked_for_the_same_values(contender: Contender) -> None:
    speaks = contender.dialect
    assert values(speaks.one(ROWS[0])) == sorted(str(value) for value in ROWS[0].values())
    assert values(speaks.many(ROWS)) == sorted(str(value) for row in ROWS for value in row.values())


def values(document: Any) -> list[str]:
    """The numbers and categories in a body, wherever they are."""
    known = {str(value) for row in ROWS for value in row.values()}

    def walk(part: Any) -> Iterator[str]:
        if isinstance(part, dict | list):
            for inner in part.values() if isinstance(part, dict) else part:
                yield from walk(inner)
        elif str(part) in known:
            yield str(part)

    return sorted(walk(document))


@pytest.mark.slow
def test_the_generator_counts_what_is_not_200_and_what_is_never_answered(tmp_path: Path) -> None:
    port = free_port()
    code = """
import asyncio, sys
BODY = b"x" * 10
class Answers(asyncio.Protocol):
    asked = 0
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        Answers.asked += 1
        status = b"503 Busy" if Answers.asked % 10 == 0 else b"200 OK"
        answer = b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 10\\r\\n\\r\\n" + BODY
        self.transport.write(answer[:30])
        self.transport.write(answer[30:])
        if Answers.asked % 1000 == 0: self.transport.close()
async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""
    with running([sys.executable, "-c", code, str(port)], {}, tmp_path, cores=(0,)) as tree:
        tree.wait_until(lambda: listens(port), 20)
        request = load.request("/predict", b"{}", {"Authorization": "Bearer x"})
        found = load.run(port, [request], connections=4, seconds=1.0, warm_up=0.1)
    assert found.answered > 500
    assert found.failed == pytest.approx((found.acknowledged + found.failed) / 10, rel=0.2)
    assert any("503 Busy" in error for error in found.errors)
    assert found.percentile(0.5) <= found.percentile(0.99)


def listens(port: int) -> bool:
    try:
        load.run(port, [load.request("/", b"", {})], connections=1, seconds=0, warm_up=0)
    except OSError:
        return False
    return True


def test_the_report_says_what_was_reached_and_who_did_not_take_part() -> None:
    run = {"throughput": 800.0, "p50": 1.0, "p99": 3.0, "cpu": 100.0, "others_busy": 0.0, "failed": 0, "errors": []}
    cell = Cell(1, 16).name
    memory = [{part: [90.0] for part in ("workers", "others", "workers_proportional", "others_proportional")}]
    both = {"note": "", "versions": {"uvicorn": "1"}, "startup": [1.0], "memory": memory, "failure": ""}
    ours = {**both, "title": "ours", "cells": {cell: [{**run, "acknowledged": 9, "recorded": 8}]}}
    raw = {**both, "title": "raw", "cells": {cell: [{**run, "throughput": 1000.0, "recorded": None}]}}
    absent = {**both, "title": "absent", "cells": {}, "startup": [], "failure": "NotStarted: it ended"}
    comparison = {
        "date": "2018", "machine": "m", "python": "3", "commit": "c", "changed": False, "command": "x", "rounds": 1,
        "load average": 0.0, "seconds": 1.0, "generator": {"16": {"throughput": 30_000, "cpu": 20.0}},
        "contenders": {"ours": ours, "raw": raw, "mlflow": absent},
    }  # fmt: skip
    text = report.text({"comparison": comparison})
    assert "0.8 | at least 0.8 | reached" in text
    assert "absent: NotStarted: it ended" in text
    assert "1 acknowledged predictions are not in PostgreSQL" in text


@pytest.mark.slow
def test_the_contenders_give_the_answers_of_the_served_form(tmp_path: Path) -> None:
    """A contender is only started if its answers are the booster's: see `Server.check`."""
    from include.features.columns import from_rows
    from include.inference import served_form
    from include.inference.predictor import Predictor

    folder = tmp_path / "model"
    subprocess.run(
        [sys.executable, "-c", "import sys; from benchmarks.serving.model import *; make(Path(sys.argv[1]))", folder],
        cwd=ROOT,
        check=True,
    )
    asked = Asked(folder)
    form = served_form.verify(folder / "served")
    few = asked.rows[:50]
    types: dict[str, ColumnType] = {}
    types |= dict.fromkeys(model.NUMBERS, "float")
    types |= dict.fromkeys(model.CATEGORIES, "string")
    columns = from_rows(few, types)
    assert Predictor.load(form).predict(columns).tolist() == pytest.approx(asked.predictions[:50], rel=1e-5)
    assert len(json.dumps(few[0])) == pytest.approx(210, abs=15)
    for contender in (c for c in ALL if c.key in ("raw", "raw-xgboost", "fastapi-inplace")):
        with started(
            contender,
            root=ROOT,
            python=Path(sys.executable),
            model=folder,
            home=tmp_path / contender.key,
            asked=asked,
            environment={},
        ) as server:
            assert server.predictions(few, many=True) == pytest.approx(asked.predictions[:50], rel=1e-5)
            measured = server.run(Cell(1, 4), seconds=0.3)
            assert measured.answered
            assert not measured.failed
        assert not server.tree.root.is_running()
