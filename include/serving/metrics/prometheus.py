"""What the service counts, for Prometheus: created once per process, read by BentoML's /metrics.

No label names a version: a label's values are kept for as long as the process lives, and versions come and go. Which
version an arm has is a gauge's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from include.serving.metrics.counters import BUCKETS_SECONDS, Snapshot

_ARM = ("model", "arm")
Mode = Literal["livesum", "livemax", "livemostrecent"]
"""Of the processes that live: their sum, the largest value, the newest."""


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


Define = Callable[[CollectorRegistry], Any]
"""Registers a metric and returns it."""


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Define:
    """A count that only grows; of all processes it is the sum."""
    return lambda registry: Counter(name, text, labels, registry=registry)


def gauge(name: str, text: str, labels: Sequence[str] = (), *, mode: Mode) -> Define:
    """A value; `mode` says which counts where several processes report."""
    return lambda registry: Gauge(name, text, labels, multiprocess_mode=mode, registry=registry)


def histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Define:
    """A distribution, by the upper edges of its buckets."""
    return lambda registry: CountedHistogram(name, text, labels, buckets=buckets, registry=registry)


METRICS: Mapping[str, Define] = {
    "requests": counter(
        "mlops_serving_requests", "Prediction requests that an arm answered, or (shadow) scored.", _ARM
    ),
    "rows": counter("mlops_serving_rows", "Rows predicted.", _ARM),
    "errors": counter(
        "mlops_serving_errors", "Requests that an arm could not answer by no fault of the client's.", _ARM
    ),
    "refused": counter("mlops_serving_refused_requests", "Requests refused, by status and code.", ("status", "code")),
    "unusual": counter(
        "mlops_serving_unusual_values",
        "Values that were answered with a warning: numbers out of range, categories that training did not see.",
        (*_ARM, "field", "code"),
    ),
    "seconds": histogram(
        "mlops_serving_seconds", "Seconds from the whole request to its answer.", _ARM, BUCKETS_SECONDS
    ),
    "version": gauge(
        "mlops_serving_model_version", "The champion's version that answers.", ("model",), mode="livemostrecent"
    ),
    "arm_version": gauge(
        "mlops_serving_arm_version", "The version of each arm; 0: there is none.", _ARM, mode="livemostrecent"
    ),
    "arm_share": gauge(
        "mlops_serving_arm_share", "The share of requests that each arm is to answer.", _ARM, mode="livemostrecent"
    ),
    "swaps": counter("mlops_serving_swaps", "Champions swapped in.", ("model",)),
    "not_swapped": counter(
        "mlops_serving_refused_versions",
        "Attempts to load a version that failed; what answered before went on answering.",
        ("model",),
    ),
    "behind": gauge(
        "mlops_serving_model_behind",
        "1 while the ledger's champion is refused and an older version, or none, answers.",
        ("model",),
        mode="livemax",
    ),
    "degraded": gauge(
        "mlops_serving_degraded", "1 while the ledger cannot be read or a version is refused.", mode="livemax"
    ),
    "taken_out": counter(
        "mlops_serving_arms_taken_out",
        "Arms that a worker took out at once because they broke their rollout's limits.",
        _ARM,
    ),
    "bytes": gauge("mlops_serving_models_bytes", "Estimated memory of the loaded versions.", mode="livesum"),
    "shadow_dropped": counter(
        "mlops_serving_shadow_dropped_rows",
        "Rows that a shadow did not score because it could not keep up.",
        ("model",),
    ),
    "keys_damaged": gauge(
        "mlops_serving_keys_damaged",
        "1 while the keys' file cannot be used; the keys that were last read go on counting.",
        mode="livemax",
    ),
    "admitted": gauge(
        "mlops_serving_admission_limit",
        "How many requests may be in progress; it shrinks while there are more than can be answered in time.",
        mode="livesum",
    ),
    "access_lost": counter(
        "mlops_serving_access_log_lost_lines", "Lines of the access log that could not be written in time."
    ),
    "windows_lost": counter(
        "mlops_serving_arm_windows_lost", "Seconds of an arm that PostgreSQL was not told of in time."
    ),
}
"""The attributes of `Metrics`."""


class Metrics:
    """The service's own counters and gauges: one row of `METRICS` each.

    Under `bentoml serve` prometheus_client writes them to the folder named in PROMETHEUS_MULTIPROC_DIR, which was set
    before this process began; the gauges therefore say whose value counts when several processes report.
    """

    requests: Counter
    rows: Counter
    errors: Counter
    refused: Counter
    unusual: Counter
    seconds: CountedHistogram
    version: Gauge
    arm_version: Gauge
    arm_share: Gauge
    swaps: Counter
    not_swapped: Counter
    behind: Gauge
    degraded: Gauge
    taken_out: Counter
    bytes: Gauge
    shadow_dropped: Counter
    keys_damaged: Gauge
    admitted: Gauge
    access_lost: Counter
    windows_lost: Counter

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        for attribute, define in METRICS.items():
            setattr(self, attribute, define(registry))

    def count(self, model: str, arm: str, window: Snapshot) -> None:
        """Add what an arm did in a window."""
        self.requests.labels(model, arm).inc(window.requests - window.errors)
        self.rows.labels(model, arm).inc(window.rows)
        self.errors.labels(model, arm).inc(window.errors)
        self.seconds.labels(model, arm).add(window.latencies, window.seconds)
        for (code, field), values in window.unusual.items():
            self.unusual.labels(model, arm, field, code).inc(values)
