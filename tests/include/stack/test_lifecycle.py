"""What stops a start before the stack is up; a whole stack is started and killed in tests/e2e."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

from include.stack import credentials, lifecycle, machine, postgres
from include.stack.progress import Progress
from include.stack.supervision import processes
from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def variables() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not re.match(r"MLOPS_|AIRFLOW|MLFLOW|XDG_RUNTIME", k)}
    return {**kept, **{f"MLOPS_{p}_PORT": str(free_port()) for p in ("AIRFLOW", "MLFLOW", "SERVING", "POSTGRES")}}


def up(home: Path, inherited: dict[str, str]) -> machine.Stack:
    return lifecycle.up(ROOT, home, inherited=inherited, progress=Progress(io.StringIO()))


class TestADyingPart:
    def test_it_is_told_at_once_by_name_with_its_last_words_and_nothing_is_left_running(self, tmp_path: Path) -> None:
        home, inherited = tmp_path / "home", variables()
        home.mkdir()
        keys = credentials.read_or_create(home / "credentials.env")
        postgres.prepare(home / "postgres", keys.postgres_password)
        (home / "postgres" / "global" / "pg_control").write_bytes(b"damaged")
        with pytest.raises(machine.StackError) as error:
            up(home, inherited)
        assert str(error.value).startswith("postgres could not start")
        assert "pg_control" in str(error.value)
        stack = machine.load(ROOT, home)
        assert processes.marked(stack.stack_id) + processes.postgres(stack.home / "postgres") == []

    def test_lost_credentials_are_not_replaced_when_data_depends_on_them(self, tmp_path: Path) -> None:
        (tmp_path / "postgres").mkdir()
        (tmp_path / "postgres" / "PG_VERSION").write_text("18")
        with pytest.raises(machine.StackError, match="bring the file back"):
            up(tmp_path, variables())
