"""The table `alerts`: what `mlops alerts` and the operator's page list, and where alerts are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database
from include.alerting.alert import Alert
from include.alerting.channels import Channel
from include.settings import Environment

_COLUMNS = ("id", "at", "event", "message", "details")


@dataclass(frozen=True)
class Table:
    """An alert is a row there once, however often it is delivered."""

    engine: sa.Engine
    name: str = "postgresql"
    batch: int = 1000
    history: bool = True
    longest_wait: float = 5.0

    def deliver(self, alerts: Sequence[Alert]) -> None:
        """Insert the alerts that are not there yet, in one transaction."""
        rows = [{name: getattr(alert, name) for name in _COLUMNS} for alert in alerts]
        with self.engine.begin() as connection:
            connection.execute(postgresql.insert(database.alerts).on_conflict_do_nothing(), rows)


def declared(environment: Environment) -> list[Channel]:
    """The platform's database."""
    return [Table(database.connect(environment.database_url))] if environment.database_url else []
