"""The pages of docs/ that are made from the program are those that are committed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from include import reference, settings, strategies
from include.features import transforms
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["params.md", "cli.md", "metrics.md"])
def test_a_committed_page_is_what_the_program_makes(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == reference.pages()[name], "run `make docs`"


def test_every_mapping_of_params_yaml_has_a_section() -> None:
    """A part of the settings that the page forgot would be a key that nobody can look up."""
    of_strategies = {strategy.settings for strategy in strategies.every()}  # settings.Rollout has their keys
    without = {settings.Params, settings.Range, settings.Choices}
    declared = {kind for name in transforms.names() for kind in reference.mappings(transforms.load(name).Declaration)}
    mappings = set(reference.mappings(settings.Params)) - without
    assert mappings | declared == set(reference.SECTIONS) - {settings.SourceBase, *of_strategies}


def test_every_transform_has_its_line() -> None:
    page = reference.params_page()
    assert [name for name in transforms.names() if f"| `{name}` |" not in page] == []


def test_every_file_that_makes_a_metric_of_the_service_is_on_the_page() -> None:
    kinds = {"Counter", "Gauge", "Histogram", "Summary"}
    makers = {
        path
        for path in (ROOT / "include").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        if kinds & {alias.name for alias in node.names}
    }
    assert makers == {Path(inspect.getfile(each)) for each in reference.METRICS}
