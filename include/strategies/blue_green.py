"""Blue-green: loaded beside the champion without traffic, until a person gives it all of it at once."""

from __future__ import annotations

from include.strategies import WAIT, Evidence, Move, NoSettings, Strategy


class BlueGreen(Strategy[NoSettings]):
    """See the module."""

    settings = NoSettings
    title = "blue-green switch"
    about = "A blue-green switch loads the version without traffic, until a person gives it all of it at once."
    arm = "green"
    manual = True

    def shares(self, declared: NoSettings) -> tuple[float, ...]:
        """Nothing, then everything."""
        return (0.0, 1.0)

    def decide(self, declared: NoSettings, evidence: Evidence) -> Move:
        """Back beyond a limit, also of the requests that name the version; champion when all traffic has baked."""
        if evidence.breach:
            return Move("roll_back", evidence.breach)
        return self.onward(declared, evidence) if evidence.share and evidence.baked else WAIT

    def traffic(self, share: float) -> str:
        """See `Strategy.traffic`."""
        return super().traffic(share) if share else "stands by without traffic"

    def hint(self, model: str, step: int) -> str:
        """See `Strategy.hint`."""
        switch = f"`mlops rollout {model} advance --reason …` gives it all requests"
        return "" if step else f"{switch}; until then it answers those that name its version, in /v2"


STRATEGY = BlueGreen()
