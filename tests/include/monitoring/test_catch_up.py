"""What was made and never taken up is found, whatever the reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from include import database, settings
from include.monitoring import catch_up, first_model, requests

MODEL = settings.parse_params("""
sources: {trips: {type: sample, dataset: taxi_trips}}
models: {m: {source: trips, target: fare_amount, task: regression, window: 2}}
""").models["m"]


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = database.connect(database_url)
    yield made
    made.dispose()


def behind(engine: sa.Engine) -> list[tuple[str, str]]:
    found = catch_up.behind({"m": MODEL, "n": MODEL}, database_url=engine.url.render_as_string(hide_password=False))
    return [(late.asset, late.name) for late in found]


def publish(engine: sa.Engine, *days: str, status: str = "published") -> None:
    with engine.begin() as connection:
        for day in days:
            connection.execute(
                sa.insert(database.partitions).values(
                    source="trips", key=day, status=status, sha256=f"hash of {day}", rows=1, quarantined_rows=0,
                    quality=1.0, report={}, run_id="r",
                )
            )  # fmt: skip


def built(engine: sa.Engine, model: str, *days: str) -> None:
    inputs = {day: f"hash of {day}" for day in days}
    with engine.begin() as connection:
        row = {"model": model, "version": "-".join(days), "dvc_lock": "", "inputs": inputs, "rows": 1}
        connection.execute(sa.insert(database.feature_versions).values(row))


def test_nothing_is_behind_where_nothing_was_made(engine: sa.Engine) -> None:
    publish(engine, "2026-03-01", status="quarantined")
    assert behind(engine) == []


def test_partitions_without_features_are_announced_once_for_all_models_of_their_source(engine: sa.Engine) -> None:
    publish(engine, "2026-03-01", "2026-03-02")
    assert behind(engine) == [("validated", "trips")]
    for model in ("m", "n"):
        built(engine, model, "2026-03-01", "2026-03-02")
    assert behind(engine) == []
    publish(engine, "2026-03-03")
    built(engine, "m", "2026-03-02", "2026-03-03")  # its window is two partitions
    assert behind(engine) == [("validated", "trips")]
    built(engine, "n", "2026-03-02", "2026-03-03")
    assert behind(engine) == []


def test_a_request_that_no_training_took_up_is_made_again_and_one_that_began_is_not(
    engine: sa.Engine, database_url: str
) -> None:
    asked = first_model.request("m", database_url, run_key="a", patience=dt.timedelta(hours=9))
    assert behind(engine) == []  # it may yet begin
    with engine.begin() as connection:
        earlier = sa.func.now() - 2 * requests.PATIENCE
        connection.execute(sa.update(database.retraining_requests).values(created_at=earlier))
    assert behind(engine) == [("retraining", "m")]
    found = catch_up.behind({"m": MODEL}, database_url=database_url)
    assert found[0].extra == {"reason": asked.reason}
    assert first_model.request("m", database_url, run_key="b", patience=dt.timedelta(hours=9)).requested
    assert requests.begin("m", database_url, run_key="train") == 2
    assert behind(engine) == []
    assert not first_model.request("m", database_url, run_key="c", patience=dt.timedelta(hours=9)).requested


def test_a_version_that_was_not_judged_is_announced_again(engine: sa.Engine) -> None:
    verdict = {"model": "m", "verdict": "HOLD", "content_hash": "h", "reasons": [], "numbers": {}}
    for version in (1, 2):
        with engine.begin() as connection:
            row = {"model": "m", "version": version, "content_hash": "h"}
            connection.execute(sa.insert(database.registered_versions).values(row))
        assert behind(engine) == [("candidate", "m")]
        with engine.begin() as connection:
            connection.execute(sa.insert(database.verdicts).values(version=version, **verdict))
        assert behind(engine) == []
