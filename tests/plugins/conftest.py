"""A real API server with the plugin, and a platform with a champion to show."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from include import database, storage
from include.deployment import rollouts
from include.monitoring import measures
from include.monitoring.decision import Finding
from tests.conftest import new_database
from tests.dags import airflow_home
from tests.dags.conftest import airflow_template, driver  # noqa: F401
from tests.include.deployment import trials

PARAMS = """
sources:
  trips: {type: sample, dataset: taxi_trips, rows_per_day: 100}
  cells: {type: sample, dataset: breast_cancer}
models:
  trip_duration:
    {source: trips, target: duration_minutes, task: regression, metric: mae, description: "Minutes, not <b>hours</b>."}
  tumour: {source: cells, target: diagnosis, task: binary}
"""


def fill(database_url: str, data: Path) -> None:
    """A champion, its verdict, a check that found drift, and a month of partitions with a bad day among them."""
    served = data / "served" / "trip_duration" / "abc"
    manifest = {
        "run_id": "5d1e", "estimator": "xgboost", "feature_version": "9f2c77aa01b2c3", "metric": "mae",
        "metrics": {"mae": 2.871, "rmse": 4.52, "r2": 0.812}, "baseline": {"mae": 4.35},
    }  # fmt: skip
    storage.write_bytes(str(served / "manifest.json"), json.dumps(manifest).encode())
    storage.write_bytes(str(data / "docs" / "trips" / "index.html"), b"<h1>Data docs of trips</h1>")
    storage.write_bytes(str(data / "reports" / "trip_duration" / "r1.html"), b"<h1>Drift report</h1>")
    storage.write_bytes(str(data / "validated" / "trips" / "2026-03-01.parquet"), b"rows")
    engine = database.connect(database_url)
    with engine.begin() as connection:
        for day in range(1, 31):
            bad = day == 17
            connection.execute(
                sa.insert(database.partitions).values(
                    source="trips", key=f"2026-03-{day:02}",
                    status="quarantined" if bad else "published", sha256="0" * 64,
                    rows=0 if bad else 1940 + day, quarantined_rows=2000 if bad else 20 + day % 5,
                    quality=0.62 if bad else 0.985 + 0.001 * (day % 9), report={}, run_id="manual__1",
                )
            )  # fmt: skip
        verdict = connection.execute(
            sa.insert(database.verdicts)
            .values(
                model="trip_duration", version=7, verdict="PROMOTE", champion_version=None, content_hash="abc",
                reasons=["mae 2.871 is 34 % better than the baseline's 4.35"],
                numbers={"baseline": 4.35, "candidate": 2.871},
            )
            .returning(database.verdicts.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(
            sa.insert(database.verdicts).values(
                model="trip_duration", version=8, verdict="HOLD", champion_version=7, content_hash="def",
                reasons=["<script>alert(1)</script> mae 2.905 is not better than the champion's 2.871"], numbers={},
            )
        )  # fmt: skip
        content = {"model": "trip_duration", "content_hash": "abc", "url": str(served), "bento": "prediction:abc"}
        entry = connection.execute(
            sa.insert(database.ledger)
            .values(
                **content, action="promote", to_version=7, verdict_id=verdict,
                actor="deploy_trip_duration", reason="first model",
            )
            .returning(database.ledger.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(sa.insert(database.champions).values(**content, version=7, ledger_id=entry))
        connection.execute(
            sa.insert(database.monitor_results).values(
                model="trip_duration", version=7, window=["2026-03-30"],
                status="critical", reason="trip_distance: PSI 0.31",
                findings=[
                    {"kind": "performance", "level": "critical", "message": "mae: 4 on 300 new rows, 2.9 at training"},
                    {"kind": "drift", "level": "warn", "message": "trip_distance: PSI 0.31 (critical above 0.2)"},
                ],
                report_url=str(data / "reports" / "trip_duration" / "r1.html"),
            )
        )  # fmt: skip
        for column, *types in (
            ("passenger_count", ("int", "2026-03-01"), ("float", "2026-03-05"), ("string", "2026-03-12")),
            ("store_and_fwd_flag", ("bool", "2026-03-01"), ("string", "2026-03-19")),
            ("fare_amount", ("float", "2026-03-01")),
        ):
            before = [None, *(kind for kind, _ in types)]
            connection.execute(
                sa.insert(database.source_schemas).values(
                    source="trips", column=column, type=types[-1][0],
                    since=dt.datetime.fromisoformat(f"{types[-1][1]}T02:01:00Z") + dt.timedelta(1),
                    history=[
                        {"type": kind, "from": earlier, "partition": key}
                        for (kind, key), earlier in zip(types, before, strict=False)
                    ],
                )
            )  # fmt: skip
        for event, seen in (("part_died", None), ("part_flaps", dt.datetime.now(dt.UTC))):
            connection.execute(
                sa.insert(database.alerts).values(
                    id=uuid.uuid4().hex, at=dt.datetime.now(dt.UTC), event=event, details={}, acknowledged_at=seen,
                    message=f"{event} <img src=x> of the prediction service",
                )
            )  # fmt: skip
        for day in range(1, 9):
            result = {"version": 7, "window": [], "status": "ok", "reason": "", "findings": []}
            at = dt.datetime(2026, 3, day, tzinfo=dt.UTC)
            result_id = connection.execute(
                sa.insert(database.monitor_results)
                .values(model="a retired one", **result)
                .returning(database.monitor_results.c.id)
            ).scalar_one()
            finding = Finding("performance", "mae", "ok", "", 0.1, 0.2, metric=2.8 + day / 20, rows=300)
            measures.replace(connection, result_id, "trip_duration", 7, at, [finding.as_json()])
    engine.dispose()


@pytest.fixture(scope="session")
def server(
    postgres_url: str,
    template_database: str,
    airflow_template: str,  # noqa: F811
    driver: airflow_home.Driver,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[airflow_home.Server]:
    """Airflow's API server with the plugin; MLflow and the service are not running."""
    folder, platform = tmp_path_factory.mktemp("page"), new_database(postgres_url, template_database)
    (folder / "params.yaml").write_text(PARAMS)
    fill(platform, folder / "var" / "data")
    engine = database.connect(platform)
    canary = trials.start(engine, 9, model="trip_duration", against=7, steps=(1, 5))
    rollouts.step(engine, canary, actor="<i>ann</i>", reason="1% went well", evidence={})
    engine.dispose()
    airflow = new_database(postgres_url, airflow_template)
    driver.run(airflow_home.foreign() | airflow_home.configuration(folder, airflow), folder, {"execute": ASK})
    with airflow_home.api_server(folder, airflow, platform) as found:
        yield found


ASK = """
import datetime as dt, sys, uuid
import sqlalchemy as sa
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session

now = dt.datetime.now(dt.UTC)
with create_session() as session:
    def add(model, **values):
        session.execute(sa.insert(model.__table__).values(**values))

    add(DagBundleModel, name="b", active=True)
    for name, paused in (("deploy_trip_duration", False), ("train_tumour", True)):
        add(DagModel, dag_id=name, is_paused=paused, is_stale=False, bundle_name="b", max_active_tasks=1,
            max_consecutive_failed_dag_runs=0, has_task_concurrency_limits=False)
    for run, subject, answered in (("r+1", "Promote trip_duration v8?", None), ("r+2", "Somebody answered that", now)):
        of, key = {"dag_id": "deploy_trip_duration", "run_id": run}, uuid.uuid4()
        add(DagRun, **of, run_type="manual", state="running", run_after=now)
        add(TaskInstance, **of, id=key, task_id="approve", map_index=-1, state="awaiting_input", pool="default_pool")
        add(HITLDetail, ti_id=key, options=["Approve", "Reject"], subject=subject, params={}, responded_at=answered)
"""
"""Two DAGs, one of them paused, and a question that waits for a person, with one that was answered."""
