"""What is checked before each task of every DAG: Airflow calls `task` as its `pre_execute`."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from include.orchestration import forms, versions


def task(context: Any) -> None:
    """Refuse a form with names that it does not have, and a try beyond those that are allowed.

    Raises:
        AirflowFailException: either; a retry would meet the same.
    """
    dag = context["dag"]
    if refused := forms.refusal(dag.dag_id, context["dag_run"].conf, dag.params):
        raise AirflowFailException(refused)
    schemas = {name: dag.params.get_param(name).schema for name in dag.params}
    forms.whole_numbers(context["params"], schemas)
    versions.numbers(context["params"], schemas)
    _bound_tries(context["ti"])


def _bound_tries(ti: Any) -> None:
    """A task that dies together with the scheduler is begun again by the next one, which does not count its tries."""
    allowed = ti.max_tries + 1
    if ti.try_number > allowed:
        raise AirflowFailException(
            f"{ti.dag_id}.{ti.task_id} was begun {ti.try_number - 1} times and its process was killed each time, which"
            f" may be for want of memory; {allowed} tries are allowed. Clear the task to try again"
        )
