"""The `mlops` command: the stack of this machine, and what operators ask of the platform.

Imports are made inside the commands: the command line answers at once. A mistake is one line on stderr and status 1.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import io
import math
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from include.home import ROOT

if TYPE_CHECKING:
    import sqlalchemy

    from include.settings import Environment
    from include.stack.local import Stack


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _finite(value: float | None) -> float | None:
    """Of an option that is a number: `nan` and `inf` are floats to Python, and no bound holds them."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number that counts")
    return value


def _home() -> Path:
    from include import home

    return home.of(os.environ, ROOT)


def _stack() -> Stack:
    from include.stack import local

    return local.load(ROOT, _home())


def _environment() -> Environment:
    """The settings as this machine's tasks see them: from the running stack, where the environment does not say."""
    from include import settings
    from include.stack import local

    if not os.environ.get("MLOPS_DATABASE_URL"):
        for name, value in local.platform_variables(_stack(), os.environ).items():
            os.environ.setdefault(name, value)
    return settings.environment()


@app.command()
def up() -> None:
    """Start the stack; what runs already is left alone."""
    from include.stack import local
    from include.stack.progress import Progress

    stack = local.up(ROOT, _home(), inherited=os.environ, progress=Progress(sys.stdout))
    typer.echo(f"  Airflow {stack.address('airflow')} · MLflow {stack.address('mlflow')} (user admin in both)")
    typer.echo(f"  service {stack.address('serving')} · passwords and keys {stack.credentials_file}")
    _show_what_is_paused(stack)


def _show_what_is_paused(stack: Stack) -> None:
    """A line about the DAGs that do not run by themselves yet, where Airflow and params.yaml can be read."""
    from include import settings
    from include.stack import demo as chain
    from include.stack.airflow_api import AirflowError

    try:
        params = settings.load_params(os.environ.get("MLOPS_PARAMS") or ROOT / "params.yaml")
        paused = chain.paused(stack, params)
    except (AirflowError, settings.ParamsError):
        return
    if paused:
        names = ", ".join(paused[:6]) + (f" and {len(paused) - 6} more" if len(paused) > 6 else "")
        typer.echo(f"  paused, so not run by any schedule or event: {names}")
        typer.echo("  `make demo` starts them with their history; one alone is unpaused in Airflow")


@app.command()
def down() -> None:
    """Stop the stack, with everything it started; all data is kept."""
    from include.stack import local

    swept = local.down(ROOT, _home())
    typer.echo("the stack is down" + (f"; {swept} processes that nothing supervised were ended" if swept else ""))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """What runs, where, since when; status 1 unless every part is ready and supervised."""
    from include.stack import local

    lines = local.status(ROOT, _home())
    if as_json:
        import json

        typer.echo(json.dumps(local.as_dicts(lines)))
    elif not lines:
        typer.echo("the stack is down: `make up` starts it")
    else:
        typer.echo(f"{'part':<14} {'state':<9} {'process':>8} {'up':>9}  address")
        for line in lines:
            minutes, seconds = divmod(int(line.uptime), 60)
            since = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
            typer.echo(f"{line.part:<14} {line.state:<9} {line.pid or '-':>8} {since:>9}  {line.address}")
        if not all(line.supervised for line in lines):
            typer.echo(
                "the supervisor has died, and would restart none of these: `make up` starts another, which adopts them"
            )
        if ("api-server", "ready") in {(line.part, line.state) for line in lines}:
            _show_what_is_paused(_stack())
    raise typer.Exit(0 if lines and all(line.state == "ready" and line.supervised for line in lines) else 1)


@app.command()
def demo(
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="first day of history, YYYY-MM-DD")] = "",
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="last day of history, YYYY-MM-DD")] = "",
) -> None:
    """Take every model of params.yaml through the whole chain in Airflow, and call the service."""
    from include import settings
    from include.stack import demo as chain
    from include.stack import local
    from include.stack.progress import Progress

    progress = Progress(sys.stdout)
    history = chain.history(first, last, today=dt.datetime.now(dt.UTC).date())
    params = settings.load_params(os.environ.get("MLOPS_PARAMS") or ROOT / "params.yaml")
    stack = local.up(ROOT, _home(), inherited=os.environ, progress=progress)
    chain.run(stack, params, history, progress=progress)


@app.command()
def check() -> None:
    """Is params.yaml right? Names, columns, parameters, suites and the newest rows, before anything runs."""
    from include import preflight, settings

    env = settings.environment()
    findings = preflight.examine(env.params, suites=env.suites)
    for finding in findings:
        typer.echo(str(finding), err=True)
    if not all(finding.warning for finding in findings):
        raise typer.Exit(1)
    typer.echo(f"{env.params.name}: nothing wrong" + (f", {len(findings)} warnings" if findings else ""))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="airflow, mlflow, serving, feedback, serving-admin, postgres")],
) -> None:
    """Print a password or key, for use in a command: `$(mlops key serving)`."""
    typer.echo(_stack().credentials().named(name))


@app.command()
def env() -> None:
    """Print `export` lines: the environment in which this machine's tasks run (secrets included)."""
    import shlex

    from include.stack import local

    for name, value in local.airflow_variables(_stack(), os.environ).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="a part, as `mlops status` names them")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="how many")] = 50,
) -> None:
    """The last lines of a part's log."""
    from include.stack import local, supervisor

    log = _stack().paths.log(_one_of("part", part, local.PARTS, "the stack"))
    if not log.exists():
        raise local.StackError(f"{part} has written no log yet: {log} is not there")
    typer.echo(supervisor.last_lines(log, lines))


# ---------------------------------------------------------------------------------------------- the service's keys

keys_app = typer.Typer(no_args_is_help=True, help="Who may ask the prediction service for what: keys with scopes.")
app.add_typer(keys_app, name="keys")


def _keys_file() -> Path:
    from include.home import Home

    return Home(_home()).serving_keys


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="whose key it is; it stands in the logs")],
    scope: Annotated[list[str] | None, typer.Option(help="predict (default), feedback, admin; may be repeated")] = None,
    quota: Annotated[
        float | None, typer.Option(help="requests a second, to each worker", max=1e9, callback=_finite)
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="after which it expires; default: never", min=0, max=36_500, callback=_finite)
    ] = None,
) -> None:
    """Make a key and print it: the only time that it can be read. It counts within a second."""
    from include.serving import api_keys

    now = dt.datetime.now(dt.UTC)
    expires = None if days is None else now + dt.timedelta(days=days)
    made = api_keys.add(_keys_file(), name, scope or ["predict"], now=now, requests_per_second=quota, expires=expires)
    typer.echo(made)


@keys_app.command("list")
def list_keys() -> None:
    """The service's keys, without what would let anybody in."""
    from include.serving import api_keys

    now = dt.datetime.now(dt.UTC)
    typer.echo(f"{'name':<20} {'scopes':<18} {'quota':>8}  {'created':<17} expires")
    for each in api_keys.read(_keys_file()):
        quota = "-" if each.requests_per_second is None else f"{each.requests_per_second:g}/s"
        end = "never" if each.expires is None else f"{each.expires:%Y-%m-%d %H:%M}"
        expired = "" if each.valid(now) else " (expired)"
        typer.echo(
            f"{each.name:<20} {','.join(each.scopes):<18} {quota:>8}  {each.created:%Y-%m-%d %H:%M}  {end}{expired}"
        )


@keys_app.command("revoke")
def revoke_key(name: str) -> None:
    """Let a key count no more; the service refuses it within a second."""
    from include.serving import api_keys
    from include.stack import credentials

    if name in credentials.SERVING_KEYS:
        raise api_keys.KeysError(
            f"the stack needs {name!r}: `mlops keys rotate {name} --overlap 0` replaces it at once"
        )
    api_keys.revoke(_keys_file(), name)
    typer.echo(f"{name}: revoked")


@keys_app.command("rotate")
def rotate_key(
    name: str,
    overlap: Annotated[
        float, typer.Option(help="hours for which the old key still counts", min=0, max=87_600, callback=_finite)
    ] = 24.0,
) -> None:
    """Make a new key of a name and print it; the old one counts a while longer."""
    from include.serving import api_keys
    from include.stack import credentials

    own = _stack().credentials_file if name in credentials.SERVING_KEYS else None
    hours = dt.timedelta(hours=overlap)
    made = api_keys.rotate(_keys_file(), name, now=dt.datetime.now(dt.UTC), overlap=hours)
    if own is not None:
        credentials.replace(own, credentials.SHORT_NAMES[name], made)
    typer.echo(made)
    if name == "serving":
        typer.echo(
            f"Airflow's tasks have the old one until `mlops down` and `mlops up`: within {overlap:g} h", err=True
        )


# ---------------------------------------------------------------------------------------------- sources and models


@app.command()
def suite(source: str) -> None:
    """Propose a source's Great Expectations suite from its data; read it and edit it. An existing one is left alone."""
    import json

    from include import settings, storage
    from include.ingestion import drafting, suites

    env = settings.environment()
    params = settings.load_params(env.params)
    entry = params.sources[_one_of("source", source, params.sources, env.params.name)]
    path = suites.path_of(env.suites, source, entry.suite)
    if path.exists():
        raise FileExists(f"{path} is there already; delete it first to have one proposed anew")
    models = [model for model in params.models.values() if model.source == source]
    unbounded = {column for model in models for column in (model.target, model.entity) if column}
    draft = drafting.draft(path, entry, today=dt.datetime.now(dt.UTC).date(), unbounded=unbounded)
    storage.write_bytes(str(path), (json.dumps(draft.suite, indent=2, allow_nan=False) + "\n").encode())
    for note in draft.suite["notes"]:
        typer.echo(note)
    typer.echo(f"{path}: written; read it, edit it, then `mlops check`")


@app.command()
def champion(model: str) -> None:
    """Who answers for a model, since when."""
    from include.deployment import ledger

    engine = _database()
    found = ledger.champion(engine, _model(model, engine))
    if found is None:
        raise NoChampion(f"{model} has no champion; `mlops demo`, or train_{model} in Airflow, may give it one")
    typer.echo(f"{model} version {found.version} since {found.since:%Y-%m-%d %H:%M:%S %Z}")
    typer.echo(f"  {found.url}\n  {found.bento}\n  content hash {found.content_hash}")


@app.command()
def history(model: str) -> None:
    """Every change of a model's champion, every verdict, and what was tried and decided, newest first."""
    import sqlalchemy as sa

    from include import database
    from include.deployment import ledger, rollouts

    engine = _database()
    _model(model, engine)
    query = sa.select(database.verdicts).where(database.verdicts.c.model == model)
    with engine.connect() as connection:
        verdicts = connection.execute(query).mappings().all()
    tried = {rollout.id: rollout for rollout in rollouts.history(engine, model)}
    lines = (
        [
            (
                entry.created_at,
                f"retire {entry.to_version}"
                if entry.action == "retire"
                else f"{entry.action} {entry.from_version or 'nothing'} → {entry.to_version}",
                entry.actor,
                entry.reason,
            )
            for entry in ledger.history(engine, model)
        ]
        + [
            (
                row["created_at"],
                f"verdict {row['verdict']} on {row['version']}",
                "gate",
                "; ".join(map(str, row["reasons"])),
            )
            for row in verdicts
        ]
        + [
            (
                event.at,
                f"{tried[event.rollout_id].kind} {tried[event.rollout_id].version}: {event.event}",
                event.actor,
                event.reason,
            )
            for event in rollouts.events(engine, list(tried))
        ]
    )
    if not lines:
        raise NoHistory(f"{model} has no history yet: no version was judged; train_{model} in Airflow makes one")
    for moment, what, actor, why in sorted(lines, reverse=True):
        typer.echo(f"{moment:%Y-%m-%d %H:%M:%S}  {what:<24} {why} (by {actor})")


@app.command()
def rollback(
    model: str,
    reason: Annotated[str, typer.Option(help="why; it stands in the ledger")],
    to: Annotated[
        int | None, typer.Option(help="an earlier champion; default: the one before", metavar="VERSION")
    ] = None,
    seen: Annotated[
        int | None,
        typer.Option(
            "--from", help="the champion that you see; nothing is changed when it is another", metavar="VERSION"
        ),
    ] = None,
) -> None:
    """Bring an earlier champion of a model back, and stop what is tried beside it; the service changes in seconds.

    Of two that go back at once, the second changes nothing and says who was quicker. A retired model comes back with
    --to.
    """
    import getpass

    from include.deployment import ledger, rollouts

    engine, began = _database(), dt.datetime.now(dt.UTC)
    try:
        back = rollouts.withdraw(engine, model, to, actor=getpass.getuser(), reason=reason, seen=seen, seen_at=began)
    except ValueError:
        _model(model, engine)  # only now: the way back does not wait for params.yaml to be read
        raise
    for rollout in back.stopped:
        typer.echo(f"{rollout} was stopped")
    before = back.entry and (back.entry.from_version or "nothing")
    changed = f"version {before} → {back.version}" if back.entry else f"version {back.version} stays"
    typer.echo(f"{model}: {changed}")
    _see_withdrawn(model, back.version, [rollout.id for rollout in back.stopped])
    try:
        ledger.project_aliases(engine, model, mlflow_url=_environment().mlflow_url)
    except Exception as error:  # noqa: BLE001  what it is depends on MLflow's client, and the way back is done
        typer.echo(f"MLflow's aliases follow when it answers ({' '.join(str(error).split())[:200]})", err=True)


class Action(enum.StrEnum):
    """What `mlops rollout` does."""

    STATUS = "status"
    START = "start"
    STOP = "stop"


@app.command()
def rollout(
    model: str,
    action: Annotated[Action, typer.Argument(help="status, start or stop")] = Action.STATUS,
    version: Annotated[int | None, typer.Option(help="start: the registered version to try")] = None,
    kind: Annotated[str, typer.Option(help="shadow, canary or ab; stop: only that one")] = "",
    share: Annotated[float | None, typer.Option(help="an A/B test's share, in per cent", callback=_finite)] = None,
    steps: Annotated[str, typer.Option(help="a canary's shares, in per cent: 1,5,25,100")] = "",
    reason: Annotated[str, typer.Option(help="why; start and stop need it, it stands with the rollout")] = "",
) -> None:
    """Try a version beside the champion: as a shadow, a canary or in an A/B test; see how it stands; stop it."""
    if kind:
        _one_of("kind of rollout", kind, ("shadow", "canary", "ab"), "a rollout")
    if action is Action.STATUS:
        _show_rollouts(model)
        return
    if not reason:
        raise typer.BadParameter("say why, it stands with the rollout", param_hint="--reason")
    if action is Action.STOP:
        _stop_rollouts(model, kind, reason)
        return
    if version is None:
        raise typer.BadParameter("name the registered version to try", param_hint="--version")
    try:
        shares = [float(step) for step in steps.split(",")] if steps else None
    except ValueError:
        raise typer.BadParameter(f"{steps!r} are no shares in per cent, as 1,5,25,100", param_hint="--steps") from None
    changes = {"share": share, "steps": shares}
    _start_rollout(model, version, kind, {name: value for name, value in changes.items() if value}, reason)


def _show_rollouts(model: str) -> None:
    import sqlalchemy as sa

    from include.deployment import arms, experiment, rollouts

    engine = _database()
    running = rollouts.running(engine, _model(model, engine))
    for found in running:
        share = "scores all requests" if found.kind == "shadow" else f"answers {found.share:.0%}"
        since = f"since {found.changed_at:%Y-%m-%d %H:%M:%S} UTC"
        typer.echo(f"{found.kind:<7} version {found.version} {share} beside version {found.champion_version}, {since}")
        if found.kind != "shadow":
            with engine.connect() as connection:
                now = connection.execute(sa.select(sa.func.now())).scalar_one()
                typer.echo(f"  {arms.told(arms.read(connection, found, now))}")
        if found.kind == "ab":
            with engine.connect() as connection:
                counts = experiment.observed(connection, found).counts
                typer.echo(f"  {experiment.standing(connection, found, counts)}")
    if not running:
        typer.echo(f"{model}: nothing is tried beside the champion")
    known = rollouts.history(engine, model)[:5]
    kinds = {each.id: f"{each.kind} {each.version}" for each in known}
    for event in rollouts.events(engine, list(kinds))[:15]:
        what = f"{kinds[event.rollout_id]}: {event.event}"
        typer.echo(f"{event.at:%Y-%m-%d %H:%M:%S}  {what:<20} {event.reason} (by {event.actor})")


def _stop_rollouts(model: str, kind: str, reason: str) -> None:
    import getpass

    from include.deployment import ledger, rollouts

    engine = _database()
    _model(model, engine)
    running = [found for found in rollouts.running(engine, model) if kind in ("", found.kind)]
    if not running:
        raise NothingTried(f"{model}: no {kind or 'rollout'} runs; `mlops rollout {model}` shows what was")
    for found in running:
        rollouts.stop(engine, found, actor=getpass.getuser(), reason=reason)
        typer.echo(f"{found} was stopped")
    champion = ledger.champion(engine, model)
    if champion is not None:
        _see_withdrawn(model, champion.version, [found.id for found in running])


def _start_rollout(model: str, version: int, kind: str, changes: dict[str, object], reason: str) -> None:
    import getpass

    from include import names, settings
    from include.deployment import decisions, gate, promotion, verification
    from include.training import anchor

    env = _environment()
    declared = settings.load_params(env.params)
    _one_of("model", model, declared.models, env.params.name)
    entry = declared.models[model]
    changes |= {"strategy": kind} if kind else {}
    try:
        chosen = settings.Rollout.model_validate({**entry.serving.rollout.model_dump(), **changes})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if chosen.strategy == "direct":
        raise typer.BadParameter("shadow, canary or ab", param_hint="--kind")
    names.version(model, version, anchor.versions(env.database_url, model))
    again = decisions.of(reason, dt.datetime.now(dt.UTC))
    where = {"database_url": env.database_url, "mlflow_url": env.mlflow_url}
    verdict = gate.judge(model, version, entry=entry, **where, again=again)
    typer.echo(f"verdict {verdict.verdict} on version {version}: {'; '.join(verdict.reasons)}")
    packaged = promotion.package(
        model, version, **where, data_url=env.data_url, bento_home=env.paths.bentoml, root=ROOT
    )
    made = promotion.begin(
        dataclasses.asdict(verdict),
        dataclasses.asdict(packaged),
        kind=chosen.strategy,
        settings=chosen,
        task=entry.task,
        database_url=env.database_url,
        actor=getpass.getuser(),
        reason=reason,
        decision=again,
    )
    seen = verification.tried(
        model,
        made.arm,
        version,
        serving_url=env.serving_url,
        serving_key=env.serving_key,
        workers=_workers(env),
        timeout=60,
    )
    typer.echo(
        f"{made} runs; every worker has it after {seen.seconds:.1f} s. `mlops rollout {model}` shows how it stands"
    )


def _workers(env: Environment) -> int:
    """How many workers the service has: by what is in force of params.yaml, as the service itself goes by it."""
    from include.serving.process import declared

    return declared.read(os.environ | {"MLOPS_PARAMS": str(env.params)}, ROOT).service.workers


def _see_withdrawn(model: str, version: int, rollout_ids: list[int]) -> None:
    """Ask the service until every worker answers with the version and without these rollouts."""
    from include.deployment import verification

    env = _environment()
    seen = verification.withdrawn(
        model,
        version,
        rollout_ids,
        serving_url=env.serving_url,
        serving_key=env.serving_key,
        workers=_workers(env),
        timeout=30,
    )
    typer.echo(f"every worker answers with version {version} after {seen.seconds:.1f} s")


@app.command()
def predictions(
    model: str,
    day: Annotated[str, typer.Option(help="only this day (UTC), YYYY-MM-DD", metavar="DAY")] = "",
) -> None:
    """How many predictions of a model are logged, by day, version and arm."""
    from include.monitoring import predictions as logged

    try:
        only = dt.date.fromisoformat(day) if day else None
    except ValueError:
        raise typer.BadParameter(f"{day!r} is not a day as YYYY-MM-DD", param_hint="--day") from None
    engine = _database()
    found = logged.counts(engine, _model(model, engine), only, only)
    if not found:
        raise NothingLogged(f"no prediction of {model} is logged{f' on {day}' if day else ''}")
    typer.echo(f"{'day':<12} {'version':>7} {'arm':<10} {'rows':>12} {'mean':>12}")
    for each in found:
        mean = "-" if each.mean is None else f"{each.mean:.6g}"
        typer.echo(f"{each.day!s:<12} {each.version:>7} {each.arm:<10} {each.rows:>12,} {mean:>12}")


@app.command()
def forget(
    model: str,
    entity: Annotated[str | None, typer.Option(help="whom the rows are about")] = None,
    prediction: Annotated[str | None, typer.Option(help="or the prediction_id of an answer", metavar="ID")] = None,
) -> None:
    """Delete a subject's predictions and labels of a model, for good: from PostgreSQL and from the service's disk."""
    from include.home import Home
    from include.monitoring import predictions as logged

    engine, spool = _database(), Home(_home()).spool
    _model(model, engine)
    copied = logged.wait_until_copied(engine, spool, seconds=10)
    gone = logged.forget(engine, model, entity=entity, prediction_id=prediction, folder=spool)
    refused = f", and {gone.refused:,} lines that PostgreSQL had refused" if gone.refused else ""
    done = f"{gone.predictions:,} predictions and {gone.labels:,} labels{refused} were deleted"
    if not copied:
        raise NotAllForgotten(
            f"{model}: {done}, but more may come: the service's local log is not all in PostgreSQL. See that PostgreSQL"
            " and the service run (`mlops status`), then repeat this"
        )
    if gone.remains:
        raise NotAllForgotten(f"{model}: {done}, but text of them may remain: {'; '.join(gone.remains)}; repeat this")
    if gone.nothing:
        raise NothingLogged(f"nothing of {_subject(engine, model, entity, prediction)} is logged for {model}")
    typer.echo(f"{model}: {done}")


def _subject(engine: sqlalchemy.Engine, model: str, entity: str | None, prediction: str | None) -> str:
    from include.monitoring import predictions as logged

    if entity is None:
        return f"prediction {prediction}"
    return f"entity {entity!r}{logged.nearest_entity(engine, model, entity)}"


@app.command()
def restore(
    model: str,
    version: Annotated[int, typer.Argument(help="a registered version")],
    to: Annotated[Path, typer.Option(help="an empty or new folder", metavar="DIR")],
) -> None:
    """Bring the exact training data of a registered version back, from DVC's remote."""
    from include import names
    from include.features import versions
    from include.training import anchor, tracking

    env = _environment()
    _model(model, _database())
    names.version(model, version, anchor.versions(env.database_url, model))
    feature_version = anchor.recorded(env.database_url, model, version).feature_version
    if feature_version is None:  # from before it was recorded in PostgreSQL
        feature_version = tracking.version_info(model, version, mlflow_url=env.mlflow_url).tags["mlops.feature_version"]
    folder = versions.restore(
        model,
        feature_version,
        to,
        database_url=env.database_url,
        remote_url=env.dvc_remote_url,
        home=env.home,
    )
    typer.echo(f"{folder}: the features that {model} version {version} was trained from ({feature_version})")


@app.command()
def retire(
    model: str,
    reason: Annotated[str, typer.Option(help="why; it stands in the ledger")],
) -> None:
    """Serve a model no more: its rollouts and its runs in Airflow end, its history stays.

    Take it out of params.yaml too. `mlops rollback MODEL --to VERSION` brings it back.
    """
    import getpass

    from include import settings
    from include.deployment import ledger, rollouts, verification

    engine, env = _database(), _environment()
    _model(model, engine)
    if ledger.champion(engine, model) is None:
        typer.echo(f"{model} has no champion: nothing serves it")
        _end_runs(model)
        return
    ended = rollouts.retire(engine, model, actor=getpass.getuser(), reason=reason)
    for rollout in ended.stopped:
        typer.echo(f"{rollout} was stopped")
    typer.echo(f"{model}: version {ended.entry.to_version} was retired; nothing is deleted")
    try:
        declared = settings.load_params(env.params)
        if model in declared.models:
            typer.echo(f"{env.params.name} still names {model}: it is trained until you take it out", err=True)
    except settings.ParamsError as error:
        typer.echo(f"whether {env.params.name} still names {model} cannot be read: {_first_line(error)}", err=True)
    _end_runs(model)
    where = {"serving_url": env.serving_url, "serving_key": env.serving_key}
    seen = verification.retired(model, **where, workers=_workers(env), timeout=30)
    typer.echo(f"no worker of the service answers for it after {seen.seconds:.1f} s")


def _end_runs(model: str) -> None:
    """End the model's runs in Airflow; what has been retired stays so where Airflow is away."""
    from include.stack import airflow_api, local

    try:
        stack = _stack()
        airflow = airflow_api.Airflow(stack.address("airflow"), "admin", stack.credentials().airflow_admin_password)
        for run in airflow.end_runs(airflow_api.of_model(model), f"{model} was retired"):
            typer.echo(f"ended: {run.dag} {run.run_id}")
    except (local.StackError, airflow_api.AirflowError, OSError) as error:
        typer.echo(f"its runs in Airflow, if any, go on: {_first_line(error)}", err=True)
    except Exception as error:
        if (told := _foreign(error)) is None:
            raise
        typer.echo(f"its runs in Airflow, if any, go on: {told}", err=True)


@app.command()
def alerts(
    everything: Annotated[bool, typer.Option("--all", help="those that were acknowledged too")] = False,
    event: Annotated[str, typer.Option(help="only of this kind, as task_failed", metavar="KIND")] = "",
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="how many at most")] = 50,
    acknowledge: Annotated[str, typer.Option(help="note that you have seen this one, or all", metavar="ID|all")] = "",
) -> None:
    """What happened that an operator should see, newest first; acknowledge what you have seen."""
    import getpass

    import sqlalchemy as sa

    from include import alert_table

    engine = _database()
    try:
        alert_table.copy(engine, _home())
        if acknowledge:
            seen = alert_table.acknowledge(engine, acknowledge, actor=getpass.getuser())
            typer.echo(f"{seen} alerts acknowledged")
            return
        if event:
            _one_of("kind of alert", event, alert_table.events(engine), "the list")
        found = alert_table.listed(engine, event=event or None, acknowledged=everything, limit=count)
    except sa.exc.OperationalError as error:
        if acknowledge:
            raise
        typer.echo(f"{_foreign(error)}; what follows is from this machine's file", err=True)
        found = [each for each in alert_table.read_file(_home(), count) if event in ("", each.event)]
    if not found:
        typer.echo("no alert" + ("" if everything else " that nobody has acknowledged"))
    for each in found:
        seen_by = f"  (seen by {each.acknowledged_by})" if each.acknowledged_by else ""
        typer.echo(
            f"{each.id.replace('-', '')[:8]}  {each.at:%Y-%m-%d %H:%M:%S}  {each.event:<22} {each.message}{seen_by}"
        )


class FileExists(FileExistsError):
    """A file that a person may have edited is not overwritten."""


class NoHistory(LookupError):
    """No version of a model was judged yet."""


class NothingTried(LookupError):
    """There is no such rollout to stop."""


class NothingLogged(LookupError):
    """A model answered nothing, or nobody wrote it down."""


class NotAllForgotten(RuntimeError):
    """Rows of a subject may come yet."""


class NoChampion(LookupError):
    """A model was never promoted."""


def _database() -> sqlalchemy.Engine:
    from include import database

    return database.connect(_environment().database_url)


def _model(name: str, engine: sqlalchemy.Engine) -> str:
    from include import names

    return names.model(name, _environment().params, engine)


def _one_of(kind: str, name: str, known: Iterable[str], where: str) -> str:
    from include import names

    return names.one_of(kind, name, known, where)


def main() -> None:
    """The console script: an error that a person can mend is one line; a fault of ours keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no arrow gets a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        for argument in sys.argv[1:]:
            if not argument.isascii():
                _require_text(argument)
        app(standalone_mode=True)
    except Exception as error:
        message = str(error) if _is_ours(error) else _foreign(error)
        if message is None:
            raise
        typer.echo(f"mlops: {message}", err=True)
        raise SystemExit(1) from None


def _require_text(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the argument {argument!r} is not UTF-8 text") from None


def _foreign(error: Exception) -> str | None:
    """What went wrong in another part, or in the system, and the remedy; None for what is none of these."""
    roots = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    if roots & {"sqlalchemy", "psycopg2", "psycopg"}:
        return _of_postgresql(error)
    if roots & {"mlflow", "requests", "urllib3"}:
        away = "Connection" in str(error) or "timed out" in str(error)
        return f"MLflow {'does not answer' if away else 'refuses this'} ({_first_line(error)}). {_REMEDY}"
    if roots & {"httpx", "httpcore"}:
        return f"a part of the stack does not answer: {_first_line(error)}. {_REMEDY}"
    if isinstance(error, ConnectionError | TimeoutError):
        return f"a part of the stack does not answer: {_first_line(error)}. {_REMEDY}"
    if isinstance(error, OSError):
        told = f"{error.filename}: {error.strerror}" if error.filename else _first_line(error)
        below = isinstance(error.filename, str) and Path(error.filename).is_relative_to(_home())
        return f"{told}; MLOPS_HOME ({_home()}) must be a folder that you can write to" if below else told
    return None


_REMEDY = "`mlops status` shows what runs, `make up` starts what does not"


def _of_postgresql(error: Exception) -> str | None:
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
    why = _first_line(cause)
    if code in ("42P01", "42703"):
        return f"PostgreSQL has not the tables of this program ({why}): `make up` brings them up to date"
    if code and code[:2] in ("22", "23"):
        return f"PostgreSQL refuses a value: {why}"
    if code and code[:2] not in ("08", "53", "57"):
        return f"PostgreSQL refuses this: {why}"
    return f"PostgreSQL does not answer ({why}). {_REMEDY}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: an error of a class of ours, or a plain one that our code raised."""
    if any(kind.__module__.split(".")[0] == "include" for kind in type(error).__mro__):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) in (ValueError, RuntimeError) and Path(last.filename).is_relative_to(ROOT / "include")


if __name__ == "__main__":
    main()
