"""What a worker gives back after a model was loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from include.serving.versions import memory
from tests.conftest import ROOT
from tests.include.serving.crafted import craft_trees

SMAPS = """\
7f0000000000-7f0000001000 r--p 00000000 fe:00 1   /v/xgboost/lib/libxgboost.so
Anonymous:             0 kB
7f0000001000-7f0000003000 r-xp 00001000 fe:00 1   /v/xgboost/lib/libxgboost.so
Rss:                   8 kB
Anonymous:             0 kB
7f0000005000-7f0000006000 r-xp 00001000 fe:00 2   /v/onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86.so
Anonymous:             4 kB
7f0000007000-7f0000008000 r-xp 00001000 fe:00 3   /lib/libc.so
Anonymous:             0 kB
7f0000009000-7f000000a000 rw-p 00000000 00:00 0
Anonymous:             0 kB
"""

PROGRAM = """
import sys
from pathlib import Path
from include.inference import served_form
from include.serving.versions.memory import return_memory
from include.inference.predictor import Predictor

def code():
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.endswith(".so"):
            found = "r-xp" in line and ("libxgboost" in line or "onnxruntime_pybind11" in line)
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total

predictor = Predictor.load(served_form.verify(Path(sys.argv[1])))
predictor.replay_golden()
before = code()
return_memory()
after = code()
predictor.replay_golden()
print(before, after, code())
"""


def test_only_unchanged_code_of_the_libraries_is_let_go_of() -> None:
    assert list(memory._unchanged_code(SMAPS)) == [(0x7F0000001000, 0x2000)]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not tell what is mapped")
def test_what_only_loading_needed_is_given_back_and_the_model_answers_as_before(tmp_path: Path) -> None:
    crafted = craft_trees(tmp_path / "form", seed=1)
    command = [sys.executable, "-c", PROGRAM, str(crafted.form.directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    before, after, used_again = map(int, done.stdout.split())
    assert before > 20_000  # kB
    assert after < before / 10
    assert used_again < before / 2
