"""Canary: answers a share that grows by steps; when the last has gone well, the version becomes champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from include.strategies import WAIT, Declared, Evidence, Move, Strategy


class Settings(Declared):
    """A canary's share grows by steps."""

    steps: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        default=(1, 5, 25, 100), min_length=1, title="Steps (per cent)"
    )
    """A canary's shares of the traffic, in per cent; after the last one has baked, it becomes champion."""

    @model_validator(mode="after")
    def _steps_grow(self) -> Settings:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps: must grow, not {list(self.steps)}")
        return self


class Canary(Strategy[Settings]):
    """See the module."""

    settings = Settings
    form = ("steps",)
    title = "canary"
    about = "A canary answers a share that grows by steps, and becomes champion after the last."
    arm = "canary"

    def shares(self, declared: Settings) -> tuple[float, ...]:
        """As they are declared."""
        return tuple(step / 100 for step in declared.steps)

    def decide(self, declared: Settings, evidence: Evidence) -> Move:
        """Back beyond a limit, on when the share has baked."""
        if evidence.breach:
            return Move("roll_back", evidence.breach)
        return self.onward(declared, evidence) if evidence.baked else WAIT


STRATEGY = Canary()
