"""The stack of this machine: start, stop, look after; and `check`, which needs none."""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli import context
from include.cli.app import app
from include.home import ROOT

if TYPE_CHECKING:
    from include.stack.machine import Stack


@app.command()
def up() -> None:
    """Start the stack; what runs already is left alone."""
    from include.stack import lifecycle
    from include.stack.progress import Progress

    stack = lifecycle.up(ROOT, context.home(), inherited=os.environ, progress=Progress(sys.stdout))
    typer.echo(f"  Airflow {stack.address('airflow')} · MLflow {stack.address('mlflow')} (user admin in both)")
    typer.echo(f"  service {stack.address('serving')} · passwords and keys {stack.credentials_file}")
    _show_what_is_paused(stack)


def _show_what_is_paused(stack: Stack) -> None:
    """A line about the DAGs that do not run by themselves yet, where Airflow and params.yaml can be read."""
    from include import settings
    from include.stack.airflow_api import AirflowError
    from include.stack.demo import chain

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
    from include.stack import shutdown

    swept = shutdown.down(ROOT, context.home())
    typer.echo("the stack is down" + (f"; {swept} processes that nothing supervised were ended" if swept else ""))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """What runs, where, since when; status 1 unless every part is ready and supervised."""
    from include.stack import status

    lines = status.status(ROOT, context.home())
    if as_json:
        import json

        typer.echo(json.dumps(status.as_dicts(lines)))
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
            _show_what_is_paused(context.stack())
    raise typer.Exit(0 if lines and all(line.state == "ready" and line.supervised for line in lines) else 1)


@app.command()
def demo(
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="first day of history, YYYY-MM-DD")] = "",
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="last day of history, YYYY-MM-DD")] = "",
) -> None:
    """Take every model of params.yaml through the whole chain in Airflow, and call the service."""
    from include import settings
    from include.stack import lifecycle
    from include.stack.demo import chain, history
    from include.stack.progress import Progress

    progress = Progress(sys.stdout)
    days = history.between(first, last, today=dt.datetime.now(dt.UTC).date())
    params = settings.load_params(os.environ.get("MLOPS_PARAMS") or ROOT / "params.yaml")
    stack = lifecycle.up(ROOT, context.home(), inherited=os.environ, progress=progress)
    chain.run(stack, params, days, progress=progress)


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
    typer.echo(context.stack().credentials().named(name))


@app.command()
def env() -> None:
    """Print `export` lines: the environment in which this machine's tasks run (secrets included)."""
    import shlex

    from include.stack import parts

    for name, value in parts.airflow_variables(context.stack(), os.environ).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="a part, as `mlops status` names them")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="how many")] = 50,
) -> None:
    """The last lines of a part's log."""
    from include.stack import machine
    from include.stack.supervision import supervisor

    log = context.stack().paths.log(context.one_of("part", part, machine.PARTS, "the stack"))
    if not log.exists():
        raise machine.StackError(f"{part} has written no log yet: {log} is not there")
    typer.echo(supervisor.last_lines(log, lines))
