"""A version that is tried on a share of the requests."""

from __future__ import annotations

from dataclasses import dataclass

from include.serving.metrics.limits import Limits
from include.serving.versions.version import Version

_ARMS = {"shadow": "shadow", "canary": "canary", "ab": "b"}


@dataclass(frozen=True)
class Rollout:
    """A running row of the `rollouts` table; another share, or another step, makes another one."""

    id: int
    kind: str
    served: Version
    champion_version: int
    share: float
    step: int
    salt: str
    limits: Limits
    changed_at: str

    @property
    def arm(self) -> str:
        """The name of the arm that the tried version answers as, or scores as."""
        return _ARMS[self.kind]

    @property
    def beside(self) -> str:
        """The name of the champion's arm next to it."""
        return "a" if self.kind == "ab" else "champion"
