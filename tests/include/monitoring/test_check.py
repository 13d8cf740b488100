from __future__ import annotations

import datetime as dt
import gzip
import json
import threading
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from include import database, storage
from include.deployment import ledger
from include.features.columns import to_arrow
from include.inference import served_form
from include.monitoring import check as monitoring
from include.monitoring import measures, report, requests
from include.monitoring.collection import MissingColumn
from include.settings import Features
from tests.include.deployment import exhibits

pytestmark = pytest.mark.slow

NOW = dt.datetime(2024, 3, 1, 3, 30, tzinfo=dt.UTC)
NO_MLFLOW = "http://127.0.0.1:9"


class Place:
    """A champion that was trained on twenty days of twenty rows, whose files and partitions are real."""

    def __init__(self, folder, database_url):
        self.folder, self.database_url, self.data_url = folder, database_url, str(folder / "data")
        self.engine = database.connect(database_url)
        self.model = f"m{uuid.uuid4().hex[:8]}"
        self.mlflow_url = NO_MLFLOW

    def entry(self, **rules):
        return exhibits.entry(monitoring={"minimum_rows": 20, "window": 5, **rules})

    def publish(self, table, key):
        stored = storage.write_table(f"{self.data_url}/validated/s/{key}.parquet", table)
        row = {"source": "s", "key": key, "status": "published", "sha256": stored.sha256, "rows": table.num_rows}
        row |= {"quarantined_rows": 0, "quality": 1.0, "report": {}, "run_id": "r"}
        with self.engine.begin() as connection:
            connection.execute(sa.delete(database.partitions).where(database.partitions.c.key == key))
            connection.execute(sa.insert(database.partitions).values(**row))
        return stored.sha256

    def day(self, number, *, x=lambda x: x, y=lambda y: y, rows=20, drop=(), add=None):
        day = (dt.date(2024, 1, 1) + dt.timedelta(days=number)).isoformat()
        columns = exhibits.rows(rows, seed=100 + number, first_day=day, per_day=rows)
        columns["x"], columns["y"] = x(columns["x"]), y(columns["y"])
        table = to_arrow(columns).drop_columns(list(drop))
        return self.publish(table.append_column("new", pa.array([1] * rows)) if add else table, day)

    def champion(self, version=1, *, days=20, slope=3.0, **options):
        inputs = {}
        for number in range(days):
            sha256 = self.day(number)
            inputs[(dt.date(2024, 1, 1) + dt.timedelta(days=number)).isoformat()] = sha256
        row = {"model": self.model, "version": "f1", "dvc_lock": "", "inputs": inputs, "rows": 400}
        exhibit = exhibits.craft(
            self.folder / f"v{version}",
            exhibits.rows(),
            slope=slope,
            model=self.model,
            held=np.arange(400) % 5 == 0,
            **options,
        )
        url = f"{self.data_url}/served/{self.model}/{exhibit.form.content_hash}"
        storage.upload(exhibit.form.directory, url)
        given = {
            "model": self.model,
            "version": version,
            "verdict": "PROMOTE",
            "content_hash": exhibit.form.content_hash,
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(database.feature_versions).values(**row))
            verdict_id = connection.execute(
                sa.insert(database.verdicts).values(**given, reasons=[], numbers={}).returning(database.verdicts.c.id)
            ).scalar_one()
        return ledger.promote(
            self.engine, model=self.model, to_version=version, expected_from=None, url=url, bento="b",
            content_hash=exhibit.form.content_hash, verdict_id=verdict_id, actor="t", reason="r",
        )  # fmt: skip

    def check(self, *, now=NOW, run_key=None, **rules):
        return monitoring.check(
            self.model, self.entry(**rules), time_column="at", database_url=self.database_url, data_url=self.data_url,
            mlflow_url=self.mlflow_url, now=now, run_key=run_key,
        )  # fmt: skip

    def rows(self, table):
        with self.engine.connect() as connection:
            return connection.execute(sa.select(table).order_by(table.c.id)).all()


@pytest.fixture
def place(tmp_path, database_url):
    place = Place(tmp_path, database_url)
    yield place
    place.engine.dispose()


def test_before_the_first_champion_there_is_nothing_to_compare_with(place):
    checked = place.check()
    assert (checked.status, checked.requested) == ("no_champion", False)
    assert "no champion yet" in checked.reason
    assert place.rows(database.monitor_results) == []


def test_days_like_those_of_the_training_are_ok(place):
    place.champion()
    for number in range(20, 25):
        place.day(number)
    checked = place.check()
    assert (checked.status, checked.requested, checked.rows) == ("ok", False, 100)
    assert checked.window == [f"2024-01-{day}" for day in (21, 22, 23, 24, 25)]
    (stored,) = place.rows(database.monitor_results)
    assert (stored.status, stored.window, stored.reason) == ("ok", checked.window, "nothing critical")
    assert checked.report_url is not None
    assert stored.report_url == checked.report_url
    assert {f["subject"] for f in checked.findings} == {"x", "mae", "prediction"}
    assert place.rows(database.retraining_requests) == []


def test_every_figure_is_kept_also_of_a_quiet_check(place):
    place.champion()
    for number in range(20, 25):
        place.day(number)
    place.check(run_key="r1")
    place.check(run_key="r1", now=NOW + dt.timedelta(hours=1))  # a retry replaces its own
    found = {(m.kind, m.subject): m for m in measures.history(place.engine, place.model)}
    assert set(found) == {("psi", "x"), ("psi", "prediction"), ("metric", "mae"), ("worsening", "mae")}
    assert len(measures.history(place.engine, place.model)) == 4
    assert found["psi", "x"].value >= 0
    assert found["psi", "x"].threshold == 0.1
    assert (found["metric", "mae"].rows, found["metric", "mae"].version) == (100, 1)
    (mae,) = [f for f in place.check().findings if f["kind"] == "performance"]
    assert found["metric", "mae"].value == pytest.approx(mae["metric"])
    later = NOW + dt.timedelta(days=1)
    place.check(run_key="r2", now=later)
    assert [m.at for m in measures.history(place.engine, place.model, kind="metric", since=later)] == [later]


def test_a_shift_of_the_inputs_asks_for_retraining(place):
    place.champion()
    for number in range(20, 25):
        place.day(number, x=lambda x: x + 6, y=lambda y: y + 18)
    checked = place.check()
    assert (checked.status, checked.requested) == ("critical", True)
    assert checked.reason.startswith("x: PSI ")
    (request,) = place.rows(database.retraining_requests)
    assert request.reason == checked.reason
    assert request.evidence["window"] == checked.window


def test_the_declared_measure_of_drift_is_judged_stored_and_shown(place):
    place.champion()
    for number in range(20, 25):
        place.day(number, x=lambda x: x + 6, y=lambda y: y + 18)
    checked = place.check(drift={"measure": "jensen_shannon"})
    assert checked.requested
    assert checked.reason.startswith("x: Jensen-Shannon distance ")
    found = {(m.kind, m.subject): m for m in measures.history(place.engine, place.model)}
    assert set(found) == {
        ("jensen_shannon", "x"), ("jensen_shannon", "prediction"), ("metric", "mae"), ("worsening", "mae"),
    }  # fmt: skip
    assert 0.19 < found["jensen_shannon", "x"].value <= 1
    assert found["jensen_shannon", "x"].threshold == 0.19
    page = gzip.decompress(storage.read_bytes(checked.report_url))
    assert b"Jensen-Shannon distance over the bins pinned at training" in page


def test_lost_performance_asks_for_retraining_where_the_outcome_is_there(place):
    place.champion()
    for number in range(20, 25):
        place.day(number, y=lambda y: y * 1.3)
    checked = place.check()
    assert checked.requested
    assert checked.reason.startswith("mae: ")
    assert "worse" in checked.reason


def test_a_source_that_brings_no_outcome_is_judged_by_drift_alone(place):
    place.champion()
    for number in range(20, 25):
        place.day(number, drop=["y"])
    checked = place.check()
    assert checked.status == "ok"
    assert "mae: not measured, the source brings no 'y'" in [f["message"] for f in checked.findings]


def test_too_few_rows_are_insufficient_data_and_never_no_drift(place):
    """Promise 43 and invariant I6."""
    place.champion()
    place.day(20, rows=5, x=lambda x: x + 100)
    checked = place.check(window=1)
    assert (checked.status, checked.requested) == ("insufficient_data", False)
    assert "5 rows < 20 in the newest 1 partitions; drift is unknown" in checked.reason
    assert [r.status for r in place.rows(database.monitor_results)] == ["insufficient_data"]


def test_an_empty_column_is_told_and_the_report_leaves_it_out(place):
    """Promise 43."""
    place.champion()
    for number in range(20, 25):
        place.day(number, x=lambda x: np.full(len(x), np.nan))
    checked = place.check()
    assert checked.status == "critical"
    assert "x: PSI" in checked.reason
    assert "all values are missing" in checked.reason


def test_a_new_column_changes_nothing(place):
    """Promise 43."""
    place.champion()
    for number in range(20, 25):
        place.day(number, add=True)
    assert place.check().status == "ok"


def test_a_column_that_is_gone_makes_the_check_red(place):
    """Promise 43: what cannot be compared is not "no drift"."""
    place.champion()
    place.day(20, drop=["x"])
    with pytest.raises(MissingColumn, match="s 2024-01-21 has no column 'x', which the champion needs"):
        place.check()
    assert place.rows(database.monitor_results) == []


def test_a_champion_whose_files_are_corrupt_makes_the_check_red(place):
    """Invariant I6."""
    entry = place.champion()
    storage.write_bytes(f"{entry.url}/profile.json", b"{}")
    with pytest.raises(served_form.BadServedForm, match=r"profile.json is corrupt"):
        place.check()


def test_a_partition_that_was_changed_makes_the_check_red(place):
    """Promise 8, here too."""
    place.champion()
    storage.write_bytes(f"{place.data_url}/validated/s/2024-01-20.parquet", b"swapped")
    with pytest.raises(storage.ChangedFile):
        place.check()


def test_the_report_is_written_and_names_what_it_leaves_out(place):
    place.champion(features=Features(columns=("x", "zone"), one_hot=("zone",)))
    for number in range(20, 25):
        place.day(number, x=lambda x: np.full(len(x), np.nan))
    checked = place.check()
    folder = checked.report_url.rpartition("/")[0]
    assert storage.list_files(folder) == ["drift.png", "evidently.html.gz", "findings.json"]
    summary = json.loads(storage.read_bytes(f"{folder}/findings.json"))
    assert summary["status"] == "critical"
    assert summary["evidently"]["left_out"] == ["x: all values are missing"]
    page = storage.read_bytes(checked.report_url)
    assert b"PSI over the bins pinned at training" in gzip.decompress(page)
    assert len(page) < 0.4 * len(gzip.decompress(page))


def test_a_check_that_finds_the_same_shows_the_report_that_is_there(place):
    """Twice a night, after the features and by the clock, it looks at the same partitions."""
    place.champion()
    place.day(20)
    first, again = place.check(), place.check(now=NOW + dt.timedelta(hours=1))
    assert again.report_url == first.report_url
    assert len(storage.list_files(f"{place.data_url}/reports")) == 3
    place.day(21)
    assert place.check(now=NOW + dt.timedelta(hours=2)).report_url != first.report_url
    assert len(place.rows(database.monitor_results)) == 3


def test_reports_have_a_lifetime_and_the_newest_and_every_figure_stay(place):
    place.champion()
    urls = []
    for number in (20, 21, 22):
        place.day(number)
        urls.append(place.check(now=NOW + dt.timedelta(days=number)).report_url)
    today, keep = (NOW + dt.timedelta(days=60)).date(), dict[str, Any](default=30, dry_run=False)
    engine = place.engine
    assert report.retain(engine, {place.model: 45}, today, default=1, dry_run=False) == []
    would = report.retain(engine, {}, today, default=30, dry_run=True)
    assert would == report.retain(engine, {}, today, **keep) == [url.rpartition("/")[0] for url in urls[1::-1]]
    assert [storage.exists(url) for url in urls] == [False, False, True]
    assert [row.report_url for row in place.rows(database.monitor_results)] == [None, None, urls[2]]
    assert report.retain(engine, {}, today + dt.timedelta(days=900), **keep) == []


def test_a_report_that_cannot_be_logged_is_told_and_the_request_still_goes_out(place):
    """Promise 43: red where it crashed; what was found stands."""
    place.champion()
    place.day(20, x=lambda x: x + 60)
    checked = place.check(window=1)
    assert checked.requested
    assert "MLflow at http://127.0.0.1:9 does not answer" in checked.report_problem
    with pytest.raises(monitoring.ReportFailed, match=r"compared \(critical\), but the report failed: MLflowDown"):
        checked.require_report()
    assert [r.status for r in place.rows(database.monitor_results)] == ["critical"]


def test_the_report_becomes_an_artifact_of_the_champions_run(place, mlflow_url):
    import mlflow

    client = mlflow.MlflowClient(mlflow_url, mlflow_url)
    run = client.create_run(client.create_experiment(place.model))
    place.champion(run_id=run.info.run_id)
    place.mlflow_url = mlflow_url
    place.day(20)
    checked = place.check(run_key="scheduled__2024-03-01T03:30:00+00:00")
    checked.require_report()
    (folder,) = client.list_artifacts(run.info.run_id, "monitoring")
    names = {file.path.rpartition("/")[2] for file in client.list_artifacts(run.info.run_id, folder.path)}
    assert names == {"drift.png", "findings.json"}  # the page is in one place
    assert place.check(run_key="scheduled__2024-03-01T03:30:00+00:00").report_url == checked.report_url


# ------------------------------------------------------------------------------------ asking, and not too often


def drifted(place):
    place.champion()
    place.day(20, x=lambda x: x + 60)


def test_a_cooldown_lets_one_request_through(place):
    """Promise 46."""
    drifted(place)
    nights = [place.check(now=NOW, window=1)]
    requests.begin(place.model, place.database_url, run_key="train")
    nights += [place.check(now=NOW + dt.timedelta(hours=hours), window=1) for hours in (1, 19, 21)]
    assert [n.requested for n in nights] == [True, False, False, True]
    assert [n.status for n in nights] == ["critical"] * 4
    assert "cooldown 20 h" in nights[1].reason
    assert len(place.rows(database.retraining_requests)) == 2


def test_a_request_that_never_ran_does_not_keep_another_from_being_made(place):
    """`train_<model>` was paused, and Airflow dropped the event."""
    drifted(place)
    nights = [place.check(now=NOW + dt.timedelta(minutes=minutes), window=1) for minutes in (0, 59, 61)]
    assert [n.requested for n in nights] == [True, False, True]
    assert requests.begin(place.model, place.database_url, run_key="train") == 2
    assert requests.begin(place.model, place.database_url, run_key="train") == 0
    assert not place.check(now=NOW + dt.timedelta(hours=19), window=1).requested


def test_of_a_storm_of_checks_one_asks(place):
    """Promises 44 and 46."""
    drifted(place)
    found, errors = [], []

    def run():
        try:
            found.append(place.check(window=1).requested)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert errors == []
    assert sorted(found) == [False] * 5 + [True]
    assert len(place.rows(database.retraining_requests)) == 1
    assert len(place.rows(database.monitor_results)) == 6


def test_a_retried_task_finds_the_request_it_made(place):
    """Invariant I5, and promise 51: the same run id twice."""
    drifted(place)
    first, again = (place.check(window=1, run_key="manual__1") for _ in range(2))
    assert first.requested
    assert again.requested
    assert again.reason == first.reason
    assert len(place.rows(database.retraining_requests)) == 1
    assert len(place.rows(database.monitor_results)) == 1


def test_a_champion_that_has_learned_from_all_there_is_is_not_trained_again_on_the_same(place):
    place.champion(slope=1.0)
    found = place.check(performance_warn=1e-9, performance_critical=2e-9, window=1)
    assert (found.status, found.requested) == ("critical", False)
    assert "nothing new since training" in found.reason


def test_a_partition_that_was_replaced_since_is_new(place):
    place.champion()
    place.day(19, x=lambda x: x + 60)
    assert place.check(window=1).requested
