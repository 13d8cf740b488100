"""The list of versions for Airflow's forms follows what is in PostgreSQL, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from include import database
from include.deployment import choices, rollouts
from include.home import Home
from tests.include.deployment import trials


def register(engine: sa.Engine, *versions: int, model: str = "m") -> None:
    with engine.begin() as connection:
        rows = [{"model": model, "version": version, "content_hash": trials.content(version)} for version in versions]
        connection.execute(sa.insert(database.registered_versions), rows)


def known(home: Home) -> dict[int, tuple[str | None, str | None]]:
    """Version → its verdict and its standing."""
    entries = json.loads(home.versions.read_text())["m"]
    return {entry["version"]: (entry["verdict"], entry["standing"]) for entry in entries}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_list_follows_registration_verdict_promotion_and_rollout(database_url: str, home: Home) -> None:
    engine = database.connect(database_url)
    list_ = choices.Projection(engine, home)
    assert list_.refresh()
    assert json.loads(home.versions.read_text()) == {}
    register(engine, 1)
    assert list_.refresh()
    assert known(home) == {1: (None, None)}
    trials.crown(engine, 1)
    assert list_.refresh()
    assert known(home) == {1: ("PROMOTE", "champion")}
    register(engine, 2, 3)
    canary = trials.start(engine, 2)
    trials.judge(engine, 3, 1, "REJECT")
    assert list_.refresh()
    assert known(home) == {3: ("REJECT", None), 2: ("PROMOTE", "canary"), 1: ("PROMOTE", "champion")}
    rollouts.stop(engine, canary, actor="ann", reason="enough")
    trials.crown(engine, 3, 1)
    assert list_.refresh()
    assert known(home) == {3: ("PROMOTE", "champion"), 2: ("PROMOTE", None), 1: ("PROMOTE", "champion before")}
    engine.dispose()


def test_nothing_is_written_while_nothing_happens_and_a_lost_file_comes_back(database_url: str, home: Home) -> None:
    engine = database.connect(database_url)
    register(engine, 1)
    list_ = choices.Projection(engine, home)
    assert list_.refresh()
    written = home.versions.stat().st_mtime_ns
    assert not list_.refresh()
    assert not choices.Projection(engine, home).refresh()  # another controller, or the next one
    assert home.versions.stat().st_mtime_ns == written
    home.versions.unlink()
    assert list_.refresh()
    assert known(home) == {1: (None, None)}
    engine.dispose()


def test_a_champion_of_long_ago_is_offered_beside_the_newest_versions(database_url: str, home: Home) -> None:
    engine = database.connect(database_url)
    register(engine, *range(1, choices.NEWEST + 10))
    register(engine, 1, model="n")
    trials.crown(engine, 2)
    trials.crown(engine, 20, 2)
    choices.Projection(engine, home).refresh()
    newest = list(range(choices.NEWEST + 9, 9, -1))
    assert list(known(home)) == [*newest, 2]
    assert known(home)[2][1] == "champion before"
    assert len(json.loads(home.versions.read_text())["n"]) == 1
    engine.dispose()
