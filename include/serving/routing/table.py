"""The routes of all models behind one reference, with the arms' tallies: made anew where something changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.serving.metrics.counters import ArmCounters, Watch
from include.serving.metrics.prometheus import Metrics
from include.serving.metrics.reporter import Reporter
from include.serving.routing.rollout import Rollout
from include.serving.routing.route import Arm, Route
from include.serving.versions.loader import Loaded

Tried = tuple[Rollout, Loaded]


class Routes:
    """Who answers for each model; used by whoever holds the lock of `Reconciler`, and read by everybody."""

    def __init__(self, metrics: Metrics, reporter: Reporter) -> None:
        self._metrics, self._reporter = metrics, reporter
        self.current: Mapping[str, Route] = {}
        """Model → its route: never changed, only replaced."""
        self.generation = 0
        """Grows whenever `current` is replaced."""
        self._plans: dict[str, tuple[Any, ...]] = {}
        self._tallies: dict[tuple[str, str, int, int | None], ArmCounters] = {}

    def combine(self, champions: Mapping[str, Loaded], tried: Sequence[Tried]) -> None:
        """Make the routes of these champions, and of what is tried beside them; other models have none any more."""
        changed: dict[str, Route] = {}
        for model, champion in champions.items():
            tried_here = [(rollout, loaded) for rollout, loaded in tried if rollout.served.model == model]
            plan = (champion, *tried_here)
            if self._plans.get(model) != plan:
                self._plans[model] = plan
                changed[model] = self._route(champion, tried_here)
        gone = self.current.keys() - champions.keys()
        if not changed and not gone:
            return
        unchanged = {model: route for model, route in self.current.items() if model not in gone}
        before, self.current = self.current, {**unchanged, **changed}
        self.generation += 1
        tallies = [arm.tally for route in self.current.values() for arm in route.arms]
        self._tallies = {at: tally for at, tally in self._tallies.items() if tally in tallies}
        self._reporter.follow(tallies)
        for model, route in changed.items():
            self._measure(before.get(model), route)
        for model in gone:
            del self._plans[model]
            self._unmeasure(before[model])

    def rollout_of(self, tally: ArmCounters) -> int | None:
        """The rollout whose arm has this tally."""
        arms = (arm for route in self.current.values() for arm in route.arms)
        return next((arm.rollout_id for arm in arms if arm.tally is tally), None)

    def _route(self, champion: Loaded, tried: Sequence[Tried]) -> Route:
        answers = next(((rollout, loaded) for rollout, loaded in tried if not rollout.mirrored), None)
        shadow = next(((rollout, loaded) for rollout, loaded in tried if rollout.mirrored), None)
        name = answers[0].control if answers else "champion"
        first = Arm(name, champion, None, self._tally(champion, name, None))
        reports = tuple((rollout.id, rollout.control) for rollout, _ in tried)
        first.tally.watch(Watch(reports, champion.loaded_model.edges) if reports else None)
        arm = self._arm(champion, *answers) if answers else None
        share = answers[0].share if answers else 0.0
        return Route(
            champion.model,
            first,
            challenger=arm if share else None,
            share=share,
            salt=answers[0].salt if answers else "",
            shadow=self._arm(champion, *shadow) if shadow else None,
            standby=None if share else arm,
        )

    def _arm(self, champion: Loaded, rollout: Rollout, loaded: Loaded) -> Arm:
        tally = self._tally(loaded, rollout.arm, rollout)
        tally.watch(Watch(((rollout.id, rollout.arm),), champion.loaded_model.edges))
        return Arm(rollout.arm, loaded, rollout.id, tally)

    def _tally(self, loaded: Loaded, arm: str, rollout: Rollout | None) -> ArmCounters:
        at = (loaded.model, arm, loaded.version, rollout.id if rollout else None)
        if at not in self._tallies:
            self._tallies[at] = ArmCounters(loaded.model, arm, loaded.version, rollout.limits if rollout else None)
        return self._tallies[at]

    def _unmeasure(self, route: Route) -> None:
        for arm in route.arms:
            self._metrics.arm_version.labels(route.model, arm.name).set(0)
            self._metrics.arm_share.labels(route.model, arm.name).set(0.0)
        self._metrics.version.labels(route.model).set(0)

    def _measure(self, before: Route | None, route: Route) -> None:
        names = {arm.name for known in (before, route) if known for arm in known.arms}
        there = {arm.name: arm for arm in route.arms}
        for name in names:
            arm = there.get(name)
            self._metrics.arm_version.labels(route.model, name).set(arm.loaded.version if arm else 0)
            self._metrics.arm_share.labels(route.model, name).set(route.share_of(arm) if arm else 0.0)
        self._metrics.version.labels(route.model).set(route.champion.loaded.version)
