"""The fingerprint of the stage's program: it follows imports, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from include.features.fingerprint import STAGE, files, fingerprint
from include.settings import ROOT


def test_it_covers_what_the_stage_really_loads() -> None:
    code = f"import json, sys, {STAGE}; print(json.dumps([m for m in sys.modules if m.partition('.')[0] == 'include']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded <= files(STAGE).keys()
    assert {"include.formulas", "include.features.computed"} <= loaded


def test_what_does_not_compute_features_is_no_part_of_it() -> None:
    """Else an edit of a transform, of the settings or of DVC's driver would compute all features again."""
    followed = " ".join(files(STAGE))
    for room in ("transforms", "settings", "versions", "pipeline"):
        assert room not in followed


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A module that imports others in four ways, and one that it does not import."""
    room = tmp_path / "include" / "room"
    room.mkdir(parents=True)
    texts = {
        "include/__init__.py": "",
        "include/room/__init__.py": "",
        "include/room/main.py": (
            "from typing import TYPE_CHECKING\nimport numpy\nimport include.ground\nfrom include.room import near\n"
            "if TYPE_CHECKING:\n    from include.room import typed\n"
            "def late():\n    from include.room.deep import value\n"
        ),
        "include/ground.py": "",
        "include/room/near.py": "from include.room import main\n",
        "include/room/deep.py": "value = 1\n",
        "include/room/typed.py": "",
        "include/room/other.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["ground", "room.main", "room.near", "room.deep", "room.__init__", "__init__"])
def test_an_edit_of_what_is_imported_changes_it(program: Path, name: str) -> None:
    before = fingerprint("include.room.main", program)
    assert fingerprint("include.room.main", program) == before
    file = program / "include" / (name.replace(".", "/") + ".py")
    file.write_text(file.read_text() + "more = 2\n")
    assert fingerprint("include.room.main", program) != before


@pytest.mark.parametrize("name", ["typed", "other"])
def test_an_edit_of_what_never_runs_changes_nothing(program: Path, name: str) -> None:
    before = fingerprint("include.room.main", program)
    (program / "include" / "room" / f"{name}.py").write_text("more = 2\n")
    assert fingerprint("include.room.main", program) == before
