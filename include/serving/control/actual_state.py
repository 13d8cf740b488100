"""What this worker answers with, and the steps that bring it to the desired state.

A champion's version is loaded beside the old one and made to answer its golden rows; only then one reference changes.
What is tried beside a champion never touches it: it is loaded after it, refused where memory lacks, and taken out at
once, in this worker, when it breaks its rollout's limits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from include.serving.control import status
from include.serving.control.ledger_reader import DesiredState
from include.serving.metrics.counters import ArmCounters
from include.serving.metrics.prometheus import Metrics
from include.serving.metrics.reporter import Reporter
from include.serving.routing.breaker import breach
from include.serving.routing.rollout import Rollout
from include.serving.routing.table import Routes
from include.serving.versions import disk_cache
from include.serving.versions.cache import VersionCache, one_line
from include.serving.versions.loader import Loaded, LoadedModel
from include.serving.versions.memory_budget import MemoryBudget
from include.serving.versions.version import Champion, Version

log = logging.getLogger("mlops.serving")


class ActualState:
    """The loaded champions and candidates, and their routes.

    Changed under its lock by two threads: the one that follows the ledger, and the one that judges arms.

    Args:
        copies: the folder of the last good copies; None: none are kept.
        home: the platform's folder, where alerts are raised; None: failures are only logged.
        budget: memory of all loaded versions.
        wake: called when a version has been loaded, or could not be.
    """

    def __init__(
        self, metrics: Metrics, copies: Path | None, home: Path | None, budget: MemoryBudget, wake: Callable[[], None]
    ) -> None:
        self._metrics, self._copies, self._budget, self._lock = metrics, copies, budget, threading.Lock()
        self.desired = DesiredState()
        """What the ledger said last; replaced as a whole by the thread that reads it."""
        self.cache = VersionCache(metrics, copies, home, budget, wake)
        self.reporter = Reporter(metrics, self._judge)
        self.routes = Routes(metrics, self.reporter)
        self.taken_out: Mapping[int, tuple[Rollout, str]] = {}
        """By the rollout's id, with the reason; replaced, never changed."""
        self.over_budget: str | None = None
        """What is wrong where the champions alone take too much memory."""
        self._champions: dict[str, Loaded] = {}
        self._candidates: dict[int, Loaded] = {}

    def has(self, model: str) -> bool:
        """Whether there is a champion of this model."""
        return model in self._champions

    def begin_with(self, champion: Champion, model: LoadedModel, origin: str) -> None:
        """Answer with a version that was loaded elsewhere; before anything is followed."""
        self.cache.put(champion, model)
        self._swap(champion, model, origin)

    def replace_routes(self) -> None:
        """Route to what is loaded now."""
        with self._lock:
            self._replace_routes()

    def reconcile(self) -> None:
        """One step from what answers to what is desired; never waits for a download or a model."""
        desired = self.desired
        with self._lock:
            self._drop_retired()
            self._forget()
            for champion in desired.champions:
                self._load_champion(champion)
            for rollout in desired.active_rollouts:
                self._load_candidate(rollout)
            self._enforce_budget()
            self._replace_routes()
            used = [loaded.served for loaded in self._loaded()]
            self.cache.retain(used, [*desired.champions, *(rollout.served for rollout in desired.active_rollouts)])
        self.cache.trim()

    @property
    def is_settled(self) -> bool:
        """Whether every desired champion answers, or was refused."""
        for champion in self.desired.champions:
            route = self.routes.current.get(champion.model)
            refusal = self.cache.refused.get((champion.model, "champion"))
            answers = route is not None and route.champion.loaded.served == champion
            if not answers and (refusal is None or refusal.served != champion):
                return False
        return True

    def _drop_retired(self) -> None:
        """Answer no more for models that a person retired, after a start without a database neither."""
        dropped = [model for model in self._champions if model in self.desired.retired]
        for model in dropped:
            loaded = self._champions.pop(model)
            log.info("retired", extra={"fields": {"model": model, "version": loaded.version}})
        try:
            if dropped:
                self._remember()
        except OSError as error:  # they answer no more; only a start without a database would bring them back
            log.warning("retirement not written down", extra={"fields": {"reason": one_line(error)}})

    def _forget(self) -> None:
        """Drop what is known of versions that are not desired any more, or are desired otherwise."""
        rollouts = {rollout.id: rollout for rollout in self.desired.active_rollouts}
        self._candidates = {number: loaded for number, loaded in self._candidates.items() if number in rollouts}
        self.taken_out = {n: entry for n, entry in self.taken_out.items() if rollouts.get(n) == entry[0]}
        desired: dict[tuple[str, str], Version] = {(c.model, "champion"): c for c in self.desired.champions}
        desired |= {(rollout.served.model, rollout.arm): rollout.served for rollout in rollouts.values()}
        self.cache.forget_refusals(desired)

    def _load_champion(self, champion: Champion) -> None:
        answering = self._champions.get(champion.model)
        if answering and answering.served == champion:
            return
        model = self.cache.obtain(champion, "champion", answering)
        if model is None:
            return
        try:
            self._remember(champion)
        except Exception as error:  # noqa: BLE001  whatever it is: what answers goes on answering, and it is said
            self.cache.refuse(champion, "champion", error, answering)
        else:
            self._swap(champion, model, "ledger")

    def _remember(self, *champions: Champion) -> None:
        """Write down who answers, with these as champions."""
        if self._copies is not None:
            answering = {model: loaded.served for model, loaded in self._champions.items()}
            answering |= {champion.model: champion for champion in champions}
            disk_cache.remember(self._copies, [entry for entry in answering.values() if isinstance(entry, Champion)])

    def _swap(self, champion: Champion, model: LoadedModel, origin: str) -> None:
        old = self._champions.get(champion.model)
        self._champions[champion.model] = Loaded(champion, model, origin)
        self.cache.accept(champion, "champion")
        self._metrics.swaps.labels(champion.model).inc()
        log.info("swapped", extra={"fields": {**asdict(champion), "from": old and old.version, "origin": origin}})

    def _load_candidate(self, rollout: Rollout) -> None:
        """Load what is to be tried: one version after the other, and none before a champion."""
        champion = self._champions.get(rollout.served.model)
        if champion is None or rollout.id in self._candidates:
            return
        if self.cache.knows(rollout.served) or not self.cache.is_loading:
            shadows = () if rollout.mirrored else [r.id for r in self.desired.active_rollouts if r.mirrored]
            room = self._room(without=shadows)  # they make room for what answers
            model = self.cache.obtain(rollout.served, rollout.arm, champion, room)
            if model is not None:
                self._candidates[rollout.id] = Loaded(rollout.served, model, "ledger")
                self.cache.accept(rollout.served, rollout.arm)
                log.info("loaded", extra={"fields": {**asdict(rollout.served), "arm": rollout.arm}})

    def _enforce_budget(self) -> None:
        """Let tried versions go, shadows first, until the rest fits; a champion is loaded whatever it takes."""
        for rollout in sorted(self.desired.active_rollouts, key=lambda rollout: not rollout.mirrored):
            if rollout.id in self._candidates and self._room() < 0:
                needed = self._candidates.pop(rollout.id).predictor.nbytes
                champion = self._champions[rollout.served.model]
                self.cache.refuse(rollout.served, rollout.arm, self._budget.exceeded(needed, self._room()), champion)
        used, before = self._budget.used(self._loaded()), self.over_budget
        self._metrics.bytes.set(used)
        self.over_budget = self._budget.excess(used)
        if self.over_budget and not before:
            log.error("over budget", extra={"fields": {"bytes": used, "budget": self._budget.bytes}})
            self.cache.alert("models_over_budget", self.over_budget, bytes=used, budget=self._budget.bytes)

    def _room(self, without: Collection[int] = ()) -> int:
        """Bytes that are free, were these rollouts' versions not loaded."""
        return self._budget.room(self._loaded(without))

    def _loaded(self, without: Collection[int] = ()) -> list[Loaded]:
        tried = [loaded for number, loaded in self._candidates.items() if number not in without]
        return [*self._champions.values(), *tried]

    def _replace_routes(self) -> None:
        tried = [(r, self._candidates[r.id]) for r in self.desired.active_rollouts if r.id in self._candidates]
        self.routes.combine(self._champions, [one for one in tried if one[0].id not in self.taken_out])

    def _judge(self, tally: ArmCounters) -> None:
        """Take an arm out at once, in this worker, that has broken its limits; until its rollout changes or ends."""
        reason = breach(tally.recent, tally.limits) if tally.limits else None
        if reason is None:
            return
        with self._lock:
            rollout_id = self.routes.rollout_of(tally)
            rollout = next((rollout for rollout in self.desired.active_rollouts if rollout.id == rollout_id), None)
            if rollout is None:
                return
            self.taken_out = {**self.taken_out, rollout.id: (rollout, reason)}
            self._replace_routes()
        self._metrics.taken_out.labels(tally.model, tally.arm).inc()
        fields = {"model": tally.model, "version": tally.version, "arm": tally.arm, "rollout_id": rollout.id}
        log.error("arm taken out", extra={"fields": {**fields, "reason": reason}})
        self.cache.alert("arm_taken_out", status.taken_out(rollout, reason), **fields, reason=reason)
