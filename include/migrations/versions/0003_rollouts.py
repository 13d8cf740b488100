"""Rollouts: what is tried beside the champion, on what share, and what it was seen to do."""

from alembic import op

from include.database import metadata

revision = "0003"
down_revision = "0002"

TABLES = ("rollouts", "rollout_events", "arm_windows")

APPEND_ONLY = """
create trigger append_only before update or delete on rollout_events for each row execute function refuse_change();
"""


def upgrade() -> None:
    """Create them; the events are evidence, which nobody rewrites."""
    metadata.create_all(op.get_bind(), tables=[metadata.tables[name] for name in TABLES])
    op.execute(APPEND_ONLY)
