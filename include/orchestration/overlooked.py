"""What Airflow's scheduler passes over: events for DAGs that were paused, and runs of DAGs that no file makes any more.

An event of an asset is queued for the DAGs that are active when it comes, and for no other. A run whose DAG is gone,
because its model was taken out of params.yaml, is never scheduled again and stays `running` for ever.
"""

from __future__ import annotations

import logging
import time

from include.orchestration import alerts

CHECK_SECONDS = 10.0
"""How often the scheduler sees to it (include/orchestration/executor.py)."""
GONE_SECONDS = 600.0
"""A DAG that comes back within this time finds its runs as they were: somebody may be in the middle of an edit."""
DAGS_OF_MODELS = ("features", "monitor", "train", "deploy", "rollout", "rollback")

log = logging.getLogger("mlops")


class Overlooked:
    """What is remembered from one check to the next."""

    def __init__(self) -> None:
        self._paused: frozenset[str] | None = None
        self._gone: dict[tuple[str, str], float] = {}
        """A run (DAG, run id) → when its DAG was first seen to be gone."""
        self._next = 0.0

    def check_when_due(self) -> None:
        """Check, at most once in `CHECK_SECONDS`; whatever goes wrong must not end the scheduler, which calls it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + CHECK_SECONDS
        try:
            self.check(now)
        except Exception:  # a database that is away is the scheduler's own trouble, too; the next check makes up for it
            log.exception("missed events and runs of DAGs that are gone could not be looked for")

    def check(self, now: float) -> None:
        """Queue the missed events of DAGs that were unpaused since the last check, and end runs whose DAG is gone.

        The first check counts every active DAG as unpaused just now: nobody knows what happened before.

        Args:
            now: seconds, by a clock that only grows.
        """
        paused = paused_dags()
        if self._paused is None or self._paused - paused:
            for dag_id, asset in queue_missed():
                log.info("%s was paused when an event of %s came; it runs now", dag_id, asset)
        self._paused = paused
        gone = runs_of_gone_dags()
        self._gone = {run: self._gone.get(run, now) for run in gone}
        for dag_id, run_id in [run for run, since in self._gone.items() if now - since >= GONE_SECONDS]:
            end(dag_id, run_id)


def paused_dags() -> frozenset[str]:
    """The DAGs that are paused."""
    import sqlalchemy as sa
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session() as session:
        return frozenset(session.scalars(sa.select(DagModel.dag_id).where(DagModel.is_paused)))


def queue_missed() -> list[tuple[str, str]]:
    """Let every active DAG run once that an event of one of its assets has not reached; returns DAG and asset.

    Not reached: the event is newer than the DAG's last run, and none is queued. A run begun by hand counts: every DAG
    works on what is newest when it runs.
    """
    import sqlalchemy as sa
    from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel, DagScheduleAssetReference
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    reference, queued = DagScheduleAssetReference, AssetDagRunQueue
    newest = sa.select(sa.func.max(AssetEvent.timestamp)).where(AssetEvent.asset_id == reference.asset_id)
    begun = sa.select(sa.func.max(sa.func.coalesce(DagRun.start_date, DagRun.queued_at)))
    last = begun.where(DagRun.dag_id == reference.dag_id).scalar_subquery()
    event = newest.scalar_subquery()
    is_queued = sa.exists().where(queued.asset_id == reference.asset_id, queued.target_dag_id == reference.dag_id)
    missed = (
        sa.select(reference.dag_id, AssetModel.name, reference.asset_id)
        .join(DagModel, DagModel.dag_id == reference.dag_id)
        .join(AssetModel, AssetModel.id == reference.asset_id)
        .where(DagModel.is_paused.is_(False), DagModel.is_stale.is_(False), ~is_queued)
        .where(event > reference.created_at, sa.or_(last.is_(None), event > last))
    )
    with create_session() as session:
        found = session.execute(missed).all()
        for dag_id, _, asset_id in found:
            session.merge(queued(target_dag_id=dag_id, asset_id=asset_id))
        return [(dag_id, asset) for dag_id, asset, _ in found]


def runs_of_gone_dags() -> list[tuple[str, str]]:
    """The runs that have not ended and whose DAG no file makes any more: DAG and run id."""
    import sqlalchemy as sa
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import State

    query = (
        sa.select(DagRun.dag_id, DagRun.run_id)
        .join(DagModel, DagModel.dag_id == DagRun.dag_id)
        .where(DagModel.is_stale, DagRun.state.in_(State.unfinished_dr_states))
    )
    with create_session() as session:
        return [(dag_id, run_id) for dag_id, run_id in session.execute(query)]


def end(dag_id: str, run_id: str) -> None:
    """Fail a run and its tasks, as a person may do in the UI, with a note and an alert that say why."""
    import sqlalchemy as sa
    from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState

    step, _, model = dag_id.partition("_")
    why = f"no file and no entry of params.yaml makes {dag_id} any more"
    with create_session() as session:
        run = session.scalar(sa.select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None:
            return
        if run.dag_run_note is None:
            run.note = (why, None)
        dag = SerializedDagModel.get_dag(dag_id, session=session)
        if dag is not None:
            set_dag_run_state_to_failed(dag=dag, run_id=run_id, commit=True, session=session)
        else:  # its description is gone as well; a run without a task may be ended as it is
            run.set_state(DagRunState.FAILED)
    text = f"{why}, and its run {run_id} was ended, since it would have gone on for ever"
    if step in DAGS_OF_MODELS and model:
        text += f"; if {model} is to be served no more either: `mlops retire {model} --reason …`"
    alerts.send("run_of_a_gone_dag", text, dag_id=dag_id, run_id=run_id)
