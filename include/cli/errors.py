"""What a person reads when something goes wrong: one line with the remedy, or None for a fault of ours."""

from __future__ import annotations

import traceback
from pathlib import Path

from include.cli import context
from include.home import ROOT

_REMEDY = "`mlops status` shows what runs, `make up` starts what does not"


def foreign(error: Exception) -> str | None:
    """What went wrong in another part, or in the system, and the remedy; None for what is none of these."""
    roots = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    if roots & {"sqlalchemy", "psycopg2", "psycopg"}:
        return _of_postgresql(error)
    if roots & {"mlflow", "requests", "urllib3"}:
        away = "Connection" in str(error) or "timed out" in str(error)
        return f"MLflow {'does not answer' if away else 'refuses this'} ({first_line(error)}). {_REMEDY}"
    if roots & {"httpx", "httpcore"}:
        return f"a part of the stack does not answer: {first_line(error)}. {_REMEDY}"
    if isinstance(error, ConnectionError | TimeoutError):
        return f"a part of the stack does not answer: {first_line(error)}. {_REMEDY}"
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else first_line(error)
        below = isinstance(error.filename, str) and Path(error.filename).is_relative_to(context.home())
        return f"{text}; MLOPS_HOME ({context.home()}) must be a folder that you can write to" if below else text
    return None


def _of_postgresql(error: Exception) -> str | None:
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
    why = first_line(cause)
    if code in ("42P01", "42703"):
        return f"PostgreSQL has not the tables of this program ({why}): `make up` brings them up to date"
    if code and code[:2] in ("22", "23"):
        return f"PostgreSQL refuses a value: {why}"
    if code and code[:2] not in ("08", "53", "57"):
        return f"PostgreSQL refuses this: {why}"
    return f"PostgreSQL does not answer ({why}). {_REMEDY}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class's name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def is_ours(error: BaseException) -> bool:
    """Whether the message was written for users: an error of a class of ours, or a plain one that our code raised."""
    if any(kind.__module__.split(".")[0] == "include" for kind in type(error).__mro__):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) in (ValueError, RuntimeError) and Path(last.filename).is_relative_to(ROOT / "include")
