"""The `mlops` command: the stack of this machine, and what operators ask of the platform.

Imports are made inside the commands: the command line answers at once. A mistake is one line on stderr and status 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import sqlalchemy

    from include.settings import Environment
    from include.stack.local import Stack

ROOT = Path(__file__).resolve().parent.parent

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _home() -> Path:
    return Path(os.environ.get("MLOPS_HOME") or ROOT / "var").absolute()


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


@app.command()
def down() -> None:
    """Stop the stack, with everything it started; all data is kept."""
    from include.stack import local

    swept = local.down(ROOT, _home())
    typer.echo("the stack is down" + (f"; {swept} processes that nothing supervised were ended" if swept else ""))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """What runs, where, since when; status 1 unless every part is ready."""
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
    raise typer.Exit(0 if lines and all(line.state == "ready" for line in lines) else 1)


@app.command()
def demo(
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="first day of history, YYYY-MM-DD")] = "",
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="last day of history, YYYY-MM-DD")] = "",
) -> None:
    """Take every model of params.yaml through the whole chain in Airflow, and call the service."""
    import datetime as dt

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
    """Is params.yaml right? Names, columns, parameters, before anything runs."""
    from include import preflight

    params = Path(os.environ.get("MLOPS_PARAMS") or ROOT / "params.yaml")
    findings = preflight.check(params)
    for finding in findings:
        typer.echo(str(finding), err=True)
    if findings:
        raise typer.Exit(1)
    typer.echo(f"{params.name}: nothing wrong")


@app.command()
def key(name: Annotated[str, typer.Argument(help="airflow, mlflow, serving or postgres")]) -> None:
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

    stack = _stack()
    log = stack.logs / f"{part}.log"
    if part not in local.PARTS or not log.exists():
        raise local.StackError(f"there is no log of {part!r}; parts are {', '.join(local.PARTS)}")
    typer.echo(supervisor.last_lines(log, lines))


# ---------------------------------------------------------------------------------------------- sources and models


@app.command()
def suite(source: str) -> None:
    """Propose a source's Great Expectations suite from its data; read it and edit it. An existing one is left alone."""
    import datetime as dt
    import json

    from include import settings, storage
    from include.ingestion import partitions, sources, suites

    env = settings.environment()
    declared = settings.load_params(env.params).sources
    if source not in declared:
        raise settings.ParamsError(f"{env.params.name} has no source {source!r}; it has {', '.join(declared)}")
    entry = declared[source]
    path = suites.path_of(env.suites, source, entry.suite)
    if path.exists():
        raise FileExists(f"{path} is there already; delete it first to have one proposed anew")
    day = entry.start or dt.datetime.now(dt.UTC).date() - dt.timedelta(2)
    key, table = next(iter(sources.read_partitions(entry, partitions.keys_between(entry, day, day))))
    proposed = suites.propose_suite(path.stem, table, entry.time_column)
    storage.write_bytes(str(path), (json.dumps(proposed, indent=2) + "\n").encode())
    typer.echo(f"{path}: proposed from partition {key} ({table.num_rows:,} rows); read it, edit it, then `mlops check`")


@app.command()
def champion(model: str) -> None:
    """Who answers for a model, since when."""
    from include.deployment import ledger

    found = ledger.champion(_database(), model)
    if found is None:
        raise NoChampion(f"{model} has no champion; `mlops demo`, or train_{model} in Airflow, may give it one")
    typer.echo(f"{model} version {found.version} since {found.since:%Y-%m-%d %H:%M:%S %Z}")
    typer.echo(f"  {found.url}\n  {found.bento}\n  content hash {found.content_hash}")


@app.command()
def history(model: str) -> None:
    """Every change of a model's champion and every verdict, newest first."""
    import sqlalchemy as sa

    from include import database
    from include.deployment import ledger

    engine = _database()
    query = sa.select(database.verdicts).where(database.verdicts.c.model == model)
    with engine.connect() as connection:
        verdicts = connection.execute(query).mappings().all()
    lines = [
        (
            entry.created_at,
            f"{entry.action} {entry.from_version or 'nothing'} → {entry.to_version}",
            entry.actor,
            entry.reason,
        )
        for entry in ledger.history(engine, model)
    ] + [
        (
            row["created_at"],
            f"verdict {row['verdict']} on {row['version']}",
            "gate",
            "; ".join(map(str, row["reasons"])),
        )
        for row in verdicts
    ]
    for moment, what, actor, why in sorted(lines, reverse=True):
        typer.echo(f"{moment:%Y-%m-%d %H:%M:%S}  {what:<24} {why} (by {actor})")


@app.command()
def rollback(
    model: str,
    reason: Annotated[str, typer.Option(help="why; it stands in the ledger")],
    to: Annotated[
        int | None, typer.Option(help="an earlier champion; default: the one before", metavar="VERSION")
    ] = None,
) -> None:
    """Bring an earlier champion of a model back; the service changes within seconds."""
    import getpass

    from include.deployment import ledger

    engine = _database()
    entry = ledger.rollback(engine, model, to, actor=getpass.getuser(), reason=reason)
    ledger.project_aliases(engine, model, mlflow_url=_environment().mlflow_url)
    typer.echo(f"{model}: version {entry.from_version} → {entry.to_version}")


@app.command()
def restore(
    model: str,
    version: Annotated[int, typer.Argument(help="a registered version")],
    to: Annotated[Path, typer.Option(help="an empty or new folder", metavar="DIR")],
) -> None:
    """Bring the exact training data of a registered version back, from DVC's remote."""
    from include.features import versions
    from include.training import tracking

    env = _environment()
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


class FileExists(FileExistsError):
    """A file that a person may have edited is not overwritten."""


class NoChampion(LookupError):
    """A model was never promoted."""


def _database() -> sqlalchemy.Engine:
    from include import database

    return database.connect(_environment().database_url)


def main() -> None:
    """The console script: the errors that we explain become one line, the others keep their traceback."""
    try:
        app(standalone_mode=True)
    except Exception as error:
        if not _is_ours(error):
            raise
        typer.echo(f"mlops: {error}", err=True)
        raise SystemExit(1) from None


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: an error of a class of ours, or a plain one that our code raised."""
    if any(kind.__module__.split(".")[0] == "include" for kind in type(error).__mro__):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) in (ValueError, RuntimeError) and Path(last.filename).is_relative_to(ROOT / "include")


if __name__ == "__main__":
    main()
