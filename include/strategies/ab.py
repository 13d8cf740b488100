"""A/B test: answers a share, by entity, until the labels that come back show which of the two is better."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from include.strategies import WAIT, Declared, Evidence, Move, Strategy


class Settings(Declared):
    """An A/B test's share, length and statistics; see include/deployment/experiment.py."""

    share: float = Field(default=50, gt=0, lt=100, title="Share (per cent)")
    """An A/B test's share for the new version, in per cent."""
    days: float = Field(default=14, gt=0)
    """An A/B test's longest duration."""
    success: Literal["error", "rate"] | None = None
    """An A/B test's success metric, from feedback: `error` (mean absolute error, or log loss; smaller is better) or
    `rate` (share of right answers; larger is better). Default: by the task."""
    significance: float = Field(default=0.05, gt=0, lt=0.5)
    """How often an A/B test may call two equal versions different."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """How often an A/B test finds a real effect of the smallest size."""
    smallest_effect: float = Field(default=0.02, gt=0)
    """The relative effect that the A/B test must be able to see; it decides how many labels are enough."""


class ABTest(Strategy[Settings]):
    """See the module."""

    settings = Settings
    form = ("share",)
    title = "A/B test"
    about = "An A/B test answers a share, by entity, until the labels show which version is better."
    arm, control = "b", "a"
    labelled = True

    def shares(self, declared: Settings) -> tuple[float, ...]:
        """One, until the test ends."""
        return (declared.share / 100,)

    def decide(self, declared: Settings, evidence: Evidence) -> Move:
        """Back beyond a limit; at the test's end champion, if it proved to be the better one."""
        if evidence.breach:
            return Move("roll_back", evidence.breach)
        if evidence.labels is None:
            return WAIT
        return Move("promote" if evidence.labels.better else "stop", evidence.labels.summary)

    def check(self, declared: Settings, task: str) -> None:
        """Refuse a share of right answers where an answer is a number."""
        if task == "regression" and declared.success == "rate":
            raise ValueError("success: a regression has no share of right answers; say error")

    def completed(self, declared: Settings, task: str) -> Settings:
        """The success metric: the error of a regression, else the share of right answers."""
        success = declared.success or ("error" if task == "regression" else "rate")
        return declared.model_copy(update={"success": success})


STRATEGY = ABTest()
