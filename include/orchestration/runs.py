"""What a run was asked to do, and what it tells when it ends: the edge between Airflow's context and plain values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import logging
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, BaseOperatorLink, XComArg
from airflow.sdk.exceptions import AirflowFailException

from include.home import Home
from include.orchestration import alerts, assets

log = logging.getLogger("mlops")


def days(dag_run: Any, form: Mapping[str, Any]) -> tuple[dt.date | None, dt.date | None]:
    """The first and last day that a run of `ingest_<source>` is about: days of UTC name those of the source's zone.

    A scheduled run and a run of a backfill are about their data interval; a manual one, which may have no
    logical date, about what the form says, where empty means the day before the run. A form without `from`
    and `to` has no days.
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


def today(dag_run: Any, timezone: str = "UTC") -> dt.date:
    """The day, in a time zone, on which a run began; a retry after midnight has the same."""
    day: dt.date = dag_run.run_after.astimezone(zoneinfo.ZoneInfo(timezone)).date()
    return day


def origin(airflow_url: str, dag_id: str, run_id: str) -> str:
    """The run's page in Airflow."""
    return f"{airflow_url.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id, safe='')}"


def by_hand(dag_run: Any) -> bool:
    """Whether somebody asked for this run: in the UI, by the API, on the command line."""
    return _text(dag_run.run_type) == "manual"


def replaces(dag_run: Any, form: Mapping[str, Any]) -> bool:
    """Whether published partitions are made again: in a manual run when the form says so, a schedule's day always."""
    return bool(form["replace"]) or not by_hand(dag_run)


def span(keys: Sequence[str]) -> str:
    """Keys in words: how many partitions, from which to which."""
    if len(keys) < 2:
        return keys[0] if keys else "no partition"
    return f"{len(keys)} partitions ({min(keys)} to {max(keys)})"


def news(events: Mapping[Asset, Sequence[Any]] | None, asset: Asset) -> dict[str, Any]:
    """The extra of the newest event of `asset` that started this run; empty when something else did."""
    found = list(events[asset]) if events and asset in events else []
    return dict(found[-1].extra) if found else {}


def checked(findings: Sequence[Any], *entries: str) -> dict[str, Any]:
    """What preflight found about some entries of params.yaml, such as `sources.trips`; others' stop only others.

    Raises:
        ValueError: one line per mistake.
    """
    ours = [
        str(f) for f in findings if any(f"{f.key}.".startswith(f"{entry}.") for entry in entries) or f.key == "(top)"
    ]
    if ours:
        raise ValueError("nothing was run, params.yaml has mistakes:\n" + "\n".join(ours))
    return result({}, f"params.yaml is right about {' and '.join(entries)}")


def result(value: Any, summary: str) -> dict[str, Any]:
    """A task's answer as plain data, with the line that says what it did: `ending` makes it the last of the log."""
    plain = (
        dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else dict(value)
    )
    return {**_plain(plain), "summary": summary}


def idle(reason: str) -> dict[str, Any]:
    """The answer of a task for which there is nothing to do: it ends well, and so do those that need what it made."""
    return result({"idle": reason}, f"nothing to do: {reason}")


def idle_after(*answers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`idle`, with the same reason, after a task that had nothing to do; None where every answer is there."""
    for answer in answers:
        if answer and "idle" in answer:
            return idle(str(answer["idle"]))
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def emit(outlet_events: Any, asset: Asset, answer: dict[str, Any]) -> dict[str, Any]:
    """Emit the asset's event, with the task's answer; a task that does not call this emits none (`ending`)."""
    outlet_events[asset].extra = answer
    return answer


def validated(validation: Any, ti: Any, data_url: str) -> dict[str, Any]:
    """The answer of `validate`: known to `publish` and to the task's page even when the task ends red.

    Raises:
        AirflowFailException: a partition was refused; a retry would refuse it again.
    """
    good, refused = validation.accepted, validation.rejected
    text = f"{validation.rows:,} rows of {span(good)} accepted, {validation.quarantined:,} rows quarantined"
    if validation.types_changed:
        changes = ", ".join(f"{column} ({change})" for column, change in validation.types_changed.items())
        text += f"; columns of another type from now on, for all partitions: {changes}"
    if validation.infinite:
        where = ", ".join(f"{column} ({rows})" for column, rows in validation.infinite.items())
        text += (
            f"; infinite numbers, which stop the features of a model that takes the column: {where}: bound it by an"
            " expectation, or declare null_values"
        )
    answer = result(validation, text) | {"docs": page(validation.docs_url, data_url)}
    ti.xcom_push(key="return_value", value=answer)
    if refused:
        log.info(text)
        lines = "\n".join(f"{key}: {reason}" for key, reason in refused.items())
        raise fail(
            f"{len(refused)} of {len(good) + len(refused)} partitions refused, nothing downstream sees them:\n{lines}"
        )
    return answer


def unpublished(validation: Mapping[str, Any] | None) -> dict[str, Any]:
    """The answer of `publish` where there is no partition to publish."""
    what = "no new partition was accepted" if validation else "nothing was validated"
    return idle(f"{what}; what was published before stays")


def overrides(form: Mapping[str, Any], events: Any, asset: Asset) -> dict[str, Any]:
    """What `train_<model>` does otherwise than params.yaml: the form, with the reason of who asked by an asset."""
    return {**form, "reason": news(events, asset).get("reason") or form["reason"]}


def folder(home: Path, dag_id: str, run_id: str) -> str:
    """A folder of one run's own; a run id may hold what a file's name should not."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    return str(Home(home).runs(dag_id) / f"{re.sub(r'[^A-Za-z0-9_-]', '_', run_id)[:80]}-{digest}")


def prepared(made: Any) -> dict[str, Any]:
    """The answer of `prepare`."""
    text = (
        f"{made.rows:,} rows of {span(made.partitions)}, {made.features} features, {made.trials} trials,"
        f" {made.time_budget} s; asked for: {made.reason}"
    )
    return result(made, "; ".join([text, *made.warnings]))


def newest(versions: Sequence[int], model: str) -> int:
    """The newest of a model's registered versions.

    Raises:
        ValueError: there is none.
    """
    if not versions:
        raise ValueError(f"no version of {model} is registered; run train_{model} first")
    return max(versions)


def judged(verdict: Any, mlflow_url: str) -> dict[str, Any]:
    """The answer of `gate`."""
    address = f"{mlflow_url.rstrip('/')}/#/models/{verdict.model}/versions/{verdict.version}"
    text = f"{verdict.verdict} version {verdict.version}: {'; '.join(verdict.reasons)}"
    return result(verdict, text) | {"version_url": address}


def compared(found: Any, data_url: str) -> dict[str, Any]:
    """The answer of `compare`."""
    if found.status == "no_champion":
        return result(found, found.reason) | {"report": None}
    text = (
        f"{found.status}: {found.rows:,} rows of {span(found.window)} against version {found.version}; {found.reason}"
    )
    return result(found, text) | {"report": page(found.report_url, data_url)}


def require(condition: bool, reason: str) -> None:
    """End the task red, with the reason, unless the condition holds.

    Raises:
        AirflowFailException: it does not hold.
    """
    if not condition:
        raise fail(reason)


def actor(dag_run: Any) -> str:
    """Who acts: the run, and the person who started it, if one did."""
    person = getattr(dag_run, "triggering_user_name", None)
    return f"{dag_run.dag_id} {dag_run.run_id}" + (f" ({person})" if person and by_hand(dag_run) else "")


def carried_out(made: Any, model: str) -> dict[str, Any]:
    """The answer of `promote`: a champion, a version that is tried beside it, or nothing while another one is tried.

    That a version waits is alerted.
    """
    if hasattr(made, "to_version"):
        return result(made, f"version {made.to_version} is champion, before it was {made.from_version or 'none'}")
    if not hasattr(made, "kind"):
        alerts.send("rollout_waits", f"{model} version {made.version} passed the gate and waits: {made.reason}")
        return idle(made.reason)
    against = f"beside version {made.champion_version}, which stays champion for now"
    text = f"version {made.version} {made.traffic} as {made.arm} {against}"
    return result(made, f"{text}; {made.hint}" if made.hint else text)


def tried(seen: Any, rollout: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `verify` where the champion stays for now: what is tried is in service."""
    return result(
        seen,
        f"no new champion: version {rollout['version']} is in service as {rollout['arm']} after {seen.seconds:.1f} s,"
        " and the rollout decides",
    )


def withdrawn(back: Any, model: str) -> dict[str, Any]:
    """The answer of `roll_back`."""
    stopped = "".join(f"{rollout} was stopped; " for rollout in back.stopped)
    changed = f"version {back.entry.from_version} → {back.version}" if back.entry else f"version {back.version} stays"
    answer = {"model": model, "version": back.version, "stopped": [rollout.id for rollout in back.stopped]}
    return result(answer, f"{stopped}{model}: {changed}")


def followed(seen: Any, back: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `roll_back`, when the service has followed."""
    return result(back, f"{back['summary']}; every worker answers so after {seen.seconds:.1f} s") | {
        "seconds": seen.seconds
    }


def verified(seen: Any, promoted: Mapping[str, Any], serving_url: str) -> dict[str, Any]:
    """The answer of `verify`."""
    version = promoted["to_version"]
    text = f"the service answers with version {version} after {seen.seconds:.1f} s, {seen.rows} golden rows as expected"
    answer = {
        "version": version,
        "content_hash": promoted["content_hash"],
        "service": f"{serving_url.rstrip('/')}/docs",
    }
    return result(seen, text) | answer


def at_work(ti: Any, *dags: str) -> bool:
    """Whether a run of one of these DAGs is queued or running."""
    return any(ti.get_dr_count(dag, states=["queued", "running"]) for dag in dags)


def training_request(requested: bool, reason: str, outlet_events: Any, model: str, **details: Any) -> dict[str, Any]:
    """The answer of `first_training` and `request_retraining`: a request starts `train_<model>`; none starts nothing.

    Args:
        requested: whether a training is requested.
        reason: why, or why not.
        outlet_events: the task's own.
        model: whose training.
        details: what goes with the reason.
    """
    if not requested:
        return idle(f"no training requested: {reason}")
    answer = result({"reason": reason, **details}, f"training requested: {reason}")
    return emit(outlet_events, assets.retraining(model), answer)


def drawn(compared: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `report`.

    Raises:
        AirflowFailException: it was compared, and the report could not be drawn.
    """
    require(not compared["report_problem"], f"compared, but not drawn: {compared['report_problem']}")
    if not compared["report"]:
        return result({"report": None}, f"nothing to draw: {compared['reason']}")
    return result({"report": compared["report"]}, f"the report is at {compared['report']}")


def outcome(states: Mapping[str, str | None]) -> dict[str, Any]:
    """The end of a run whose last task runs whatever became of the others: as red as they are.

    Args:
        states: Of the run's tasks.

    Raises:
        AirflowFailException: one of them failed.
    """
    red = sorted(task for task, state in states.items() if _text(state) in ("failed", "upstream_failed"))
    if red:
        raise fail(f"{', '.join(red)} failed; the message says why. Good partitions were published all the same")
    return result({}, "every task of this run ended well")


def caught_up(found: Sequence[Any], announced: Any, *, dry_run: bool) -> dict[str, Any]:
    """The answer of `catch_up`: what was behind is announced again, and alerted, since a DAG may still be paused."""
    if not found:
        return result({"behind": []}, "nothing is behind")
    reasons = [late.reason for late in found]
    if not dry_run:
        for late in found:
            announced.add(getattr(assets, late.asset)(late.name), extra={**late.extra, "behind": late.reason})
        alerts.send("behind", "; ".join(reasons) + "; announced again: unpause the DAGs that are to take it up")
    return result(
        {"behind": reasons}, ("would announce again: " if dry_run else "announced again: ") + "; ".join(reasons)
    )


def fail(reason: str) -> AirflowFailException:
    """A retry would not help. Raise it."""
    return AirflowFailException(reason)


class ResultLink(BaseOperatorLink):  # type: ignore[misc]
    """A button on the task's page in the UI, which opens an address that the task's answer holds."""

    def __init__(self, title: str, key: str, *, even_when_red: bool = False) -> None:
        self._title, self._key, self._even_when_red = title, key, even_when_red

    @property
    def name(self) -> str:
        """The button's text."""
        return self._title

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the address."""
        return f"_link_{self._key}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, or nothing; called in the worker when the task has ended, with the running task instance."""
        if _text(ti_key.state) != "success" and not self._even_when_red:
            return ""
        answer = ti_key.xcom_pull(task_ids=ti_key.task_id, key="return_value", map_indexes=ti_key.map_index)
        return str(answer.get(self._key) or "") if isinstance(answer, Mapping) else ""


def link(task: XComArg, *, even_when_red: bool = False, **titles: str) -> XComArg:
    """Give a task buttons: key of the answer → text. Returns the task."""
    task.operator.operator_extra_links = tuple(
        ResultLink(title, key, even_when_red=even_when_red) for key, title in titles.items()
    )
    return task


def _text(state: Any) -> str:
    return str(getattr(state, "value", state))


PAGE = "/ml-platform"
"""Where plugins/ml_platform answers, behind Airflow's login."""


def page(url: str | None, data_url: str) -> str | None:
    """The address, behind Airflow's login, of a file below `data_url`/docs or `data_url`/reports."""
    root = data_url.rstrip("/") + "/"
    return f"{PAGE}/files/{url.removeprefix(root)}" if url and url.startswith(root) else url
