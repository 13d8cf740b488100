"""The first tables: partitions, feature versions, verdicts, the ledger and its champions, monitoring."""

from alembic import op

from include.database import metadata

revision = "0001"
down_revision = None

TABLES = ("partitions", "feature_versions", "verdicts", "ledger", "champions", "monitor_results", "retraining_requests")


def upgrade() -> None:
    """Create them."""
    metadata.create_all(op.get_bind(), tables=[metadata.tables[name] for name in TABLES])
