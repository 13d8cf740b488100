"""What stands behind our service: the stack's own PostgreSQL, with the ledger that names the champion."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.serving.model import NAME
from benchmarks.serving.processes import GENERATOR_CORE, Tree, free_port, running
from include import database
from include.deployment import ledger
from include.inference import served_form
from include.stack import postgres


@dataclass(frozen=True)
class Ledger:
    """A running PostgreSQL with the platform's tables."""

    tree: Tree
    url: str
    engine: sa.Engine

    def recorded(self) -> int:
        """How many predictions have reached the table."""
        with self.engine.connect() as connection:
            return int(connection.execute(sa.text("select count(*) from predictions")).scalar_one())

    def forget(self) -> None:
        """Empty the table once nothing more arrives, so that no run pays for the rows of another, or counts them."""
        before = -1
        while before != (now := self.recorded()):
            before = now
            time.sleep(0.3)
        with self.engine.begin() as connection:
            connection.execute(sa.text("truncate predictions"))


def promote(engine: sa.Engine, version: int, form: Path) -> None:
    """Make the served form in a folder the champion, by a verdict and the ledger."""
    before = ledger.champion(engine, NAME)
    compared, content_hash = before.version if before else None, served_form.verify(form).content_hash
    verdict = sa.insert(database.verdicts).values(
        model=NAME,
        version=version,
        verdict="PROMOTE",
        champion_version=compared,
        content_hash=content_hash,
        reasons=[],
        numbers={},
    )
    with engine.begin() as connection:
        verdict_id = connection.execute(verdict.returning(database.verdicts.c.id)).scalar_one()
    ledger.promote(
        engine,
        model=NAME,
        to_version=version,
        expected_from=compared,
        content_hash=content_hash,
        url=str(form),
        bento=f"prediction:{version}",
        verdict_id=verdict_id,
        actor="benchmark",
        reason="benchmark",
    )


@contextmanager
def running_ledger(folder: Path, *, cores: tuple[int, ...] = (GENERATOR_CORE,)) -> Iterator[Ledger]:
    """A fresh PostgreSQL in a folder, started as the stack starts it, on the load generator's core."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    password, port = secrets.token_hex(), free_port()
    postgres.prepare(folder / "data", password)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    command = postgres.standalone(folder / "data", port, folder / "log")
    with running(command, environment, folder, cores=cores, stop_signal=signal.SIGINT) as tree:
        tree.wait_until(lambda: postgres.answers(port, password), 60, pause=0.1)
        roles = {name: secrets.token_hex() for name in (*postgres.DATABASES, postgres.SERVICE_ROLE)}
        postgres.ensure_databases(port, password, roles)
        url = postgres.url("platform", roles["platform"], port)
        engine = database.connect(url)
        database.migrate(engine)
        try:
            yield Ledger(tree, url, engine)
        finally:
            engine.dispose()
