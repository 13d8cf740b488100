"""Which version answers a request: the champion, or the one that is tried beside it on a share of the requests.

A tried version without a share stands by: it is loaded, and answers the requests that name it.

An entity always gets the same arm: its point on [0, 1) is a hash of the rollout's salt and the entity, and the tried
version answers below the share. A share that grows therefore only adds entities; it moves none back. Two rollouts
have different salts, and so independent groups.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import random
from typing import TYPE_CHECKING, Any

from include.serving.metrics.counters import ArmCounters

if TYPE_CHECKING:
    from include.serving.versions.loader import Loaded

_POINT_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A loaded version under the name by which its answers are counted: `champion`, or as its rollout has it."""

    name: str
    loaded: Loaded
    rollout_id: int | None
    tally: ArmCounters


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Who answers for a model, and who only scores beside it. Never changed, only replaced."""

    model: str
    champion: Arm
    challenger: Arm | None = None
    share: float = 0.0
    """Of the requests that the challenger answers, 0 to 1."""
    sticky: bool = True
    """Whether an entity stays with its arm."""
    salt: str = ""
    shadow: Arm | None = None
    """Scores every request and answers none."""
    standby: Arm | None = None
    """Loaded, and answers only what names its version."""
    trial: Route | None = field(init=False, repr=False)
    """The route of the requests that name the standby's version."""
    _salted: Any = field(init=False, repr=False)
    _below: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trial", Route(self.model, self.standby) if self.standby else None)
        object.__setattr__(self, "_salted", hashlib.blake2b(self.salt.encode(), digest_size=_POINT_BYTES))
        object.__setattr__(self, "_below", _point(self.share))

    def choose(self, entity: str | None) -> Arm:
        """The arm that answers a request about this entity; without one, chance decides."""
        challenger = self.challenger
        if challenger is None:
            return self.champion
        if entity is None or not self.sticky:
            return challenger if random() < self.share else self.champion  # noqa: S311  no secret hangs on it
        salted = self._salted.copy()
        salted.update(entity.encode("utf-8", "surrogatepass"))
        return challenger if salted.digest() < self._below else self.champion

    @property
    def arms(self) -> list[Arm]:
        """All that there are: the champion's, the challenger's, the standby's, the shadow's."""
        return [arm for arm in (self.champion, self.challenger, self.standby, self.shadow) if arm is not None]

    def share_of(self, arm: Arm) -> float:
        """Of the requests that name no version: what this arm answers."""
        if arm is self.shadow or arm is self.standby:
            return 0.0
        share = self.share if self.challenger else 0.0
        return share if arm is self.challenger else 1 - share


def _point(share: float) -> bytes:
    """A share as the digest below which it lies; all digests lie below that of 1."""
    whole = 1 << 8 * _POINT_BYTES
    if share >= 1:
        return b"\xff" * _POINT_BYTES + b"\x00"
    return max(0, int(share * whole)).to_bytes(_POINT_BYTES, "big")
