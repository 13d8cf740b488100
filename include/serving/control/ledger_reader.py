"""What PostgreSQL wants to be served: the champions, and the rollouts that run beside them.

Both are read by one statement, so that a promotion that ends its rollout is never seen by halves.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from include.serving.metrics.limits import Limits
from include.serving.routing.rollout import Rollout
from include.serving.versions.version import Champion, Version

_RUNNING = "(select coalesce(json_agg(r order by r.id), '[]') from rollouts r where status = 'running')"
_RETIRED = "(select coalesce(json_agg(model), '[]') from retired_models)"
_DESIRED = """
    select extract(epoch from clock_timestamp())::float8,
           (select coalesce(json_agg(c order by c.model), '[]') from champions c), {rollouts}, {retired}
"""
_THERE = """
    select exists (select from pg_attribute where attrelid = to_regclass('rollouts') and attname = 'mirrored'),
           to_regclass('retired_models') is not null
"""
_REPORT = """
    insert into arm_windows (worker, rollout_id, arm, version, second, requests, errors, latencies, predictions)
    values (%s, %s, %s, %s, to_timestamp(%s), %s, %s, %s, %s) on conflict do nothing
"""
_REPORT_MINUTES = """
    insert into service_minutes (worker, model, arm, version, minute, requests, errors, rows, seconds, latencies)
    values (%s, %s, %s, %s, to_timestamp(%s), %s, %s, %s, %s, %s) on conflict do nothing
"""


@dataclass(frozen=True)
class DesiredState:
    """What the database said, and its clock: seconds since 1970 less those of our monotonic clock."""

    champions: tuple[Champion, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    clock: float = 0.0
    retired: frozenset[str] = frozenset()
    """Models that a person retired. One that has merely no row (a database that was set back) goes on answering."""

    def champion(self, model: str) -> Champion | None:
        """The champion of a model."""
        return next((champion for champion in self.champions if champion.model == model), None)

    @property
    def active_rollouts(self) -> list[Rollout]:
        """Those that run beside the champion; what was begun beside another one is about to be ended."""
        versions = {champion.model: champion.version for champion in self.champions}
        return [r for r in self.rollouts if versions.get(r.served.model) == r.champion_version]


class LedgerReader:
    """One connection to the platform's PostgreSQL, made when it is needed; used by one thread.

    Args:
        url: its address; SQLAlchemy's name of a driver in it is ignored.
    """

    def __init__(self, url: str) -> None:
        self._url = re.sub(r"^postgresql\+\w+://", "postgresql://", url)
        self._connection: Any = None
        self._has_minutes: bool = False
        self._has_rollouts = self._has_retired = False

    def read(self) -> DesiredState:
        """What is wanted now; a database from before rollouts named their arms, or from before retirements, has none.

        Raises:
            psycopg.Error: it cannot be asked; the next call connects anew.
        """
        with self._connected() as connection:
            if not (self._has_rollouts and self._has_retired):
                self._has_rollouts, self._has_retired = connection.execute(_THERE).fetchone()
            began = time.monotonic()
            rollouts = _RUNNING if self._has_rollouts else "'[]'::json"
            query = _DESIRED.format(rollouts=rollouts, retired=_RETIRED if self._has_retired else "'[]'::json")
            epoch, champions, running, retired = connection.execute(query).fetchone()
        clock = epoch - (began + time.monotonic()) / 2
        return DesiredState(tuple(map(_champion, champions)), tuple(map(_rollout, running)), clock, frozenset(retired))

    def report(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows of arm_windows; those that are there already are left alone, so it may be said twice.

        Raises:
            psycopg.Error: they were not written, or nobody knows.
        """
        with self._connected() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(_REPORT, rows)

    def report_minutes(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows of service_minutes; those that are there already are left alone, so it may be said twice.

        A database from before there were minutes keeps none.

        Raises:
            psycopg.Error: they were not written, or nobody knows.
        """
        with self._connected() as connection, connection.transaction(), connection.cursor() as cursor:
            if not self._has_minutes:
                [self._has_minutes] = cursor.execute("select to_regclass('service_minutes') is not null").fetchone()
            if self._has_minutes:
                cursor.executemany(_REPORT_MINUTES, rows)

    def close(self) -> None:
        """End the connection; another call makes a new one."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
        self._connection = None

    @contextlib.contextmanager
    def _connected(self) -> Any:
        import psycopg

        if self._connection is None:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=3,
                application_name="mlops-serving",
                options="-c statement_timeout=3000",
                keepalives_idle=5,
                tcp_user_timeout=5000,
            )
        try:
            yield self._connection
        except BaseException:
            self.close()
            raise


def _version(row: dict[str, Any]) -> Version:
    return Version(row["model"], row["version"], row["content_hash"], row["url"], row["bento"])


def _champion(row: dict[str, Any]) -> Champion:
    return Champion(row["model"], row["version"], row["content_hash"], row["url"], row["bento"], row["ledger_id"])


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        id=row["id"],
        served=_version(row),
        arm=row["arm"],
        control=row["control"],
        mirrored=row["mirrored"],
        champion_version=row["champion_version"],
        share=float(row["share"]),
        step=row["step"],
        salt=row["salt"],
        limits=Limits.of(row["settings"]),
        changed_at=row["changed_at"],
    )
