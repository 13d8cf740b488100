"""The console script: the commands of every module here, and errors as one line."""

from __future__ import annotations

import io
import sys

import typer

from include.cli import errors, keys, models, records, rollouts, stack
from include.cli.app import app

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = (stack, models, rollouts, records, keys)
"""The modules whose commands there are, in the order of the help."""


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
        message = str(error) if errors.is_ours(error) else errors.foreign(error)
        if message is None:
            raise
        typer.echo(f"mlops: {message}", err=True)
        raise SystemExit(1) from None


def _require_text(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the argument {argument!r} is not UTF-8 text") from None
