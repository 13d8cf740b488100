"""The versions in memory: obtained one by one, refused with a reason, counted against a budget, and let go.

Used by whoever holds the lock of `Reconciler`; only the loading itself runs elsewhere, in threads of its own.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from include import alerting
from include.inference import served_form
from include.inference.predictor import estimated_bytes
from include.serving.metrics.prometheus import Metrics
from include.serving.versions import disk_cache
from include.serving.versions.loader import Loaded, LoadedModel, LoadTask, load
from include.serving.versions.memory import return_memory
from include.serving.versions.memory_budget import MemoryBudget
from include.serving.versions.version import Key, Version, key

TRIM_SECONDS = 1.0
"""How long after a version was loaded or let go free memory is given back: requests may still be using it."""

log = logging.getLogger("mlops.serving")


@dataclass(frozen=True)
class Refusal:
    """A wanted version that is not loaded, and why."""

    served: Version
    reason: str
    at: str
    attempts: int
    again: float
    """When, on the monotonic clock, it is tried once more."""

    def describe(self, arm: str, answering: Loaded | None) -> str:
        """A sentence: what was refused, why, and what answers instead."""
        named = f"{self.served.model} version {self.served.version}"
        if arm != "champion":
            return f"{named} was not loaded as {arm}: {self.reason}; the champion answers alone"
        goes_on = f"version {answering.version} goes on answering" if answering else "no version of it answers"
        return f"{named} was not swapped in: {self.reason}; {goes_on}"


class VersionCache:
    """What is in memory, on its way there, and refused.

    Args:
        folder: of the local copies; None: nothing can be fetched.
        home: the platform's folder, where alerts are told; None: they are only logged.
        budget: of all loaded versions.
        wake: called when a version has been loaded, or could not be.
    """

    def __init__(
        self, metrics: Metrics, folder: Path | None, home: Path | None, budget: MemoryBudget, wake: Callable[[], None]
    ) -> None:
        self._metrics, self._folder, self._home, self._wake = metrics, folder, home, wake
        self._budget = budget
        self.refused: Mapping[tuple[str, str], Refusal] = {}
        """By model and arm; replaced, never changed."""
        self._loaded: dict[Key, LoadedModel] = {}
        self._loading: dict[Key, LoadTask] = {}
        self._trim_at: float | None = None

    @property
    def is_loading(self) -> bool:
        """Whether a version is on its way that has not been given up."""
        return any(not loading.given_up for loading in self._loading.values())

    def put(self, version: Version, loaded_model: LoadedModel) -> None:
        """Hold a version that was loaded elsewhere."""
        self._loaded[key(version)] = loaded_model
        self._trim_at = time.monotonic() + TRIM_SECONDS

    def knows(self, version: Version) -> bool:
        """Whether it is in memory or on its way."""
        return key(version) in self._loaded or key(version) in self._loading

    def obtain(
        self, version: Version, arm: str, answering: Loaded | None, room: int | None = None
    ) -> LoadedModel | None:
        """The version in memory; None while it is fetched, loaded and proved, and after it was refused.

        Args:
            arm: what it is wanted as.
            answering: the champion in force, for the sentence that is said when it is refused.
            room: bytes that it may take, judged before it is loaded; None: as many as it takes.
        """
        at = key(version)
        if at in self._loaded:
            return self._loaded[at]
        loading = self._loading.get(at)
        if loading is None:
            refusal = self.refused.get((version.model, arm))
            if refusal is None or refusal.served != version or time.monotonic() >= refusal.again:
                self._loading[at] = LoadTask(lambda: self._fetched(version, room), self._wake)
            return None
        loaded_model = None
        if not loading.given_up:
            try:
                loaded_model = loading.result()
            except Exception as error:  # noqa: BLE001  whatever it is: what answers goes on answering, and it is said
                self.refuse(version, arm, error, answering)
        if loading.ended:
            del self._loading[at]
        if loaded_model is not None:
            self.put(version, loaded_model)
        return loaded_model

    def _fetched(self, version: Version, room: int | None) -> LoadedModel:
        if self._folder is None:
            raise served_form.BadServedForm("there is no folder for the copies of served forms: set MLOPS_HOME")
        form = disk_cache.fetch(version.url, disk_cache.place(self._folder, version), version.content_hash)
        if room is not None and (needed := estimated_bytes(form)) > room:
            raise self._budget.exceeded(needed, room)
        return load(form, version)

    def refuse(self, version: Version, arm: str, error: Exception, answering: Loaded | None) -> None:
        """Note why a version is not loaded; it is tried again, at longer and longer intervals."""
        before = self.refused.get((version.model, arm))
        attempts = before.attempts + 1 if before and before.served == version else 1
        again = time.monotonic() + min(60.0, 2.0 ** min(attempts, 6))
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        refusal = Refusal(version, one_line(error), now, attempts, again)
        self.refused = {**self.refused, (version.model, arm): refusal}
        self._metrics.not_swapped.labels(version.model).inc()
        if arm == "champion":
            self._metrics.behind.labels(version.model).set(1)
        fields = {**asdict(version), "arm": arm, "reason": refusal.reason, "attempt": attempts}
        log.error("not swapped", extra={"fields": fields})
        if attempts == 1:
            self.alert("version_refused", refusal.describe(arm, answering), **fields)

    def forget_refusals(self, desired: Mapping[tuple[str, str], Version]) -> None:
        """Keep only those of versions that are still wanted, by model and arm."""
        for model, arm in [at for at, refusal in self.refused.items() if desired.get(at) != refusal.served]:
            self._forget(model, arm)

    def accept(self, version: Version, arm: str) -> None:
        """It is there: whatever was refused as this arm is forgotten."""
        self._forget(version.model, arm)

    def _forget(self, model: str, arm: str) -> None:
        self.refused = {at: refusal for at, refusal in self.refused.items() if at != (model, arm)}
        if arm == "champion":
            self._metrics.behind.labels(model).set(0)

    def retain(self, used: Iterable[Version], desired: Iterable[Version]) -> None:
        """Let go of every version that is not used, and of every loading and copy that is not even wanted."""
        needed = {key(version) for version in used}
        known = needed | {key(version) for version in desired}
        self._loading = {at: loading for at, loading in self._loading.items() if at in known or not loading.ended}
        dropped = self._loaded.keys() - needed
        if not dropped:
            return
        self._loaded = {at: loaded_model for at, loaded_model in self._loaded.items() if at in needed}
        self._trim_at = time.monotonic() + TRIM_SECONDS
        if self._folder is not None:
            for model in {model for model, _ in dropped}:
                disk_cache.drop_old(self._folder, model, {content for name, content in known if name == model})

    def trim(self) -> None:
        """Give back to the system what loading needed, and what versions needed that were let go; takes 2 ms."""
        if self._trim_at is not None and time.monotonic() >= self._trim_at:
            self._trim_at = None
            return_memory()

    def alert(self, event: str, message: str, **details: object) -> None:
        """Raise an alert; that it cannot be written holds nothing up."""
        if self._home is not None:
            alerting.send(self._home, event, message, **details)


def one_line(error: Exception) -> str:
    """An error's message without line breaks, or at least its name."""
    return " ".join(str(error).split()) or type(error).__name__
