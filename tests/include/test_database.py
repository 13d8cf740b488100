from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from include import database
from tests.waiting import until


@pytest.fixture
def engine(database_url):
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def tables_in(engine):
    return set(sa.inspect(engine).get_table_names())


def test_migrating_twice_is_the_same_as_once(engine):
    before = tables_in(engine)
    database.migrate(engine)
    assert tables_in(engine) == before
    assert set(database.metadata.tables) <= before


def test_the_migrated_tables_have_the_columns_that_the_program_uses(engine):
    inspector = sa.inspect(engine)
    for table in database.metadata.tables.values():
        assert {c["name"] for c in inspector.get_columns(table.name)} == {c.name for c in table.columns}


def test_a_database_of_a_newer_program_is_refused_clearly(engine):
    """Promise 53."""
    with engine.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(database.NewerSchema, match=r"schema 9999.*use the newer program"):
        database.migrate(engine)


def test_two_programs_that_migrate_at_once_do_not_disturb_each_other(optuna_url):
    errors = []

    def migrate():
        engine = database.connect(optuna_url)
        try:
            database.migrate(engine)
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert errors == []


REVISIONS = sorted(file.name[:4] for file in (database.MIGRATIONS / "versions").glob("[0-9]*.py"))


def test_what_the_migrations_make_is_what_the_program_declares(engine):
    """Comments aside. `predictions` is made in SQL of its own: indexes and partitions are declared nowhere else."""

    def is_declared(_, name, kind, reflected, __):
        return not (reflected and re.match(r"predictions_|alembic_version$", name or ""))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_declared})
        changes = [
            op
            for ops in compare_metadata(context, database.metadata)
            for op in (ops if isinstance(ops, list) else [ops])
        ]
    assert [change for change in changes if "comment" not in change[0]] == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_any_earlier_revision_is_brought_to_the_newest_with_its_rows(optuna_url, revision):
    engine = database.connect(optuna_url)
    database.migrate(engine, revision)
    before = tables_in(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "insert into partitions (source, key, status, rows, quarantined_rows, quality, report, run_id)"
                " values ('trips', '2026-01-01', 'published', 10, 1, 0.9, '{}', 'r')"
            )
        )
        verdict = connection.execute(
            sa.text(
                "insert into verdicts (model, version, verdict, content_hash, reasons, numbers)"
                " values ('m', 1, 'PROMOTE', 'h', '[]', '{}') returning id"
            )
        ).scalar_one()
        entry = connection.execute(
            sa.text(
                "insert into ledger (model, action, to_version, content_hash, url, bento, verdict_id, actor, reason)"
                " values ('m', 'promote', 1, 'h', 'u', 'b', :verdict, 'gate', 'first') returning id"
            ),
            {"verdict": verdict},
        ).scalar_one()
        connection.execute(
            sa.text(
                "insert into champions (model, version, content_hash, url, bento, ledger_id)"
                " values ('m', 1, 'h', 'u', 'b', :entry)"
            ),
            {"entry": entry},
        )
    database.migrate(engine)
    assert before <= tables_in(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(database.champions.c.model, database.champions.c.version)).all() == [
            ("m", 1)
        ]
        assert connection.execute(sa.select(database.partitions.c.rows, database.partitions.c.status)).all() == [
            (10, "published")
        ]
        assert connection.execute(sa.select(database.ledger.c.action)).scalars().all() == ["promote"]
    engine.dispose()


def test_a_log_of_predictions_from_before_migration_0004_is_kept(optuna_url):
    engine = database.connect(optuna_url)
    database.migrate(engine, "0003")
    with engine.begin() as connection:
        for day in ("2026-01-01", "2026-01-02"):
            connection.execute(sa.text("select make_prediction_partition(:day)"), {"day": day})
            connection.execute(
                sa.text(
                    "insert into predictions (id, model, version, arm, at, inputs, output)"
                    " values (:id, 'm', 1, 'champion', :at, :inputs, :output)"
                ),
                {
                    "id": uuid.uuid4().hex,
                    "at": f"{day}T12:00:00Z",
                    "inputs": '{"a": "\u00e4\\n"}',
                    "output": '{"prediction": 1.50}',
                },
            )
    database.migrate(engine)
    with engine.begin() as connection:
        found = connection.execute(sa.text("select inputs, output, pg_typeof(inputs)::text from predictions")).all()
    assert found == [({"a": "\u00e4\n"}, {"prediction": 1.5}, "json")] * 2
    engine.dispose()


@pytest.mark.slow
def test_a_migration_killed_half_way_leaves_nothing_and_runs_again(optuna_url):
    """Promise 53: the migration is one transaction."""
    engine = database.connect(optuna_url)
    with engine.connect() as blocker:  # a table of the same name that is not committed yet: the migration waits on it
        blocker.execute(sa.text("create table champions (model text)"))
        child = subprocess.Popen([sys.executable, "-c", MIGRATE, optuna_url])
        try:
            until(lambda: is_waiting(optuna_url), unless=lambda: child.poll() is not None)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        blocker.rollback()
    until(lambda: not tables_in(engine) and not is_waiting(optuna_url))
    database.migrate(engine)
    assert set(database.metadata.tables) <= tables_in(engine)
    engine.dispose()


MIGRATE = "import sys; from include import database; database.migrate(database.connect(sys.argv[1]))"


def is_waiting(url):
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        sessions = "select count(*) from pg_stat_activity where datname = current_database()"
        found = connection.execute(sa.text(f"{sessions} and wait_event_type = 'Lock'")).scalar_one() > 0
    engine.dispose()
    return found


def test_a_lock_is_held_by_one_and_refused_to_others_who_will_not_wait(engine, database_url):
    other = database.connect(database_url)
    with database.advisory_lock(engine, "features:x"):
        with (
            pytest.raises(database.Busy, match="'features:x' is already at work"),
            database.advisory_lock(other, "features:x", wait=False),
        ):
            pass
        with database.advisory_lock(other, "features:y", wait=False):
            pass
    with database.advisory_lock(other, "features:x", wait=False):
        pass
    other.dispose()


def test_the_lock_of_a_process_that_was_killed_is_free(engine, database_url):
    hold = (
        "import sys, time; from include import database\n"
        "with database.advisory_lock(database.connect(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", hold, database_url], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(database.Busy), database.advisory_lock(engine, "x", wait=False):
        pass
    child.kill()
    child.communicate()
    with database.advisory_lock(engine, "x"):
        pass


def test_the_lock_is_free_after_an_error_inside(engine):
    with pytest.raises(ZeroDivisionError), database.advisory_lock(engine, "x"):
        raise ZeroDivisionError
    with database.advisory_lock(engine, "x", wait=False):
        pass


def test_an_address_that_is_not_set_says_what_to_do():
    with pytest.raises(ValueError, match="MLOPS_DATABASE_URL"):
        database.connect("")


@pytest.mark.parametrize("statement", ["update verdicts set verdict = 'PROMOTE'", "delete from verdicts"])
def test_evidence_cannot_be_rewritten(engine, statement):
    row = {"model": "m", "version": 1, "verdict": "REJECT", "content_hash": "h", "reasons": [], "numbers": {}}
    with engine.begin() as connection:
        connection.execute(sa.insert(database.verdicts).values(**row))
    with pytest.raises(sa.exc.DatabaseError, match="verdicts is append-only"), engine.begin() as connection:
        connection.execute(sa.text(statement))


SERVICE = "service_of_the_tests"


@pytest.fixture
def as_service(engine, database_url):
    """An engine whose connections have the rights of the prediction service, and no others."""
    with engine.begin() as connection:
        found = connection.execute(sa.text(f"select 1 from pg_roles where rolname = '{SERVICE}'")).one_or_none()
        if found is None:
            connection.execute(sa.text(f"create role {SERVICE}"))
    database.grant_service(engine, SERVICE)
    service = database.connect(database_url)
    sa.event.listen(service, "connect", lambda made, _: made.cursor().execute(f"set role {SERVICE}; commit"))
    yield service
    service.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "insert into champions select * from champions",
        "update champions set version = 2",
        "delete from champions",
        "insert into ledger (model) values ('m')",
        "select * from ledger",
        "insert into verdicts (model) values ('m')",
        "select * from verdicts",
        "update rollouts set share = 1",
        "insert into rollouts (model) values ('m')",
        "insert into registered_versions (model, version, content_hash) values ('m', 1, 'x')",
        "delete from retired_models",
        "select * from predictions",
        "delete from predictions",
        "update labels set label = '1'",
        "select * from labels",
        "delete from spool_positions",
        "select * from alerts",
        "select * from feature_versions",
        "create table mine (x int)",
        "drop table predictions",
        "create or replace function make_prediction_partition(day date) returns boolean language sql as 'select true'",
    ],
)
def test_the_service_cannot_decide_anything_in_the_database(as_service, statement):
    with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"), as_service.begin() as one:
        one.execute(sa.text(statement))


def test_the_service_can_do_in_the_database_what_it_is_there_for(as_service, tmp_path):
    from include.serving.control import ledger_reader

    with as_service.begin() as connection:
        connection.execute(sa.text("select make_prediction_partition(date '2026-03-02')"))
        row = {"id": uuid.uuid4().hex, "model": "m", "version": 1, "arm": "champion", "inputs": {}, "output": {}}
        connection.execute(sa.insert(database.predictions).values(**row, at="2026-03-02T12:00:00Z"))
        connection.execute(
            sa.insert(database.labels).values(model="m", entity="a", label=1, at="2026-03-02T12:00:00Z").inline()
        )
        connection.execute(sa.text("insert into spool_positions values ('s', 0, 0) on conflict do nothing"))
        connection.execute(
            sa.text("update spool_positions set segment = 1, position = 2 where slot = 's' and segment = 0")
        )
        assert connection.execute(sa.text("select segment, position from spool_positions")).one() == (1, 2)
        connection.execute(
            sa.text(ledger_reader._DESIRED.format(rollouts=ledger_reader._RUNNING, retired=ledger_reader._RETIRED))
        )
        report = ledger_reader._REPORT.replace("%s", "{}").format("'w'", 1, "'a'", 1, 1, 1, 0, "'{0}'", "'{0}'")
        for _ in range(2):
            connection.execute(sa.text(report))
