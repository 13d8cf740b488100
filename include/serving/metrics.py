"""What the service counts, for Prometheus: created once per process, read by BentoML's /metrics."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The service's own counters and gauges.

    Under `bentoml serve` prometheus_client writes them to the folder named in PROMETHEUS_MULTIPROC_DIR, which was set
    before this process began; the gauges therefore say whose value counts when several processes report.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests = Counter(
            "mlops_serving_requests", "Prediction requests answered.", ["model", "version"], registry=registry
        )
        self.rows = Counter("mlops_serving_rows", "Rows predicted.", ["model", "version"], registry=registry)
        self.refused = Counter(
            "mlops_serving_refused_requests",
            "Requests refused, by status and code.",
            ["status", "code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "mlops_serving_seconds",
            "Seconds from the whole request to its answer.",
            ["model"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.version = Gauge(
            "mlops_serving_model_version",
            "The version that answers.",
            ["model"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.swaps = Counter("mlops_serving_swaps", "Versions swapped in.", ["model"], registry=registry)
        self.not_swapped = Counter(
            "mlops_serving_refused_versions",
            "Attempts to swap a version in that failed; the one before it went on answering.",
            ["model"],
            registry=registry,
        )
        self.behind = Gauge(
            "mlops_serving_model_behind",
            "1 while the ledger's champion is refused and an older version, or none, answers.",
            ["model"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.degraded = Gauge(
            "mlops_serving_degraded",
            "1 while the ledger cannot be read or a champion is refused.",
            multiprocess_mode="livemax",
            registry=registry,
        )
