"""The limits of a tried version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Limits:
    """What takes a tried version out: settings.Rollout, as it was when the rollout was started."""

    minimum_requests: int = 100
    window_seconds: float = 60
    maximum_error_rate: float = 0.05
    maximum_p99_ms: float = 500

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Limits:
        """Those of a rollout's stored settings; what is not there is as in settings.Rollout."""
        return cls(**{name: settings[name] for name in cls.__slots__ if name in settings})
