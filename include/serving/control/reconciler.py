"""The models that the service answers with: it follows PostgreSQL's champions and rollouts, and swaps by itself.

A wanted version is downloaded into the local copies, checked against its content hash, loaded beside the old one and
made to answer its golden rows; only then one reference changes. Whatever fails on that way leaves what answers as it
is, and is said in /models, in the metrics, in the log and as an alert. What is tried beside a champion never touches
it: it is loaded after it, refused where memory lacks, and taken out at once, in this worker, when it breaks its
rollout's limits. The last good champions stay on disk: see `copies`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from include.inference import served_form
from include.inference.predictor import GoldenMismatch
from include.serving.control.ledger_reader import DesiredState, LedgerReader
from include.serving.metrics.counters import ArmCounters
from include.serving.metrics.prometheus import Metrics
from include.serving.metrics.reporter import Reporter
from include.serving.routing.breaker import breach
from include.serving.routing.rollout import Rollout
from include.serving.routing.route import Route
from include.serving.routing.table import Routes
from include.serving.versions import disk_cache as on_disk
from include.serving.versions.cache import Refusal, VersionCache, key, megabytes, one_line
from include.serving.versions.disk_cache import fetch, write_bundle
from include.serving.versions.loader import Loaded, LoadedModel, LoadTask, load
from include.serving.versions.memory import return_memory
from include.serving.versions.version import Champion, Version

__all__ = ["Champion", "Loaded", "Reconciler", "fetch", "write_bundle"]

SILENCE_SECONDS = 5.0
"""How long a question to PostgreSQL may stay unanswered before the service calls itself degraded."""
FIRST_SECONDS = 4.0
"""How long the start waits for the ledger and its champions when there is no last good copy."""

log = logging.getLogger("mlops.serving")


class Reconciler:
    """The loaded models, and the thread that keeps them at what the ledger wants.

    Args:
        database_url: the platform's PostgreSQL; empty: nothing is followed, the bundled models answer.
        copies: the folder of the last good copies; None: none are kept, which only a service without a ledger may do.
        bundled: the folder of the models packed into the Bento, of the same shape as `copies`.
        default: the model that /predict means; empty: the only one.
        memory_megabytes: for all versions that are loaded; while one is swapped, the new one comes on top.
        home: the platform's folder, where alerts are told; None: failures are only logged.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        database_url: str = "",
        copies: Path | None = None,
        bundled: Path | None = None,
        default: str = "",
        poll_seconds: float = 0.5,
        memory_megabytes: int = 1024,
        home: Path | None = None,
    ) -> None:
        self._metrics, self._copies, self._bundled = metrics, copies, bundled
        self._poll_seconds, self._declared_default = poll_seconds, default
        self._stop, self._wake, self._settled = threading.Event(), threading.Event(), threading.Event()
        self._ledger = LedgerReader(database_url) if database_url else None
        self._ledger_error: str | None = "it was not read yet"
        self._asked_at: float | None = None
        self._wanted = DesiredState()

        self._changing = threading.Lock()
        """For all that follows: it is changed by the thread that follows, and by the one that judges."""
        self._holding = VersionCache(metrics, copies, home, memory_megabytes * 1024 * 1024, self._wake.set)
        self._champions: dict[str, Loaded] = {}
        self._tried: dict[int, Loaded] = {}
        self._taken_out: Mapping[int, tuple[Rollout, str]] = {}
        self._over_budget: str | None = None
        self._reporter = Reporter(metrics, self._judge)
        self._routes = Routes(metrics, self._reporter)
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- what answers

    def route(self, model: str) -> Route | None:
        """Who answers for `model` now."""
        return self._routes.current.get(model)

    @property
    def routes(self) -> Mapping[str, Route]:
        """All routes; never changed, only replaced."""
        return self._routes.current

    @property
    def generation(self) -> int:
        """Grows whenever the routes are replaced."""
        return self._routes.generation

    def get(self, model: str) -> Loaded | None:
        """The champion of `model` that answers now."""
        route = self.route(model)
        return route.champion.loaded if route else None

    @property
    def loaded(self) -> Mapping[str, Loaded]:
        """The champions that answer now."""
        return {model: route.champion.loaded for model, route in self.routes.items()}

    @property
    def default(self) -> str | None:
        """The model that /predict means: the declared one, or the only one."""
        if self._declared_default:
            return self._declared_default
        return next(iter(self.routes)) if len(self.routes) == 1 else None

    # ------------------------------------------------------------------------------------------- its state

    def problems(self) -> list[str]:
        """Why the service is degraded or unavailable: one sentence each, none when all is well."""
        problems = []
        if self._ledger:
            if error := self._ledger_silence():
                problems.append(f"the ledger in PostgreSQL cannot be read ({error}); no new champion is noticed")
            refused = sorted(self._holding.refused.items())
            problems += [refusal.said(arm, self.get(model)) for (model, arm), refusal in refused]
            problems += [_taken_out(rollout, reason) for rollout, reason in self._taken_out.values()]
        if self._over_budget:
            problems.append(self._over_budget)
        if reason := self.not_ready:
            problems.append(reason)
        return problems

    @property
    def not_ready(self) -> str | None:
        """Why nothing can be answered, without details of what stands behind the service; None when something can."""
        if self.routes:
            return None
        if not self._ledger:
            return "no model is packed into this Bento, and no ledger is configured (MLOPS_DATABASE_URL)"
        if self._ledger_silence():
            return "the ledger in PostgreSQL cannot be read, and there is no last good copy of a model"
        if self._wanted.champions:
            return "no champion could be loaded, and there is no last good copy of a model; /health says why"
        if self._wanted.retired:
            return "every model was retired; `mlops rollback` brings one back"
        return "no champion was promoted yet; run the train and deploy DAGs of a model"

    @property
    def status(self) -> str:
        """`ok`, `degraded` (answering, but see `problems`) or `unavailable`."""
        if not self.routes:
            return "unavailable"
        return "degraded" if self.problems() else "ok"

    def describe(self) -> list[dict[str, Any]]:
        """Each model, with the version that answers, the one that was refused, and its arms, for /models."""
        routes, refused = self.routes, self._holding.refused
        models = sorted({*routes, *(model for model, arm in refused if arm == "champion")})
        return [
            _described(model, routes.get(model), refused.get((model, "champion"))) | {"arms": list(self._arms(model))}
            for model in models
        ]

    def _arms(self, model: str) -> Iterator[dict[str, Any]]:
        """Who answers, and what a rollout wants that does not answer here, with the reason."""
        rollouts = {rollout.id: rollout for rollout in self._rollouts() if rollout.served.model == model}
        if route := self.route(model):
            for arm in route.arms:
                rollout = rollouts.pop(arm.rollout_id or 0, None)
                since = rollout.changed_at if rollout else arm.loaded.loaded_at
                described = {"name": arm.name, "version": arm.loaded.version, "rollout_id": arm.rollout_id}
                yield {**described, "share": route.share_of(arm), "since": since, **arm.tally.brief, "out": None}
        for rollout in rollouts.values():
            refusal = self._holding.refused.get((model, rollout.arm))
            _, reason = self._taken_out.get(rollout.id, (None, refusal.reason if refusal else "it is being loaded"))
            described = {"name": rollout.arm, "version": rollout.served.version, "rollout_id": rollout.id}
            yield {**described, "share": 0.0, "since": rollout.changed_at, "out": reason}

    def _ledger_silence(self) -> str | None:
        asked = self._asked_at
        if asked is not None and (silent := time.monotonic() - asked) > SILENCE_SECONDS:
            return f"it has not answered for {silent:.0f} s"
        return self._ledger_error

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Load the last good copies, or what the Bento holds, and begin to follow the ledger."""
        for folder, origin in ((self._copies, "last good copy"), (self._bundled, "bento")):
            for champion in on_disk.remembered(folder):
                if folder is not None and champion.model not in self._champions:
                    self._start_with(champion, folder, origin)
        with self._changing:
            self._routes.lay(self._champions, [])
        self._reporter.start()
        if self._ledger:
            self._thread = threading.Thread(target=self._follow, name="follow-ledger", daemon=True)
            self._thread.start()
            if not self.routes:  # what could be answered while waiting?
                self._settled.wait(FIRST_SECONDS)
        else:
            return_memory()

    def stop(self) -> None:
        """End the following; what is loaded goes on answering."""
        self._reporter.stop()
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _start_with(self, champion: Champion, folder: Path, origin: str) -> None:
        def obtain() -> LoadedModel:
            return load(served_form.verify(on_disk.place(folder, champion), champion.content_hash), champion)

        try:
            held = LoadTask(obtain, self._wake.set).wait()
        except (served_form.BadServedForm, GoldenMismatch, OSError) as error:
            log.warning("copy refused", extra={"fields": {**asdict(champion), "origin": origin, "reason": str(error)}})
        else:
            self._holding.put(champion, held)
            self._swap(champion, held, origin)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._ask()
                self._converge()
            except Exception:  # whatever it is: what answers goes on answering, and the next turn tries again
                log.exception("following failed")
            self._metrics.degraded.set(self.status != "ok")
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
        if self._ledger:
            if self._ledger_error is None:
                self._ask()  # once more, for what the arms did last
            self._ledger.close()

    def _ask(self) -> None:
        """Read what is wanted, and write what the arms did."""
        assert self._ledger is not None  # noqa: S101  else nothing is followed
        self._asked_at = time.monotonic()
        try:
            wanted = self._ledger.read()
        except Exception as error:  # noqa: BLE001  whatever it is: the last good models go on, and it is said
            self._ledger_lost(one_line(error))
        else:
            if self._ledger_error:
                log.info("ledger read", extra={"fields": {"champions": len(wanted.champions)}})
            self._ledger_error, self._wanted = None, wanted
            self._report(self._ledger, wanted.clock)
        finally:
            self._asked_at = None

    def _report(self, ledger: LedgerReader, clock: float) -> None:
        reporter = self._reporter
        _written("arm windows", reporter.pending(clock), ledger.report, reporter.written)
        _written("service minutes", reporter.minutes(clock), ledger.report_minutes, reporter.minutes_written)

    def _ledger_lost(self, reason: str) -> None:
        if self._ledger_error != reason:
            log.error("ledger unreachable", extra={"fields": {"reason": reason}})
        self._ledger_error = reason

    # ------------------------------------------------------------------------------------------- swapping

    def _converge(self) -> None:
        """One step from what answers to what is wanted; never waits for a download or a model."""
        with self._changing:
            self._drop_retired()
            self._forget()
            for champion in self._wanted.champions:
                self._take(champion)
            for rollout in self._rollouts():
                self._try(rollout)
            self._keep_within_budget()
            self._lay()
            used = [loaded.served for loaded in [*self._champions.values(), *self._tried.values()]]
            self._holding.keep(used, [*self._wanted.champions, *(rollout.served for rollout in self._rollouts())])
        if all(self._is_settled(champion) for champion in self._wanted.champions):
            self._settled.set()
        self._holding.trim()

    def _is_settled(self, champion: Champion) -> bool:
        answering, refusal = self.get(champion.model), self._holding.refused.get((champion.model, "champion"))
        return bool((answering and answering.served == champion) or (refusal and refusal.served == champion))

    def _rollouts(self) -> list[Rollout]:
        """Those that run beside the ledger's champion; what was begun beside another one is about to be ended."""
        champions = {champion.model: champion.version for champion in self._wanted.champions}
        return [r for r in self._wanted.rollouts if champions.get(r.served.model) == r.champion_version]

    def _drop_retired(self) -> None:
        """Answer no more for models that a person retired, after a start without a database neither."""
        dropped = [model for model in self._champions if model in self._wanted.retired]
        for model in dropped:
            loaded = self._champions.pop(model)
            log.info("retired", extra={"fields": {"model": model, "version": loaded.version}})
        try:
            if dropped:
                self._remember()
        except OSError as error:  # they answer no more; only a start without a database would bring them back
            log.warning("retirement not written down", extra={"fields": {"reason": one_line(error)}})

    def _forget(self) -> None:
        """Drop what is known of versions that are not wanted any more, or are wanted differently."""
        rollouts = {rollout.id: rollout for rollout in self._rollouts()}
        self._tried = {number: loaded for number, loaded in self._tried.items() if number in rollouts}
        self._taken_out = {n: entry for n, entry in self._taken_out.items() if rollouts.get(n) == entry[0]}
        wanted: dict[tuple[str, str], Version] = {(c.model, "champion"): c for c in self._wanted.champions}
        wanted |= {(rollout.served.model, rollout.arm): rollout.served for rollout in rollouts.values()}
        self._holding.forget_refusals(wanted)

    def _take(self, champion: Champion) -> None:
        answering = self._champions.get(champion.model)
        if answering and answering.served == champion:
            return
        held = self._holding.obtain(champion, "champion", answering)
        if held is None:
            return
        try:
            self._remember(champion)
        except Exception as error:  # noqa: BLE001  whatever it is: what answers goes on answering, and it is said
            self._holding.refuse(champion, "champion", error, answering)
        else:
            self._swap(champion, held, "ledger")

    def _remember(self, *champions: Champion) -> None:
        """Write down who answers, with these as champions."""
        if self._copies is not None:
            answering = {model: loaded.served for model, loaded in self._champions.items()}
            answering |= {champion.model: champion for champion in champions}
            on_disk.remember(self._copies, [entry for entry in answering.values() if isinstance(entry, Champion)])

    def _swap(self, champion: Champion, held: LoadedModel, origin: str) -> None:
        old = self._champions.get(champion.model)
        self._champions[champion.model] = Loaded(champion, held, origin)
        self._holding.accept(champion, "champion")
        self._metrics.swaps.labels(champion.model).inc()
        log.info("swapped", extra={"fields": {**asdict(champion), "from": old and old.version, "origin": origin}})

    def _try(self, rollout: Rollout) -> None:
        """Load what is to be tried: one version after the other, and none before a champion."""
        champion = self._champions.get(rollout.served.model)
        if champion is None or rollout.id in self._tried:
            return
        if self._holding.knows(rollout.served) or not self._holding.is_loading:
            shadows = () if rollout.mirrored else [r.id for r in self._rollouts() if r.mirrored]
            room = self._holding.budget - self._bytes(without=shadows)  # they make room for what answers
            held = self._holding.obtain(rollout.served, rollout.arm, champion, room)
            if held is not None:
                self._tried[rollout.id] = Loaded(rollout.served, held, "ledger")
                self._holding.accept(rollout.served, rollout.arm)
                log.info("loaded", extra={"fields": {**asdict(rollout.served), "arm": rollout.arm}})

    def _keep_within_budget(self) -> None:
        """Let tried versions go, shadows first, until the rest fits; a champion is loaded whatever it takes."""
        for rollout in sorted(self._rollouts(), key=lambda rollout: not rollout.mirrored):
            if rollout.id in self._tried and self._bytes() > self._holding.budget:
                needed = self._tried.pop(rollout.id).predictor.nbytes
                error = self._holding.over_budget(needed, self._holding.budget - self._bytes())
                champion = self._champions[rollout.served.model]
                self._holding.refuse(rollout.served, rollout.arm, error, champion)
        used, before = self._bytes(), self._over_budget
        self._metrics.bytes.set(used)
        self._over_budget = self._too_much(used) if used > self._holding.budget else None
        if self._over_budget and not before:
            log.error("over budget", extra={"fields": {"bytes": used, "budget": self._holding.budget}})
            self._holding.tell("models_over_budget", self._over_budget, bytes=used, budget=self._holding.budget)

    def _too_much(self, used: int) -> str:
        return (
            f"the champions take {megabytes(used)} of memory, {megabytes(self._holding.budget)} are declared:"
            " raise service.memory_megabytes in params.yaml, or serve fewer models here"
        )

    def _bytes(self, without: Collection[int] = ()) -> int:
        tried = [loaded for number, loaded in self._tried.items() if number not in without]
        used = {key(loaded.served): loaded.predictor.nbytes for loaded in [*self._champions.values(), *tried]}
        return sum(used.values())

    def _lay(self) -> None:
        tried = [(r, self._tried[r.id]) for r in self._rollouts() if r.id in self._tried]
        self._routes.lay(self._champions, [one for one in tried if one[0].id not in self._taken_out])

    def _judge(self, tally: ArmCounters) -> None:
        """Take an arm out at once, in this worker, that has broken its limits; until its rollout changes or ends."""
        reason = breach(tally.recent, tally.limits) if tally.limits else None
        if reason is None:
            return
        with self._changing:
            rollout_id = self._routes.rollout_of(tally)
            rollout = next((rollout for rollout in self._rollouts() if rollout.id == rollout_id), None)
            if rollout is None:
                return
            self._taken_out = {**self._taken_out, rollout.id: (rollout, reason)}
            self._lay()
        self._metrics.taken_out.labels(tally.model, tally.arm).inc()
        fields = {"model": tally.model, "version": tally.version, "arm": tally.arm, "rollout_id": rollout.id}
        log.error("arm taken out", extra={"fields": {**fields, "reason": reason}})
        self._holding.tell("arm_taken_out", _taken_out(rollout, reason), **fields, reason=reason)


def _written(
    what: str,
    rows: list[tuple[Any, ...]],
    write: Callable[[list[tuple[Any, ...]]], None],
    done: Callable[[list[tuple[Any, ...]]], None],
) -> None:
    """Write what the arms did, if there is any; what is not written is offered again."""
    try:
        if rows:
            write(rows)
            done(rows)
    except Exception as error:  # noqa: BLE001  what answers does not hang on them
        log.warning(f"{what} not written", extra={"fields": {"rows": len(rows), "reason": one_line(error)}})


def _taken_out(rollout: Rollout, reason: str) -> str:
    named = f"{rollout.served.model} version {rollout.served.version}"
    return f"{named} was taken out as {rollout.arm} in this worker: {reason}; the champion answers alone"


def _described(model: str, route: Route | None, refusal: Refusal | None) -> dict[str, Any]:
    described: dict[str, Any] = {"model": model, "version": None, "refused": None}
    if route:
        loaded = route.champion.loaded
        described |= asdict(loaded.served) | {"origin": loaded.origin, "loaded_at": loaded.loaded_at}
        del described["url"]
        keys = ("task", "target", "estimator", "metric", "metrics", "created_at")
        described |= {name: loaded.predictor.manifest.get(name) for name in keys}
    if refusal:
        described["refused"] = asdict(refusal.served) | {
            "reason": refusal.reason,
            "at": refusal.at,
            "attempts": refusal.attempts,
        }
        for name in ("model", "url", "bento"):
            del described["refused"][name]
    return described
