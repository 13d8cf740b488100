"""The figures of a check may be of another measure of drift than the population stability index."""

from alembic import op

revision = "0011"
down_revision = "0010"

KINDS = "a measure of drift (psi, jensen_shannon, ...) | metric | worsening | unanswered"


def upgrade() -> None:
    """The column's comment names them."""
    op.execute(f"comment on column measures.kind is '{KINDS}'")
