"""The `mlops` command: quick, and a mistake is one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT


def mlops(*arguments: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    return subprocess.run(
        [sys.executable, "-m", "include.cli", *arguments],
        cwd=ROOT,
        env={**environment, "MLOPS_HOME": str(home), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = mlops("--help", home=tmp_path, COLUMNS="120").stdout
    names = "up down status demo check key env logs suite champion history rollback restore"
    assert [name for name in names.split() if f" {name} " not in shown] == []


def test_the_command_line_answers_at_once(tmp_path: Path) -> None:
    def once() -> float:
        began = time.perf_counter()
        mlops("--help", home=tmp_path)
        return time.perf_counter() - began

    assert min(once() for _ in range(5)) < 0.6


def test_nothing_heavy_is_imported_before_a_command_is_known(tmp_path: Path) -> None:
    code = "import sys, include.cli; print([m for m in ('pydantic', 'sqlalchemy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["status"], ["key", "airflow"], ["champion", "tumour"], ["env"]])
def test_without_a_stack_the_answer_is_one_line_that_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    result = mlops(*command, home=tmp_path / "none")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "make up" in result.stderr


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    assert mlops("down", home=tmp_path / "none").returncode == 0


def test_a_mistake_in_params_is_told_with_its_line(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("sources:\n  a:\n    type: sample\n    dataset: taxi_trip\n")
    result = mlops("check", home=tmp_path, MLOPS_PARAMS=str(params))
    assert result.returncode == 1
    assert "params.yaml:4: sources.a.dataset" in result.stderr
    assert "did you mean 'taxi_trips'" in result.stderr


def test_a_suite_is_proposed_once_and_never_overwritten(tmp_path: Path) -> None:
    suites = tmp_path / "suites"
    params = tmp_path / "params.yaml"
    params.write_text("sources:\n  cells:\n    type: sample\n    dataset: breast_cancer\n")
    variables = {"MLOPS_PARAMS": str(params), "MLOPS_SUITES": str(suites)}
    first = mlops("suite", "cells", home=tmp_path, **variables)
    assert first.returncode == 0, first.stderr
    (suites / "cells.json").write_text("edited")
    again = mlops("suite", "cells", home=tmp_path, **variables)
    assert again.returncode == 1
    assert "cells.json is there already" in again.stderr
    assert (suites / "cells.json").read_text() == "edited"


def test_too_little_disk_and_a_port_in_use_are_one_line_each(tmp_path: Path) -> None:
    """Promise 49, at the start: told before anything is written."""
    from include.stack import local
    from include.stack.progress import Progress

    with pytest.raises(local.StackError, match=r"too little disk: .* set MLOPS_HOME"):
        local.up(ROOT, tmp_path / "home", inherited={}, progress=Progress(sys.stdout), minimum_free=1 << 60)
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        result = mlops("up", home=tmp_path / "home", MLOPS_AIRFLOW_PORT=port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"mlops: port {port} (airflow) is in use by")
    assert len(result.stderr.strip().splitlines()) == 1
