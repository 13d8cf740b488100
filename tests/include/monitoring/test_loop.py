"""The loop on versions that the real training made: judged, promoted, watched, and asked to be replaced."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from include import database, storage
from include.deployment import gate, ledger, packaging
from include.monitoring.check import check
from include.training import tracking
from tests.include.training.conftest import Laboratory, entry_for, rides

NOW = dt.datetime(2024, 3, 1, 3, 30, tzinfo=dt.UTC)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_trained_version_is_judged_promoted_watched_and_asked_to_be_replaced(
    task, tmp_path, database_url, optuna_url, mlflow_url
):
    laboratory = Laboratory(tmp_path, database_url, optuna_url, mlflow_url)
    entry, engine, data_url = entry_for(task), database.connect(database_url), str(tmp_path / "data")
    where = {"database_url": database_url, "mlflow_url": mlflow_url}

    def train(key):
        prepared = laboratory.materialize(entry, rides(800, task), key, trials=2)
        laboratory.tune(entry, prepared)
        return laboratory.register(laboratory.fit(entry, prepared)).version

    def publish(key, table):
        stored = storage.write_table(f"{data_url}/validated/rides/{key}.parquet", table)
        row = {"source": "rides", "key": key, "status": "published", "sha256": stored.sha256, "rows": table.num_rows}
        row |= {"quarantined_rows": 0, "quality": 1.0, "report": {}, "run_id": "r"}
        with engine.begin() as connection:
            connection.execute(sa.insert(database.partitions).values(**row))
        return stored.sha256

    first = gate.judge(laboratory.model, train("first"), entry=entry, **where)
    assert (first.verdict, first.champion_version) == ("PROMOTE", None), first.reasons
    form = tracking.download(
        laboratory.model, first.version, tmp_path / "form", mlflow_url=mlflow_url, database_url=database_url
    )
    value = form.json("profile.json")["metric"]["value"]
    assert first.numbers["candidate"] == pytest.approx(value), "the gate finds what training said"
    ledger.promote(
        engine, model=laboratory.model, to_version=first.version, expected_from=None, content_hash=first.content_hash,
        url=packaging.publish(form, model=laboratory.model, data_url=data_url), bento="b", verdict_id=first.id,
        actor="test", reason="first",
    )  # fmt: skip

    same = gate.judge(laboratory.model, train("same"), entry=entry, **where)
    assert (same.verdict, same.champion_version) == ("HOLD", first.version), "no better on the same rows: a tie"
    assert same.numbers["seen_by_champion"] == 0

    inputs = {"2024-01-01": publish("2024-01-01", rides(800, task))}
    row = {"model": laboratory.model, "version": "f" * 32, "dvc_lock": "", "inputs": inputs, "rows": 800}
    with engine.begin() as connection:
        connection.execute(sa.insert(database.feature_versions).values(**row))
    watch = {"time_column": "at", "data_url": data_url, **where}
    publish("2024-02-03", rides(2000, task, seed=2))
    usual = check(laboratory.model, entry, now=NOW, **watch)
    usual.require_report()
    assert [f for f in usual.findings if f["kind"] == "drift" and f["level"] != "ok"] == []
    assert any(f["kind"] == "performance" and f["value"] is not None for f in usual.findings)

    far = rides(2000, task, seed=3)
    far = far.set_column(1, "distance", pc.multiply(far["distance"], pa.scalar(5.0)))
    publish("2024-02-04", far)
    found = check(laboratory.model, entry, now=NOW + dt.timedelta(days=1), **watch)
    assert (found.status, found.requested) == ("critical", True)
    assert "distance: PSI" in found.reason
    engine.dispose()
