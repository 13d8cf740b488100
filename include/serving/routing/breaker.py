"""When a tried version is cut off in this worker, at once."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from include.serving.metrics.counters import LATENCY_MS, Recent
from include.serving.metrics.limits import Limits

if TYPE_CHECKING:
    pass


def breach(recent: Recent, limits: Limits) -> str | None:
    """Which limit an arm has broken in this worker's own window; None when none, or with too few requests.

    It only takes the arm out here, at once. What becomes of the rollout is the controller's decision, which sees the
    windows of all workers, and the drift of the predictions besides.
    """
    if recent.requests < limits.minimum_requests:
        return None
    rate = recent.errors / recent.requests
    if rate > limits.maximum_error_rate:
        return (
            f"its error rate is {rate:.1%} ({recent.errors} of {recent.requests} requests in"
            f" {limits.window_seconds:g} s), {limits.maximum_error_rate:.1%} is allowed"
        )
    if recent.p99_ms > limits.maximum_p99_ms:
        p99 = f"{recent.p99_ms:.0f} ms" if isfinite(recent.p99_ms) else f"more than {LATENCY_MS[-1]} ms"
        return (
            f"its p99 is {p99} ({recent.requests} requests in {limits.window_seconds:g} s),"
            f" {limits.maximum_p99_ms:g} ms are allowed"
        )
    return None
