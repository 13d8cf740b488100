"""What we use from inside other libraries is where docs/internals.md says, in the version for which it was proved."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROW = re.compile(
    r"^\| ([\w-]+) \| ([\d.]+) \| `([\w.]+): ([^`]+)` \| `([^`]+)` \| .+ \| `(tests/[^`]+)::(\w+)` \|$", re.M
)
ROWS = ROW.findall((ROOT / "docs/internals.md").read_text())


def source_of(module: str) -> Path:
    """The file of a module, or the folder of a package's content; nothing of it is imported but its parents."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no {module} any more"
    assert spec.origin is not None
    return Path(spec.origin)


def test_every_row_is_read() -> None:
    rows = [line for line in (ROOT / "docs/internals.md").read_text().splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(rows) - 1 > 10


@pytest.mark.parametrize(
    ("package", "version", "module", "name", "file", "test_file", "test"), ROWS, ids=[f"{r[0]}:{r[3]}" for r in ROWS]
)
def test_what_is_inside_is_still_there_in_the_version_that_was_proved(
    package: str, version: str, module: str, name: str, file: str, test_file: str, test: str
) -> None:
    assert metadata.version(package) == version, "read what changed, run the row's test, then write the version there"
    place = source_of(module)
    if "/" in name:
        assert (place.parent / name).exists()
    else:
        assert name in place.read_text()
    used = Path(name).name.removeprefix("def ").removesuffix(".so")
    where = "_bentoml_impl.worker.service" if module.startswith("_bentoml") else used
    assert where in (ROOT / file).read_text(), f"{file} does not use it: delete the row"
    assert f"def {test}(" in (ROOT / test_file).read_text()
