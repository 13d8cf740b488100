"""The prediction log in PostgreSQL: labels join their predictions, days are counted, and deleted in time."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from include import database
from include.monitoring import predictions
from tests.include.monitoring.prediction_rows import HOUR, NOON, NOW, answered, joined, told

TODAY = dt.date(2026, 3, 20)


@pytest.fixture
def engine(database_url):
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


# ------------------------------------------------------------------------------------------------ labels


def test_a_late_label_belongs_to_its_prediction_and_others_have_none(engine):
    one, other = answered(engine), answered(engine)
    told(engine, 11, prediction_id=one, received=NOW - HOUR)
    assert joined(engine) == {one: 11, other: None}


def test_of_duplicate_and_conflicting_labels_the_one_received_last_counts(engine):
    """Promise 42. By its arrival, not by when it was copied or when it became true."""
    one, other = answered(engine), answered(engine)
    told(engine, 11, prediction_id=one, received=NOON + 3 * HOUR)
    told(engine, 12, prediction_id=one, received=NOON + 2 * HOUR, at=NOON + 2 * HOUR)
    for _ in range(3):
        told(engine, 20, prediction_id=other)
    assert joined(engine) == {one: 11, other: 20}


def test_a_label_for_an_unknown_id_is_kept_and_joined_when_the_prediction_is_there(engine):
    later = uuid.uuid4().hex
    told(engine, 11, prediction_id=later)
    assert joined(engine) == {}
    answered(engine, prediction_id=later)
    assert joined(engine) == {later: 11}


def test_a_label_of_another_model_is_not_joined(engine):
    one = answered(engine, entity="a")
    told(engine, 11, prediction_id=one, model="tumour")
    told(engine, 11, entity="a", model="tumour")
    assert joined(engine) == {one: None}


def test_a_label_from_the_future_is_not_joined_before_its_time(engine):
    one = answered(engine, entity="a")
    told(engine, 11, prediction_id=one, at=NOON + 5 * HOUR)
    told(engine, 10, entity="a", at=NOON + 6 * HOUR, received=NOON + 3 * HOUR)
    assert joined(engine, now=NOON + 4 * HOUR) == {one: None}
    assert joined(engine, now=NOON + 5 * HOUR) == {one: 11}
    assert joined(engine, now=NOON + 6 * HOUR) == {one: 10}


def test_a_label_of_an_entity_belongs_to_its_last_prediction_before_it_became_true(engine):
    early, late, after = (answered(engine, NOON + n * HOUR, entity="a") for n in (0, 2, 4))
    told(engine, 11, entity="a", at=NOON + 3 * HOUR)
    told(engine, 99, entity="b", at=NOON + 3 * HOUR)
    assert joined(engine) == {early: None, late: 11, after: None}
    told(engine, 7, entity="a", at=NOON + HOUR)
    assert joined(engine) == {early: 7, late: 11, after: None}


def test_a_label_whose_prediction_is_outside_of_the_window_is_nobody_elses(engine):
    early, late = answered(engine, NOON, entity="a"), answered(engine, NOON + 4 * HOUR, entity="a")
    told(engine, 11, entity="a", at=NOON + 2 * HOUR)
    assert joined(engine, since=NOON + HOUR) == {late: None}
    assert joined(engine, until=NOON + HOUR) == {early: 11}


def test_a_shadow_has_the_label_of_the_answer_that_it_stands_beside(engine):
    one = answered(engine, entity="a")
    answered(engine, NOON, entity="a", arm="shadow", prediction_id=one)
    told(engine, 11, entity="a")
    assert joined(engine) == {one: 11, (one, "shadow"): 11}


def test_labels_are_only_added(engine):
    told(engine, 11, entity="a")
    with pytest.raises(sa.exc.DatabaseError, match="labels is append-only"), engine.begin() as connection:
        connection.execute(sa.update(database.labels).values(label=12))


# ------------------------------------------------------------------------------------------------ counting


def test_predictions_are_counted_by_day_version_and_arm(engine):
    day = dt.timedelta(days=1)
    for value in (1.0, 2.0, None):
        answered(engine, prediction=value)
    answered(engine, arm="canary", version=4, prediction=5.0)
    answered(engine, NOON + day, prediction=7.0)
    answered(engine, dt.datetime(2026, 3, 2, 23, 59, 59, tzinfo=dt.UTC), prediction=3.0)
    answered(engine, model="tumour", prediction=0.5)
    found = [(str(c.day), c.version, c.arm, c.rows, c.mean) for c in predictions.counts(engine, "trips")]
    assert found == [
        ("2026-03-02", 3, "champion", 4, 2.0),
        ("2026-03-02", 4, "canary", 1, 5.0),
        ("2026-03-03", 3, "champion", 1, 7.0),
    ]
    only = (NOON + day).date()
    assert [c.rows for c in predictions.counts(engine, "trips", only, only)] == [1]
    totals = [(str(t.day), t.model, t.rows, t.mean) for t in predictions.totals(engine)]
    assert totals == [
        ("2026-03-02", "trips", 5, 2.75),
        ("2026-03-02", "tumour", 1, 0.5),
        ("2026-03-03", "trips", 1, 7.0),
    ]
    assert predictions.counts(engine, "trips", TODAY) == []


# ------------------------------------------------------------------------------------------------ keeping


def days_of(engine):
    with engine.connect() as connection:
        return [day.isoformat() for day in predictions.partitions(connection)]


def test_partitions_are_made_ahead_once(engine):
    made = predictions.make_partitions(engine, TODAY, days=2)
    assert made == ["2026-03-20", "2026-03-21", "2026-03-22"] == days_of(engine)
    assert predictions.make_partitions(engine, TODAY, days=3) == ["2026-03-23"]


def test_each_model_keeps_its_own_days_and_a_day_that_nobody_keeps_is_dropped(engine):
    for age in (5, 10, 11, 30, 31):
        at = dt.datetime(2026, 3, 20, 12, tzinfo=dt.UTC) - dt.timedelta(days=age)
        answered(engine, at, "trips")
        answered(engine, at, "tumour")
        answered(engine, at, "removed")
    told(engine, 1, entity="a", at=NOON - 1000 * HOUR)
    keep, how = {"trips": 10, "tumour": 30}, dict[str, Any](default=20)
    would = predictions.retain(engine, keep, TODAY, **how, dry_run=True)
    assert len(days_of(engine)) == 5
    done = predictions.retain(engine, keep, TODAY, **how)
    assert done == would
    assert done.dropped == ["2026-02-17"]
    assert done.deleted == {"trips": 2, "removed": 1}
    assert (
        done.summary == "older than is kept: 1 days (2026-02-17 to 2026-02-17), and 2 rows of trips; 1 rows of removed"
    )
    left = {(str(t.day), t.model) for t in predictions.totals(engine)}
    assert left == {
        ("2026-03-15", "trips"), ("2026-03-15", "tumour"), ("2026-03-15", "removed"),
        ("2026-03-10", "trips"), ("2026-03-10", "tumour"), ("2026-03-10", "removed"),
        ("2026-03-09", "tumour"), ("2026-03-09", "removed"),
        ("2026-02-18", "tumour"),
    }  # fmt: skip
    assert predictions.retain(engine, keep, TODAY, **how) == predictions.Retention([], {})
    with engine.connect() as connection:
        assert connection.execute(sa.text("select count(*) from labels")).scalar_one() == 1


def test_a_day_that_somebody_reads_is_dropped_when_they_have_ended(engine, database_url, monkeypatch):
    monkeypatch.setattr(predictions, "LOCK_SECONDS", 1)
    answered(engine)
    reader = database.connect(database_url)
    with reader.connect() as connection:
        connection.execute(sa.text("select count(*) from predictions"))
        ending = threading.Timer(1.5, connection.rollback)
        ending.start()
        began = time.monotonic()
        assert predictions.retain(engine, {"trips": 1}, TODAY, default=1).dropped == ["2026-03-02"]
        ending.join()
    assert time.monotonic() - began > 1.5
    assert days_of(engine) == []
    reader.dispose()


def test_rows_of_another_model_that_come_at_the_last_moment_are_not_dropped(engine):
    answered(engine, model="tumour")
    assert predictions._drop(engine, NOON.date(), ["trips"]) is False
    assert [t.model for t in predictions.totals(engine)] == ["tumour"]


def test_days_that_have_ended_are_vacuumed_so_that_counting_reads_the_index_alone(engine):
    for _ in range(3):
        answered(engine)
    assert predictions.settle(engine, NOON.date()) == []
    assert predictions.settle(engine, NOON.date() + dt.timedelta(1)) == ["2026-03-02"]
    query = "select relallvisible >= relpages from pg_class where relname = 'predictions_20260302'"
    with engine.connect() as connection:
        assert connection.execute(sa.text(query)).scalar_one()
