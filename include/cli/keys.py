"""`mlops keys`: who may use the prediction service for what."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from include.cli import context
from include.cli.app import app

keys_app = typer.Typer(no_args_is_help=True, help="Who may ask the prediction service for what: keys with scopes.")
app.add_typer(keys_app, name="keys")


def _keys_file() -> Path:
    from include.home import Home

    return Home(context.home()).serving_keys


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="whose key it is; it stands in the logs")],
    scope: Annotated[list[str] | None, typer.Option(help="predict (default), feedback, admin; may be repeated")] = None,
    quota: Annotated[
        float | None, typer.Option(help="requests a second, to each worker", max=1e9, callback=context.finite)
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(help="after which it expires; default: never", min=0, max=36_500, callback=context.finite),
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
        float, typer.Option(help="hours for which the old key still counts", min=0, max=87_600, callback=context.finite)
    ] = 24.0,
) -> None:
    """Make a new key of a name and print it; the old one counts a while longer."""
    from include.serving import api_keys
    from include.stack import credentials

    own = context.stack().credentials_file if name in credentials.SERVING_KEYS else None
    hours = dt.timedelta(hours=overlap)
    made = api_keys.rotate(_keys_file(), name, now=dt.datetime.now(dt.UTC), overlap=hours)
    if own is not None:
        credentials.replace(own, credentials.SHORT_NAMES[name], made)
    typer.echo(made)
    if name == "serving":
        typer.echo(
            f"Airflow's tasks have the old one until `mlops down` and `mlops up`: within {overlap:g} h", err=True
        )
