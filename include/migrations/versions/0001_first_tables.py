"""The first tables: partitions, feature versions, verdicts, the ledger and its champions, monitoring."""

from alembic import op

from include.database import metadata

revision = "0001"
down_revision = None

TABLES = (
    "partitions", "feature_versions", "verdicts", "ledger", "champions", "monitor_results", "retraining_requests",
)  # fmt: skip

APPEND_ONLY = """
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: add a new row instead', tg_table_name;
end $$;
create trigger append_only before update or delete on ledger for each row execute function refuse_change();
create trigger append_only before update or delete on verdicts for each row execute function refuse_change();
"""


def upgrade() -> None:
    """Create them, and let nobody rewrite the evidence."""
    metadata.create_all(op.get_bind(), tables=[metadata.tables[name] for name in TABLES])
    op.execute(APPEND_ONLY)
