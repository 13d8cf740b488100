"""The benchmarks run: what they use of the platform changes, and nobody notices until the day of a measurement."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from benchmarks import page
from tests.conftest import ROOT

SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path: Path) -> None:
    assert importlib.import_module(f"benchmarks.{path.stem}")
    inner = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in inner:
        if node.module and node.module.startswith(("include", "benchmarks")):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.slow
def test_the_page_is_read_with_a_handful_of_queries_however_many_models_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["page", "--models", "12", "--days", "3", "--rounds", "1"])
    page.main()
    few, many = (line.split()[2] for line in capsys.readouterr().out.splitlines())
    assert few == many
    assert int(many) <= 8
