"""What each arm of the service did in each minute, rollout or not: for plots over time."""

from alembic import op

revision = "0010"
down_revision = "0009"

TABLE = """
CREATE TABLE service_minutes (
    worker TEXT NOT NULL,
    model TEXT NOT NULL,
    arm TEXT NOT NULL,
    version INTEGER NOT NULL,
    minute TIMESTAMP WITH TIME ZONE NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    latencies INTEGER[] NOT NULL,
    PRIMARY KEY (worker, model, arm, version, minute)
);
CREATE INDEX service_minutes_of_a_model ON service_minutes (model, minute);
CREATE INDEX service_minutes_oldest ON service_minutes (minute);
COMMENT ON TABLE service_minutes IS 'what each arm did in each minute in which it was asked; kept for 90 days';
COMMENT ON COLUMN service_minutes.worker IS 'a worker of the service';
COMMENT ON COLUMN service_minutes.arm IS 'champion and canary; a (the champion) and b; shadow';
COMMENT ON COLUMN service_minutes.minute IS 'its beginning, by this database''s clock';
COMMENT ON COLUMN service_minutes.requests IS 'all, those that failed too';
COMMENT ON COLUMN service_minutes.errors IS 'those that failed';
COMMENT ON COLUMN service_minutes.rows IS 'predicted';
COMMENT ON COLUMN service_minutes.seconds IS 'of all answered requests together';
COMMENT ON COLUMN service_minutes.latencies IS 'counts in tallies.LATENCY_MS and one beyond';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(TABLE)
