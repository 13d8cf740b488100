"""Request retraining, or not, and why: a pure rule over what the check found.

A critical finding requests it, unless the champion has learned from these very rows, or retraining was requested
within the cooldown. Everything else is shown and requests nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "critical"]
_ORDER: dict[str, int] = {"ok": 0, "warn": 1, "critical": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that the check measured, or could not."""

    kind: Literal["drift", "performance", "data", "report"]
    subject: str
    """The column or the metric it is about."""
    level: Level
    message: str
    value: float | None = None
    """What is judged: a measure of drift, the share by which a metric is worse."""
    threshold: float | None = None
    metric: float | None = None
    """Of a performance finding: the metric itself."""
    rows: int | None = None
    """How many rows it rests on."""
    measure: str | None = None
    """Of a drift finding: which measure `value` is, by its file in include/monitoring/drift_measures/."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, to be stored."""
        return asdict(self)


@dataclass(frozen=True)
class Decision:
    """Whether to request retraining, and the reason in one line."""

    request: bool
    reason: str


def level_of(value: float, warn: float, critical: float) -> Level:
    """Where a measured value stands; a threshold must be passed, not reached."""
    return "critical" if value > critical else "warn" if value > warn else "ok"


def worst(findings: Sequence[Finding]) -> Level:
    """The highest level there is."""
    return max((f.level for f in findings), key=_ORDER.__getitem__, default="ok")


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """The most important first: by level, performance before drift, then by how far the threshold is passed."""
    return sorted(
        findings, key=lambda f: (-_ORDER[f.level], f.kind != "performance", -(f.value or 0.0) / (f.threshold or 1.0))
    )


def decide(
    findings: Sequence[Finding],
    *,
    last_request: dt.datetime | None,
    now: dt.datetime,
    cooldown: float,
    unseen: int,
) -> Decision:
    """The rule.

    Args:
        findings: what was measured, drift and performance.
        last_request: when retraining of this model was last requested.
        now: the time of the check.
        cooldown: hours after a request in which no other is made.
        unseen: how many published partitions the champion's features were not built from.
    """
    critical = [f for f in by_weight(findings) if f.level == "critical"]
    if not critical:
        warnings = [f.message for f in by_weight(findings) if f.level == "warn"]
        return Decision(False, "; ".join(["nothing critical", *_few(warnings)]))
    causes = "; ".join(_few([f.message for f in critical]))
    if not unseen:
        return Decision(
            False, f"{causes}; not requested: nothing new since training, there is nothing else to learn from"
        )
    if last_request is not None and now - last_request < dt.timedelta(hours=cooldown):
        until = last_request + dt.timedelta(hours=cooldown)
        return Decision(
            False, f"{causes}; not requested again before {until:%Y-%m-%d %H:%M} UTC (cooldown {cooldown:g} h)"
        )
    return Decision(True, causes)


def _few(messages: Sequence[str], most: int = 3) -> list[str]:
    rest = len(messages) - most
    return [*messages[:most], *([f"and {rest} more"] if rest > 0 else [])]
