"""`make demo`: every model of params.yaml, from its source to an answer of the service, through Airflow's REST API.

It does what a user would do in the UI: unpause DAGs, ask for the history once, and watch. The rest the assets do. A
model that has a champion already only makes a prediction. Each model goes its own way: one that fails is named
at the end, when the others are served.
"""

from __future__ import annotations

import time

import httpx
import sqlalchemy as sa

from include import database, settings
from include.deployment import ledger
from include.stack import postgres
from include.stack.airflow_api import Airflow, AirflowError, Run
from include.stack.demo import journey as way
from include.stack.demo import summary
from include.stack.demo.history import DemoError, History
from include.stack.machine import Stack
from include.stack.progress import Progress


def run(stack: Stack, params: settings.Params, days: History, *, progress: Progress) -> None:
    """Take every model to a served champion and ask the service for a prediction of each.

    Raises:
        DemoError: of some model a task failed, the gate did not promote, or the service did not answer; the others were
            taken as far as they go, and are in the summary.
    """
    began = time.monotonic()
    keys = stack.credentials()
    url = postgres.url("platform", keys.platform_database_password, stack.ports["postgres"])
    try:
        with database.connected(url) as engine:
            airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password)
            failed, reported = _drive(airflow, engine, params, days, progress)
            answers = summary.predict_each(stack, engine, params, failed)
            if answers:
                summary.show(stack, params, engine, reported, answers, time.monotonic() - began, progress)
    except (AirflowError, sa.exc.OperationalError, httpx.HTTPError) as error:
        raise DemoError(" ".join(str(error).split())[:500]) from error
    if failed:
        raise DemoError("\n".join(failed.values()))


def _drive(
    airflow: Airflow, engine: sa.Engine, params: settings.Params, days: History, progress: Progress
) -> tuple[dict[str, str], list[Run]]:
    """Take the models that lack a champion through the chain; returns those that failed, with why, and what ran."""
    failed = way.wait_until_parsed(airflow, params, progress)
    known = [model for model in params.models if model not in failed]
    lacking = [model for model in known if ledger.champion(engine, model) is None]
    if not lacking and not days.explicit:
        return failed, []
    journey = way.begin(airflow, engine, params, days, lacking, known if days.explicit else lacking, progress)
    journey.failed |= failed
    try:
        way.follow(journey)
    finally:
        way.leave_to_the_schedule(journey)
    return journey.failed, list(journey.reported.values())


def paused(stack: Stack, params: settings.Params) -> list[str]:
    """The DAGs of params.yaml that are paused, or will be when Airflow has read them for the first time.

    Raises:
        AirflowError: Airflow does not answer.
    """
    keys = stack.credentials()
    airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password, patience_seconds=5)
    known = airflow.dags()
    return [
        dag
        for dag in (*way.dags_of_all(params), "maintenance")
        if known.get(dag, dag.startswith(("ingest_", "features_")))
    ]
