"""Runs DAGs one after another with `dag.test()`, each list of steps in a process of its own: `python drive.py`.

Airflow cannot be given another database in the tests' own process, and to import it, and what the tasks import, takes
longer than most runs. So this process imports all that once, and is copied for each request: a line of JSON on its
standard input (`environment`, `folder`, `log`, `steps`, `results`), answered by a line, the exit code of the copy.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def run(dag: Any, conf: dict[str, Any], logical_date: str | None) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent
    from airflow.models.xcom import XComModel
    from airflow.sdk import timezone
    from airflow.utils.session import create_session

    began, endings, ours = time.monotonic(), Endings(), logging.getLogger("mlops")
    ours.setLevel(logging.INFO)
    ours.addHandler(endings)
    moment = timezone.parse(logical_date) if logical_date else None
    try:
        done = dag.test(logical_date=moment, run_conf=conf)
    finally:
        ours.removeHandler(endings)
    with create_session() as session:
        answers: dict[str, Any] = {}
        for row in session.scalars(
            sa.select(XComModel).where(XComModel.run_id == done.run_id, XComModel.dag_id == dag.dag_id)
        ):
            name = row.task_id if row.map_index < 0 else f"{row.task_id}[{row.map_index}]"
            answers.setdefault(name, {})[row.key] = XComModel.deserialize_value(row)
        events = session.scalars(sa.select(AssetEvent).where(AssetEvent.source_run_id == done.run_id)).all()
        told = {event.asset.name: event.extra for event in events if event.source_dag_id == dag.dag_id}
        tries = {ti.task_id: ti.try_number for ti in done.get_task_instances(session=session)}
        states = {
            ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": _text(ti.state)
            for ti in done.get_task_instances(session=session)
        }
    return {
        "dag": dag.dag_id, "run_id": done.run_id, "state": _text(done.state), "tasks": states, "tries": tries,
        "answers": answers, "events": told, "endings": endings.lines, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


class Endings(logging.Handler):
    """Collects level and text of the line that ends each task's log: what follows the end of Airflow's last group."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._ended:
            self.lines.append([record.levelname, record.getMessage()])
        self._ended = record.getMessage() == "::endgroup::"


def schedule() -> dict[str, Any]:
    """What Airflow's scheduler makes of the asset events that wait: which DAGs get a run, each with how many events."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.sqlalchemy import prohibit_commit

    runner = SchedulerJobRunner(Job())
    runner.job.id = None
    with create_session() as session:
        for _ in range(3):  # as its loop does, again and again
            with prohibit_commit(session) as guard:
                runner._create_dagruns_for_dags(guard, session)
        started = session.scalars(sa.select(DagRun).where(DagRun.run_type == "asset_triggered")).all()
        return {
            "started": {run.dag_id: len(run.consumed_asset_events) for run in started},
            "count": len(started),
        }


def unpause(dag_id: str) -> dict[str, Any]:
    """Let the scheduler make runs of a DAG, as `make demo` does of those that wait for their history."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.get(DagModel, dag_id).is_paused = False
    return {"unpaused": dag_id}


def dies(dag_id: str, task_id: str) -> dict[str, Any]:
    """A run older than its time-out, with a task that never sent a heartbeat: what the scheduler makes of it."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.sdk import timezone
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with create_session() as session:
        dag = SerializedDagModel.get_dag(dag_id, session=session)
        now = timezone.utcnow()
        dag_run = dag.create_dagrun(
            run_id="dead", logical_date=None, data_interval=None, run_after=now, run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST, state=DagRunState.RUNNING, session=session,
        )  # fmt: skip
        dag_run.start_date = now - dag.dagrun_timeout * 1.01
        dag_run.get_task_instance(task_id, session=session).state = TaskInstanceState.RUNNING
        session.flush()
        callback = SchedulerJobRunner(Job())._schedule_dag_run(dag_run, session)
        states = {ti.task_id: _text(ti.state) for ti in dag_run.get_task_instances(session=session)}
        return {"state": _text(dag_run.state), "tasks": states, "callback": callback and callback.msg}


def _text(state: Any) -> str:
    return str(getattr(state, "value", state))


def command(arguments: list[str]) -> dict[str, Any]:
    """One of Airflow's own commands, as `airflow …` runs it."""
    from airflow.cli.cli_parser import get_parser

    parsed = get_parser().parse_args(arguments)
    parsed.func(parsed)
    return {"command": arguments}


def write_dags_once() -> None:
    """`dag.test()` parses every file and writes every DAG before each run: here, before the first one of a request."""
    from airflow.dag_processing import dagbag

    dagbag.BundleDagBag = functools.cache(dagbag.BundleDagBag)
    dagbag.sync_bag_to_db = functools.cache(dagbag.sync_bag_to_db)


def take(steps: list[dict[str, Any]], results: Path) -> None:
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    write_dags_once()
    done = []
    for step in steps:
        if step.get("schedule"):
            done.append(schedule())
        elif step.get("airflow"):
            done.append(command(step["airflow"]))
        elif step.get("execute"):
            exec(step["execute"], {})  # noqa: S102  (a test's own lines, where Airflow has its database)
            done.append({})
        elif step.get("unpause"):
            done.append(unpause(step["unpause"]))
        elif step.get("dies"):
            done.append(dies(step["dag"], step["dies"]))
        else:
            file = Path(conf.get("core", "dags_folder")) / f"{step['dag'].partition('_')[0]}.py"
            dag = DagBag(str(file)).dags[step["dag"]]  # anew: a run renders its templates into it
            if "retries" in step:
                for task in dag.tasks:
                    task.retries = step["retries"]
            done.append(run(dag, step.get("conf", {}), step.get("logical_date")))
        results.write_text(json.dumps(done, default=str, indent=1))


def copied(request: dict[str, Any]) -> None:
    """What the copy does, in the environment and the folder of the request."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    with open(os.devnull, "rb") as nothing, open(request["log"], "ab") as log:  # noqa: PTH123
        for ours, theirs in ((0, nothing), (1, log), (2, log)):
            os.dup2(theirs.fileno(), ours)
    from airflow import settings

    settings.configure_vars()
    settings.configure_orm()
    take(request["steps"], Path(request["results"]))


IMPORTED = (
    "airflow.api_fastapi.execution_api.app", "airflow.cli.cli_parser", "airflow.dag_processing.dagbag",
    "airflow.jobs.scheduler_job_runner", "airflow.models.serialized_dag", "airflow.sdk.execution_time.supervisor",
    "dvc.repo", "great_expectations", "mlflow", "optuna", "sklearn.ensemble", "xgboost", "include.deployment.gate",
    "include.features.versions", "include.ingestion.validation", "include.preflight", "include.training.fitting",
    "include.training.preparation", "include.training.tuning",
)  # fmt: skip
"""What most runs import: a copy has it already."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.getLogger().setLevel(logging.WARNING)
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
            continue
        code = 1
        try:
            copied(json.loads(line))
            code = 0
        except BaseException:  # noqa: BLE001  (the copy ends here, whatever it was)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main()
