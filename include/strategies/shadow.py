"""Shadow: scores every request and answers none, until a person stops it."""

from __future__ import annotations

from include.strategies import WAIT, Evidence, Move, NoSettings, Strategy


class Shadow(Strategy[NoSettings]):
    """See the module."""

    settings = NoSettings
    title = "shadow"
    about = "A shadow scores every request and answers none."
    arm = "shadow"
    mirrored = True
    verdicts = ("PROMOTE", "HOLD")

    def shares(self, declared: NoSettings) -> tuple[float, ...]:
        """None of the answers."""
        return (0.0,)

    def decide(self, declared: NoSettings, evidence: Evidence) -> Move:
        """Nothing, whatever it does: no answer depends on it."""
        return WAIT

    def traffic(self, share: float) -> str:
        """See `Strategy.traffic`."""
        return "scores all requests"


STRATEGY = Shadow()
