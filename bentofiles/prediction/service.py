"""The prediction service: BentoML runs it; include/serving answers in front of BentoML's own middleware.

From a checkout it follows the champions in PostgreSQL (MLOPS_DATABASE_URL) and keeps its last good copies below
MLOPS_HOME/serving. As a Bento it also holds one model, in `served/`, and without a database it answers with that one.
It wants a key (MLOPS_SERVING_KEY); MLOPS_SERVING_OPEN=1 says that none is wanted.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import threading
import time
from pathlib import Path

import bentoml

from include.serving.application import Application
from include.serving.log import log_as_json
from include.serving.metrics import Metrics
from include.serving.models import Models

ROOT = Path(__file__).resolve().parent.parent.parent
BUNDLED = ROOT / "served"


def configured_models(metrics: Metrics) -> Models:
    """The models as the environment wants them; nothing is loaded yet."""
    database_url, home = os.environ.get("MLOPS_DATABASE_URL", ""), os.environ.get("MLOPS_HOME")
    return Models(
        metrics,
        database_url=database_url,
        copies=Path(home or ROOT / "var").absolute() / "serving" if database_url else None,
        bundled=BUNDLED if BUNDLED.is_dir() else None,
        default=_default_model(),
    )


def _default_model() -> str:
    """The default of params.yaml, where there is one; a Bento of one model needs none."""
    params = Path(os.environ.get("MLOPS_PARAMS") or ROOT / "params.yaml")
    if not params.is_file():
        return ""
    from include.settings import ParamsError, load_params

    try:
        return load_params(params).default_model or ""
    except ParamsError:  # `mlops check` says what is wrong with it; answering does not wait for that
        return ""


def _key() -> str | None:
    """The key; None only where somebody asked for an open service. Without either it is one that nobody knows."""
    key = os.environ.get("MLOPS_SERVING_KEY")
    return key or (None if os.environ.get("MLOPS_SERVING_OPEN") == "1" else secrets.token_hex())


def _end_with_parent(seconds: float = 1.0) -> None:
    """End this worker when BentoML's supervisor was killed: an orphan would keep the port and answer for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


metrics = Metrics()
models = configured_models(metrics)
application = Application(models, metrics, key=_key())


@bentoml.service(
    name="prediction",
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    tracing={"excluded_urls": ".*"},
)
class Prediction:
    """Answers with the champion of each model."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Refuse to listen without a key, once and clearly, before any worker starts."""
        if not os.environ.get("MLOPS_SERVING_KEY") and os.environ.get("MLOPS_SERVING_OPEN") != "1":
            raise SystemExit(
                "the prediction service has no key and does not start: set MLOPS_SERVING_KEY (clients send it as"
                " `Authorization: Bearer <key>`), or MLOPS_SERVING_OPEN=1 to answer anybody"
            )

    @bentoml.on_startup
    def start(self) -> None:
        """Load what is at hand, begin to follow the ledger, and leave the garbage collector nothing to walk over."""
        log_as_json()
        _end_with_parent()
        models.start()
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def stop(self) -> None:
        """End the following."""
        models.stop()

    def __is_ready__(self) -> bool:
        """Whether there is a model that answers."""
        return models.not_ready is None


Prediction.add_asgi_middleware(application.in_front_of)
