"""What a run was asked to do, and what it tells when it ends: the edge between Airflow's context and plain values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, BaseOperatorLink, XComArg
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

log = logging.getLogger("mlops")


def days(dag_run: Any, form: Mapping[str, Any]) -> tuple[dt.date | None, dt.date | None]:
    """The first and last day (UTC) that a run of `ingest_<source>` is about.

    A scheduled run and a run of a backfill are about their data interval; a manual one, which may have no logical date, about
    what the form says, where empty means the day before the run. A form without `from` and `to` has no days.
    """
    if "from" not in form:
        return None, None
    if by_hand(dag_run):
        yesterday = dag_run.run_after.astimezone(dt.UTC).date() - dt.timedelta(days=1)
        first, last = (dt.date.fromisoformat(form[field]) if form[field] else yesterday for field in ("from", "to"))
        if last < first:
            raise ValueError(f"the form's `to` ({last}) is before its `from` ({first}); nothing was ingested")
        return first, last
    start, end = (moment.astimezone(dt.UTC) for moment in (dag_run.data_interval_start, dag_run.data_interval_end))
    return start.date(), max(start.date(), end.date() - dt.timedelta(days=1))


def by_hand(dag_run: Any) -> bool:
    """Whether somebody asked for this run: in the UI, by the API, on the command line."""
    return getattr(dag_run.run_type, "value", dag_run.run_type) == "manual"


def news(events: Mapping[Asset, Sequence[Any]] | None, asset: Asset) -> dict[str, Any]:
    """The extra of the newest event of `asset` that started this run; empty when something else did."""
    found = list(events[asset]) if events and asset in events else []
    return dict(found[-1].extra) if found else {}


def result(value: Any, summary: str) -> dict[str, Any]:
    """A task's answer as plain data, with the one line that says what it did, which is also the log's last."""
    log.info(summary)
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else dict(value)
    return {**_plain(plain), "summary": summary}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def skip(reason: str) -> AirflowSkipException:
    """Nothing is to be done, and that is well; the tasks after this one are skipped too. Raise it."""
    log.info(reason)
    return AirflowSkipException(reason)


def fail(reason: str) -> AirflowFailException:
    """A retry would not help. Raise it."""
    return AirflowFailException(reason)


class ResultLink(BaseOperatorLink):
    """A button on the task's page in the UI, which opens an address that the task's answer holds."""

    def __init__(self, title: str, key: str) -> None:
        self._title, self._key = title, key

    @property
    def name(self) -> str:
        """The button's text."""
        return self._title

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the address."""
        return f"_link_{self._key}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address; called in the worker when the task has ended, with the running task instance."""
        answer = ti_key.xcom_pull(task_ids=ti_key.task_id, key="return_value", map_indexes=ti_key.map_index)
        return str(answer.get(self._key) or "") if isinstance(answer, Mapping) else ""


def link(task: XComArg, **titles: str) -> XComArg:
    """Give a task buttons: key of the answer → text. Returns the task."""
    task.operator.operator_extra_links = tuple(ResultLink(title, key) for key, title in titles.items())
    return task


PAGE = "/ml-platform"
"""Where plugins/ml_platform answers, behind Airflow's login."""


def page(url: str | None, data_url: str) -> str | None:
    """The address, behind Airflow's login, of a file below `data_url`/docs or `data_url`/reports."""
    root = data_url.rstrip("/") + "/"
    return f"{PAGE}/files/{url.removeprefix(root)}" if url and url.startswith(root) else url
