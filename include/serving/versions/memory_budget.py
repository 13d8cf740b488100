"""How much memory the loaded versions may take, and what is refused when they would take more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from include.serving.versions.loader import Loaded
from include.serving.versions.version import key


class OverBudget(MemoryError):
    """A tried version does not fit into the memory that is declared for models."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes for all loaded versions; while one is swapped, the new one comes on top."""

    bytes: int

    def used(self, loaded: Iterable[Loaded]) -> int:
        """Estimated bytes of these; equal contents count once."""
        return sum({key(one.served): one.predictor.nbytes for one in loaded}.values())

    def room(self, loaded: Iterable[Loaded]) -> int:
        """Bytes that these leave; negative where they take too much."""
        return self.bytes - self.used(loaded)

    def exceeded(self, needed: int, room: int) -> OverBudget:
        """Why a version is refused that needs more than there is room for."""
        return OverBudget(
            f"it needs about {megabytes(needed)} of memory, and of the {megabytes(self.bytes)} for models"
            f" {megabytes(max(0, room))} are left (service.memory_megabytes in params.yaml)"
        )

    def excess(self, used: int) -> str | None:
        """What is wrong where the champions alone take too much; None: nothing."""
        if used <= self.bytes:
            return None
        return (
            f"the champions take {megabytes(used)} of memory, {megabytes(self.bytes)} are declared:"
            " raise service.memory_megabytes in params.yaml, or serve fewer models here"
        )


def megabytes(count: float) -> str:
    """For people."""
    return f"{count / 1024 / 1024:.0f} MB"
