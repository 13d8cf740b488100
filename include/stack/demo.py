"""`make demo`: every model of params.yaml, from its source to an answer of the service, through Airflow's REST API.

It does what a user would do in the UI: unpause DAGs, ask for the history once, and watch. The rest the assets do. A
model that has a champion already is only asked for a prediction. Each model goes its own way: one that fails is named
at the end, when the others are served.
"""

from __future__ import annotations

import datetime as dt
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from include import database, settings, storage
from include.deployment import ledger
from include.inference.served_form import MANIFEST
from include.ingestion import partitions
from include.stack import postgres
from include.stack.airflow_api import Airflow, AirflowError, Run, TaskRun
from include.stack.machine import Stack
from include.stack.progress import Progress

HISTORY_DAYS = 60
PARSE_SECONDS = 120.0
"""For how long no further DAG may have become known, before those that are missing are given up."""
STALE_SECONDS = 25.0
QUIET_SECONDS = 60.0
"""With nothing queued or running for so long, nothing more will come by itself."""
CHAIN = ("features", "train", "deploy")
AWAITS_ANSWER = "awaiting_input"
"""The state of a task that waits for a person."""


class DemoError(RuntimeError):
    """The chain stopped before every model was served; the message says where, and ends with the task's log."""


@dataclass(frozen=True)
class History:
    """The days to ingest, both included."""

    first: dt.date
    last: dt.date
    asked: bool
    """Whether the user named them: then they are ingested even when every model has a champion."""

    def of(self, source: settings.SourceBase) -> tuple[dt.date, dt.date] | None:
        """The days of a source with a time column; None where it begins later than that."""
        first, last = self.first, self.last
        if source.start and not self.asked:
            if getattr(source, "type", "") == "files":  # files usually end long before today
                first, last = source.start, min(last, source.start + dt.timedelta(HISTORY_DAYS - 1))
            else:
                first = max(first, source.start)
        return (first, last) if first <= last else None


def history(first: str, last: str, *, today: dt.date) -> History:
    """The days between `first` and `last`; by default the 60 that end two days ago: the newest is left to the schedule.

    Raises:
        DemoError: a day is not written as YYYY-MM-DD, or `last` is before `first`.
    """
    try:
        end = dt.date.fromisoformat(last) if last else today - dt.timedelta(2)
        begin = dt.date.fromisoformat(first) if first else end - dt.timedelta(HISTORY_DAYS - 1)
    except ValueError as error:
        raise DemoError(f"FROM and TO are days as YYYY-MM-DD: {error}") from error
    if end < begin:
        raise DemoError(f"TO ({end}) is before FROM ({begin})")
    return History(begin, end, asked=bool(first or last))


# ------------------------------------------------------------------------------------------------ the journey


@dataclass
class _Journey:
    """What is under way: which runs were there before, which were told of, what still waits for what."""

    airflow: Airflow
    params: settings.Params
    engine: sa.Engine
    progress: Progress
    lacking: list[str]
    """Models without a champion."""
    ingesting: list[str]
    """Sources whose history is asked for."""
    dags: list[str]
    """The DAGs that these models' way leads through."""
    since: dt.datetime
    old: frozenset[tuple[str, str]] = frozenset()
    released: set[str] = field(default_factory=set)
    told: dict[tuple[str, str], Run] = field(default_factory=dict)
    retried: set[tuple[str, str, str, int]] = field(default_factory=set)
    quiet_since: float = 0.0
    asked: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Models that will have no champion, and why."""
    questions: set[tuple[str, str]] = field(default_factory=set)
    """Runs that wait for a person's approval, which was said."""


def run(stack: Stack, params: settings.Params, asked: History, *, progress: Progress) -> None:
    """Take every model to a served champion and ask the service for a prediction of each.

    Raises:
        DemoError: of some model a task failed, the gate did not promote, or the service did not answer; the others were
            taken as far as they go, and are in the summary.
    """
    began = time.monotonic()
    keys = stack.credentials()
    engine = database.connect(postgres.url("platform", keys.platform_database_password, stack.ports["postgres"]))
    try:
        airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password)
        failed = _wait_until_parsed(airflow, params, progress)
        lacking = [m for m in params.models if m not in failed and ledger.champion(engine, m) is None]
        told: list[Run] = []
        if lacking or asked.asked:
            models = [m for m in params.models if m not in failed] if asked.asked else lacking
            journey = _begin(airflow, engine, params, asked, lacking, models, progress)
            journey.failed |= failed
            try:
                _follow(journey)
            finally:
                _leave_to_the_schedule(journey)
            failed, told = journey.failed, list(journey.told.values())
        answers = _ask_each(stack, engine, params, failed)
        if answers:
            _summary(stack, params, engine, told, answers, time.monotonic() - began, progress)
    except (AirflowError, sa.exc.OperationalError, httpx.HTTPError) as error:
        raise DemoError(" ".join(str(error).split())[:500]) from error
    finally:
        engine.dispose()
    if failed:
        raise DemoError("\n".join(failed.values()))


def paused(stack: Stack, params: settings.Params) -> list[str]:
    """The DAGs of params.yaml that are paused, or will be when Airflow has read them for the first time.

    Raises:
        AirflowError: Airflow does not answer.
    """
    keys = stack.credentials()
    airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password, patience_seconds=5)
    known = airflow.dags()
    return [dag for dag in (*_dags(params), "maintenance") if known.get(dag, dag.startswith(("ingest_", "features_")))]


def _leave_to_the_schedule(journey: _Journey) -> None:
    """From here on everything runs by itself, every night, also when this was ended half-way.

    Only the features of a source whose history is still on its way stay paused: its newest day alone would train a
    first champion.
    """
    paused = journey.airflow.dags()
    waiting = {f"features_{model}" for model in journey.lacking if model not in journey.released}
    for dag in [*_dags(journey.params), "maintenance"]:
        if paused.get(dag) and dag not in waiting:
            journey.airflow.unpause(dag)
    if left := sorted(waiting & paused.keys()):
        names = ", ".join(left)
        journey.progress.line(f"  paused until the history is there: {names}; the next `make demo` goes on from here")


def _ask_each(stack: Stack, engine: sa.Engine, params: settings.Params, failed: dict[str, str]) -> dict[str, _Answer]:
    """The served champions' answers; a model that gives none is added to those that failed."""
    answers: dict[str, _Answer] = {}
    for model in params.models:
        try:
            if model not in failed or ledger.champion(engine, model) is not None:
                answers[model] = _ask(stack, engine, model)
        except (DemoError, storage.StorageError) as error:
            failed[model] = str(error)
    return answers


def _dags(params: settings.Params) -> list[str]:
    steps = [*CHAIN, "monitor"]
    return [f"ingest_{s}" for s in params.sources] + [f"{step}_{m}" for m in params.models for step in steps]


def _wait_until_parsed(airflow: Airflow, params: settings.Params, progress: Progress) -> dict[str, str]:
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


def _dags_of(params: settings.Params, model: str) -> list[str]:
    return [f"ingest_{params.models[model].source}", *(f"{step}_{model}" for step in (*CHAIN, "monitor"))]


def _begin(
    airflow: Airflow,
    engine: sa.Engine,
    params: settings.Params,
    asked: History,
    lacking: list[str],
    models: list[str],
    progress: Progress,
) -> _Journey:
    """Ask for the history of these models that is missing, and let their DAGs run."""
    sources = list(dict.fromkeys(params.models[model].source for model in models))
    dags = [f"ingest_{source}" for source in sources] + [f"{step}_{model}" for model in models for step in CHAIN]
    old = airflow.runs(dags)
    journey = _Journey(airflow, params, engine, progress, list(lacking), [], dags, dt.datetime.now(dt.UTC))
    journey.old = frozenset((run.dag, run.run_id) for run in old if not run.active)
    journey.quiet_since = time.monotonic()
    for model in lacking:
        for step in ("train", "deploy"):
            airflow.unpause(f"{step}_{model}")
    for source in sources:
        conf = _missing_history(engine, source, params.sources[source], asked)
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


def _missing_history(engine: sa.Engine, name: str, source: settings.Source, asked: History) -> dict[str, Any] | None:
    """The form of the run that ingests what is missing; None when nothing is."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(database.partitions.c.key).where(
                database.partitions.c.source == name,
                database.partitions.c.status.in_(["published", "quarantined"]),
            )
        )
        known = set(rows.scalars())
    if source.time_column is None:
        return None if known else {"replace": False}
    days = asked.of(source)
    if days is None or known.issuperset(partitions.keys_between(source, *days)):
        return None
    return {"from": str(days[0]), "to": str(days[1]), "replace": False}


def _release(journey: _Journey, source: str) -> None:
    """Let the features of the source's models be built from here on."""
    for model, entry in journey.params.models.items():
        if entry.source == source and model not in journey.released:
            journey.released.add(model)
            journey.airflow.unpause(f"features_{model}")


def _follow(journey: _Journey) -> None:
    """Watch until every model that lacked a champion has one, and its deployment has ended, or has failed."""
    began = time.monotonic()
    while True:
        runs = [run for run in journey.airflow.runs(journey.dags) if (run.dag, run.run_id) not in journey.old]
        fresh = [run for run in runs if (run.dag, run.run_id) not in journey.told]
        tasks = journey.airflow.tasks(fresh)
        _tell(journey, fresh, tasks)
        active = [run for run in fresh if run.active]
        for source in list(journey.ingesting):
            _release_when_due(journey, source, runs, began)
        waiting_for = [
            model for model in journey.lacking if model not in journey.failed and not _is_done(journey, model, runs)
        ]
        ingesting = [run for run in active if run.dag in {f"ingest_{s}" for s in journey.ingesting}]
        if not waiting_for and not ingesting:
            return
        _ask_for_features(journey, waiting_for, runs)
        if active:
            journey.quiet_since = time.monotonic()
        elif time.monotonic() - journey.quiet_since > QUIET_SECONDS:
            journey.failed |= _why_nothing_moves(journey, waiting_for)
            return
        journey.progress.waiting(_now(active, tasks, time.monotonic() - began))
        time.sleep(1)


def _release_when_due(journey: _Journey, source: str, runs: Sequence[Run], began: float) -> None:
    """Features wait until the source's history is there: before, a run of the schedule may bring its newest day alone.

    Events that came meanwhile are not lost: unpausing takes them up (plugins/orchestration), or `_ask_for_features`.
    """
    mine = [run for run in runs if run.dag == f"ingest_{source}"]
    models = [m for m, entry in journey.params.models.items() if entry.source == source]
    if journey.released.issuperset(models):
        return
    arrived = bool(mine) and not any(run.active for run in mine)
    settled = time.monotonic() - began > 5
    if arrived or (settled and journey.params.sources[source].time_column is None):
        _release(journey, source)


def _is_done(journey: _Journey, model: str, runs: Sequence[Run]) -> bool:
    deploying = any(run.active for run in runs if run.dag == f"deploy_{model}")
    return not deploying and ledger.champion(journey.engine, model) is not None


def _ask_for_features(journey: _Journey, models: Sequence[str], runs: Sequence[Run]) -> None:
    """Start what no event will start: partitions that were there before, or came while the features were paused."""
    for model in models:
        chain = {f"{step}_{model}" for step in CHAIN} | {f"ingest_{journey.params.models[model].source}"}
        if model in journey.asked or model not in journey.released:
            continue
        if any(run.active for run in runs if run.dag in chain) or any(run.dag == f"features_{model}" for run in runs):
            continue
        if time.monotonic() - journey.quiet_since < 5 and journey.ingesting:
            continue
        journey.asked.add(model)
        journey.airflow.trigger(f"features_{model}", {})


def _tell(journey: _Journey, runs: Sequence[Run], tasks: Sequence[TaskRun]) -> None:
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
            _say_what_waits(journey, task)
        if task.state == "failed":
            _failed(journey, task)
    for run in runs:
        if run.active:
            continue
        journey.told[run.dag, run.run_id] = run
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


def _say_what_waits(journey: _Journey, task: TaskRun) -> None:
    """An approval that is awaited: what is to be decided, where, and what follows."""
    question = journey.airflow.question(task)
    journey.questions.add((task.dag, task.run_id))
    page = f"{journey.airflow.url}/dags/{task.dag}/runs/{task.run_id}/tasks/{task.task}/required_actions"
    journey.progress.line(f"  {task.dag} waits for your approval: {question}")
    journey.progress.line(f"    {page}")
    journey.progress.line("    approved, the version becomes champion and is served; rejected, nothing changes")


def _failed(journey: _Journey, task: TaskRun) -> None:
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


def _give_up(journey: _Journey, dag: str, reason: str) -> None:
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


def _why_nothing_moves(journey: _Journey, models: Sequence[str]) -> dict[str, str]:
    return {model: f"{model}: {_why_no_champion(journey, model)}" for model in models}


def _why_no_champion(journey: _Journey, model: str) -> str:
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


# ------------------------------------------------------------------------------------------------ the answer


@dataclass(frozen=True)
class _Answer:
    """What the service said to a real row."""

    champion: ledger.Champion
    manifest: dict[str, Any]
    row: dict[str, Any]
    prediction: Any


def _ask(stack: Stack, engine: sa.Engine, model: str) -> _Answer:
    """A prediction of the served champion for a row of its golden ones.

    Raises:
        DemoError: the service does not serve the champion, or does not answer.
    """
    champion = ledger.champion(engine, model)
    if champion is None:
        raise DemoError(f"{model} has no champion")
    golden = json.loads(storage.read_bytes(storage.join(champion.url, "golden.json")))
    manifest = json.loads(storage.read_bytes(storage.join(champion.url, MANIFEST)))
    headers = {"Authorization": f"Bearer {stack.credentials().serving_key}"}
    url = f"{stack.address('serving')}/models/{model}/predict"
    deadline, said = time.monotonic() + 60, ""
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(url, json=golden["rows"][0], headers=headers, timeout=10, verify=stack.trusted)
            said = f"{answer.status_code}: {answer.text[:300]}"
            if answer.status_code == 200 and answer.json()["version"] == champion.version:
                return _Answer(champion, manifest, golden["rows"][0], answer.json()["prediction"])
        except httpx.HTTPError as error:
            said = str(error)
        time.sleep(0.5)
    raise DemoError(f"{model}: the service does not answer with version {champion.version}; it said {said}")


def _summary(
    stack: Stack,
    params: settings.Params,
    engine: sa.Engine,
    runs: Sequence[Run],
    answers: Mapping[str, _Answer],
    seconds: float,
    progress: Progress,
) -> None:
    line = progress.line
    line()
    if runs:
        line(f"What ran, in {seconds:.0f} s")
        for run in runs:
            line(f"  {run.dag:<30} {run.seconds or 0:6.1f} s  {run.state}")
        line()
    line("Champions")
    for model, answer in answers.items():
        line(f"  {model} version {answer.champion.version}: {_standing(engine, answer)}")
        line(f"    asked about a real row it answers {_short(answer.prediction)}")
    refused = [text for source in params.sources for text in _quarantine(stack, source)]
    if refused:
        line()
        line("Quarantined, and why")
        for text in refused:
            line(f"  {text}")
    model = next((name for name in answers if name == params.default_model), next(iter(answers)))
    line()
    line("Ask it yourself")
    line(f"  {curl(stack, model, answers[model].row)}")
    line()
    line("Addresses")
    line(f"  Airflow  {stack.address('airflow')}   user admin, password: {command(stack)} key airflow")
    line(f"  MLflow   {stack.address('mlflow')}   user admin, password: {command(stack)} key mlflow")
    line(f"  service  {stack.address('serving')}/docs   key: {command(stack)} key serving")
    line(f"  all passwords and keys: {stack.credentials_file}")
    line()
    line(
        "Next: edit params.yaml (README: a model from your own CSV), `make check`, `make demo`; `make down` stops all."
    )


def _standing(engine: sa.Engine, answer: _Answer) -> str:
    metric = str(answer.manifest["metric"])
    value = answer.manifest["metrics"].get(metric)
    query = (
        sa.select(database.verdicts.c.numbers)
        .join(database.ledger, database.ledger.c.verdict_id == database.verdicts.c.id)
        .where(database.ledger.c.id == answer.champion.ledger_id)
    )
    with engine.connect() as connection:
        numbers = connection.execute(query).scalar_one_or_none() or {}
    against = next(
        (f"{name} {_short(numbers[name])}" for name in ("baseline", "champion") if _is_number(numbers.get(name))), ""
    )
    others = ", ".join(
        f"{name} {_short(number)}"
        for name, number in answer.manifest["metrics"].items()
        if name != metric and _is_number(number)
    )
    return (
        f"{answer.manifest['estimator']}, {metric} {_short(value)}"
        + (f" against {against}" if against else "")
        + (f" ({others})" if others else "")
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quarantine(stack: Stack, source: str) -> list[str]:
    """What was put aside of a source: days that were refused, and rows with their reasons."""
    keys = stack.credentials()
    url = postgres.url("platform", keys.platform_database_password, stack.ports["postgres"])
    reports = partitions.reports(url, source)
    reasons: Counter[str] = Counter()
    for report in reports:
        found = report["report"].get("reasons") if isinstance(report["report"], dict) else None
        for reason, count in (found or {}).items():
            reasons[str(reason)] += int(count)
    lines = []
    rows = sum(report["quarantined_rows"] for report in reports)
    if rows:
        total = rows + sum(report["rows"] for report in reports)
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(6))
        lines.append(f"{source}: {rows:,} of {total:,} rows" + (f" ({why})" if why else ""))
    for report in reports:
        if report["status"] == "quarantined":
            lines.append(f"{source} {report['key']}: the whole partition; {str(report['report'])[:200]}")
    return lines


def command(stack: Stack) -> str:
    """How to call `mlops` for this stack from the checkout's folder."""
    program = Path(sys.executable).parent / "mlops"
    shown = program.relative_to(stack.root) if program.is_relative_to(stack.root) else program
    home = "" if stack.home == stack.root / "var" else f"MLOPS_HOME={shlex.quote(str(stack.home))} "
    return home + shlex.quote(str(shown))


def curl(stack: Stack, model: str, row: Mapping[str, Any]) -> str:
    """A line that asks the service for a prediction when it is pasted into a shell."""
    trusted = f"--cacert {shlex.quote(stack.certificate)} " if stack.certificate else ""
    return (
        f"curl -s {trusted}{stack.address('serving')}/models/{model}/predict"
        f' -H "Authorization: Bearer $({command(stack)} key serving)" -H "Content-Type: application/json"'
        f" -d {shlex.quote(json.dumps(row))}"
    )
