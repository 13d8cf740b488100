"""What was logged: predictions, their deletion, alerts."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli import context, errors
from include.cli.app import app

if TYPE_CHECKING:
    import sqlalchemy


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
    engine = context.database()
    found = logged.counts(engine, context.known_model(model, engine), only, only)
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
    from include.monitoring import forgetting

    engine, spool = context.database(), Home(context.home()).spool
    context.known_model(model, engine)
    copied = forgetting.wait_until_copied(engine, spool, seconds=10)
    gone = forgetting.forget(engine, model, entity=entity, prediction_id=prediction, folder=spool)
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
    from include.monitoring import forgetting

    if entity is None:
        return f"prediction {prediction}"
    return f"entity {entity!r}{forgetting.nearest_entity(engine, model, entity)}"


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

    from include.alerting import delivery, table

    engine = context.database()
    try:
        table.copy(engine, context.home())
        if acknowledge:
            seen = table.acknowledge(engine, acknowledge, actor=getpass.getuser())
            typer.echo(f"{seen} alerts acknowledged")
            return
        if event:
            context.one_of("kind of alert", event, table.events(engine), "the list")
        found = table.listed(engine, event=event or None, acknowledged=everything, limit=count)
    except sa.exc.OperationalError as error:
        if acknowledge:
            raise
        typer.echo(f"{errors.foreign(error)}; what follows is from this machine's file", err=True)
        found = [each for each in table.read_file(context.home(), count) if event in ("", each.event)]
    for behind in delivery.undelivered(context.home()):
        typer.echo(behind, err=True)
    if not found:
        typer.echo("no alert" + ("" if everything else " that nobody has acknowledged"))
    for each in found:
        seen_by = f"  (seen by {each.acknowledged_by})" if each.acknowledged_by else ""
        typer.echo(
            f"{each.id.replace('-', '')[:8]}  {each.at:%Y-%m-%d %H:%M:%S}  {each.event:<22} {each.message}{seen_by}"
        )


class NothingLogged(LookupError):
    """A model answered nothing, or nobody wrote it down."""


class NotAllForgotten(RuntimeError):
    """Rows of a subject may come yet."""
