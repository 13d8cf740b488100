"""The pages of docs/ that are made from the program are those that are committed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from include import reference, settings
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["params.md", "cli.md", "metrics.md"])
def test_a_committed_page_is_what_the_program_makes(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == reference.pages()[name], "run `make docs`"


def mappings(kind: Any) -> set[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {kind}.union(*(mappings(field.annotation) for field in kind.model_fields.values()))
    return set().union(*map(mappings, get_args(kind)))


def test_every_mapping_of_params_yaml_has_a_section() -> None:
    """A part of the settings that the page forgot would be a key that nobody can look up."""
    without = {settings.Params, settings.Range, settings.Choices}
    assert mappings(settings.Params) - without == set(reference.SECTIONS) - {settings.SourceBase}


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
