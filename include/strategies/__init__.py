"""One file per rollout strategy: its arms, its shares of the traffic, and what follows from the evidence.

A strategy is the object `STRATEGY` of a module of this package. It is found by its file's name, so that adding one is
adding one file: settings, forms, the command line, the page, the controller and the service name none.

    arms      `arm`, `control`, `mirrored`, and `shares`: who answers at each step, and who only scores
    decide    what follows from the evidence: advance, promote, roll back, stop, or wait
    settings  its own keys of `serving.rollout`, and which of them a form offers
    words     `title`, `about`, `traffic`, `hint`: for forms, the command line, the page and alerts

A strategy knows neither the database nor the service. `include/deployment` gathers the evidence and carries out the
move; what the service needs stands in the rollout's row, from which it makes its routes.
"""

from __future__ import annotations

import abc
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from include.text import did_you_mean

DIRECT = "direct"
"""No rollout: a version that passed the gate becomes champion at once."""
PROPOSED = "canary"
"""What a form proposes where params.yaml declares none."""
CHAMPION = "champion"
"""The name of the champion's arm."""

Action = Literal["wait", "advance", "promote", "roll_back", "stop"]


@dataclass(frozen=True)
class Move:
    """What a strategy decides, with the reason that stands in the history."""

    action: Action
    reason: str = ""


WAIT = Move("wait")


@dataclass(frozen=True)
class Labels:
    """What the labels of both arms said at the end of their test."""

    better: bool | None
    """Whether the tried version is the better one; None: no difference was proven."""
    summary: str
    """The numbers in one line."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a running rollout."""

    step: int
    """Index into the strategy's shares."""
    share: float
    """Of the requests that the tried version answers, 0 to 1."""
    breach: str | None = None
    """The limits that the tried version went beyond, in one line with both arms' numbers."""
    baked: bool = False
    """Whether it had its share for `bake_minutes`, with `minimum_requests`, and broke no limit at the end."""
    minutes: float = 0.0
    """Since it has its share."""
    requests: int = 0
    """In the window that was judged last."""
    labels: Labels | None = None
    """None: no test of labels, or not at its end."""


class Declared(BaseModel):
    """Keys of `serving.rollout`; a field's title and docstring are its words in a form."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False, frozen=True)


class NoSettings(Declared):
    """No keys of its own."""


S = TypeVar("S", bound=Declared)


class Strategy(abc.ABC, Generic[S]):
    """How a version is tried beside the champion."""

    settings: type[S]
    """Its own keys of `serving.rollout`. They are keys of all rollouts, whichever strategy is chosen."""
    form: ClassVar[tuple[str, ...]] = ()
    """Those of them that a trigger form offers; each has a title."""

    title: ClassVar[str]
    """As in `the canary of trips version 2`."""
    about: ClassVar[str]
    """One sentence for those who choose."""

    arm: ClassVar[str]
    """The name under which the tried version's answers are counted and logged."""
    control: ClassVar[str] = CHAMPION
    """The name of the champion's arm meanwhile."""
    mirrored: ClassVar[bool] = False
    """Whether the tried version scores every request and answers none. One such rollout and one other may run."""
    verdicts: ClassVar[tuple[str, ...]] = ("PROMOTE",)
    """The gate's verdicts with which it may start."""
    labelled: ClassVar[bool] = False
    """Whether `Evidence.labels` is gathered for it."""
    manual: ClassVar[bool] = False
    """Whether a person moves it to its next share."""

    @property
    def name(self) -> str:
        """As params.yaml, the command line and the database have it: its file's name."""
        return type(self).__module__.rpartition(".")[2]

    @abc.abstractmethod
    def shares(self, declared: S) -> tuple[float, ...]:
        """The tried version's share of the requests at each step, 0 to 1; the champion answers the others."""

    @abc.abstractmethod
    def decide(self, declared: S, evidence: Evidence) -> Move:
        """What follows from the evidence; the same evidence gives the same move."""

    def check(self, declared: S, task: str) -> None:
        """Refuse what does not fit the model's task.

        Raises:
            ValueError: with the key, what is wrong, and the remedy.
        """

    def completed(self, declared: S, task: str) -> S:
        """The settings with what the task decides where nothing is declared."""
        return declared

    def traffic(self, share: float) -> str:
        """What the tried version does at a share, as in `version 2 answers 5% of the requests`."""
        return f"answers {share:.0%} of the requests"

    def hint(self, model: str, step: int) -> str:
        """What a person has to do next; empty: nothing."""
        return ""

    def onward(self, declared: S, evidence: Evidence) -> Move:
        """The move after a share that went well: to the next one, or, after the last, to champion."""
        shares, following = self.shares(declared), evidence.step + 1
        went = f"{evidence.share:.0%} went well for {evidence.minutes:.0f} min, at last with"
        went += f" {evidence.requests} requests"
        if following == len(shares):
            return Move("promote", f"{self.title}: {went}")
        return Move("advance", f"{went}; {100 * shares[following]:g} % next")


class UnknownStrategy(LookupError):
    """There is no file of that name; the message has the nearest."""


@functools.cache
def names() -> tuple[str, ...]:
    """The strategies there are: one file each in this package."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@functools.cache
def load(name: str) -> Strategy[Any]:
    """The strategy in include/strategies/<name>.py.

    Raises:
        UnknownStrategy: there is no such file.
    """
    if name not in names():
        known = did_you_mean(name, names()) or f"; there are {', '.join(names())}"
        raise UnknownStrategy(f"no file include/strategies/{name}.py{known}")
    return cast("Strategy[Any]", importlib.import_module(f"{__name__}.{name}").STRATEGY)


def every() -> Iterator[Strategy[Any]]:
    """All of them, by name."""
    return map(load, names())


def title(name: str) -> str:
    """A strategy's title; of one whose file is gone, its name."""
    return load(name).title if name in names() else name


def mirrored_arms() -> frozenset[str]:
    """The arms whose predictions answered nobody."""
    return frozenset(strategy.arm for strategy in every() if strategy.mirrored)
