"""Names that a person types: each is one that exists, or is refused with the nearest that does.

A model exists when params.yaml has it, or when PostgreSQL knows of one of its versions: one that was taken out of
params.yaml can still be looked up, rolled back and retired.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from include import database, settings
from include.text import did_you_mean


class UnknownName(LookupError):
    """There is nothing of this name; the message has the nearest that there is, and those there are."""


def one_of(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """`name`, if it is among those known.

    Args:
        kind: What is named, in the singular: `model`, `source`.
        name: As it was typed.
        known: The names there are.
        where: Who knows them, for the message: `params.yaml`.

    Raises:
        UnknownName: it is not.
    """
    names = sorted(set(known))
    if name in names:
        return name
    there = f"{where} has {', '.join(names)}" if names else f"{where} has none"
    near = did_you_mean(name, names)
    raise UnknownName(f"there is no {kind} {name!r}{near or f'; {there}'}")


def model(name: str, params: Path, engine: sa.Engine) -> str:
    """A model of params.yaml, or one that PostgreSQL knows from earlier.

    Raises:
        UnknownName: neither knows it.
    """
    where = params.name
    try:
        declared = set(settings.load_params(params).models)
    except settings.ParamsError:  # the way back must not depend on a file that is being edited
        declared, where = set(), f"PostgreSQL (`mlops check` says why {params.name} cannot be read)"
    if name in declared or _logged(engine, name):
        return name
    return one_of("model", name, declared | _models(engine), where)


def version(model: str, number: int, known: Iterable[int]) -> int:
    """A registered version of a model.

    Raises:
        UnknownName: it has no such version.
    """
    numbers = sorted(set(known))
    if number in numbers:
        return number
    there = ", ".join(map(str, numbers[-20:])) if numbers else "none yet"
    raise UnknownName(f"{model} has no version {number}; registered are {there}")


def _logged(engine: sa.Engine, name: str) -> bool:
    """Whether predictions or labels of the model are there: they outlive what else is known of it."""
    found = [sa.exists().where(table.c.model == name) for table in (database.predictions, database.labels)]
    with engine.connect() as connection:
        return bool(connection.execute(sa.select(sa.or_(*found))).scalar_one())


def _models(engine: sa.Engine) -> set[str]:
    tables = (database.champions, database.ledger, database.verdicts, database.rollouts, database.feature_versions)
    query = sa.union(*(sa.select(table.c.model) for table in tables))
    with engine.connect() as connection:
        return set(connection.execute(query).scalars())
