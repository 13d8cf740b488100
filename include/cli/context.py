"""What commands share: the stack, its settings and database, and names that must exist."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from include.home import ROOT

if TYPE_CHECKING:
    import sqlalchemy

    from include.settings import Environment
    from include.stack.machine import Stack


def finite(value: float | None) -> float | None:
    """Of an option that is a number: `nan` and `inf` are floats to Python, and no bound holds them."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number that counts")
    return value


def home() -> Path:
    """MLOPS_HOME, or var/ in the checkout."""
    from include import home as home_of

    return home_of.of(os.environ, ROOT)


def stack() -> Stack:
    """This machine's stack, which need not run.

    Raises:
        StackError: `mlops up` was never called here.
    """
    from include.stack import machine

    return machine.load(ROOT, home())


def environment() -> Environment:
    """The settings as this machine's tasks see them: from the running stack, where the environment does not say."""
    from include import settings
    from include.stack import parts

    if not os.environ.get("MLOPS_DATABASE_URL"):
        for name, value in parts.platform_variables(stack(), os.environ).items():
            os.environ.setdefault(name, value)
    return settings.environment()


def database() -> sqlalchemy.Engine:
    """The platform's database."""
    from include import database as platform

    return platform.connect(environment().database_url)


def known_model(name: str, engine: sqlalchemy.Engine) -> str:
    """The model's name, where params.yaml or the database knows it.

    Raises:
        LookupError: neither does; with the nearest name.
    """
    from include import names

    return names.model(name, environment().params, engine)


def one_of(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """The name, where it is a known one.

    Raises:
        LookupError: it is not; with the nearest.
    """
    from include import names

    return names.one_of(kind, name, known, where)


def workers(env: Environment) -> int:
    """How many workers the service has: by what is in force of params.yaml, as the service itself goes by it."""
    from include.serving.process import declared

    return declared.read(os.environ | {"MLOPS_PARAMS": str(env.params)}, ROOT).service.workers


def see_withdrawn(model: str, version: int, rollout_ids: list[int]) -> None:
    """Ask the service until every worker answers with the version and without these rollouts."""
    from include.deployment import verification

    env = environment()
    seen = verification.withdrawn(
        model,
        version,
        rollout_ids,
        serving_url=env.serving_url,
        serving_key=env.serving_key,
        workers=workers(env),
        timeout=30,
    )
    typer.echo(f"every worker answers with version {version} after {seen.seconds:.1f} s")
