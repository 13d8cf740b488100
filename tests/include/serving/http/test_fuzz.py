"""A few hundred inputs for each parser on every run; `python -m tests.include.serving.fuzz` takes more."""

from __future__ import annotations

import os

import pytest

from tests.include.serving import fuzz


@pytest.mark.parametrize("parser", ["row", "batch", "v2", "feedback", "formula", "arrow", "parquet"])
def test_no_input_is_an_error_of_ours_or_takes_long(parser: str) -> None:
    inputs = int(os.environ.get("MLOPS_FUZZ_INPUTS", "150"))
    [result] = fuzz.run(inputs, seed=int(os.environ.get("MLOPS_FUZZ_SEED", "9")), only=[parser])
    assert not result.findings, result.findings[:3]
    assert result.inputs == inputs
    assert result.became["refused"] > inputs // 10
    assert result.became["answered"] >= 1
