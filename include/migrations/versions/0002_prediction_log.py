"""The prediction log, a partition for each day (UTC), the labels that come back for it, and how far it was copied."""

from alembic import op

from include.database import metadata

revision = "0002"
down_revision = "0001"

PREDICTIONS = """
create table predictions (
    id uuid not null,
    model text not null,
    version integer not null,
    arm text not null,
    at timestamptz not null,
    inputs jsonb not null,
    output jsonb not null,
    prediction double precision,
    latency_ms real,
    entity text,
    caller text
) partition by range (at);
create index predictions_id on predictions (id);
create index predictions_model_at on predictions (model, at) include (prediction, version, arm);
create index predictions_entity on predictions (entity, at) where entity is not null;
"""

PARTITION = """
create function make_prediction_partition(day date) returns boolean language plpgsql as $$
declare
    name text := 'predictions_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(name) is not null then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('mlops:prediction partitions', 0));
    if to_regclass(name) is not null then
        return false;
    end if;
    -- attached, not `partition of`: that would wait for every reader of the whole log, and let nobody past
    execute format('create table %I (like predictions including defaults including constraints)', name);
    execute format(
        'alter table predictions attach partition %I for values from (%L) to (%L)',
        name, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00'
    );
    return true;
end $$;
"""

LABELS_ARE_APPENDED = """
create trigger append_only before update on labels for each row execute function refuse_change();
"""


def upgrade() -> None:
    """Create them. A label is never changed; only its subject's wish to be forgotten deletes it."""
    op.execute(PREDICTIONS)
    op.execute(PARTITION)
    metadata.create_all(op.get_bind(), tables=[metadata.tables[name] for name in ("labels", "spool_positions")])
    op.execute(LABELS_ARE_APPENDED)
