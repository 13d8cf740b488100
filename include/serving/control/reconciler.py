"""Keeps what the service answers with at what PostgreSQL's ledger says: champions, and the rollouts beside them.

A thread reads the ledger (ledger_reader.py) and brings the actual state one step nearer to it (actual_state.py), again
and again. Whatever fails on that way leaves what answers as it is, and is in /models (status.py), in the metrics, in
the log, and an alert. The last good champions stay on disk: see `copies`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from include.inference import served_form
from include.inference.predictor import GoldenMismatch
from include.serving.control import status
from include.serving.control.actual_state import ActualState
from include.serving.control.ledger_reader import LedgerReader
from include.serving.control.status import Snapshot
from include.serving.metrics.prometheus import Metrics
from include.serving.routing.route import Route
from include.serving.versions import disk_cache
from include.serving.versions.cache import one_line
from include.serving.versions.disk_cache import fetch, write_bundle
from include.serving.versions.loader import Loaded, LoadedModel, LoadTask, load
from include.serving.versions.memory import return_memory
from include.serving.versions.memory_budget import MemoryBudget
from include.serving.versions.version import Champion

__all__ = ["Champion", "Loaded", "Reconciler", "fetch", "write_bundle"]

SILENCE_SECONDS = 5.0
"""How long a question to PostgreSQL may stay unanswered before the service calls itself degraded."""
FIRST_SECONDS = 4.0
"""How long the start waits for the ledger and its champions when there is no last good copy."""

log = logging.getLogger("mlops.serving")


class Reconciler:
    """The thread that follows the ledger, and what it has reached.

    Args:
        database_url: the platform's PostgreSQL; empty: nothing is followed, the bundled models answer.
        copies: the folder of the last good copies; None: none are kept, which only a service without a ledger may do.
        bundled: the folder of the models packed into the Bento, of the same shape as `copies`.
        default: the model that /predict means; empty: the only one.
        memory_megabytes: for all versions that are loaded; while one is swapped, the new one comes on top.
        home: the platform's folder, where alerts are raised; None: failures are only logged.
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
        self._polled_at: float | None = None
        budget = MemoryBudget(memory_megabytes * 1024 * 1024)
        self._state = ActualState(metrics, copies, home, budget, self._wake.set)
        self._routes = self._state.routes
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
        return status.problems(self._snapshot())

    @property
    def not_ready(self) -> str | None:
        """Why nothing can be answered, without details of what stands behind the service; None when something can."""
        return None if self.routes else status.not_ready(self._snapshot())

    @property
    def status(self) -> str:
        """`ok`, `degraded` (answering, but see `problems`) or `unavailable`."""
        return status.word(self._snapshot())

    def describe(self) -> list[dict[str, Any]]:
        """Each model, with the version that answers, the one that was refused, and its arms, for /models."""
        return status.describe(self._snapshot())

    def _snapshot(self) -> Snapshot:
        state = self._state
        return Snapshot(
            routes=self.routes,
            desired=state.desired,
            refused=state.cache.refused,
            taken_out=state.taken_out,
            over_budget=state.over_budget,
            follows_ledger=self._ledger is not None,
            ledger_error=self._ledger_silence(),
        )

    def _ledger_silence(self) -> str | None:
        polled = self._polled_at
        if polled is not None and (silent := time.monotonic() - polled) > SILENCE_SECONDS:
            return f"it has not answered for {silent:.0f} s"
        return self._ledger_error

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Load the last good copies, or what the Bento holds, and begin to follow the ledger."""
        for folder, origin in ((self._copies, "last good copy"), (self._bundled, "bento")):
            for champion in disk_cache.remembered(folder):
                if folder is not None and not self._state.has(champion.model):
                    self._start_with(champion, folder, origin)
        self._state.replace_routes()
        self._state.reporter.start()
        if self._ledger:
            self._thread = threading.Thread(target=self._follow, name="follow-ledger", daemon=True)
            self._thread.start()
            if not self.routes:  # what could be answered while waiting?
                self._settled.wait(FIRST_SECONDS)
        else:
            return_memory()

    def stop(self) -> None:
        """End the following; what is loaded goes on answering."""
        self._state.reporter.stop()
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _start_with(self, champion: Champion, folder: Path, origin: str) -> None:
        def obtain() -> LoadedModel:
            return load(served_form.verify(disk_cache.place(folder, champion), champion.content_hash), champion)

        try:
            model = LoadTask(obtain, self._wake.set).wait()
        except (served_form.BadServedForm, GoldenMismatch, OSError) as error:
            log.warning("copy refused", extra={"fields": {**asdict(champion), "origin": origin, "reason": str(error)}})
        else:
            self._state.begin_with(champion, model, origin)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._read_ledger()
                self._state.reconcile()
                if self._state.is_settled:
                    self._settled.set()
            except Exception:  # whatever it is: what answers goes on answering, and the next turn tries again
                log.exception("following failed")
            self._metrics.degraded.set(self.status != "ok")
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
        if self._ledger:
            if self._ledger_error is None:
                self._read_ledger()  # once more, for what the arms did last
            self._ledger.close()

    def _read_ledger(self) -> None:
        """Read the desired state, and write what the arms did."""
        assert self._ledger is not None  # noqa: S101  else nothing is followed
        self._polled_at = time.monotonic()
        try:
            desired = self._ledger.read()
        except Exception as error:  # noqa: BLE001  whatever it is: the last good models go on, and it is said
            self._ledger_lost(one_line(error))
        else:
            if self._ledger_error:
                log.info("ledger read", extra={"fields": {"champions": len(desired.champions)}})
            self._ledger_error, self._state.desired = None, desired
            self._report(self._ledger, desired.clock)
        finally:
            self._polled_at = None

    def _report(self, ledger: LedgerReader, clock: float) -> None:
        reporter = self._state.reporter
        _written("arm windows", reporter.pending(clock), ledger.report, reporter.written)
        _written("service minutes", reporter.minutes(clock), ledger.report_minutes, reporter.minutes_written)

    def _ledger_lost(self, reason: str) -> None:
        if self._ledger_error != reason:
            log.error("ledger unreachable", extra={"fields": {"reason": reason}})
        self._ledger_error = reason


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
