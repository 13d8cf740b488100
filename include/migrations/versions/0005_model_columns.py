"""The columns that a model of all columns takes: decided once, with its first feature version."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table; a model that has features already decides with its next version."""
    op.execute(
        """
        create table if not exists model_columns (
            model text primary key,
            source text not null,
            columns jsonb not null,
            decided_at timestamptz not null default now()
        );
        comment on table model_columns is 'what a model of all columns takes: decided with its first feature version';
        comment on column model_columns.columns is 'the names of all columns that the source had then';
        """
    )
