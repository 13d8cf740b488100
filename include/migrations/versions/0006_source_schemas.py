"""One type for each column of a source, in which every partition is read.

Sources that were published before are learned from their files when they are next read or ingested.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLE = """
create table source_schemas (
    source text not null,
    "column" text not null,
    type text not null,
    since timestamp with time zone not null default now(),
    history jsonb not null,
    primary key (source, "column")
);
comment on table source_schemas is 'one type for each column of a source, in which every partition is read';
"""


def upgrade() -> None:
    """Create it, empty."""
    op.execute(TABLE)
