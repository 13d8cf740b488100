from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from include import database
from include.monitoring import predictions
from include.serving.prediction_log import segments
from include.serving.prediction_log.log import prediction_lines
from tests.conftest import ROOT

NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
NOW = NOON + dt.timedelta(days=1)
TODAY = dt.date(2026, 3, 20)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def engine(database_url):
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def answered(engine, at=NOON, model="trips", entity=None, arm="champion", prediction_id=None, **more):
    """A row of the log; returns its id."""
    row = {
        "id": prediction_id or uuid.uuid4().hex,
        "model": model,
        "version": 3,
        "arm": arm,
        "at": at,
        "entity": entity,
    }
    row |= {"inputs": {"distance": 1.5}, "output": {"prediction": 12.5}, "prediction": 12.5} | more
    with engine.begin() as connection:
        connection.execute(sa.text("select make_prediction_partition(:day)"), {"day": at.date()})
        connection.execute(sa.insert(database.predictions).values(**row))
    return row["id"]


def told(engine, label, *, prediction_id=None, entity=None, at=NOON + HOUR, received=NOON + 2 * HOUR, model="trips"):
    row = {"model": model, "prediction_id": prediction_id, "entity": entity, "label": label, "at": at}
    with engine.begin() as connection:
        connection.execute(sa.insert(database.labels).values(**row, received_at=received))


def joined(engine, model="trips", now=NOW, **window):
    window = {"since": NOON - 24 * HOUR, "until": NOON + 24 * HOUR} | window
    with engine.connect() as connection:
        rows = connection.execute(predictions.labelled(model, **window, now=now)).mappings().all()
    keys = [(row["id"].replace("-", ""), row["arm"]) for row in rows]
    assert len(keys) == len(set(keys)), "a prediction came twice"
    return {key if key[1] == "shadow" else key[0]: row["label"] for key, row in zip(keys, rows, strict=True)}


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
    keep, how = {"trips": 10, "tumour": 30}, {"default": 20}
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


# ------------------------------------------------------------------------------------------------ forgetting


def test_a_subjects_predictions_and_labels_are_deleted_and_nobody_elses(engine, tmp_path):
    mine, shadow_of_mine, others = answered(engine, entity="a"), None, answered(engine, entity="b")
    shadow_of_mine = answered(engine, arm="shadow", prediction_id=mine)
    elsewhere = answered(engine, entity="a", model="tumour")
    told(engine, 1, prediction_id=shadow_of_mine)
    told(engine, 2, entity="a")
    told(engine, 3, entity="b")
    told(engine, 4, prediction_id=others)
    gone = predictions.forget(engine, "trips", entity="a", folder=tmp_path)
    assert gone == predictions.Forgotten(predictions=2, labels=2)
    assert joined(engine) == {others: 3} or joined(engine) == {others: 4}
    assert set(joined(engine, "tumour")) == {elsewhere}
    assert predictions.forget(engine, "trips", entity="a", folder=tmp_path) == predictions.Forgotten(0, 0)


def test_a_single_prediction_is_deleted_with_its_labels(engine, tmp_path):
    one, other = answered(engine, entity="a"), answered(engine, entity="a")
    told(engine, 1, prediction_id=one)
    told(engine, 2, entity="a")
    gone = predictions.forget(engine, "trips", prediction_id=one, folder=tmp_path)
    assert gone == predictions.Forgotten(predictions=1, labels=1)
    assert joined(engine) == {other: 2}
    with pytest.raises(ValueError, match="either an entity or a prediction id"):
        predictions.forget(engine, "trips", folder=tmp_path)


def test_what_is_still_in_the_local_log_is_waited_for(engine, tmp_path):
    assert predictions.wait_until_copied(engine, tmp_path, 0)
    slot = segments.take_slot(tmp_path)
    content = bytearray(8192)
    told = {"table": "predictions", "rows": 1, "number": 1, "millis": 1, "before": 0}
    end = segments.write_frame(memoryview(content), 0, [b"line\n"], **told)
    slot.path(1).write_bytes(content)
    assert not predictions.wait_until_copied(engine, tmp_path, 0.2)
    with engine.begin() as connection:
        connection.execute(sa.insert(database.spool_positions).values(slot=slot.name, segment=1, position=end - 1))
    assert not predictions.wait_until_copied(engine, tmp_path, 0.2)
    with engine.begin() as connection:
        connection.execute(sa.update(database.spool_positions).values(position=end))
    assert predictions.wait_until_copied(engine, tmp_path, 0)


def mlops(database_url, home, *arguments):
    own = {**os.environ, "MLOPS_DATABASE_URL": database_url, "MLOPS_HOME": str(home)}
    command = [sys.executable, "-c", "from include.cli.main import main; main()", *arguments]
    return subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_line_counts_and_forgets(engine, database_url, tmp_path):
    answered(engine, entity="a", prediction=2.5)
    answered(engine, entity="b", prediction=3.5)
    told(engine, 1, entity="a")
    counted = mlops(database_url, tmp_path, "predictions", "trips")
    assert counted.stdout.split()[-5:] == ["2026-03-02", "3", "champion", "2", "3"]
    done = mlops(database_url, tmp_path, "forget", "trips", "--entity", "a")
    assert done.stdout == "trips: 1 predictions and 1 labels were deleted\n"
    nothing = mlops(database_url, tmp_path, "predictions", "trips", "--day", "2026-03-03")
    assert nothing.returncode == 1
    assert nothing.stderr == "mlops: no prediction of trips is logged on 2026-03-03\n"
    assert (
        "'tomorrow' is not a day" in mlops(database_url, tmp_path, "predictions", "trips", "--day", "tomorrow").stderr
    )
    again = mlops(database_url, tmp_path, "forget", "trips", "--entity", "A")
    assert again.returncode == 1
    assert again.stderr == "mlops: nothing of entity 'A' is logged for trips\n"


@pytest.mark.parametrize("wrong", ["00", "", "x" * 32, "0" * 33, "0b7e4c1a-0000", "' or true --"])
def test_what_is_no_prediction_id_is_refused_before_anything_is_deleted(engine, tmp_path, wrong):
    answered(engine, entity="a")
    with pytest.raises(predictions.NoSubject, match="32 hexadecimal digits"):
        predictions.forget(engine, "trips", prediction_id=wrong, folder=tmp_path)


def test_an_entity_that_nothing_is_logged_of_is_told_with_the_nearest_one(engine):
    answered(engine, entity="customer-17")
    assert predictions.nearest_entity(engine, "trips", "Customer-17") == "; did you mean 'customer-17'?"
    assert predictions.nearest_entity(engine, "tumour", "Customer-17") == ""


def line(prediction_id, entity, *, model="trips"):
    answer = {"inputs": [b"{}"], "outputs": [b'"x":1'], "scores": [1.0], "entities": [entity], "callers": [None]}
    return prediction_lines([prediction_id], model, 1, "champion", 0.0, 1.0, **answer)


def test_a_subject_is_forgotten_on_the_services_disk_too(engine, tmp_path):
    """Lines that PostgreSQL refused, segments that wait to be used again, and slots that nobody writes any more."""
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    odd = "a\tb\\c\nd"
    slot = segments.take_slot(tmp_path)
    elsewhere = line(other, odd, model="other")
    segments.keep_rejected(slot.folder, "predictions", [line(mine, odd), line(other, "b"), elsewhere])
    segments.keep_rejected(slot.folder, "labels", [f"trips\t{mine}\t\\N\t1\tx\ty\t\\N\t\\N\n".encode(), b"trips\tz\n"])
    (slot.folder / "spare").write_bytes(line(mine, odd))
    told(engine, 7, prediction_id=mine)
    told(engine, 8, prediction_id=other)
    gone = predictions.forget(engine, "trips", entity=odd, folder=tmp_path)
    assert gone == predictions.Forgotten(predictions=0, labels=1, refused=2)
    kept = {path.name: path.read_bytes() for path in slot.folder.iterdir()}
    assert kept["rejected-predictions"] == line(other, "b") + elsewhere
    assert kept["rejected-labels"] == b"trips\tz\n"
    assert "spare" not in kept
    with engine.connect() as connection:
        assert connection.execute(sa.select(database.labels.c.label)).scalars().all() == [8]


@pytest.mark.parametrize("copied", [True, False])
def test_a_slot_that_nobody_writes_is_emptied_once_it_is_copied_and_not_before(engine, tmp_path, copied):
    slot = segments.take_slot(tmp_path)
    content = bytearray(8192)
    frame = {"table": "predictions", "rows": 1, "number": 1, "millis": 1, "before": 0}
    end = segments.write_frame(memoryview(content), 0, [line(uuid.uuid4().hex, "a-subject")], **frame)
    slot.path(1).write_bytes(content)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(database.spool_positions).values(slot=slot.name, segment=1, position=end if copied else 0)
        )
    told = predictions.forget(engine, "trips", entity="a-subject", folder=tmp_path, seconds=0.2)
    assert b"a-subject" in slot.path(1).read_bytes(), "a worker that runs writes this one"
    assert "the service still writes to what has the text (slot-0)" in told.remains[0]
    slot.release()
    told = predictions.forget(engine, "trips", entity="a-subject", folder=tmp_path, seconds=0.2)
    assert (b"a-subject" in slot.path(1).read_bytes()) is not copied
    assert bool(told.remains) is not copied


def in_files_of(engine, marker):
    """PostgreSQL's files of this database that have the marker, once all is written to them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("checkpoint"))
        query = "select current_setting('data_directory'), oid from pg_database where datname = current_database()"
        data, oid = connection.execute(sa.text(query)).one()
    return [file.name for file in (Path(data) / "base" / str(oid)).iterdir() if marker in file.read_bytes()]


def test_a_deleted_row_leaves_the_files_of_postgresql_too_or_it_is_said_why_not(engine, tmp_path):
    """A deleted row stays in its page until somebody needs the room, and for as long as an old reader may see it."""
    answered(engine, entity="a-marked-subject")
    answered(engine, entity="b")
    told(engine, 1, entity="a-marked-subject")
    assert len(in_files_of(engine, b"a-marked-subject")) >= 2
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        reader.execute(sa.text("select count(*) from labels"))
        first = predictions.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path, seconds=0.2)
    assert (first.predictions, first.labels) == (1, 1)
    assert "a transaction in PostgreSQL that began before still sees the rows" in first.remains[0]
    with engine.connect() as reader:
        reader.execute(sa.text("lock table labels in access share mode"))
        locked = predictions.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path, seconds=0.2)
        assert "a table is read at this moment" in locked.remains[0]
    again = predictions.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path)
    assert (again.predictions, again.labels, again.remains, again.nothing) == (0, 0, (), False)
    assert in_files_of(engine, b"a-marked-subject") == []
    assert not (tmp_path / predictions.UNFINISHED).exists()
    assert predictions.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path).nothing
    assert predictions.counts(engine, "trips")[0].rows == 1


def test_a_role_that_may_write_no_checkpoint_says_that_the_log_of_changes_may_have_the_rows(engine, tmp_path):
    role = f"owner_{uuid.uuid4().hex[:8]}"
    answered(engine, entity="a")
    with engine.begin() as connection:
        connection.execute(sa.text(f"create role {role}"))
        connection.execute(sa.text(f"grant all on schema public to {role}"))
        for table in ("predictions", "predictions_20260302", "labels", "spool_positions"):
            connection.execute(sa.text(f"alter table {table} owner to {role}"))
    limited = sa.create_engine(engine.url, connect_args={"options": f"-c role={role}"})
    try:
        gone = predictions.forget(limited, "trips", entity="a", folder=tmp_path, seconds=0.2)
    finally:
        limited.dispose()
    assert gone.predictions == 1
    assert "does not let this role write a checkpoint" in gone.remains[0]


def test_a_line_that_is_refused_while_a_subject_is_forgotten_is_not_lost(tmp_path):
    """The file is replaced; who waited for its lock writes to the new one."""
    folder = tmp_path / "slot-0"
    folder.mkdir()
    segments.keep_rejected(folder, "labels", [b"mine\n", b"other\n"])
    began = threading.Event()

    def add():
        began.set()
        segments.keep_rejected(folder, "labels", [b"late\n"])

    late = threading.Thread(target=add)

    def is_subject(table, one):
        if not late.ident:
            late.start()
            began.wait()
        return one == b"mine\n"

    assert segments.erase(tmp_path, {}, is_subject) == 1
    late.join()
    assert (folder / "rejected-labels").read_bytes() == b"other\nlate\n"
