"""What is checked before each task of every DAG: Airflow calls `task` as its `pre_execute`."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from include.orchestration import forms, versions

CHATTY = frozenset(
    {"alembic", "dvc", "dvc_data", "dvc_objects", "great_expectations", "mlflow", "evidently", "matplotlib"}
)
"""Libraries whose news are not an operator's: their warnings and errors are shown in a task's log, and no more."""


def task(context: Any) -> None:
    """Refuse a form with names that it does not have, and a try beyond those that are allowed.

    Raises:
        AirflowFailException: either; a retry would meet the same.
    """
    one_way_to_the_log()
    dag = context["dag"]
    if refused := forms.refusal(dag.dag_id, context["dag_run"].conf, dag.params):
        raise AirflowFailException(refused)
    schemas = {name: dag.params.get_param(name).schema for name in dag.params}
    forms.whole_numbers(context["params"], schemas)
    versions.numbers(context["params"], schemas)
    _bound_tries(context["ti"])


def one_way_to_the_log() -> None:
    """Let no library write its log to the console as well, nor its news to the task's log.

    What is written to the console Airflow shows again, and stderr as errors. Its own handler, which knows a line's
    level and logger, is the root logger's. Levels are no way to silence a library: some set their own when they are
    imported, and Airflow's `namespace_levels` are for structlog's loggers alone.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and not name.startswith("airflow"):
            for handler in [found for found in logger.handlers if _is_console(found)]:
                logger.removeHandler(handler)
                logger.propagate = True
    for handler in logging.root.handlers:
        handler.addFilter(_is_for_an_operator)  # the same function is added once


def _is_for_an_operator(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in CHATTY


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def _bound_tries(ti: Any) -> None:
    """A task that dies together with the scheduler is begun again by the next one, which does not count its tries."""
    allowed = ti.max_tries + 1
    if ti.try_number > allowed:
        raise AirflowFailException(
            f"{ti.dag_id}.{ti.task_id} was begun {ti.try_number - 1} times and its process was killed each time, which"
            f" may be for want of memory; {allowed} tries are allowed. Clear the task to try again"
        )
