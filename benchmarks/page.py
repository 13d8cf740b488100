"""The operator's page: queries and seconds, for two models and for fifty.

    python benchmarks/page.py [--models 50] [--days 400]

To reach: 8 queries and 0.3 s with fifty models, each with a champion, verdicts, a year of checks and its own source.
PostgreSQL is the stack's, with the stack's settings. The seconds are those of everything but Airflow: reading the
platform's tables and the champions' manifests, and drawing the HTML.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.serving.ledger import running_ledger
from include import database, settings, storage
from include.monitoring import overview

FIRST = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
COLUMNS = 20


def params(models: int) -> settings.Params:
    sources = "".join(f"  s{n}: {{type: sample, dataset: breast_cancer}}\n" for n in range(models))
    entries = "".join(f"  m{n}: {{source: s{n}, target: diagnosis, task: binary}}\n" for n in range(models))
    return settings.parse_params(f"sources:\n{sources}models:\n{entries}")


def fill(engine: sa.Engine, folder: Path, models: int, days: int) -> None:
    """A champion and two verdicts for each model; partitions, checks and figures of each day."""
    with engine.begin() as connection:
        for n in range(models):
            model, url = f"m{n}", str(folder / f"m{n}")
            manifest = {
                "run_id": "r",
                "estimator": "xgboost",
                "metrics": {"roc_auc": 0.9},
                "baseline": {"roc_auc": 0.5},
            }
            storage.write_bytes(storage.join(url, "manifest.json"), json.dumps(manifest).encode())
            content = {"model": model, "content_hash": f"h{n}"}
            verdict = 0
            for version in (1, 2):
                judged: dict[str, Any] = {
                    "version": version,
                    "verdict": "PROMOTE",
                    "reasons": ["better"],
                    "numbers": {},
                }
                insert = sa.insert(database.verdicts).values(**content, **judged)
                verdict = connection.execute(insert.returning(database.verdicts.c.id)).scalar_one()
            where = {"url": url, "bento": "b"}
            made = {"action": "promote", "to_version": 2, "verdict_id": verdict, "actor": "a", "reason": "r"}
            insert = sa.insert(database.ledger).values(**content, **where, **made)
            entry = connection.execute(insert.returning(database.ledger.c.id)).scalar_one()
            connection.execute(sa.insert(database.champions).values(**content, **where, version=2, ledger_id=entry))
            kept = {"status": "published", "rows": 1000, "quarantined_rows": 3, "quality": 0.99, "report": {}}
            connection.execute(
                sa.insert(database.partitions),
                [
                    {"source": f"s{n}", "key": str((FIRST + dt.timedelta(d)).date()), "run_id": "r", **kept}
                    for d in range(days)
                ],
            )
            result = {"model": model, "version": 2, "window": [], "status": "ok", "reason": "", "findings": []}
            insert = sa.insert(database.monitor_results).returning(database.monitor_results.c.id)
            ids = connection.execute(insert, [{**result, "created_at": FIRST} for _ in range(days)]).scalars().all()
            subjects = [("psi", f"c{c}") for c in range(COLUMNS)] + [("metric", "roc_auc")]
            figures: list[dict[str, Any]] = [
                {"result_id": result_id, "kind": kind, "subject": subject, "model": model, "version": 2, "value": 0.01,
                 "threshold": 0.1, "rows": 1000, "at": FIRST + dt.timedelta(day)}
                for day, result_id in enumerate(ids)
                for kind, subject in subjects
            ]  # fmt: skip
            connection.execute(sa.insert(database.measures), figures)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("analyze"))


def render(found: overview.Overview) -> int:
    """Bytes of the page."""
    from plugins.ml_platform import ml_platform_plugin as page

    template, nothing = page._templates().get_template("page.html"), page.Flow([], frozenset())
    environment, now = settings.environment(), dt.datetime.now(dt.UTC)
    shown = {"overview": found, "problem": None, "environment": environment, "flow": nothing, "now": now}
    return len(template.render(**shown, nonce="n", airflow="", prefix="/ml-platform"))


def measured(url: str, models: int, rounds: int) -> str:
    queries = 0

    def count(*_: Any) -> None:
        nonlocal queries
        queries += 1

    reading, drawing, size = [], [], 0
    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    for _ in range(rounds):
        began = time.perf_counter()
        found = overview.overview(params(models), url)
        read = time.perf_counter()
        size = render(found)
        reading.append(read - began)
        drawing.append(time.perf_counter() - read)
    sa.event.remove(sa.Engine, "before_cursor_execute", count)
    return (
        f"{models:>3} models: {queries // rounds} queries, {statistics.median(reading):.3f} s read,"
        f" {statistics.median(drawing):.3f} s drawn, {size / 1024:.0f} kB"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", type=int, default=50)
    arguments.add_argument("--days", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlops-page-") as folder, running_ledger(Path(folder) / "pg") as place:
        fill(place.engine, Path(folder) / "served", given.models, given.days)
        for models in (2, given.models):
            print(measured(place.url, models, given.rounds))


if __name__ == "__main__":
    main()
