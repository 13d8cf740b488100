"""The platform's own PostgreSQL tables, their migrations, and the locks that make a thing happen alone."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID

MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA_VERSION = max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
"""The newest migration. Each is history: explicit operations that later changes of the tables below do not alter."""

CLOCK = sa.func.clock_timestamp()
"""The moment itself. `now()` is when the transaction began, which may have waited for a lock since."""

metadata = sa.MetaData()

partitions = sa.Table(
    "partitions",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True, comment="the day as YYYY-MM-DD, or `all`"),
    sa.Column("status", sa.Text, nullable=False, comment="published | quarantined"),
    sa.Column("sha256", sa.Text, comment="of the published parquet file, as validation recorded it"),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("quarantined_rows", sa.BigInteger, nullable=False),
    sa.Column(
        "quality",
        sa.Float,
        nullable=False,
        comment="0 to 1: the smaller of the share of rows not quarantined and the weighted share of checks passed",
    ),
    sa.Column("report", JSONB, nullable=False, comment="reasons with counts, failed expectations, schema difference"),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("validated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="the newest validation of each partition",
)

source_schemas = sa.Table(
    "source_schemas",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("column", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False, comment="float | int | string | bool | timestamp | date"),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column(
        "history", JSONB, nullable=False, comment="every type that it had: type, from, the partition that made it so"
    ),
    comment="one type for each column of a source, in which every partition is read",
)

feature_versions = sa.Table(
    "feature_versions",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True, comment="DVC's md5 of the feature folder"),
    sa.Column("dvc_lock", sa.Text, nullable=False),
    sa.Column("inputs", JSONB, nullable=False, comment="partition key → sha256 of what was read"),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("sequence", sa.BigInteger, sa.Identity(), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="the feature sets that were pushed whole",
)

model_columns = sa.Table(
    "model_columns",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("columns", JSONB, nullable=False, comment="the names of all columns that the source had then"),
    sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="what a model of all columns takes: decided with its first feature version",
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False, comment="PROMOTE | HOLD | REJECT"),
    sa.Column("champion_version", sa.Integer, comment="what it was compared with; null: the baseline"),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("reasons", JSONB, nullable=False),
    sa.Column("numbers", JSONB, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("id", "model", "version", "content_hash"),
    sa.CheckConstraint("verdict in ('PROMOTE', 'HOLD', 'REJECT')", name="verdicts_verdict"),
    comment="append-only: what the gate said, and on what evidence",
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False, comment="promote | rollback | retire: both versions are the last one"),
    sa.Column("from_version", sa.Integer),
    sa.Column("to_version", sa.Integer, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False, comment="where the served form lies"),
    sa.Column("bento", sa.Text, nullable=False, comment="the Bento's tag"),
    sa.Column("verdict_id", sa.BigInteger, nullable=False, comment="a rollback's is the one that once promoted it"),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.ForeignKeyConstraint(
        ["verdict_id", "model", "to_version", "content_hash"],
        ["verdicts.id", "verdicts.model", "verdicts.version", "verdicts.content_hash"],
        name="ledger_verdict_of_the_same_content",
    ),
    sa.UniqueConstraint("id", "model", "to_version", "content_hash"),
    sa.CheckConstraint("action in ('promote', 'rollback', 'retire')", name="ledger_action"),
    sa.Index("ledger_verdict_spent_once", "verdict_id", unique=True, postgresql_where=sa.text("action = 'promote'")),
    comment="append-only: every change of a champion",
)

champions = sa.Table(
    "champions",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False, comment="where the served form lies"),
    sa.Column("bento", sa.Text, nullable=False, comment="the Bento's tag"),
    sa.Column("ledger_id", sa.BigInteger, nullable=False),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.ForeignKeyConstraint(
        ["ledger_id", "model", "version", "content_hash"],
        ["ledger.id", "ledger.model", "ledger.to_version", "ledger.content_hash"],
        name="champions_follow_the_ledger",
    ),
    comment="the ledger's newest entry of each model: what the service follows",
)

retired_models = sa.Table(
    "retired_models",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, comment="the last champion"),
    sa.Column("ledger_id", sa.BigInteger, sa.ForeignKey("ledger.id"), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="models that a person retired: the service drops them; the next champion deletes the row",
)

registered_versions = sa.Table(
    "registered_versions",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("content_hash", sa.Text, nullable=False, comment="of the served form"),
    sa.Column("evidence_hash", sa.Text, comment="SHA-256 of split.json, which has those of the evidence's files"),
    sa.Column("run_id", sa.Text, comment="MLflow's"),
    sa.Column("feature_version", sa.Text),
    sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="what this platform registered; a version in MLflow that is not here, or is other than here, is refused",
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", UUID(as_uuid=False), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, index=True),
    sa.Column("event", sa.Text, nullable=False, comment="what kind of thing it is, one word"),
    sa.Column("message", sa.Text, nullable=False, comment="one line for an operator"),
    sa.Column("details", JSONB, nullable=False),
    sa.Column("acknowledged_at", sa.DateTime(timezone=True)),
    sa.Column("acknowledged_by", sa.Text),
    comment="what an operator should see",
)

monitor_results = sa.Table(
    "monitor_results",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("window", JSONB, nullable=False, comment="the partitions that were compared"),
    sa.Column("status", sa.Text, nullable=False, comment="ok | warn | critical | insufficient_data"),
    sa.Column("findings", JSONB, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, comment="one line for an operator"),
    sa.Column("report_url", sa.Text),
    sa.Column("run_key", sa.Text, comment="the Airflow run; a retried task replaces its own result"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("model", "run_key"),
    sa.Index("monitor_results_newest", "model", "id"),
)

measures = sa.Table(
    "measures",
    metadata,
    sa.Column(
        "result_id", sa.BigInteger, sa.ForeignKey("monitor_results.id", ondelete="CASCADE"), primary_key=True,
        comment="the check that measured it",
    ),
    sa.Column(
        "kind", sa.Text, primary_key=True,
        comment="a measure of drift (psi, jensen_shannon, ...) | metric | worsening | unanswered",
    ),
    sa.Column("subject", sa.Text, primary_key=True, comment="the column, the metric, or predictions"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("threshold", sa.Double, comment="null: not judged"),
    sa.Column("rows", sa.BigInteger, comment="that it rests on"),
    sa.Index("measures_over_time", "model", "kind", "at"),
    comment="every figure of every check, the quiet ones too",
)  # fmt: skip

retraining_requests = sa.Table(
    "retraining_requests",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", JSONB, nullable=False),
    sa.Column("run_key", sa.Text, comment="the Airflow run; a retried task finds the request it made"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("begun_at", sa.DateTime(timezone=True), comment="when a training took it up; null: it waits"),
    sa.Column("begun_by", sa.Text, comment="the Airflow run of that training"),
    sa.UniqueConstraint("model", "run_key"),
)

predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("id", UUID(as_uuid=False), nullable=False, comment="sorts by time: 48 bits of milliseconds, then chance"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("arm", sa.Text, nullable=False, comment="champion, or as in rollouts: arm, or control"),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("inputs", JSON, nullable=False, comment="the columns that params.yaml lets be written down"),
    sa.Column("output", JSON, nullable=False, comment="the answer"),
    sa.Column("prediction", sa.Float, comment="the number, or the probability of the positive class"),
    sa.Column("latency_ms", sa.REAL),
    sa.Column("entity", sa.Text),
    sa.Column("caller", sa.Text, comment="the name of the key"),
    comment="what the service answered; partitioned by day (UTC), made by migrations 0002 and 0004 in SQL of their own",
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prediction_id", UUID(as_uuid=False)),
    sa.Column("entity", sa.Text),
    sa.Column("label", JSONB, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="when it became true"),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("caller", sa.Text, comment="the name of the key"),
    sa.Column("batch", UUID(as_uuid=False), comment="the request it came with"),
    sa.CheckConstraint("(prediction_id is null) <> (entity is null)", name="labels_of_a_prediction_or_an_entity"),
    sa.Index("labels_prediction_id", "prediction_id", postgresql_where=sa.text("prediction_id is not null")),
    sa.Index("labels_entity_at", "model", "entity", "at", postgresql_where=sa.text("entity is not null")),
    sa.Index("labels_model_received_at", "model", "received_at"),
    comment="append-only: what turned out to be true, as often as it was told",
)

spool_positions = sa.Table(
    "spool_positions",
    metadata,
    sa.Column("slot", sa.Text, primary_key=True, comment="the folder's own id and the slot's name"),
    sa.Column("segment", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, comment="bytes of the segment that are in the tables above"),
    comment="how far each local log was copied, in the same transaction as its rows",
)


rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False, comment="the strategy: a file of include/strategies/"),
    sa.Column("arm", sa.Text, nullable=False, comment="the name under which the tried version's answers are counted"),
    sa.Column("control", sa.Text, nullable=False, comment="the name of the champion's arm meanwhile"),
    sa.Column("mirrored", sa.Boolean, nullable=False, comment="it scores every request and answers none"),
    sa.Column("version", sa.Integer, nullable=False, comment="what is tried"),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False, comment="where the served form lies"),
    sa.Column("bento", sa.Text, nullable=False, comment="the Bento's tag"),
    sa.Column("verdict_id", sa.BigInteger, nullable=False),
    sa.Column("champion_version", sa.Integer, nullable=False, comment="beside whom; another champion ends the rollout"),
    sa.Column("share", sa.Double, nullable=False, comment="of the requests, 0 to 1; 0 where it is mirrored, or waits"),
    sa.Column("step", sa.Integer, nullable=False, server_default="0", comment="index into its shares, from 0"),
    sa.Column("settings", JSONB, nullable=False, comment="settings.Rollout as it was when the rollout was started"),
    sa.Column("salt", sa.Text, nullable=False, comment="an entity's arm is a hash of this and the entity"),
    sa.Column("status", sa.Text, nullable=False, comment="running | promoted | rolled_back | stopped"),
    sa.Column("actor", sa.Text, nullable=False, comment="who started it"),
    sa.Column("reason", sa.Text, nullable=False, comment="why it was started; its end's is in rollout_events"),
    sa.Column("run_key", sa.Text, comment="the Airflow run; a retried task finds the rollout that it started"),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column(
        "changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(),
        comment="since when its share is what it is",
    ),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.ForeignKeyConstraint(
        ["verdict_id", "model", "version", "content_hash"],
        ["verdicts.id", "verdicts.model", "verdicts.version", "verdicts.content_hash"],
        name="rollouts_verdict_of_the_same_content",
    ),
    sa.UniqueConstraint("model", "run_key"),
    sa.CheckConstraint("not mirrored or share = 0", name="rollouts_mirrored_answers_none"),
    sa.CheckConstraint("status in ('running', 'promoted', 'rolled_back', 'stopped')", name="rollouts_status"),
    sa.CheckConstraint("(status = 'running') = (ended_at is null)", name="rollouts_ended"),
    sa.CheckConstraint("share >= 0 and share <= 1", name="rollouts_share"),
    sa.Index(
        "rollouts_one_mirrored", "model", unique=True,
        postgresql_where=sa.text("status = 'running' and mirrored"),
    ),
    sa.Index(
        "rollouts_one_challenger", "model", unique=True,
        postgresql_where=sa.text("status = 'running' and not mirrored"),
    ),
    comment="versions that are tried beside the champion; the service follows those that run",
)  # fmt: skip

rollout_events = sa.Table(
    "rollout_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("rollout_id", sa.BigInteger, sa.ForeignKey("rollouts.id"), nullable=False, index=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column(
        "event", sa.Text, nullable=False, comment="start | step | plan | breach | rollback | promote | stop | verdict"
    ),
    sa.Column("share", sa.Double, nullable=False, comment="after the event"),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", JSONB, nullable=False, server_default="{}", comment="the numbers of both arms"),
    sa.CheckConstraint(
        "event in ('start', 'step', 'plan', 'breach', 'rollback', 'promote', 'stop', 'verdict')",
        name="rollout_events_event",
    ),
    comment="append-only: what was decided about a rollout, and on what evidence",
)

arm_windows = sa.Table(
    "arm_windows",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True, comment="a worker of the service"),
    sa.Column("rollout_id", sa.BigInteger, primary_key=True),
    sa.Column("arm", sa.Text, primary_key=True, comment="as in rollouts: arm, or control"),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("second", sa.DateTime(timezone=True), primary_key=True, comment="by this database's clock"),
    sa.Column("requests", sa.Integer, nullable=False, comment="all, those that failed too"),
    sa.Column("errors", sa.Integer, nullable=False, comment="those that failed"),
    sa.Column("latencies", ARRAY(sa.Integer), nullable=False, comment="counts in tallies.LATENCY_MS and one beyond"),
    sa.Column("predictions", ARRAY(sa.Integer), nullable=False, comment="counts in bins that a rollout's arms share"),
    sa.Index("arm_windows_newest_of_an_arm", "rollout_id", "arm", "second"),
    sa.Index("arm_windows_oldest", "second"),
    comment="what each arm did in each second; kept for a day",
)


service_minutes = sa.Table(
    "service_minutes",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True, comment="a worker of the service"),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("arm", sa.Text, primary_key=True, comment="champion, or as in rollouts: arm, or control"),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column(
        "minute", sa.DateTime(timezone=True), primary_key=True, comment="its beginning, by this database's clock"
    ),
    sa.Column("requests", sa.Integer, nullable=False, comment="all, those that failed too"),
    sa.Column("errors", sa.Integer, nullable=False, comment="those that failed"),
    sa.Column("rows", sa.Integer, nullable=False, comment="predicted"),
    sa.Column("seconds", sa.Double, nullable=False, comment="of all answered requests together"),
    sa.Column("latencies", ARRAY(sa.Integer), nullable=False, comment="counts in tallies.LATENCY_MS and one beyond"),
    sa.Index("service_minutes_of_a_model", "model", "minute"),
    sa.Index("service_minutes_oldest", "minute"),
    comment="what each arm did in each minute in which it was asked; kept for 90 days",
)


def connect(url: str | sa.URL) -> sa.Engine:
    """An engine for the platform's database; connections are checked before use and given up after 5 seconds."""
    if not url:
        raise ValueError("the platform's database is not configured: set MLOPS_DATABASE_URL, or run `make up`")
    return sa.create_engine(url, pool_pre_ping=True, pool_size=2, max_overflow=4, connect_args={"connect_timeout": 5})


@contextlib.contextmanager
def connected(url: str | sa.URL) -> Iterator[sa.Engine]:
    """An engine as `connect` makes it, whose connections are closed afterwards."""
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def transaction(bind: sa.Engine | sa.Connection) -> Iterator[sa.Connection]:
    """A transaction of its own on an engine; on a connection, the one that its caller ends."""
    if isinstance(bind, sa.Connection):
        yield bind
    else:
        with bind.begin() as connection:
            yield connection


def newest(connection: sa.Connection, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
    """The row with the highest `id` of those for which all conditions hold; None: there is none."""
    query = sa.select(table).where(*conditions).order_by(table.c.id.desc()).limit(1)
    return connection.execute(query).one_or_none()


SERVICE_RIGHTS = """
    grant usage on schema public to {role};
    grant select on champions, rollouts, retired_models to {role};
    grant insert on predictions, labels, arm_windows, service_minutes to {role};
    grant select, insert, update on spool_positions to {role};
    grant execute on function make_prediction_partition(date) to {role}
"""
"""What the prediction service does in PostgreSQL, and nothing else: it follows, it does not decide."""


def grant_service(engine: sa.Engine, role: str) -> None:
    """Give the prediction service's role its rights on the tables; safe to run again.

    Args:
        engine: The platform's database, as its owner.
        role: The role that the service connects as; it must exist.
    """
    with engine.begin() as connection:
        quoted = engine.dialect.identifier_preparer.quote(role)
        connection.execute(sa.text(f"revoke all on all tables in schema public from {quoted}"))
        connection.execute(sa.text(SERVICE_RIGHTS.format(role=quoted)))


class NewerSchema(RuntimeError):
    """The database was migrated by a newer program than this one."""


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the tables to this program's schema, in one transaction, alone; safe to run again.

    Args:
        engine: the platform's database.
        revision: an older schema to stop at, for tests of what follows it.

    Raises:
        NewerSchema: the database is ahead of this program.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        lock_in_transaction(connection, "migrate")
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise NewerSchema(
                f"the database is at schema {current}, this program knows up to {SCHEMA_VERSION}; use the newer program"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def lock_in_transaction(connection: sa.Connection, name: str) -> None:
    """Wait for the named lock of the whole platform and hold it until this transaction ends."""
    connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})


class Busy(RuntimeError):
    """Somebody else holds the lock."""


@contextlib.contextmanager
def advisory_lock(engine: sa.Engine, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the named lock of the whole platform; PostgreSQL frees it when this process dies.

    Raises:
        Busy: `wait` is false and another process holds it.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = {"key": _lock_key(name)}
        if wait:
            connection.execute(sa.text("select pg_advisory_lock(:key)"), key)
        elif not connection.execute(sa.text("select pg_try_advisory_lock(:key)"), key).scalar_one():
            raise Busy(f"{name!r} is already at work elsewhere; try again when it has ended")
        try:
            yield
        finally:
            connection.execute(sa.text("select pg_advisory_unlock(:key)"), key)


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"mlops:{name}".encode()).digest()[:8], "big", signed=True)
