"""What the service counts, for Prometheus: created once per process, read by BentoML's /metrics.

No label names a version: a label's values are kept for as long as the process lives, and versions come and go. Which
version an arm has is a gauge's value.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from include.serving.metrics.counters import BUCKETS_SECONDS, Snapshot

_ARM = ("model", "arm")


class CountedHistogram(Histogram):
    """A histogram that also takes what was counted elsewhere in its own buckets.

    prometheus_client only observes one value at a time; a second's worth of them would hold everybody up. This does
    what its `observe` does, on the same values, which it has had since its first version; a test holds both together.
    """

    def add(self, counts: Sequence[int], total: float) -> None:
        """Observe `counts[i]` values in the i-th bucket, the last one open above, which sum up to `total`."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Metrics:
    """The service's own counters and gauges.

    Under `bentoml serve` prometheus_client writes them to the folder named in PROMETHEUS_MULTIPROC_DIR, which was set
    before this process began; the gauges therefore say whose value counts when several processes report.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests = Counter(
            "mlops_serving_requests",
            "Prediction requests that an arm answered, or (shadow) scored.",
            _ARM,
            registry=registry,
        )
        self.rows = Counter("mlops_serving_rows", "Rows predicted.", _ARM, registry=registry)
        self.errors = Counter(
            "mlops_serving_errors",
            "Requests that an arm could not answer by no fault of the client's.",
            _ARM,
            registry=registry,
        )
        self.refused = Counter(
            "mlops_serving_refused_requests",
            "Requests refused, by status and code.",
            ["status", "code"],
            registry=registry,
        )
        self.unusual = Counter(
            "mlops_serving_unusual_values",
            "Values that were answered with a warning: numbers out of range, categories that training did not see.",
            [*_ARM, "field", "code"],
            registry=registry,
        )
        self.seconds = CountedHistogram(
            "mlops_serving_seconds",
            "Seconds from the whole request to its answer.",
            _ARM,
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self.version = Gauge(
            "mlops_serving_model_version",
            "The champion's version that answers.",
            ["model"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.arm_version = Gauge(
            "mlops_serving_arm_version",
            "The version of each arm; 0: there is none.",
            _ARM,
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.arm_share = Gauge(
            "mlops_serving_arm_share",
            "The share of requests that each arm is to answer.",
            _ARM,
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.swaps = Counter("mlops_serving_swaps", "Champions swapped in.", ["model"], registry=registry)
        self.not_swapped = Counter(
            "mlops_serving_refused_versions",
            "Attempts to load a version that failed; what answered before went on answering.",
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
            "1 while the ledger cannot be read or a version is refused.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.taken_out = Counter(
            "mlops_serving_arms_taken_out",
            "Arms that a worker took out at once because they broke their rollout's limits.",
            _ARM,
            registry=registry,
        )
        self.bytes = Gauge(
            "mlops_serving_models_bytes",
            "Estimated memory of the loaded versions.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "mlops_serving_shadow_dropped_rows",
            "Rows that a shadow did not score because it could not keep up.",
            ["model"],
            registry=registry,
        )
        self.keys_damaged = Gauge(
            "mlops_serving_keys_damaged",
            "1 while the keys' file cannot be used; the keys that were last read go on counting.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.admitted = Gauge(
            "mlops_serving_admission_limit",
            "How many requests may be in progress; it shrinks while there are more than can be answered in time.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.access_lost = Counter(
            "mlops_serving_access_log_lost_lines",
            "Lines of the access log that could not be written in time.",
            registry=registry,
        )
        self.windows_lost = Counter(
            "mlops_serving_arm_windows_lost",
            "Seconds of an arm that PostgreSQL was not told of in time.",
            registry=registry,
        )

    def count(self, model: str, arm: str, window: Snapshot) -> None:
        """Add what an arm did in a window."""
        self.requests.labels(model, arm).inc(window.requests - window.errors)
        self.rows.labels(model, arm).inc(window.rows)
        self.errors.labels(model, arm).inc(window.errors)
        self.seconds.labels(model, arm).add(window.latencies, window.seconds)
        for (code, field), values in window.unusual.items():
            self.unusual.labels(model, arm, field, code).inc(values)
