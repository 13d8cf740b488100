"""Some hundred streams of bytes on every run; `python -m tests.include.serving.wire` sends more."""

from __future__ import annotations

import os
from pathlib import Path

from tests.include.serving import wire


def test_both_ways_answer_whatever_comes_over_the_wire_alike(tmp_path: Path) -> None:
    inputs = int(os.environ.get("MLOPS_FUZZ_INPUTS", "150"))
    found = wire.run(inputs, int(os.environ.get("MLOPS_FUZZ_SEED", "9")), tmp_path)
    assert not found.findings, found.findings[:3]
    assert found.inputs == inputs
    assert found.good
    assert found.statuses[200] > inputs // 5
    assert found.statuses[400] > inputs // 5
