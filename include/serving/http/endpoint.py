"""What an endpoint is: a row of the route table, from which routing, keys, 405, OpenAPI and both transports derive.

A handler gets the `Service`, a request and its body, and returns a response or raises `Refused`. By ASGI it is awaited.
A prediction endpoint also has `begin`, which starts the same work without awaiting: that is how the fast path
(include/serving/http/fast_path.py) answers a small body that has arrived whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from include.inference.errors import Refused, cut
from include.serving.batching.micro_batcher import CommitFuture, Recorder
from include.serving.control.reconciler import Reconciler
from include.serving.http.authentication import Authentication
from include.serving.http.messages import Request, Response
from include.serving.http.predict import PredictionResponse, Predictions
from include.serving.http.site import Site
from include.serving.routing.route import Route
from include.serving.versions.loader import Loaded

Operation = dict[str, Any]
"""An OpenAPI operation object."""


@dataclass(slots=True)
class Service:
    """What handlers work with."""

    models: Reconciler
    predictions: Predictions
    authentication: Authentication
    recorder: Recorder
    site: Site
    endpoints: Sequence[Endpoint]
    draining: bool = False
    """Readiness says 503, and clients are to close their connections: the process is about to end."""

    def route(self, model: str | None) -> Route:
        """Which version answers for a model.

        Raises:
            Refused: 404 where there is no such model, 503 where none of its versions is loaded.
        """
        route = self.models.route(model or "")
        if route is None:
            raise self._not_loaded(model or "")
        return route

    @property
    def not_ready(self) -> str | None:
        """Why no request should be sent here; None while there is no reason."""
        return "the service is about to end" if self.draining else self.models.not_ready

    def _not_loaded(self, model: str) -> Refused:
        known = sorted(entry["model"] for entry in self.models.describe())
        if self.models.not_ready or model in known:
            why = self.models.not_ready or f"no version of {model} could be loaded; see /models"
            return Refused(503, "not_loaded", why)
        if not model:
            paths = f"/models/{{model}}/predict, one of {', '.join(known)}"
            return Refused(404, "no_default_model", f"name a model: {paths}")
        return Refused(404, "unknown_model", f"there is no model {cut(model)!r}; loaded are {', '.join(known)}")


Handler = Callable[[Service, Request, bytes], Awaitable[Response]]
Begin = Callable[[Service, Request, bytes], tuple[PredictionResponse, CommitFuture]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of some paths.

    Args:
        method: `GET`, which answers HEAD, too, or `POST`, whose body is read within the limits of `Bodies`.
        paths: templates of paths, with `{model}` and `{version}`; the first one is in the OpenAPI document.
        permission: the scope that a key needs; None: no key.
        handle: answers; None: BentoML's own application does.
        default_path: the path that means the default model.
        typed: whether BentoML's typed API (bentofiles/prediction/service.py) has this endpoint, too.
        begin: starts to answer without awaiting; None: always by ASGI.
        needs_asgi: whether a request, by its headers, cannot be answered by `begin`.
        openapi: its operation, or what makes it for a version that answers; None: undocumented.
        browser: whether people open it in a browser, which asks for the key as a password.
    """

    method: Literal["GET", "POST"]
    paths: tuple[str, ...]
    permission: Literal["predict", "feedback", "admin"] | None
    handle: Handler | None
    default_path: str | None = None
    typed: bool = False
    begin: Begin | None = None
    needs_asgi: Callable[[Request], bool] | None = None
    openapi: Operation | Callable[[Loaded], Operation] | None = None
    browser: bool = False


def explanation_requested(query: bytes) -> bool:
    """Whether a query requests an explanation, which is all that it may contain.

    Raises:
        Refused: 400 with the parameter's name.
    """
    if not query:
        return False
    options = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in options:
        if name != "explain":
            shown = cut(name)
            raise Refused(400, "unknown_parameter", f"there is no parameter {shown!r}; there is explain=true", shown)
        if value not in ("true", "false"):
            raise Refused(400, "bad_parameter", "explain must be true or false", name)
    if len(options) > 1:
        raise Refused(400, "duplicate_parameter", "explain is given twice; send it once", "explain")
    return options == [("explain", "true")]
