"""The versions that Airflow's forms offer, in a file: parsing a DAG file must not ask a database.

The file is a projection of PostgreSQL: model → its versions, newest first, each `{version, metric, value, verdict,
standing}`. The rollout controller writes it within seconds of a registration, a verdict, a promotion or a rollout,
whoever made it; include/orchestration/versions.py reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from include import database, storage
from include.home import Home

NEWEST = 20
"""So many of the newest versions of a model are offered, and so many of its latest champions."""


@dataclass
class Projection:
    """Keeps the file as PostgreSQL says.

    Args:
        engine: The platform's database.
        home: MLOPS_HOME.
    """

    engine: sa.Engine
    home: Home
    _seen: tuple[Any, ...] | None = field(default=None, init=False)

    def refresh(self) -> bool:
        """Write the file if something happened since the last time and it says something else now; whether it did."""
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            state = tuple(connection.execute(_state()).one())
            if state == self._seen and self.home.versions.is_file():
                return False
            text = json.dumps(offered(connection), indent=1, ensure_ascii=False) + "\n"
        changed = not self.home.versions.is_file() or self.home.versions.read_text() != text
        if changed:
            storage.write_bytes(str(self.home.versions), text.encode())
        self._seen = state
        return changed


def _state() -> sa.Select[Any]:
    """What is another with each registration, verdict, change of a champion and step of a rollout."""
    columns = [database.verdicts.c.id, database.ledger.c.id, database.rollout_events.c.id]
    newest = [sa.select(sa.func.max(column)).scalar_subquery() for column in columns]
    registered = sa.select(sa.func.count()).select_from(database.registered_versions).scalar_subquery()
    return sa.select(*newest, registered)


def offered(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """Each model's newest versions and latest champions, newest first, with their newest verdict and their standing."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(_offered()):
        numbers = row.numbers or {}
        standing = "champion" if row.champion else row.tried or ("champion before" if row.reign else None)
        found.setdefault(row.model, []).append(
            {
                "version": row.version,
                "metric": numbers.get("metric"),
                "value": numbers.get("candidate"),
                "verdict": row.verdict,
                "standing": standing,
            }
        )
    return found


def _offered() -> sa.Select[Any]:
    """One row for each version that is offered."""
    ranked, reigned = _ranked(), _reigned()
    verdicts, champions, rollouts = database.verdicts, database.champions, database.rollouts
    verdict = (
        sa.select(verdicts.c.verdict, verdicts.c.numbers)
        .where(verdicts.c.model == ranked.c.model, verdicts.c.version == ranked.c.version)
        .order_by(verdicts.c.id.desc())
        .limit(1)
        .lateral("verdict")
    )
    tried = (
        sa.select(sa.func.max(rollouts.c.kind))
        .where(rollouts.c.model == ranked.c.model, rollouts.c.version == ranked.c.version)
        .where(rollouts.c.status == "running")
        .scalar_subquery()
    )
    same = (reigned.c.model == ranked.c.model) & (reigned.c.to_version == ranked.c.version)
    return (
        sa.select(
            ranked.c.model,
            ranked.c.version,
            verdict.c.verdict,
            verdict.c.numbers,
            champions.c.version.label("champion"),
            reigned.c.rank.label("reign"),
            tried.label("tried"),
        )
        .select_from(ranked)
        .outerjoin(reigned, same)
        .outerjoin(verdict, sa.true())
        .outerjoin(champions, (champions.c.model == ranked.c.model) & (champions.c.version == ranked.c.version))
        .where((ranked.c.rank <= NEWEST) | (reigned.c.rank <= NEWEST))
        .order_by(ranked.c.model, ranked.c.version.desc())
    )


def _ranked() -> sa.Subquery:
    """The registered versions of each model, the newest as number 1."""
    registered = database.registered_versions
    rank = sa.func.row_number().over(partition_by=registered.c.model, order_by=registered.c.version.desc())
    return sa.select(registered.c.model, registered.c.version, rank.label("rank")).subquery()


def _reigned() -> sa.Subquery:
    """The champions that each model had, the latest as number 1."""
    ledger = database.ledger
    reigns = (
        sa.select(ledger.c.model, ledger.c.to_version, sa.func.max(ledger.c.id).label("last"))
        .group_by(ledger.c.model, ledger.c.to_version)
        .subquery()
    )
    rank = sa.func.row_number().over(partition_by=reigns.c.model, order_by=reigns.c.last.desc())
    return sa.select(reigns.c.model, reigns.c.to_version, rank.label("rank")).subquery()
