"""Counting on the hot path, and telling it once a second: nothing is lost, nothing waits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from include.serving.control.ledger_reader import LedgerReader
from include.serving.metrics import counters
from include.serving.metrics import reporter as reporting
from include.serving.metrics.counters import LATENCY_MS, ArmCounters, Recent, Watch, p99_ms
from include.serving.metrics.prometheus import CountedHistogram, Metrics
from include.serving.metrics.reporter import Reporter
from tests.conftest import ROOT
from tests.waiting import until


def test_answers_failures_and_rows_are_counted_once() -> None:
    tally = ArmCounters("trips", "champion", 1)
    tally.answered(3, 0.0004)
    tally.answered(1, 7.0)
    tally.failed(2)
    tally.predicted(np.zeros(5))
    window = tally.take()
    assert (window.requests, window.errors, window.rows, window.seconds) == (6, 2, 5, pytest.approx(7.0012))
    assert window.latencies_ms == [3, *[0] * 11, 1]
    assert tally.take().requests == 0


@pytest.mark.parametrize(("ms", "bucket"), [(0.1, 0), (0.9, 0), (1.0, 0), (1.01, 1), (2.0, 1), (5000, 11), (5001, 12)])
def test_a_latency_belongs_to_the_first_bucket_that_is_not_below_it(ms: float, bucket: int) -> None:
    tally = ArmCounters("trips", "champion", 1)
    tally.answered(1, ms / 1000)
    assert tally.take().latencies_ms == [int(n == bucket) for n in range(len(LATENCY_MS) + 1)]


def test_predictions_are_counted_in_bins_only_while_somebody_watches() -> None:
    tally = ArmCounters("trips", "champion", 1)
    tally.predicted(np.array([1.0, 2.0]))
    tally.watch(Watch(((7, "champion"),), (1.0, 2.0)))
    tally.predicted(np.array([0.5, 1.0, 1.5, 2.0, 99.0]))
    window = tally.take()
    assert (window.rows, window.predictions()) == (7, [1, 2, 2])
    tally.predicted(np.array([0.0]))
    tally.watch(None)
    assert tally.take().predictions() == []


def test_of_probabilities_the_last_class_is_counted() -> None:
    tally = ArmCounters("churn", "champion", 1)
    tally.watch(Watch(((7, "champion"),), (0.5,)))
    tally.predicted(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]))
    assert tally.take().predictions() == [1, 2]


def test_many_turns_keep_few_arrays_and_all_counts() -> None:
    tally = ArmCounters("trips", "champion", 1)
    tally.watch(Watch(((7, "champion"),), (0.5,)))
    for n in range(5000):
        tally.predicted(np.array([float(n % 2)]))
    window = tally.take()
    assert len(window.arrays) < 512
    assert window.predictions() == [2500, 2500]


def test_nothing_is_lost_while_another_thread_takes() -> None:
    tally = ArmCounters("trips", "champion", 1)
    stop, windows = threading.Event(), []

    def take() -> None:
        while not stop.is_set():
            windows.append(tally.take())

    thread = threading.Thread(target=take)
    thread.start()
    for _ in range(50_000):
        tally.answered(2, 0.001)
        tally.failed(1)
    stop.set()
    thread.join()
    windows.append(tally.take())
    assert sum(window.errors for window in windows) == 50_000
    assert sum(window.requests for window in windows) == 150_000


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ([0] * 13, 0.0),
        ([100, *[0] * 12], 0.99),
        ([99, 1, *[0] * 11], 1.0),
        ([98, 0, 2, *[0] * 10], 3.5),
        ([*[0] * 12, 1], math.inf),
    ],
)
def test_the_p99_lies_within_its_bucket(latencies: list[int], expected: float) -> None:
    assert p99_ms(latencies) == pytest.approx(expected)


def test_a_recent_window_forgets() -> None:
    recent = Recent(seconds=10)
    for second in range(30):
        tally = ArmCounters("trips", "canary", 2)
        tally.answered(5, 0.001 if second < 15 else 0.3)
        tally.failed(1)
        recent.add(tally.take(), now=float(second))
    assert (recent.requests, recent.errors) == (60, 10)
    assert recent.latencies == [0, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 0]
    recent.add(ArmCounters("trips", "canary", 2).take(), now=100.0)
    assert (recent.requests, recent.errors, sum(recent.latencies)) == (0, 0, 0)


# ----------------------------------------------------------------------------------------------- Prometheus


def test_counts_added_at_once_are_those_observed_one_by_one() -> None:
    """Fails loudly should prometheus_client keep its values in another way."""
    registry = CollectorRegistry()
    observed, added = (
        CountedHistogram(name, "", ["arm"], buckets=counters.BUCKETS_SECONDS, registry=registry).labels("champion")
        for name in ("observed", "added")
    )
    tally = ArmCounters("trips", "champion", 1)
    for seconds in (0.0001, 0.00025, 0.0003, 0.02, 0.02, 9.0):
        observed.observe(seconds)
        tally.answered(1, seconds)
    window = tally.take()
    added.add(window.latencies, window.seconds)
    one_by_one, at_once = (
        {(s.name.removeprefix(metric.name), s.labels.get("le")): s.value for s in metric.samples}
        for metric in registry.collect()
    )
    for key in one_by_one.keys() - {("_created", None)}:
        assert at_once[key] == pytest.approx(one_by_one[key])
    assert len(at_once) == len(one_by_one) > 16


def test_the_reporter_tells_prometheus_each_second() -> None:
    registry = CollectorRegistry()
    reporter = Reporter(Metrics(registry), lambda tally: None, seconds=0.05)
    tally = ArmCounters("trips", "canary", 2)
    reporter.follow([tally])
    reporter.start()
    tally.answered(3, 0.0004)
    tally.failed(1)
    tally.predicted(np.zeros(4))
    labels = {"model": "trips", "arm": "canary"}
    until(lambda: registry.get_sample_value("mlops_serving_requests_total", labels) == 3)
    reporter.follow([])
    tally.answered(1, 0.0004)  # a request that was under way when the arm was replaced
    reporter.stop()
    assert registry.get_sample_value("mlops_serving_requests_total", labels) == 4
    assert registry.get_sample_value("mlops_serving_errors_total", labels) == 1
    assert registry.get_sample_value("mlops_serving_rows_total", labels) == 4
    assert registry.get_sample_value("mlops_serving_seconds_count", labels) == 4
    assert registry.get_sample_value("mlops_serving_seconds_sum", labels) == pytest.approx(0.0016)
    assert registry.get_sample_value("mlops_serving_seconds_bucket", {**labels, "le": "0.0005"}) == 4
    assert tally.brief == {"requests": 5, "errors": 1, "p99_ms": 0.99}


WORKER = """
import numpy as np, sys
from include.serving.metrics.prometheus import Metrics
from include.serving.metrics.counters import ArmCounters
from include.serving.metrics.reporter import Reporter
reporter = Reporter(Metrics(), lambda tally: None)
for version in range(int(sys.argv[1])):
    tally = ArmCounters("trips", "champion", version)
    reporter.follow([tally])
    tally.answered(2, 0.003)
    tally.predicted(np.zeros(2))
    reporter.flush()
"""


def test_what_was_answered_with_a_warning_is_counted_by_field() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    tally = ArmCounters("trips", "champion", 3)
    tally.warned({("unknown_category", "vendor"): 2, ("out_of_range", "distance"): 1})
    tally.warned({("unknown_category", "vendor"): 3})
    metrics.count("trips", "champion", tally.take())
    metrics.count("trips", "champion", tally.take())
    labels = {"model": "trips", "arm": "champion", "field": "vendor", "code": "unknown_category"}
    assert registry.get_sample_value("mlops_serving_unusual_values_total", labels) == 5
    labels |= {"field": "distance", "code": "out_of_range"}
    assert registry.get_sample_value("mlops_serving_unusual_values_total", labels) == 1


def test_several_workers_are_summed_and_versions_leave_nothing_behind(tmp_path: Path) -> None:
    """In prometheus_client's multiprocess mode, in which no label can be taken away again."""
    from prometheus_client import generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for versions in ("1", "3"):
        subprocess.run([sys.executable, "-c", WORKER, versions], env=environment, cwd=ROOT, check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    text = generate_latest(registry).decode()
    of_arm = '{arm="champion",model="trips"}'
    assert f"mlops_serving_requests_total{of_arm} 8.0" in text
    assert f"mlops_serving_rows_total{of_arm} 8.0" in text
    assert 'mlops_serving_seconds_bucket{arm="champion",le="0.002",model="trips"} 0.0' in text
    assert 'mlops_serving_seconds_bucket{arm="champion",le="0.005",model="trips"} 8.0' in text
    assert f"mlops_serving_seconds_count{of_arm} 8.0" in text
    assert text.count("mlops_serving_requests_total{") == 1


# ----------------------------------------------------------------------------------------------- arm_windows


def watched(reporter: Reporter, *reports: tuple[int, str]) -> ArmCounters:
    tally = ArmCounters("trips", "champion", 3)
    tally.watch(Watch(reports, (0.5,)))
    reporter.follow([tally])
    return tally


def test_each_second_of_a_watched_arm_becomes_a_row_per_rollout(database_url: str) -> None:
    reporter, ledger = Reporter(Metrics(CollectorRegistry()), lambda tally: None), LedgerReader(database_url)
    tally = watched(reporter, (7, "champion"), (8, "a"))
    tally.answered(4, 0.003)
    tally.failed(1)
    tally.predicted(np.array([0.0, 1.0, 1.0]))
    reporter.flush()
    reporter.flush()  # nothing happened in between
    rows = reporter.pending(ledger.read().clock)
    ledger.report(rows)
    ledger.report(rows)  # whoever did not hear that they were written says them again
    reporter.written(rows)
    assert reporter.pending(0.0) == []
    found = select(database_url, "select * from arm_windows order by rollout_id")
    assert [(r["rollout_id"], r["arm"], r["version"], r["requests"], r["errors"]) for r in found] == [
        (7, "champion", 3, 5, 1),
        (8, "a", 3, 5, 1),
    ]
    assert found[0]["latencies"] == [0, 0, 4, *[0] * 10]
    assert found[0]["predictions"] == [1, 2]
    assert found[0]["worker"].endswith(f":{os.getpid()}")
    [age] = select(database_url, "select extract(epoch from now() - max(second))::float8 as seconds from arm_windows")
    assert -1 < age["seconds"] < 10
    ledger.close()


def test_two_windows_that_end_in_one_second_are_both_kept() -> None:
    reporter = Reporter(Metrics(CollectorRegistry()), lambda tally: None)
    tally = watched(reporter, (7, "champion"))
    for _ in range(3):
        tally.answered(1, 0.001)
        reporter.flush()
    rows = reporter.pending(1000.0)
    assert len({row[4] for row in rows}) == 3
    reporter.written(rows)
    tally.answered(1, 0.001)
    reporter.flush()
    [late] = reporter.pending(1000.0)
    assert late[4] == max(row[4] for row in rows) + 1


def test_rows_that_postgresql_is_not_told_of_are_given_up_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    reporter = Reporter(Metrics(registry), lambda tally: None)
    tally = watched(reporter, (7, "champion"))
    monkeypatch.setattr(reporting, "RETAINED_SECONDS", 0.2)
    for _ in range(5):
        tally.answered(1, 0.001)
        reporter.flush()
    assert len(reporter.pending(0.0)) == 5
    time.sleep(0.3)
    reporter.flush()
    assert reporter.pending(0.0) == []
    assert registry.get_sample_value("mlops_serving_arm_windows_lost_total") == 5


def test_each_minute_of_an_arm_becomes_a_row_without_a_rollout_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    reporter, ledger = Reporter(Metrics(CollectorRegistry()), lambda tally: None), LedgerReader(database_url)
    clock = 1_800_000_000.0 - now[0]  # the database's, at the beginning of a minute
    reporter.minutes(clock)
    tally = ArmCounters("trips", "champion", 3)
    reporter.follow([tally])
    for passed in (10, 59, 61):
        now[0] = 1_000.0 + passed
        tally.answered(2, 0.003)
        tally.failed(1)
        tally.predicted(np.zeros(4))
        reporter.flush()
    assert reporter.minutes(clock) == []  # the first minute may still get a window
    now[0] += reporting.LATE_SECONDS
    rows = reporter.minutes(clock)
    ledger.report_minutes(rows)
    ledger.report_minutes(rows)  # whoever did not hear that they were written says them again
    reporter.minutes_written(rows)
    assert reporter.minutes(clock) == []
    reporter.stop()
    rest = reporter.minutes(clock)  # at the end the last one as far as it has come
    ledger.report_minutes(rest)
    found = select(
        database_url, "select *, extract(epoch from minute)::bigint as began from service_minutes order by minute"
    )
    assert [(r["model"], r["arm"], r["version"], r["began"]) for r in found] == [
        ("trips", "champion", 3, 1_800_000_000),
        ("trips", "champion", 3, 1_800_000_060),
    ]
    assert [(r["requests"], r["errors"], r["rows"]) for r in found] == [(6, 2, 8), (3, 1, 4)]
    assert found[0]["seconds"] == pytest.approx(0.012)
    assert found[0]["latencies"] == [0, 0, 4, *[0] * 10]
    assert found[0]["worker"].endswith(f":{os.getpid()}")
    ledger.close()


def test_minutes_wait_for_postgresql_in_bounded_memory_and_a_database_without_the_table_keeps_none(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "RETAINED_MINUTES", 3)
    registry = CollectorRegistry()
    reporter, ledger = Reporter(Metrics(registry), lambda tally: None), LedgerReader(database_url)
    for version in range(5):
        tally = ArmCounters("trips", "champion", version)
        reporter.follow([tally])
        tally.answered(1, 0.001)
        reporter.flush()
    reporter.stop()
    rows = reporter.minutes(0.0)
    assert [row[3] for row in rows] == [2, 3, 4]
    assert registry.get_sample_value("mlops_serving_arm_windows_lost_total") == 2
    import sqlalchemy as sa

    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("drop table service_minutes"))
    engine.dispose()
    ledger.report_minutes(rows)
    assert ledger.read().clock
    ledger.close()


def select(database_url: str, query: str) -> list[dict[str, Any]]:
    import sqlalchemy as sa

    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.text(query))]
    engine.dispose()
    return rows
