"""The platform's own PostgreSQL tables, their migrations, and the locks that make a thing happen alone."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA_VERSION = "0001"

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
        "quality", sa.Float, nullable=False, comment="0 to 1: the share of checks that rows and partition passed"
    ),
    sa.Column("report", JSONB, nullable=False, comment="reasons with counts, failed expectations, schema difference"),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("validated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    comment="the newest validation of each partition",
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
    sa.Column("action", sa.Text, nullable=False, comment="promote | rollback"),
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
    sa.CheckConstraint("action in ('promote', 'rollback')", name="ledger_action"),
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
)

retraining_requests = sa.Table(
    "retraining_requests",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", JSONB, nullable=False),
    sa.Column("run_key", sa.Text, comment="the Airflow run; a retried task finds the request it made"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("model", "run_key"),
)


def connect(url: str) -> sa.Engine:
    """An engine for the platform's database; connections are checked before use and given up after 5 seconds."""
    if not url:
        raise ValueError("the platform's database is not configured: set MLOPS_DATABASE_URL, or run `make up`")
    return sa.create_engine(url, pool_pre_ping=True, pool_size=2, max_overflow=4, connect_args={"connect_timeout": 5})


class NewerSchema(RuntimeError):
    """The database was migrated by a newer program than this one."""


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to this program's schema, in one transaction, alone; safe to run again.

    Raises:
        NewerSchema: the database is ahead of this program.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        lock_in_transaction(connection, "migrate")
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise NewerSchema(
                f"the database is at schema {current}, this program knows up to {SCHEMA_VERSION}; use the newer program"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


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
