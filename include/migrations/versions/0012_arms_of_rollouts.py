"""A rollout's row names its arms: a new strategy needs no migration, and the service knows none by name."""

from alembic import op

revision = "0012"
down_revision = "0011"

COLUMNS = """
alter table rollouts add column arm text, add column control text, add column mirrored boolean;
update rollouts set
    arm = case kind when 'ab' then 'b' else kind end,
    control = case kind when 'ab' then 'a' else 'champion' end,
    mirrored = kind = 'shadow';
alter table rollouts alter column arm set not null, alter column control set not null,
    alter column mirrored set not null;
comment on column rollouts.kind is 'the strategy: a file of include/strategies/';
comment on column rollouts.arm is 'the name under which the tried version''s answers are counted';
comment on column rollouts.control is 'the name of the champion''s arm meanwhile';
comment on column rollouts.mirrored is 'it scores every request and answers none';
comment on column rollouts.share is 'of the requests, 0 to 1; 0 where it is mirrored, or waits';
comment on column rollouts.step is 'index into its shares, from 0';
comment on column predictions.arm is 'champion, or as in rollouts: arm, or control';
comment on column arm_windows.arm is 'as in rollouts: arm, or control';
comment on column service_minutes.arm is 'champion, or as in rollouts: arm, or control';
"""

RULES = """
alter table rollouts drop constraint rollouts_kind;
alter table rollouts add constraint rollouts_mirrored_answers_none check (not mirrored or share = 0);
drop index rollouts_one_shadow;
drop index rollouts_one_challenger;
create unique index rollouts_one_mirrored on rollouts (model) where status = 'running' and mirrored;
create unique index rollouts_one_challenger on rollouts (model) where status = 'running' and not mirrored;
"""


def upgrade() -> None:
    """Add the columns and fill them in by kind; one mirrored rollout and one other may run, whatever their kinds."""
    op.execute(COLUMNS)
    op.execute(RULES)
