"""What only grows has an owner and a lifetime."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from include import database
from include.home import IN_FORCE, Home
from include.monitoring.lifetimes import DAY, Gone, delete_what_runs_left
from tests.conftest import ROOT

NOW = 1_780_000_000.0


def made(path: Path, days_ago: float) -> Path:
    """A file of some days ago, in folders as old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")
    for each in (path, path.parent):
        os.utime(each, (NOW - days_ago * DAY,) * 2)
    return path


def test_scratch_and_logs_go_when_they_are_older_than_is_kept(tmp_path: Path) -> None:
    home, data = Home(tmp_path), tmp_path / "data"
    old = [
        made(home.runs("train_trips") / "manual__1" / "train.parquet", 91),
        made(data / "staging" / "trips" / "scheduled__1" / "day.parquet", 91),
        made(home.airflow_logs / "dag_id=train" / "run_id=1" / "task_id=fit" / "attempt=1.log", 91),
        made(home.airflow_logs / "dag_processor" / "2026-01-01" / "train.py.log", 120),
    ]
    young = [
        made(home.runs("train_trips") / "manual__2" / "train.parquet", 89),
        made(home.airflow_logs / "dag_id=train" / "run_id=2" / "task_id=fit" / "attempt=1.log", 89),
        made(data / "validated" / "trips" / "2020-01-01.parquet", 900),
        made(data / "quarantine" / "trips" / "2020-01-01.parquet", 900),
        made(home.airflow / "airflow.cfg", 900),
    ]
    still = made(home.runs("train_trips") / "manual__3" / "train.parquet", 91)
    made(still.parent / "deep" / "newer", 1)
    os.utime(still.parent, (NOW - 91 * DAY,) * 2)
    would = delete_what_runs_left(tmp_path, str(data), 90, now=NOW, dry_run=True)
    assert would == Gone(scratch=2, logs=2, bytes=40)
    assert all(path.exists() for path in old)
    assert delete_what_runs_left(tmp_path, str(data), 90, now=NOW) == would
    assert not any(path.exists() for path in old)
    assert not any(path.parent.exists() for path in old[:2])
    assert all(path.exists() for path in [*young, still])
    assert delete_what_runs_left(tmp_path, str(data), 90, now=NOW) == Gone(0, 0, 0)


def test_where_there_is_nothing_or_data_lies_elsewhere_nothing_is_deleted(tmp_path: Path) -> None:
    assert delete_what_runs_left(tmp_path, "s3://bucket/data", 7, now=NOW) == Gone(0, 0, 0)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- the table in the docs


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[str, str]]:
    """What docs/operations.md says of each thing: who writes it, who deletes it and when."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = text.partition("## What is stored, and for how long")[2].partition("\n## ")[0]
    found: dict[str, tuple[str, str]] = {}
    for line in rows.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if len(cells) == 4 else ():
            assert name not in found, f"{name} stands there twice"
            found[name] = (cells[1], cells[2])
    return found


@pytest.mark.parametrize("name", sorted(database.metadata.tables))
def test_every_table_has_an_owner_and_a_lifetime(table: dict[str, tuple[str, str]], name: str) -> None:
    assert all(table[name])


LAYOUT = sorted(
    name for name, member in vars(Home).items() if isinstance(member, property) and name != "folders_of_the_stack"
)


@pytest.mark.parametrize("name", LAYOUT)
def test_every_file_and_folder_of_the_layout_has_an_owner_and_a_lifetime(
    table: dict[str, tuple[str, str]], name: str
) -> None:
    path = getattr(Home(Path("/home")), name).relative_to("/home").as_posix()
    named = {path, f"{path}/", *(f"{parent}/" for parent in list(Path(path).parents)[:-1])}
    assert named & set(table), f"{path} does not stand in docs/operations.md"


def test_every_folder_of_the_data_has_an_owner_and_a_lifetime(table: dict[str, tuple[str, str]]) -> None:
    joined = re.compile(r'join\(\s*(?:\w+\._?)?data_url, "([a-z]+)"')
    names = {name for file in ROOT.glob("include/**/*.py") for name in joined.findall(file.read_text(encoding="utf-8"))}
    assert {"validated", "staging", "reports", "served", IN_FORCE.partition("/")[0]} <= names
    assert {f"data/{name}/" for name in names} - set(table) == set()
