"""MLOPS_HOME: one spelling of each path below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include import home, settings
from include.home import Home
from tests.conftest import ROOT


def test_no_other_module_spells_a_path_below_the_home() -> None:
    spelled = re.compile(r"""\b_?home(\.absolute\(\)|\(\))?\)? / ["'f]""")
    files = [*ROOT.glob("include/**/*.py"), *ROOT.glob("dags/*.py"), *ROOT.glob("plugins/**/*.py")]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        if file != ROOT / "include" / "home.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if spelled.search(line)
    ]
    assert len(files) > 100
    assert found == []


def test_no_two_paths_of_the_layout_are_the_same(tmp_path: Path) -> None:
    here = Home(tmp_path)
    names = [name for name, member in vars(Home).items() if isinstance(member, property)]
    paths = [getattr(here, name) for name in names if name != "folders_of_the_stack"]
    assert len(paths) > 20
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "/checkout/var"), ({"MLOPS_HOME": ""}, "/checkout/var"), ({"MLOPS_HOME": "/x"}, "/x")]
)
def test_the_home_is_what_the_environment_names_else_var_in_the_checkout(given: dict[str, str], expected: str) -> None:
    assert home.of(given, Path("/checkout")) == Path(expected)


def test_a_relative_home_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", "mine")
    assert home.of({"MLOPS_HOME": "mine"}, Path("/checkout")) == tmp_path / "mine"
    assert settings.environment().paths == Home(tmp_path / "mine")
    assert settings.environment().data_url == str(tmp_path / "mine" / "data")
