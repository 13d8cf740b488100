"""A version that is tried on a share of the requests."""

from __future__ import annotations

from dataclasses import dataclass

from include.serving.metrics.limits import Limits
from include.serving.versions.version import Version


@dataclass(frozen=True)
class Rollout:
    """A running row of the `rollouts` table; another share, or another step, makes another one."""

    id: int
    served: Version
    arm: str
    """The name of the arm that the tried version answers as, or scores as."""
    control: str
    """The name of the champion's arm meanwhile."""
    mirrored: bool
    """Whether it scores every request and answers none."""
    champion_version: int
    share: float
    step: int
    salt: str
    limits: Limits
    changed_at: str
