"""The `mlops` command: the stack of this machine, and what operators ask of the platform.

Imports are made inside the commands: the command line answers at once. A mistake is one line on stderr and status 1.
"""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
