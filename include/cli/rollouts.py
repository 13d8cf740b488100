"""`mlops rollout`: try a version beside the champion."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli import context
from include.cli.app import app
from include.home import ROOT

if TYPE_CHECKING:
    from include.deployment.rollouts import Rollout
    from include.deployment.verification import Seen


SEEN_WITHIN = 60
"""Seconds in which every worker must have a version that is tried, or its share."""


class Action(enum.StrEnum):
    """What `mlops rollout` does."""

    STATUS = "status"
    START = "start"
    ADVANCE = "advance"
    STOP = "stop"


@app.command()
def rollout(
    model: str,
    action: Annotated[Action, typer.Argument(help="status, start, advance or stop")] = Action.STATUS,
    version: Annotated[int | None, typer.Option(help="start: the registered version to try")] = None,
    kind: Annotated[str, typer.Option(help="start: the strategy, as canary; advance, stop: only that one")] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="start: a key of serving.rollout for this one, as steps=1,5,25,100 or share=20"),
    ] = None,
    reason: Annotated[str, typer.Option(help="why; all but status need it, it stands with the rollout")] = "",
) -> None:
    """Try a version beside the champion; see how it stands; give it all traffic, where that is left to you; stop it."""
    from include import strategies

    if kind:
        context.one_of("kind of rollout", kind, strategies.names(), "a rollout")
    if action is Action.STATUS:
        _show_rollouts(model)
        return
    if not reason:
        raise typer.BadParameter("say why, it stands with the rollout", param_hint="--reason")
    if action is Action.STOP:
        _stop_rollouts(model, kind, reason)
    elif action is Action.ADVANCE:
        _advance_rollout(model, kind, reason)
    elif version is None:
        raise typer.BadParameter("name the registered version to try", param_hint="--version")
    else:
        _start_rollout(model, version, kind, _settings(changes or ()), reason)


def _settings(changes: Iterable[str]) -> dict[str, object]:
    """Keys of `serving.rollout` with their values, as `--set key=value` gives them: a comma makes a list."""
    from include import settings
    from include.text import did_you_mean

    known = [name for name in settings.Rollout.model_fields if name != "strategy"]
    found: dict[str, object] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in known:
            hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
            raise typer.BadParameter(f"{change!r} sets no key of serving.rollout{hint}", param_hint="--set")
        listed = settings.Rollout.model_json_schema()["properties"][key].get("type") == "array"
        found[key] = text.split(",") if listed else text
    return found


def _show_rollouts(model: str) -> None:
    import sqlalchemy as sa

    from include.deployment import arms, experiment, rollouts

    engine = context.database()
    running = rollouts.running(engine, context.known_model(model, engine))
    for found in running:
        since = f"since {found.changed_at:%Y-%m-%d %H:%M:%S} UTC"
        against = f"beside version {found.champion_version}"
        typer.echo(f"{found.kind:<7} version {found.version} {found.traffic} {against}, {since}")
        if found.hint:
            typer.echo(f"  {found.hint}")
        with engine.connect() as connection:
            if not found.mirrored:
                now = connection.execute(sa.select(sa.func.now())).scalar_one()
                typer.echo(f"  {arms.describe(arms.read(connection, found, now))}")
            if found.strategy.labelled:
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


def _advance_rollout(model: str, kind: str, reason: str) -> None:
    """The next share for what a person moves, once every worker has it loaded."""
    import getpass

    from include.deployment import rollouts

    engine = context.database()
    context.known_model(model, engine)
    waiting = [found for found in rollouts.running(engine, model) if found.is_waiting and kind in ("", found.kind)]
    if not waiting:
        raise NothingTried(f"{model}: nothing waits for a person; `mlops rollout {model}` shows how it stands")
    [found] = waiting
    _see_tried(found)
    moved = rollouts.step(engine, found, actor=getpass.getuser(), reason=reason, evidence={})
    seen = _see_tried(moved, moved.share)
    typer.echo(f"{moved} {moved.traffic} in every worker after {seen.seconds:.1f} s")


def _see_tried(found: Rollout, share: float | None = None) -> Seen:
    from include.deployment import verification

    env = context.environment()
    return verification.tried(
        found.model,
        found.arm,
        found.version,
        serving_url=env.serving_url,
        serving_key=env.serving_key,
        workers=context.workers(env),
        timeout=SEEN_WITHIN,
        share=share,
    )


def _start_rollout(model: str, version: int, kind: str, changes: dict[str, object], reason: str) -> None:
    import getpass

    from include import names, settings, strategies
    from include.deployment import decisions, gate, promotion
    from include.training import anchor

    env = context.environment()
    declared = settings.load_params(env.params)
    context.one_of("model", model, declared.models, env.params.name)
    entry = declared.models[model]
    changes |= {"strategy": kind} if kind else {}
    try:
        chosen = settings.Rollout.model_validate({**entry.serving.rollout.model_dump(), **changes})
        for strategy in strategies.every():
            strategy.check(chosen, entry.task)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None
    if chosen.strategy == strategies.DIRECT:
        raise typer.BadParameter(f"one of {', '.join(strategies.names())}", param_hint="--kind")
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
    seen = _see_tried(made)
    typer.echo(
        f"{made} runs; every worker has it after {seen.seconds:.1f} s. `mlops rollout {model}` shows how it stands"
    )
    if made.hint:
        typer.echo(made.hint)


class NothingTried(LookupError):
    """There is no such rollout to stop or to advance."""
