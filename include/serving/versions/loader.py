"""A served form on its way into memory, and out of it again: loaded in a thread of its own, proved by its golden rows.

Loading, checking and replaying never hold up what follows the ledger: a definition that never returns is given up, and
a tried version that takes long does not keep a rollback waiting.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from include.inference import served_form
from include.inference.predictor import GoldenMismatch, Predictor
from include.serving.versions.response_encoder import Answers
from include.serving.versions.version import Version

LOAD_SECONDS = 60.0
"""For fetching and loading a version and replaying its golden rows."""
PROBABILITY_EDGES = tuple(n / 10 for n in range(1, 10))


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A served form in memory that has given its golden answers."""

    predictor: Predictor
    edges: tuple[float, ...]
    """The inner edges of the bins of its predictions: those of its profile, or tenths of a probability."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A version in memory, that answers."""

    served: Version
    loaded_model: LoadedModel
    origin: str
    """`ledger`, `last good copy` or `bento`."""
    loaded_at: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"))
    predictor: Predictor = field(init=False)
    answers: Answers = field(init=False)
    """How its predictions are told."""
    logged: Any = field(init=False)
    """Which inputs the prediction log keeps; see settings.Logged."""

    def __post_init__(self) -> None:
        predictor, logged = self.loaded_model.predictor, self.loaded_model.predictor.manifest.get("logged", "all")
        object.__setattr__(self, "predictor", predictor)
        object.__setattr__(self, "answers", Answers(self.served.model, self.served.version, predictor))
        object.__setattr__(self, "logged", tuple(logged) if isinstance(logged, list) else logged)

    @property
    def model(self) -> str:
        """The registered model."""
        return self.served.model

    @property
    def version(self) -> int:
        """MLflow's number of it."""
        return self.served.version


class LoadTask:
    """A version that is being obtained by a thread.

    Args:
        obtain: fetches and loads it, or raises.
        done: told when there is an outcome.
    """

    def __init__(self, obtain: Callable[[], LoadedModel], done: Callable[[], None]) -> None:
        self._started = time.monotonic()
        self._outcome: LoadedModel | Exception | None = None
        self.given_up = False
        self._thread = threading.Thread(target=self._run, args=(obtain, done), name="load-model", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether its thread is through; one that was given up may go on for ever."""
        return self._outcome is not None

    def result(self) -> LoadedModel | None:
        """The loaded version, or None while it is under way.

        Raises:
            GoldenMismatch: it took too long, and is given up.
            Exception: whatever went wrong.
        """
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if time.monotonic() - self._started > LOAD_SECONDS:
            self.given_up = True
            raise GoldenMismatch(f"too slow: loading and answering the golden rows took more than {LOAD_SECONDS:g} s")
        return self._outcome

    def wait(self) -> LoadedModel:
        """The loaded version; raises as `result` does."""
        self._thread.join(LOAD_SECONDS)
        loaded_model = self.result()
        while loaded_model is None:
            time.sleep(0.01)
            loaded_model = self.result()
        return loaded_model

    def _run(self, obtain: Callable[[], LoadedModel], done: Callable[[], None]) -> None:
        try:
            self._outcome = obtain()
        except Exception as error:  # noqa: BLE001  raised again in whoever asks for the result
            self._outcome = error
        done()


def load(form: served_form.ServedForm, version: Version) -> LoadedModel:
    """Load a verified served form and replay its golden rows.

    Raises:
        BadServedForm: it cannot be loaded, or is another model's.
        GoldenMismatch: it does not give its golden answers.
    """
    if form.manifest.get("model") != version.model:
        raise served_form.BadServedForm(f"this is a form of {form.manifest.get('model')}, not of {version.model}")
    predictor = Predictor.load(form)
    predictor.replay_golden()
    return LoadedModel(predictor, _edges(form, predictor))


def _edges(form: served_form.ServedForm, predictor: Predictor) -> tuple[float, ...]:
    if predictor.classes is not None:
        return PROBABILITY_EDGES
    profiled = form.json("profile.json").get("prediction", {}).get("edges")
    if not profiled:
        profiled = np.unique(np.quantile(predictor.golden["expected"], PROBABILITY_EDGES))
    return tuple(float(edge) for edge in profiled)
