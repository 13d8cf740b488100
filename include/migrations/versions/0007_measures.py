"""Every figure of every check over time, so that a plot can be drawn of what was quiet too."""

from alembic import op

revision = "0007"
down_revision = "0006"

TABLE = """
create table measures (
    result_id bigint not null references monitor_results (id) on delete cascade,
    kind text not null,
    subject text not null,
    model text not null,
    version integer not null,
    at timestamptz not null,
    value double precision not null,
    threshold double precision,
    rows bigint,
    primary key (result_id, kind, subject)
);
create index measures_over_time on measures (model, kind, at);
create index monitor_results_newest on monitor_results (model, id);
comment on table measures is 'every figure of every check, the quiet ones too';
comment on column measures.result_id is 'the check that measured it';
comment on column measures.kind is 'psi | metric | worsening | unanswered';
comment on column measures.subject is 'the column, the metric, or predictions';
comment on column measures.threshold is 'null: not judged';
comment on column measures.rows is 'that it rests on';
"""


def upgrade() -> None:
    """Create it; checks of before keep what they kept."""
    op.execute(TABLE)
