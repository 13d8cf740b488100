"""What the prediction log counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from include.serving.metrics.prometheus import Define, counter, gauge

METRICS: Mapping[str, Define] = {
    "backlog_rows": gauge(
        "mlops_prediction_log_backlog_rows", "Rows on local disk that PostgreSQL does not have yet.", mode="livesum"
    ),
    "backlog_bytes": gauge("mlops_prediction_log_backlog_bytes", "Their bytes.", mode="livesum"),
    "oldest": gauge("mlops_prediction_log_oldest_seconds", "Age of the oldest of them.", mode="livemax"),
    "full": gauge("mlops_prediction_log_full", "1 while nothing can be written to local disk.", mode="livemax"),
    "dropped": counter("mlops_prediction_log_dropped_rows", "Rows that were answered and could not be written down."),
    "refused": counter(
        "mlops_prediction_log_refused_rows", "Rows that were not answered because they could not be written down."
    ),
    "drained": counter("mlops_prediction_log_drained_rows", "Rows copied to PostgreSQL."),
    "rejected": counter(
        "mlops_prediction_log_rejected_rows", "Rows that PostgreSQL refused; they are kept beside the spool."
    ),
    "syncs": counter("mlops_prediction_log_syncs", "Writes to local disk, each of one group of rows."),
}
"""The attributes of `LogMetrics`."""


class LogMetrics:
    """What the prediction log counts, for Prometheus; of all workers together."""

    backlog_rows: Gauge
    backlog_bytes: Gauge
    oldest: Gauge
    full: Gauge
    dropped: Counter
    refused: Counter
    drained: Counter
    rejected: Counter
    syncs: Counter

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        for attribute, define in METRICS.items():
            setattr(self, attribute, define(registry))
