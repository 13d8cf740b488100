"""What was registered, what was retired, alerts; and partitions of the log that the service may have made.

The service connects as a role that owns nothing: `make_prediction_partition` runs with its owner's rights.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

TABLES = """
ALTER TABLE ledger DROP CONSTRAINT ledger_action;
ALTER TABLE ledger ADD CONSTRAINT ledger_action CHECK (action in ('promote', 'rollback', 'retire'));
COMMENT ON COLUMN ledger.action IS 'promote | rollback | retire: both versions are the last one';

CREATE TABLE retired_models (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    ledger_id BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (model),
    FOREIGN KEY(ledger_id) REFERENCES ledger (id)
);
COMMENT ON TABLE retired_models IS
    'models that a person retired: the service drops them; the next champion deletes the row';
COMMENT ON COLUMN retired_models.version IS 'the last champion';

CREATE TABLE registered_versions (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    content_hash TEXT NOT NULL,
    evidence_hash TEXT,
    run_id TEXT,
    feature_version TEXT,
    registered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (model, version)
);
COMMENT ON TABLE registered_versions IS
    'what this platform registered; a version in MLflow that is not here, or is other than here, is refused';
COMMENT ON COLUMN registered_versions.content_hash IS 'of the served form';
COMMENT ON COLUMN registered_versions.evidence_hash IS
    'SHA-256 of split.json, which has those of the evidence''s files';
COMMENT ON COLUMN registered_versions.run_id IS 'MLflow''s';

CREATE TABLE alerts (
    id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    event TEXT NOT NULL,
    message TEXT NOT NULL,
    details JSONB NOT NULL,
    acknowledged_at TIMESTAMP WITH TIME ZONE,
    acknowledged_by TEXT,
    PRIMARY KEY (id)
);
COMMENT ON TABLE alerts IS 'what an operator should see';
COMMENT ON COLUMN alerts.event IS 'what kind of thing it is, one word';
COMMENT ON COLUMN alerts.message IS 'one line for an operator';
CREATE INDEX ix_alerts_at ON alerts (at);
"""

KNOWN = """
insert into registered_versions (model, version, content_hash)
select distinct on (model, version) model, version, content_hash from verdicts order by model, version, id desc
"""
"""Versions that the gate judged before there was this record: their content is what it judged."""

RIGHTS = """
alter function make_prediction_partition(date) security definer set search_path = public, pg_temp;
revoke execute on function make_prediction_partition(date) from public
"""


def upgrade() -> None:
    """Create the tables, note what was judged, and let the function run with its owner's rights."""
    for statements in (TABLES, KNOWN, RIGHTS):
        op.execute(statements)
