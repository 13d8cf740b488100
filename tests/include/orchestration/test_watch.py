"""What is noticed of edits, and what is not."""

from __future__ import annotations

import select
import sys
from pathlib import Path

import pytest

from include.orchestration.watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "old.py").write_text("old")
    return Watch([tmp_path, tmp_path / "dags", tmp_path / "missing"], lambda path: path.suffix == ".py")


def noticed(watch: Watch) -> bool:
    readable, _, _ = select.select([watch], [], [], 0)
    return bool(readable) and watch.changed()


def test_a_file_that_is_written_replaced_moved_away_or_deleted_is_noticed_once(watch: Watch, tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    assert not noticed(watch)
    (dags / "new.py").write_text("new")
    assert noticed(watch)
    assert not noticed(watch)
    (tmp_path / ".swap").write_text("newer")
    (tmp_path / ".swap").replace(dags / "new.py")  # how most editors save
    assert noticed(watch)
    (dags / "old.py").rename(dags / "old.txt")
    assert noticed(watch)
    (dags / "new.py").unlink()
    assert noticed(watch)
    watch.close()


def test_other_files_and_reading_are_not(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "dags" / "old.py").read_text()
    (tmp_path / "dags" / "__pycache__").mkdir()
    (tmp_path / "dags" / "__pycache__" / "old.py").write_text("below")
    assert not noticed(watch)
    watch.close()
