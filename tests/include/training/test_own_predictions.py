"""Promise 47: no model learns from what a model predicted."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOG = {"predictions", "labels", "spool_positions"}
"""The prediction log's tables, and what came back about its rows."""
ROOMS = ("ingestion", "features", "training")
"""Where rows come from that a model learns from."""
SOURCES = sorted(path for room in ROOMS for path in (ROOT / "include" / room).rglob("*.py"))


def reads_the_log(text: str) -> list[str]:
    """What of a module's text names a table of the prediction log, or a module that reads it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "database":
            found += [node.attr] if node.attr in LOG else []
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            found += sorted(names & LOG) if node.module == "include.database" else []
            of_the_log = re.match(r"include\.(monitoring|serving\.prediction_log)\b", node.module)
            found += [node.module] if of_the_log else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += re.findall(rf"\b(?:from|join)\s+({'|'.join(LOG)})\b", node.value)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "database.predictions.c.output",
        "from include.database import labels",
        "sa.text('select output from predictions where model = :m')",
        "from include.monitoring import predictions",
        "from include.serving.prediction_log.segments import SegmentReader",
    ],
)
def test_each_way_to_the_log_is_seen(text: str) -> None:
    assert reads_the_log(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_rows_that_a_model_learns_from_never_come_from_the_prediction_log(path: Path) -> None:
    assert reads_the_log(path.read_text()) == []
