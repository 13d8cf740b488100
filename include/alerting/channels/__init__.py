"""One file for each kind of destination that alerts are delivered to.

A channel kind is a module of this package with a function `declared`; it is found by its file's name, so that adding
one is adding one file. What it needs to know comes from the environment (`MLOPS_…`): addresses of channels are secrets.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from include.alerting.alert import Alert
from include.settings import Environment


class Channel(Protocol):
    """One destination. It runs in a thread of its own, and may block, fail or raise whatever it likes."""

    @property
    def name(self) -> str:
        """Identifies the destination in logs, on the page and across restarts: letters, digits, dashes; no secret."""

    @property
    def batch(self) -> int:
        """How many alerts one delivery takes at most."""

    @property
    def history(self) -> bool:
        """Whether a new channel gets the alerts of before it was turned on."""

    @property
    def longest_wait(self) -> float:
        """Seconds between two attempts at most."""

    def deliver(self, alerts: Sequence[Alert]) -> None:
        """Deliver one to `batch` alerts, oldest first; the same alerts may come again.

        Raises:
            Exception: they were not all delivered, and all are to be repeated. The message is one line for an operator
                and has no secret.
        """


class Kind(Protocol):
    """What each file of this package offers, as a module-level function."""

    def declared(self, environment: Environment) -> list[Channel]:
        """The channels of this kind that the environment turns on. A mistake in it is raised by `deliver`, not here."""


def names() -> list[str]:
    """The kinds that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def declared(environment: Environment) -> list[Channel]:
    """Every channel that is on."""
    kinds = (cast(Kind, importlib.import_module(f"{__name__}.{name}")) for name in names())
    return [channel for kind in kinds for channel in kind.declared(environment)]
