"""Sources and models: propose a suite, who is champion and why, roll back, restore, retire."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from include.cli import context, errors
from include.cli.app import app


@app.command()
def suite(source: str) -> None:
    """Propose a source's Great Expectations suite from its data; read it and edit it. An existing one is left alone."""
    import json

    from include import settings, storage
    from include.ingestion import drafting, suites

    env = settings.environment()
    params = settings.load_params(env.params)
    entry = params.sources[context.one_of("source", source, params.sources, env.params.name)]
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

    engine = context.database()
    found = ledger.champion(engine, context.known_model(model, engine))
    if found is None:
        raise NoChampion(f"{model} has no champion; `mlops demo`, or train_{model} in Airflow, may give it one")
    typer.echo(f"{model} version {found.version} since {found.since:%Y-%m-%d %H:%M:%S %Z}")
    typer.echo(f"  {found.url}\n  {found.bento}\n  content hash {found.content_hash}")


@app.command()
def history(model: str) -> None:
    """Every change of a model's champion, every verdict, and what was tried and decided, newest first."""
    from include.deployment import history as decided

    engine = context.database()
    events = decided.events(engine, context.known_model(model, engine))
    if not events:
        raise NoHistory(f"{model} has no history yet: no version was judged; train_{model} in Airflow makes one")
    for event in events:
        typer.echo(f"{event.at:%Y-%m-%d %H:%M:%S}  {event.what:<24} {event.reason} (by {event.actor})")


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

    from include.deployment import ledger, withdrawal

    engine, began = context.database(), dt.datetime.now(dt.UTC)
    try:
        back = withdrawal.withdraw(engine, model, to, actor=getpass.getuser(), reason=reason, seen=seen, seen_at=began)
    except ValueError:
        context.known_model(model, engine)  # only now: the way back does not wait for params.yaml to be read
        raise
    for rollout in back.stopped:
        typer.echo(f"{rollout} was stopped")
    before = back.entry and (back.entry.from_version or "nothing")
    changed = f"version {before} → {back.version}" if back.entry else f"version {back.version} stays"
    typer.echo(f"{model}: {changed}")
    context.see_withdrawn(model, back.version, [rollout.id for rollout in back.stopped])
    try:
        ledger.project_aliases(engine, model, mlflow_url=context.environment().mlflow_url)
    except Exception as error:  # noqa: BLE001  what it is depends on MLflow's client, and the way back is done
        typer.echo(f"MLflow's aliases follow when it answers ({' '.join(str(error).split())[:200]})", err=True)


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

    env = context.environment()
    context.known_model(model, context.database())
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
    from include.deployment import ledger, verification, withdrawal

    engine, env = context.database(), context.environment()
    context.known_model(model, engine)
    if ledger.champion(engine, model) is None:
        typer.echo(f"{model} has no champion: nothing serves it")
        _end_runs(model)
        return
    ended = withdrawal.retire(engine, model, actor=getpass.getuser(), reason=reason)
    for rollout in ended.stopped:
        typer.echo(f"{rollout} was stopped")
    typer.echo(f"{model}: version {ended.entry.to_version} was retired; nothing is deleted")
    try:
        declared = settings.load_params(env.params)
        if model in declared.models:
            typer.echo(f"{env.params.name} still names {model}: it is trained until you take it out", err=True)
    except settings.ParamsError as error:
        typer.echo(
            f"whether {env.params.name} still names {model} cannot be read: {errors.first_line(error)}", err=True
        )
    _end_runs(model)
    where = {"serving_url": env.serving_url, "serving_key": env.serving_key}
    seen = verification.retired(model, **where, workers=context.workers(env), timeout=30)
    typer.echo(f"no worker of the service answers for it after {seen.seconds:.1f} s")


def _end_runs(model: str) -> None:
    """End the model's runs in Airflow; what has been retired stays so where Airflow is away."""
    from include.stack import airflow_api, machine

    try:
        stack = context.stack()
        airflow = airflow_api.Airflow(stack.address("airflow"), "admin", stack.credentials().airflow_admin_password)
        for run in airflow.end_runs(airflow_api.of_model(model), f"{model} was retired"):
            typer.echo(f"ended: {run.dag} {run.run_id}")
    except (machine.StackError, airflow_api.AirflowError, OSError) as error:
        typer.echo(f"its runs in Airflow, if any, go on: {errors.first_line(error)}", err=True)
    except Exception as error:
        if (text := errors.foreign(error)) is None:
            raise
        typer.echo(f"its runs in Airflow, if any, go on: {text}", err=True)


class FileExists(FileExistsError):
    """A file that a person may have edited is not overwritten."""


class NoHistory(LookupError):
    """No version of a model was judged yet."""


class NoChampion(LookupError):
    """A model was never promoted."""
