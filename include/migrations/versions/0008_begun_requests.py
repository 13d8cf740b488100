"""A request for a training has begun, or waits: one that never ran must not keep others from being made."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Those of before count as begun, as they did."""
    op.execute("alter table retraining_requests add column begun_at timestamptz, add column begun_by text")
    op.execute("update retraining_requests set begun_at = created_at")
    op.execute("comment on column retraining_requests.begun_at is 'when a training took it up; null: it waits'")
    op.execute("comment on column retraining_requests.begun_by is 'the Airflow run of that training'")
