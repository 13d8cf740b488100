"""What the page in Airflow's UI is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from include import database, settings
from include.deployment import rollouts
from include.monitoring.overview import overview
from tests.include.deployment import trials
from tests.plugins.conftest import PARAMS, fill

ENTRIES = settings.parse_params(PARAMS)


def test_an_empty_platform_is_shown_as_such(database_url: str) -> None:
    found = overview(ENTRIES, database_url)
    assert [(m.name, m.champion, m.check, m.verdicts) for m in found.models] == [
        ("trip_duration", None, None, []),
        ("tumour", None, None, []),
    ]
    assert [(s.name, s.published, s.newest) for s in found.sources] == [("trips", 0, None), ("cells", 0, None)]


def test_a_champion_stands_beside_its_baseline_with_its_verdicts(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    model = overview(ENTRIES, database_url).models[0]
    champion = model.champion
    assert champion
    assert (champion.version, champion.value, champion.baseline, champion.estimator) == (7, 2.871, 4.35, "xgboost")
    assert champion.better_by == pytest.approx((4.35 - 2.871) / 4.35)
    assert [(v.version, v.verdict, v.against) for v in model.verdicts] == [
        (8, "HOLD", "v7"),
        (7, "PROMOTE", "baseline"),
    ]
    assert model.check
    assert model.check.findings == ["trip_distance: PSI 0.31 (critical above 0.2)"]


def test_what_is_tried_beside_the_champion_is_shown_with_what_was_decided(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    engine = database.connect(database_url)
    trials.start(engine, 8, model="trip_duration", against=7, kind="shadow", verdict="HOLD")
    canary = trials.start(engine, 9, model="trip_duration", against=7, steps=(1, 5))
    rollouts.step(engine, canary, actor="the controller", reason="1% went well", evidence={})
    model = overview(ENTRIES, database_url).models[0]
    engine.dispose()
    assert [(tried.kind, tried.version, tried.share) for tried in model.tried] == [
        ("shadow", 8, 0),
        ("canary", 9, 0.05),
    ]
    assert [decision.what for decision in model.decisions] == [
        "canary v9: step",
        "canary v9: start",
        "shadow v8: start",
    ]
    assert model.decisions[0].reason == "1% went well"


def test_a_sources_newest_partitions_are_in_order_with_the_refused_among_them(
    database_url: str, tmp_path: Path
) -> None:
    fill(database_url, tmp_path)
    source = overview(ENTRIES, database_url, recent=20).sources[0]
    assert (source.published, source.refused, len(source.recent)) == (29, 1, 20)
    assert [mark.key for mark in source.recent] == [f"2026-03-{day:02}" for day in range(11, 31)]
    assert [mark.key for mark in source.recent if mark.status != "published"] == ["2026-03-17"]


def test_a_champion_whose_files_are_gone_is_shown_with_what_is_wrong(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    (tmp_path / "served" / "trip_duration" / "abc" / "manifest.json").unlink()
    champion = overview(ENTRIES, database_url).models[0].champion
    assert champion
    assert champion.version == 7
    assert "no such file" in (champion.problem or "")


def test_a_database_that_is_away_is_an_error_and_not_an_empty_page() -> None:
    with pytest.raises(sa.exc.OperationalError):
        overview(ENTRIES, "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    with pytest.raises(ValueError, match="MLOPS_DATABASE_URL"):
        overview(ENTRIES, "")
