"""What was made and never taken up: Airflow drops an asset's event for a DAG that is paused when it comes.

The platform's own tables say what should have followed: features of the partitions there are, a training for each
request, a verdict on each version. What lacks it is announced again, once a night.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from include import database
from include.features import versions
from include.monitoring import requests
from include.settings import Model


@dataclass(frozen=True)
class Behind:
    """Something that is to be announced again."""

    asset: Literal["validated", "retraining", "candidate"]
    name: str
    """The source or the model that the asset is of."""
    reason: str
    extra: dict[str, Any] = field(default_factory=dict)


def behind(models: Mapping[str, Model], *, database_url: str) -> list[Behind]:
    """All that is behind.

    Args:
        models: Their entries in params.yaml.
        database_url: The platform's database.
    """
    found: list[Behind] = []
    with database.connected(database_url) as engine, engine.connect() as connection:
        for name, entry in models.items():
            for late in (
                _features(connection, name, entry),
                _training(connection, name),
                _deployment(connection, name),
            ):
                if late is not None and (late.asset, late.name) not in {(one.asset, one.name) for one in found}:
                    found.append(late)
    return found


def _features(connection: sa.Connection, model: str, entry: Model) -> Behind | None:
    recorded, published = database.feature_versions, versions.published(connection, entry)
    built = sa.select(recorded.c.version).where(recorded.c.model == model, recorded.c.inputs == published)
    if not published or connection.execute(built).first() is not None:
        return None
    reason = f"{model} has no features of the {len(published)} newest partitions of {entry.source}"
    return Behind("validated", entry.source, reason, {"keys": sorted(published)})


def _training(connection: sa.Connection, model: str) -> Behind | None:
    request = requests.lost(connection, model)
    if request is None:
        return None
    reason = f"{model}: the training requested at {request.created_at:%Y-%m-%d %H:%M} UTC has not begun"
    return Behind("retraining", model, reason, {"reason": request.reason})


def _deployment(connection: sa.Connection, model: str) -> Behind | None:
    registered, verdicts = database.registered_versions, database.verdicts
    newest = connection.execute(
        sa.select(sa.func.max(registered.c.version)).where(registered.c.model == model)
    ).scalar()
    judged = sa.select(verdicts.c.id).where(verdicts.c.model == model, verdicts.c.version == newest)
    if newest is None or connection.execute(judged).first() is not None:
        return None
    return Behind(
        "candidate", model, f"{model}: version {newest} is registered and was not judged", {"version": newest}
    )
