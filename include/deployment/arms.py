"""What the arms of a rollout did in a window, and whether the tried one went beyond a declared limit.

Nothing is concluded from fewer than `minimum_requests` of the arm, not even from errors alone: one request that fails
of one is 100 % and means little. Where the last `window_seconds` hold fewer, the window reaches back to where they are
enough; so a rare arm is judged too, only later, and no step is taken unjudged.

    error rate  the arm's failed requests of all its requests
    p99         of the answered requests, from counts in buckets, linear within a bucket; in the open bucket above the
                last bound nothing is known but that it is too slow for any limit (`serving.tallies.p99_ms`)
    drift       the population stability index of the arm's predictions against the champion's in the same window, over
                bins that both share: Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ) (Siddiqi, Credit Risk Scorecards, 2006), computed by
                `features.profile.psi`. Of two samples of one population it is not 0, and over empty bins it is large.
                So both shares are first drawn towards the pooled ones with a weight of half a row for each bin, and a
                drift counts only where Pearson's chi-squared test of homogeneity rejects equality too, at `CHANCE`: it
                is asked every second, for days.

Drift needs `minimum_requests` predictions of both arms. Where the champion answers too few, as beside a canary on all,
it is not known, which the evidence says; the other two limits hold there too.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from include.deployment.rollouts import Rollout
from include.features import profile
from include.serving.metrics import counters

CHANCE = 1e-6
"""How often two equal arms may seem to differ in one window: there are 86,400 a day."""


@dataclass(frozen=True)
class Figures:
    """What one arm did in a window."""

    arm: str
    version: int
    requests: int = 0
    errors: int = 0
    latencies: tuple[int, ...] = ()
    """Answered requests in the buckets of `tallies.LATENCY_MS`, and one beyond."""
    predictions: tuple[int, ...] = ()
    """Predictions in the bins that all arms share."""

    @property
    def error_rate(self) -> float | None:
        """The share of requests that failed; None without any."""
        return self.errors / self.requests if self.requests else None

    @property
    def p99_ms(self) -> float | None:
        """The 99th percentile of the answered requests' time; infinite in the open bucket, None without any."""
        return counters.p99_ms(self.latencies) if any(self.latencies) else None

    def document(self) -> dict[str, Any]:
        """As JSON; a p99 that is only known to lie in the open bucket is null there, and the counts tell it."""
        p99 = self.p99_ms
        known = p99 if p99 is None or math.isfinite(p99) else None
        return {**asdict(self), "error_rate": self.error_rate, "p99_ms": known}


@dataclass(frozen=True)
class Window:
    """Both arms in the same time."""

    arm: Figures
    control: Figures
    since: dt.datetime
    until: dt.datetime

    @property
    def drift(self) -> float | None:
        """The arm's predictions against the champion's; None where one of them has none."""
        return drift(self.arm.predictions, self.control.predictions)

    def document(self) -> dict[str, Any]:
        """The evidence, as JSON."""
        return {
            "since": self.since.isoformat(timespec="seconds"),
            "until": self.until.isoformat(timespec="seconds"),
            "arm": self.arm.document(),
            "champion": self.control.document(),
            "drift": self.drift,
        }


@dataclass(frozen=True)
class Limits:
    """What the tried arm must not go beyond; see settings.Rollout."""

    minimum_requests: int
    maximum_error_rate: float
    maximum_p99_ms: float
    maximum_drift: float

    @classmethod
    def of(cls, rollout: Rollout) -> Limits:
        """Those that were declared when the rollout was started."""
        declared = rollout.declared
        return cls(**{name: getattr(declared, name) for name in cls.__dataclass_fields__})


def breach(window: Window, limits: Limits) -> str | None:
    """Which limits the arm went beyond, in one line with both arms' numbers; None where it did not, or may yet."""
    arm, control = window.arm, window.control
    if arm.requests < limits.minimum_requests:
        return None
    found = []
    if arm.error_rate is not None and arm.error_rate > limits.maximum_error_rate:
        found.append(
            f"error rate {arm.error_rate:.1%} > {limits.maximum_error_rate:.1%}"
            f" ({arm.errors} of {arm.requests} requests; champion {_percent(control.error_rate)})"
        )
    if arm.p99_ms is not None and arm.p99_ms > limits.maximum_p99_ms:
        found.append(
            f"p99 {_milliseconds(arm.p99_ms)} > {limits.maximum_p99_ms:g} ms"
            f" ({sum(arm.latencies)} answers; champion {_milliseconds(control.p99_ms)})"
        )
    rows = sum(arm.predictions), sum(control.predictions)
    if min(rows) >= limits.minimum_requests:
        value = window.drift
        if value is not None and value > limits.maximum_drift and differ(arm.predictions, control.predictions):
            found.append(
                f"prediction drift {value:.2f} > {limits.maximum_drift:g} (PSI of {rows[0]} predictions against the"
                f" champion's {rows[1]})"
            )
    return "; ".join(found) or None


def describe(window: Window) -> str:
    """Both arms in one line, for who looks at a rollout that runs."""

    def numbers(figures: Figures) -> str:
        if not figures.requests:
            return f"{figures.arm} without requests"
        rate, p99 = _percent(figures.error_rate), _milliseconds(figures.p99_ms)
        return f"{figures.arm} {figures.requests} requests, errors {rate}, p99 {p99}"

    value = "not known" if window.drift is None else f"{window.drift:.2f}"
    seconds = (window.until - window.since).total_seconds()
    return f"in {seconds:.0f} s: {numbers(window.arm)}; {numbers(window.control)}; drift {value}"


def drift(arm: tuple[int, ...], control: tuple[int, ...]) -> float | None:
    """The population stability index of two rows of counts over the same bins; None where one of them is empty."""
    a, e, pooled = _pooled(arm, control)
    if not a.sum() or not e.sum():
        return None
    weight = len(pooled) / 2
    shares = [(counts + weight * pooled) / (counts.sum() + weight) for counts in (e, a)]
    return float(profile.psi(*shares))


def differ(arm: tuple[int, ...], control: tuple[int, ...]) -> bool:
    """Whether chance alone would make two equal arms differ so much less often than `CHANCE` (Pearson's test)."""
    from scipy.special import chdtri

    a, e, pooled = _pooled(arm, control)
    if len(pooled) < 2 or not a.sum() or not e.sum():
        return False
    statistic = sum(((counts - counts.sum() * pooled) ** 2 / (counts.sum() * pooled)).sum() for counts in (a, e))
    return bool(statistic > chdtri(len(pooled) - 1, CHANCE))


def _pooled(arm: tuple[int, ...], control: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The counts in the bins that are not empty in both, and the shares of both together."""
    length = max(len(arm), len(control))
    a, e = (np.pad(np.asarray(counts, dtype=np.float64), (0, length - len(counts))) for counts in (arm, control))
    filled = a + e > 0
    a, e = a[filled], e[filled]
    return a, e, (a + e) / max(1.0, (a + e).sum())


def _percent(value: float | None) -> str:
    return "without requests" if value is None else f"{value:.1%}"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "without answers"
    return f"over {counters.LATENCY_MS[-1]} ms" if math.isinf(value) else f"{value:.0f} ms"


# ------------------------------------------------------------------------------------------------ reading


_SUMS = sa.text("""
    select w.arm, counted.name, counted.place, sum(counted.value)
    from arm_windows w cross join lateral (
        select 'requests' as name, 1 as place, w.requests as value
        union all select 'errors', 1, w.errors
        union all select 'latencies', place, value from unnest(w.latencies) with ordinality as l(value, place)
        union all select 'predictions', place, value from unnest(w.predictions) with ordinality as p(value, place)
    ) counted
    where w.rollout_id = :id and w.second >= :since
      and ((w.arm = :arm and w.version = :version) or (w.arm = :control and w.version = :champion))
    group by 1, 2, 3 order by 1, 2, 3
""")
_NEWEST = sa.text("""
    select second, requests from arm_windows
    where rollout_id = :id and arm = :arm and version = :version and requests > 0
    order by second desc limit :enough
""")
_SINCE_STEP = sa.text("""
    select coalesce(sum(requests), 0) from arm_windows
    where rollout_id = :id and arm = :arm and version = :version and second >= :since
""")


def read(connection: sa.Connection, rollout: Rollout, now: dt.datetime) -> Window:
    """Both arms in the declared window before `now`, or in the longer one that holds enough of the tried arm."""
    declared = rollout.declared
    since = now - dt.timedelta(seconds=declared.window_seconds)
    window = _sum(connection, rollout, since, now)
    if window.arm.requests >= declared.minimum_requests:
        return window
    further = _since_enough(connection, rollout, declared.minimum_requests)
    return _sum(connection, rollout, further, now) if further and further < since else window


def requests_since(connection: sa.Connection, rollout: Rollout, since: dt.datetime) -> int:
    """How many requests the tried arm had since then; of the last day at most, for older windows are deleted."""
    return int(connection.execute(_SINCE_STEP, _named(rollout) | {"since": since}).scalar_one())


def _sum(connection: sa.Connection, rollout: Rollout, since: dt.datetime, now: dt.datetime) -> Window:
    where = {"since": since, "control": rollout.control, "champion": rollout.champion_version}
    sums: dict[str, dict[str, list[int]]] = {rollout.arm: {}, rollout.control: {}}
    for arm, name, _, value in connection.execute(_SUMS, _named(rollout) | where):
        sums[arm].setdefault(name, []).append(int(value))
    arm = _figures(rollout.arm, rollout.version, sums[rollout.arm])
    return Window(arm, _figures(rollout.control, rollout.champion_version, sums[rollout.control]), since, now)


def _figures(arm: str, version: int, sums: Mapping[str, list[int]]) -> Figures:
    if not sums:
        return Figures(arm, version)
    latencies, predictions = tuple(sums.get("latencies", ())), tuple(sums.get("predictions", ()))
    return Figures(arm, version, sums["requests"][0], sums["errors"][0], latencies, predictions)


def _since_enough(connection: sa.Connection, rollout: Rollout, enough: int) -> dt.datetime | None:
    """Since when the arm has had so many requests; each row has at least one, so no more than that many are read."""
    total, since = 0, None
    for since, requests in connection.execute(_NEWEST, _named(rollout) | {"enough": enough}):  # noqa: B007
        total += requests
        if total >= enough:
            break
    return since


def _named(rollout: Rollout) -> dict[str, Any]:
    return {"id": rollout.id, "arm": rollout.arm, "version": rollout.version}
