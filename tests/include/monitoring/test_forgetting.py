"""A subject is forgotten in PostgreSQL and on the disk, or it is said where text of it may remain."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from include import database
from include.monitoring import forgetting, predictions
from include.serving.prediction_log import segments
from include.serving.prediction_log.copy_text import prediction_lines
from tests.conftest import ROOT
from tests.include.monitoring.prediction_rows import answered, joined, told


@pytest.fixture
def engine(database_url):
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def test_a_subjects_predictions_and_labels_are_deleted_and_nobody_elses(engine, tmp_path):
    mine, shadow_of_mine, others = answered(engine, entity="a"), None, answered(engine, entity="b")
    shadow_of_mine = answered(engine, arm="shadow", prediction_id=mine)
    elsewhere = answered(engine, entity="a", model="tumour")
    told(engine, 1, prediction_id=shadow_of_mine)
    told(engine, 2, entity="a")
    told(engine, 3, entity="b")
    told(engine, 4, prediction_id=others)
    gone = forgetting.forget(engine, "trips", entity="a", folder=tmp_path)
    assert gone == forgetting.Forgotten(predictions=2, labels=2)
    assert joined(engine) == {others: 3} or joined(engine) == {others: 4}
    assert set(joined(engine, "tumour")) == {elsewhere}
    assert forgetting.forget(engine, "trips", entity="a", folder=tmp_path) == forgetting.Forgotten(0, 0)


def test_a_single_prediction_is_deleted_with_its_labels(engine, tmp_path):
    one, other = answered(engine, entity="a"), answered(engine, entity="a")
    told(engine, 1, prediction_id=one)
    told(engine, 2, entity="a")
    gone = forgetting.forget(engine, "trips", prediction_id=one, folder=tmp_path)
    assert gone == forgetting.Forgotten(predictions=1, labels=1)
    assert joined(engine) == {other: 2}
    with pytest.raises(ValueError, match="either an entity or a prediction id"):
        forgetting.forget(engine, "trips", folder=tmp_path)


def test_what_is_still_in_the_local_log_is_waited_for(engine, tmp_path):
    assert forgetting.wait_until_copied(engine, tmp_path, 0)
    slot = segments.take_slot(tmp_path)
    content = bytearray(8192)
    told: dict[str, Any] = {"table": "predictions", "rows": 1, "number": 1, "millis": 1, "before": 0}
    end = segments.write_frame(memoryview(content), 0, [b"line\n"], **told)
    slot.path(1).write_bytes(content)
    assert not forgetting.wait_until_copied(engine, tmp_path, 0.2)
    with engine.begin() as connection:
        connection.execute(sa.insert(database.spool_positions).values(slot=slot.name, segment=1, position=end - 1))
    assert not forgetting.wait_until_copied(engine, tmp_path, 0.2)
    with engine.begin() as connection:
        connection.execute(sa.update(database.spool_positions).values(position=end))
    assert forgetting.wait_until_copied(engine, tmp_path, 0)


def mlops(database_url, home, *arguments):
    own = {**os.environ, "MLOPS_DATABASE_URL": database_url, "MLOPS_HOME": str(home)}
    command = [sys.executable, "-c", "from include.cli.main import main; main()", *arguments]
    return subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
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
    with pytest.raises(forgetting.NoSubject, match="32 hexadecimal digits"):
        forgetting.forget(engine, "trips", prediction_id=wrong, folder=tmp_path)


def test_an_entity_that_nothing_is_logged_of_is_told_with_the_nearest_one(engine):
    answered(engine, entity="customer-17")
    assert forgetting.nearest_entity(engine, "trips", "Customer-17") == "; did you mean 'customer-17'?"
    assert forgetting.nearest_entity(engine, "tumour", "Customer-17") == ""


def line(prediction_id, entity, *, model="trips"):
    answer: dict[str, Any] = {"inputs": [b"{}"], "outputs": [b'"x":1'], "scores": [1.0]}
    answer |= {"entities": [entity], "callers": [None]}
    return prediction_lines([prediction_id], model, 1, "champion", 0.0, 1.0, **answer)


def test_a_subject_is_forgotten_on_the_services_disk_too(engine, tmp_path):
    """Lines that PostgreSQL refused, segments that wait to be used again, and slots that nobody writes any more."""
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    odd = "a\tb\\c\nd"
    slot = segments.take_slot(tmp_path)
    elsewhere = line(other, odd, model="other")
    segments.store_rejected(slot.folder, "predictions", [line(mine, odd), line(other, "b"), elsewhere])
    segments.store_rejected(slot.folder, "labels", [f"trips\t{mine}\t\\N\t1\tx\ty\t\\N\t\\N\n".encode(), b"trips\tz\n"])
    (slot.folder / "spare").write_bytes(line(mine, odd))
    told(engine, 7, prediction_id=mine)
    told(engine, 8, prediction_id=other)
    gone = forgetting.forget(engine, "trips", entity=odd, folder=tmp_path)
    assert gone == forgetting.Forgotten(predictions=0, labels=1, refused=2)
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
    frame: dict[str, Any] = {"table": "predictions", "rows": 1, "number": 1, "millis": 1, "before": 0}
    end = segments.write_frame(memoryview(content), 0, [line(uuid.uuid4().hex, "a-subject")], **frame)
    slot.path(1).write_bytes(content)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(database.spool_positions).values(slot=slot.name, segment=1, position=end if copied else 0)
        )
    told = forgetting.forget(engine, "trips", entity="a-subject", folder=tmp_path, seconds=0.2)
    assert b"a-subject" in slot.path(1).read_bytes(), "a worker that runs writes this one"
    assert "the service still writes to what has the text (slot-0)" in told.remains[0]
    slot.release()
    told = forgetting.forget(engine, "trips", entity="a-subject", folder=tmp_path, seconds=0.2)
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
        first = forgetting.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path, seconds=0.2)
    assert (first.predictions, first.labels) == (1, 1)
    assert "a transaction in PostgreSQL that began before still sees the rows" in first.remains[0]
    with engine.connect() as reader:
        reader.execute(sa.text("lock table labels in access share mode"))
        locked = forgetting.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path, seconds=0.2)
        assert "a table is read at this moment" in locked.remains[0]
    again = forgetting.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path)
    assert (again.predictions, again.labels, again.remains, again.nothing) == (0, 0, (), False)
    assert in_files_of(engine, b"a-marked-subject") == []
    assert not (tmp_path / forgetting.UNFINISHED).exists()
    assert forgetting.forget(engine, "trips", entity="a-marked-subject", folder=tmp_path).nothing
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
        gone = forgetting.forget(limited, "trips", entity="a", folder=tmp_path, seconds=0.2)
    finally:
        limited.dispose()
    assert gone.predictions == 1
    assert "does not let this role write a checkpoint" in gone.remains[0]


def test_a_line_that_is_refused_while_a_subject_is_forgotten_is_not_lost(tmp_path):
    """The file is replaced; who waited for its lock writes to the new one."""
    folder = tmp_path / "slot-0"
    folder.mkdir()
    segments.store_rejected(folder, "labels", [b"mine\n", b"other\n"])
    began = threading.Event()

    def add():
        began.set()
        segments.store_rejected(folder, "labels", [b"late\n"])

    late = threading.Thread(target=add)

    def is_subject(table, one):
        if not late.ident:
            late.start()
            began.wait()
        return one == b"mine\n"

    assert segments.erase(tmp_path, {}, is_subject) == 1
    late.join()
    assert (folder / "rejected-labels").read_bytes() == b"other\nlate\n"
