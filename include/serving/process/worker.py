"""What one worker of the service consists of, put together from the environment and params.yaml, and its life.

Whatever server runs it: bentofiles/prediction/service.py hands it to BentoML.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from include import home as homes
from include.serving.batching.micro_batcher import Unrecorded
from include.serving.batching.shadow import Shadow
from include.serving.control.reconciler import Reconciler
from include.serving.http import connections
from include.serving.http.access_log import AccessLog
from include.serving.http.application import Application, Limits
from include.serving.http.authentication import Authentication
from include.serving.http.load_shedding import LoadShedder
from include.serving.http.site import Site
from include.serving.metrics.prometheus import Metrics
from include.serving.prediction_log.log import PredictionLog
from include.serving.process import declared, heartbeat
from include.serving.process.json_log import log_as_json
from include.serving.process.shutdown import Shutdown

BUNDLED = "served"
"""The folder of a Bento's own model, below its root."""


class Worker:
    """The application with everything that it needs.

    Args:
        environment: where the `MLOPS_*` variables are.
        root: the checkout, or the Bento's sources.
    """

    def __init__(self, environment: Mapping[str, str], root: Path) -> None:
        found = declared.read(environment, root)
        settings = found.service
        self._mistakes = found.mistakes
        if settings.pin_workers:
            _pin(int(environment.get("MLOPS_SERVING_WORKER") or 1))
        paths, database_url = homes.Home(homes.of(environment, root)), environment.get("MLOPS_DATABASE_URL", "")
        bundled = root / BUNDLED
        body_bytes = int(settings.max_body_megabytes * 1024 * 1024)
        metrics = Metrics()
        self.models = Reconciler(
            metrics,
            database_url=database_url,
            copies=paths.serving if database_url else None,
            bundled=bundled if bundled.is_dir() else None,
            default=found.default_model,
            memory_megabytes=settings.memory_megabytes,
            home=paths.path if database_url else None,
        )
        self._shadows, self._access_log = Shadow(metrics), AccessLog(settings.access_log, metrics)
        self._log: PredictionLog | None = None
        if database_url:  # a Bento that runs by itself has nowhere to bring its predictions
            self._log = PredictionLog(
                paths.spool,
                database_url=database_url,
                fsync=settings.fsync,
                spool_megabytes=settings.spool_megabytes,
                when_full=settings.when_full,
                home=paths.path,
            )
        self.application = Application(
            self.models,
            metrics,
            access=Authentication(
                paths.serving_keys,
                metrics,
                key=environment.get("MLOPS_SERVING_KEY"),
                open_to_all=environment.get("MLOPS_SERVING_OPEN") == "1",
                requests_per_second=settings.requests_per_second,
            ),
            admission=LoadShedder(settings.max_concurrency, metrics),
            recorder=self._log or Unrecorded(),
            access_log=self._access_log,
            shadows=self._shadows,
            limits=Limits(body_bytes, settings.body_seconds, settings.request_seconds),
            site=Site(settings.path_prefix, settings.allowed_origins),
            hot=environment.get("MLOPS_SERVING_HOT_PATH") != "off",
        )
        self._ending = Shutdown(self._announce, settings.drain_seconds)
        connections.watch(settings.body_seconds, self.application)

    async def start(self) -> None:
        """Load what is at hand, begin to follow the ledger, and leave the garbage collector nothing to walk over."""
        log_as_json()
        declared.log_mistakes(self._mistakes)
        _silence("uvicorn.access")
        self._ending.install_handlers()
        self._ending.exit_with_parent()
        self._access_log.start()
        if self._log is not None:
            self._log.start(asyncio.get_running_loop())
        self.models.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # an answer leaves no cycles behind: looking for them 700 objects long is dear
        gc.enable()
        heartbeat.begin(os.environ, asyncio.get_running_loop())  # from here on nothing keeps the loop

    async def stop(self) -> None:
        """End the following; what was acknowledged is brought to disk, and to the database if it is there."""
        self.application.count()
        self.application.close()
        self._shadows.stop()
        following = asyncio.to_thread(self.models.stop)  # either may have to wait for the database
        await asyncio.gather(following, *([self._log.stop()] if self._log is not None else []))
        self._access_log.stop()

    @property
    def ready(self) -> bool:
        """Whether there is a model that answers, and will go on to."""
        return self.models.not_ready is None and not self.application.draining

    def _announce(self) -> None:
        self.application.draining = True


def _pin(number: int) -> None:
    """Keep this process, and the threads that it starts, on the core that is its turn among those it may use."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(number - 1) % len(cores)]})


def _silence(logger: str) -> None:
    logging.getLogger(logger).handlers, logging.getLogger(logger).propagate = [], False
