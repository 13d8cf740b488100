"""The way of the models that lack a champion: unpause their DAGs, trigger what no event will, and watch the runs."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from include import database, settings
from include.deployment import ledger
from include.stack.airflow_api import Airflow, Run, TaskRun
from include.stack.demo import history
from include.stack.demo.history import DemoError, History
from include.stack.progress import Progress

PARSE_SECONDS = 120.0
"""For how long no further DAG may have become known, before those that are missing are given up."""
STALE_SECONDS = 25.0
QUIET_SECONDS = 60.0
"""With nothing queued or running for so long, nothing more will come by itself."""
CHAIN = ("features", "train", "deploy")
AWAITS_ANSWER = "awaiting_input"
"""The state of a task that waits for a person."""


@dataclass
class Journey:
    """What is under way: which runs were there before, which were told of, what still waits for what."""

    airflow: Airflow
    params: settings.Params
    engine: sa.Engine
    progress: Progress
    lacking: list[str]
    """Models without a champion."""
    ingesting: list[str]
    """Sources whose history is being ingested."""
    dags: list[str]
    """The DAGs that these models' way leads through."""
    since: dt.datetime
    old: frozenset[tuple[str, str]] = frozenset()
    released: set[str] = field(default_factory=set)
    reported: dict[tuple[str, str], Run] = field(default_factory=dict)
    retried: set[tuple[str, str, str, int]] = field(default_factory=set)
    quiet_since: float = 0.0
    requested: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Models that will have no champion, and why."""
    questions: set[tuple[str, str]] = field(default_factory=set)
    """Runs that wait for a person's approval, which was said."""


def dags_of_all(params: settings.Params) -> list[str]:
    """Every DAG of params.yaml that the chain leads through, and the monitors."""
    steps = [*CHAIN, "monitor"]
    return [f"ingest_{s}" for s in params.sources] + [f"{step}_{m}" for m in params.models for step in steps]


def _dags_of(params: settings.Params, model: str) -> list[str]:
    return [f"ingest_{params.models[model].source}", *(f"{step}_{model}" for step in (*CHAIN, "monitor"))]


def wait_until_parsed(airflow: Airflow, params: settings.Params, progress: Progress) -> dict[str, str]:
    """Wait for the DAGs of every model; returns the models of which some cannot be read, with the reason.

    Raises:
        DemoError: that is so for all models.
    """
    began = moved = time.monotonic()
    count = -1
    while True:
        known = airflow.dags().keys()
        missing = {model: [dag for dag in _dags_of(params, model) if dag not in known] for model in params.models}
        missing = {model: dags for model, dags in missing.items() if dags}
        if not missing:
            return {}
        now, seen = time.monotonic(), sum(map(len, missing.values()))
        if seen != count:
            moved, count = now, seen
        # An error of before the last edit stands until the file is read again.
        errors = airflow.import_errors() if now - began > STALE_SECONDS else []
        if errors or now - moved > PARSE_SECONDS:
            why = "Airflow cannot read a DAG file:\n" + "\n".join(errors) if errors else ""
            why = why or f"not known after {now - began:.0f} s: `mlops logs dag-processor`"
            if len(missing) == len(params.models):
                raise DemoError(why if errors else f"Airflow does not know {_named(missing)}; {why}")
            return {model: f"{model}: {', '.join(dags)}: {why}" for model, dags in missing.items()}
        progress.waiting(f"  waiting for Airflow to read {_named(missing)} · {now - began:.0f} s")
        time.sleep(0.5)


def _named(missing: Mapping[str, Sequence[str]]) -> str:
    names = sorted({dag for dags in missing.values() for dag in dags})
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def begin(
    airflow: Airflow,
    engine: sa.Engine,
    params: settings.Params,
    days: History,
    lacking: list[str],
    models: list[str],
    progress: Progress,
) -> Journey:
    """Ask for the history of these models that is missing, and let their DAGs run."""
    sources = list(dict.fromkeys(params.models[model].source for model in models))
    dags = [f"ingest_{source}" for source in sources] + [f"{step}_{model}" for model in models for step in CHAIN]
    old = airflow.runs(dags)
    journey = Journey(airflow, params, engine, progress, list(lacking), [], dags, dt.datetime.now(dt.UTC))
    journey.old = frozenset((run.dag, run.run_id) for run in old if not run.active)
    journey.quiet_since = time.monotonic()
    for model in lacking:
        for step in ("train", "deploy"):
            airflow.unpause(f"{step}_{model}")
    for source in sources:
        conf = history.missing(engine, source, params.sources[source], days)
        dag = f"ingest_{source}"
        at_work = any(run.active for run in old if run.dag == dag)
        by_itself = params.sources[source].time_column is None and not any(run.dag == dag for run in old)
        if conf is not None:
            journey.ingesting.append(source)
            if not at_work and not by_itself:
                airflow.trigger(dag, conf)
        # Before its history is there, a source's newest day alone must not train a first champion: the features wait.
        airflow.unpause(dag)
        if conf is None:
            _release(journey, source)
    return journey


def _release(journey: Journey, source: str) -> None:
    """Let the features of the source's models be built from here on."""
    for model, entry in journey.params.models.items():
        if entry.source == source and model not in journey.released:
            journey.released.add(model)
            journey.airflow.unpause(f"features_{model}")


def follow(journey: Journey) -> None:
    """Watch until every model that lacked a champion has one, and its deployment has ended, or has failed."""
    began = time.monotonic()
    while True:
        runs = [run for run in journey.airflow.runs(journey.dags) if (run.dag, run.run_id) not in journey.old]
        fresh = [run for run in runs if (run.dag, run.run_id) not in journey.reported]
        tasks = journey.airflow.tasks(fresh)
        _report(journey, fresh, tasks)
        active = [run for run in fresh if run.active]
        for source in list(journey.ingesting):
            _release_when_due(journey, source, runs, began)
        waiting_for = [
            model for model in journey.lacking if model not in journey.failed and not _is_done(journey, model, runs)
        ]
        ingesting = [run for run in active if run.dag in {f"ingest_{s}" for s in journey.ingesting}]
        if not waiting_for and not ingesting:
            return
        _request_features(journey, waiting_for, runs)
        if active:
            journey.quiet_since = time.monotonic()
        elif time.monotonic() - journey.quiet_since > QUIET_SECONDS:
            journey.failed |= _why_nothing_moves(journey, waiting_for)
            return
        journey.progress.waiting(_now(active, tasks, time.monotonic() - began))
        time.sleep(1)


def _release_when_due(journey: Journey, source: str, runs: Sequence[Run], began: float) -> None:
    """Features wait until the source's history is there: before, a run of the schedule may bring its newest day alone.

    Events that came meanwhile are not lost: unpausing takes them up (plugins/orchestration), or `_request_features`.
    """
    mine = [run for run in runs if run.dag == f"ingest_{source}"]
    models = [m for m, entry in journey.params.models.items() if entry.source == source]
    if journey.released.issuperset(models):
        return
    arrived = bool(mine) and not any(run.active for run in mine)
    settled = time.monotonic() - began > 5
    if arrived or (settled and journey.params.sources[source].time_column is None):
        _release(journey, source)


def _is_done(journey: Journey, model: str, runs: Sequence[Run]) -> bool:
    deploying = any(run.active for run in runs if run.dag == f"deploy_{model}")
    return not deploying and ledger.champion(journey.engine, model) is not None


def _request_features(journey: Journey, models: Sequence[str], runs: Sequence[Run]) -> None:
    """Start what no event will start: partitions that were there before, or came while the features were paused."""
    for model in models:
        chain = {f"{step}_{model}" for step in CHAIN} | {f"ingest_{journey.params.models[model].source}"}
        if model in journey.requested or model not in journey.released:
            continue
        if any(run.active for run in runs if run.dag in chain) or any(run.dag == f"features_{model}" for run in runs):
            continue
        if time.monotonic() - journey.quiet_since < 5 and journey.ingesting:
            continue
        journey.requested.add(model)
        journey.airflow.trigger(f"features_{model}", {})


def _report(journey: Journey, runs: Sequence[Run], tasks: Sequence[TaskRun]) -> None:
    """A line for each run that has ended, each task that is tried again, and each approval that is awaited."""
    for task in tasks:
        if (
            task.state == "up_for_retry"
            and (key := (task.dag, task.run_id, task.name, task.try_number)) not in journey.retried
        ):
            journey.retried.add(key)
            last = journey.airflow.log(task, 1)
            journey.progress.line(f"  {task.dag}.{task.name} is tried again: {' '.join(last)[:160]}")
        if task.state == AWAITS_ANSWER and (task.dag, task.run_id) not in journey.questions:
            _report_approval(journey, task)
        if task.state == "failed":
            _failed(journey, task)
    for run in runs:
        if run.active:
            continue
        journey.reported[run.dag, run.run_id] = run
        own = [task for task in tasks if (task.dag, task.run_id) == (run.dag, run.run_id)]
        if run.state != "success" and not any(task.state == "failed" for task in own):
            _give_up(
                journey, run.dag, f"{run.dag} ended as {run.state} without a failed task: it ran into its time-out"
            )
        steps = " · ".join(
            f"{task.name} {task.seconds:.1f}"
            for task in sorted(own, key=lambda t: (t.started or journey.since, t.name))
            if task.seconds is not None and task.state == "success"
        )
        mark = "done" if run.state == "success" else "RED "
        journey.progress.line(f"  {mark} {run.dag:<28} {run.seconds or 0:6.1f} s   {steps}")


def _report_approval(journey: Journey, task: TaskRun) -> None:
    """An approval that is awaited: what is to be decided, where, and what follows."""
    question = journey.airflow.question(task)
    journey.questions.add((task.dag, task.run_id))
    page = f"{journey.airflow.url}/dags/{task.dag}/runs/{task.run_id}/tasks/{task.task}/required_actions"
    journey.progress.line(f"  {task.dag} waits for your approval: {question}")
    journey.progress.line(f"    {page}")
    journey.progress.line("    approved, the version becomes champion and is served; rejected, nothing changes")


def _failed(journey: Journey, task: TaskRun) -> None:
    """A red task ends its model's way; but a source whose bad days were refused has published its good ones."""
    key = (task.dag, task.run_id, task.name, -1)
    if key in journey.retried:
        return
    journey.retried.add(key)
    source = task.dag.removeprefix("ingest_")
    if task.dag.startswith("ingest_") and source in journey.params.sources and _published(journey.engine, source):
        journey.progress.line(f"  {task.dag}.{task.name} refused some days; the good ones go on (see the summary)")
        return
    words = "\n    ".join(journey.airflow.log(task, 12)) or "(no log)"
    _give_up(journey, task.dag, f"{task.dag}.{task.name} failed; its log ends with\n    {words}")


def _give_up(journey: Journey, dag: str, reason: str) -> None:
    """Note the models that the DAG belongs to as failed, for the first reason that there was."""
    for model, entry in journey.params.models.items():
        concerned = dag in {f"ingest_{entry.source}", *(f"{step}_{model}" for step in CHAIN)}
        if concerned and f"train_{model}" in journey.dags and model not in journey.failed:
            journey.failed[model] = f"{model}: {reason}"
            journey.progress.line(f"  {model} stops here: {reason.splitlines()[0]}")


def _published(engine: sa.Engine, source: str) -> int:
    table = database.partitions
    query = sa.select(sa.func.count()).where(table.c.source == source, table.c.status == "published")
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def _now(active: Sequence[Run], tasks: Sequence[TaskRun], seconds: float) -> str:
    busy = [task for task in tasks if task.state in ("running", "queued", "scheduled", "deferred")]
    now = dt.datetime.now(dt.UTC)
    parts = [
        f"{task.dag}.{task.name}" + (f" {(now - task.started).total_seconds():.0f} s" if task.started else "")
        for task in busy
        if task.state == "running"
    ]
    parts += [f"{task.dag} waits for your approval" for task in tasks if task.state == AWAITS_ANSWER]
    parts = parts or [run.dag for run in active]
    return f"  {seconds:4.0f} s · {' · '.join(parts) or 'waiting for the next run'}"


def _why_nothing_moves(journey: Journey, models: Sequence[str]) -> dict[str, str]:
    return {model: f"{model}: {_why_no_champion(journey, model)}" for model in models}


def _why_no_champion(journey: Journey, model: str) -> str:
    verdicts = database.verdicts
    query = sa.select(verdicts).where(verdicts.c.model == model).order_by(verdicts.c.id.desc()).limit(1)
    with journey.engine.connect() as connection:
        verdict = connection.execute(query).mappings().one_or_none()
    if verdict is not None and verdict["verdict"] == "PROMOTE":
        return f"the gate passed version {verdict['version']}, and it was not approved"
    if verdict is not None:
        reasons = "; ".join(map(str, verdict["reasons"]))
        return f"the gate says {verdict['verdict']} to version {verdict['version']}: {reasons}"
    source = journey.params.models[model].source
    if not _published(journey.engine, source):
        return f"its source {source!r} has published nothing to train on"
    return f"nothing runs, and there is no champion; look at train_{model} in Airflow"


def leave_to_the_schedule(journey: Journey) -> None:
    """From here on everything runs by itself, every night, also when this was ended half-way.

    Only the features of a source whose history is still on its way stay paused: its newest day alone would train a
    first champion.
    """
    paused = journey.airflow.dags()
    waiting = {f"features_{model}" for model in journey.lacking if model not in journey.released}
    for dag in [*dags_of_all(journey.params), "maintenance"]:
        if paused.get(dag) and dag not in waiting:
            journey.airflow.unpause(dag)
    if left := sorted(waiting & paused.keys()):
        names = ", ".join(left)
        journey.progress.line(f"  paused until the history is there: {names}; the next `make demo` goes on from here")
