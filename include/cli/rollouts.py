"""`mlops rollout`: try a version beside the champion."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Annotated

import typer

from include.cli import context
from include.cli.app import app
from include.home import ROOT


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
    share: Annotated[
        float | None, typer.Option(help="an A/B test's share, in per cent", callback=context.finite)
    ] = None,
    steps: Annotated[str, typer.Option(help="a canary's shares, in per cent: 1,5,25,100")] = "",
    reason: Annotated[str, typer.Option(help="why; start and stop need it, it stands with the rollout")] = "",
) -> None:
    """Try a version beside the champion: as a shadow, a canary or in an A/B test; see how it stands; stop it."""
    if kind:
        context.one_of("kind of rollout", kind, ("shadow", "canary", "ab"), "a rollout")
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

    engine = context.database()
    running = rollouts.running(engine, context.known_model(model, engine))
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

    engine = context.database()
    context.known_model(model, engine)
    running = [found for found in rollouts.running(engine, model) if kind in ("", found.kind)]
    if not running:
        raise NothingTried(f"{model}: no {kind or 'rollout'} runs; `mlops rollout {model}` shows what was")
    for found in running:
        rollouts.stop(engine, found, actor=getpass.getuser(), reason=reason)
        typer.echo(f"{found} was stopped")
    champion = ledger.champion(engine, model)
    if champion is not None:
        context.see_withdrawn(model, champion.version, [found.id for found in running])


def _start_rollout(model: str, version: int, kind: str, changes: dict[str, object], reason: str) -> None:
    import getpass

    from include import names, settings
    from include.deployment import decisions, gate, promotion, verification
    from include.training import anchor

    env = context.environment()
    declared = settings.load_params(env.params)
    context.one_of("model", model, declared.models, env.params.name)
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
        workers=context.workers(env),
        timeout=60,
    )
    typer.echo(
        f"{made} runs; every worker has it after {seen.seconds:.1f} s. `mlops rollout {model}` shows how it stands"
    )


class NothingTried(LookupError):
    """There is no such rollout to stop."""
