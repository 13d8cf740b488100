"""The prediction service's application: it checks a request, finds its endpoint, and sends the response or the refusal.

Two transports bring requests to the endpoints of include/serving/http/endpoints: ASGI (`Application.__call__`) brings
all, the fast path (`Application.begin`, from include/serving/http/fast_path.py) small predictions that have arrived
whole. BentoML's typed API is a third one, to compare (`Application.answer_typed`). It stands in front of BentoML's own
application, which answers /livez and /metrics, and needs neither BentoML nor anything heavy: tests call it directly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from include.inference.errors import Refused
from include.serving.batching.micro_batcher import Recorder, Shadows
from include.serving.control.reconciler import Reconciler
from include.serving.http.access_log import AccessLog
from include.serving.http.authentication import Authentication
from include.serving.http.bentoml_app import replayed
from include.serving.http.endpoint import Endpoint, Service
from include.serving.http.endpoints import all_endpoints
from include.serving.http.fast_path import Reply
from include.serving.http.headers import refuse_repeated, refuse_transfer_coding, refuse_version
from include.serving.http.load_shedding import LoadShedder
from include.serving.http.messages import (
    CONTENT_TYPE,
    JSON_TYPE,
    NO_HEADERS,
    Headers,
    MethodNotAllowed,
    Request,
    Response,
    error_response,
    not_found,
)
from include.serving.http.predict import PredictionResponse, Predictions, unrecorded
from include.serving.http.request_body import Bodies
from include.serving.http.route_table import Match, RouteTable
from include.serving.http.site import Site
from include.serving.metrics.prometheus import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("mlops.serving")
_AUTHORIZATION = b"authorization"


@dataclass(frozen=True)
class Limits:
    """What one request may cost; see `Service` in include/settings."""

    max_body_bytes: int = 10 * 1024 * 1024
    body_seconds: float = 10.0
    request_seconds: float = 30.0


class Application:
    """Brings requests to their endpoints. (Over 200 lines: both transports share each of its steps, and a step that
    stood elsewhere would be one more call for every row.)

    Args:
        models: what answers.
        metrics: what is counted.
        access: who may do what.
        admission: how many at once.
        recorder: the prediction log, or `Unrecorded()`.
        shadows: what scores for shadows.
        access_log: a line for each request.
        limits: what one request may cost.
        site: where clients find the service; None: at its root, and pages of its own origin only.
        hot: whether predictions are answered here; otherwise BentoML's typed API does, by way of `answer_typed`.
    """

    def __init__(
        self,
        models: Reconciler,
        metrics: Metrics,
        *,
        access: Authentication,
        admission: LoadShedder,
        recorder: Recorder,
        access_log: AccessLog,
        shadows: Shadows | None = None,
        limits: Limits = Limits(),
        site: Site | None = None,
        hot: bool = True,
    ) -> None:
        self._models, self._metrics = models, metrics
        self._access, self._admission, self._access_log = access, admission, access_log
        self._site, self._hot = site or Site(), hot
        self._predictions = Predictions(recorder, shadows, limits.request_seconds)
        endpoints = all_endpoints()
        self._service = Service(models, self._predictions, access, recorder, self._site, endpoints)
        self._table, self._generation = RouteTable(endpoints, self._site.prefix), -1
        self._bodies = Bodies(limits.max_body_bytes, limits.body_seconds)
        self._bentoml: ASGIApp = _nothing_here

    def in_front_of(self, inner: ASGIApp) -> Application:
        """Stand in front of another application: it gets /livez, /healthz, /metrics, and what is not HTTP."""
        self._bentoml = inner
        return self

    @property
    def draining(self) -> bool:
        """Readiness says 503, and clients are to close their connections: the process is about to end."""
        return self._service.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._service.draining = draining

    def close(self) -> None:
        """End the process that reads tables."""
        self._predictions.close()

    def count(self) -> None:
        """Count and note what was answered but a moment ago; before the process ends."""
        self._predictions.count()

    # ------------------------------------------------------------------------------------------- by ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._bentoml(scope, receive, send)
            return
        if self._site.prefix:
            path = self._site.inside(scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode()}
        request = Request(
            scope["path"], scope["method"], dict(scope["headers"]), time.perf_counter(), scope["query_string"]
        )
        request.id = self._access_log.request_id(request.headers.get(b"x-request-id"))
        try:
            if len(request.headers) != len(scope["headers"]):
                refuse_repeated(scope["headers"])
            refuse_transfer_coding(request.headers)
            refuse_version(scope.get("http_version", "1.0"), request.headers)
            if request.method == "OPTIONS" and await self._preflight(request, send):
                return
            response = await self._answer(self._endpoint(request), request, scope, receive, send)
        except Exception as error:  # noqa: BLE001  the client gets it
            await self._refuse(error, request, send)
        else:
            if response is not None:
                await self._send(request, send, response)

    def _endpoint(self, request: Request) -> Endpoint:
        """The endpoint of a request, whose key is checked before it learns whether there is any."""
        match = self._match(request.path)
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = match.endpoints.get(method) if match is not None else None
        permission = (
            endpoint.permission if endpoint is not None else match.permission if match is not None else "predict"
        )
        if match is not None:
            request.parameters, request.model = match.parameters, match.parameters.get("model")
        if permission is not None:
            request.caller = self._access.caller(request.headers.get(_AUTHORIZATION), permission).name
        if match is None:
            raise not_found(request.path)
        if endpoint is None:
            raise MethodNotAllowed(request.path, match.endpoints)
        return endpoint

    async def _answer(
        self, endpoint: Endpoint, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """The response of an endpoint; None: it was sent already, or the client has gone."""
        if endpoint.method == "POST":
            if not self._admission.admits(scope.get("client")):
                await self._shed(request, scope, send)
                return None
            try:
                return await self._answer_body(endpoint, request, scope, receive, send)
            finally:
                self._admission.leave()
        if endpoint.handle is None:
            await self._bentoml(scope, receive, send)
            return None
        return await endpoint.handle(self._service, request, b"")

    async def _answer_body(
        self, endpoint: Endpoint, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        self._service.route(request.model)  # what cannot be answered is refused before its body is read
        body = await self._bodies.read(request.headers, receive)
        if body is None:
            return None
        try:
            if endpoint.handle is None or (endpoint.typed and not self._hot):
                await self._bentoml(scope, replayed(body, receive), send)
                return None
            return await endpoint.handle(self._service, request, body)
        finally:
            self._bodies.done(body)

    async def _preflight(self, request: Request, send: Send) -> bool:
        """Answer a browser that wants to know what a page may send; it does so without a key."""
        headers = self._site.preflight(request.headers)
        if headers is None:
            return False
        headers.append((b"x-request-id", request.id.encode()))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self.note(request, 204, 0, time.perf_counter() - request.started)
        return True

    async def _send(self, request: Request, send: Send, response: Response) -> None:
        body, status = response.body, response.status
        headers = self._headers(request, body, response.content_type, response.headers)
        if status == 304:  # it has no body, and the headers of one would describe another
            headers = headers[2:]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        self.note(request, status, len(body), time.perf_counter() - request.started)

    async def _refuse(self, error: Exception, request: Request, send: Send) -> None:
        response = self._refusal(error, request)
        if response.status in (401, 403, 429):
            await self._admission.pace()
        await self._send(request, send, response)

    async def _shed(self, request: Request, scope: Scope, send: Send) -> None:
        shared = self._site.shared(request.headers) if self._site.origins else NO_HEADERS

        async def share(message: MutableMapping[str, Any]) -> None:
            if shared and "headers" in message:
                message = {**message, "headers": [*message["headers"], *shared]}
            await send(message)

        await self._admission.refuse(share, scope.get("client"))
        self.note(request, 503, 0, time.perf_counter() - request.started)

    # ------------------------------------------------------------------------------------------- by the fast path

    def takes(self, target: bytes) -> bool:
        """Whether a POST to this target may take the fast path."""
        if self._generation != self._models.generation:
            self._update()
        return self._hot and target in self._table.fast

    def begin(self, target: bytes, headers: Headers, body: bytes, client: Any, reply: Reply) -> ASGIApp | None:
        """Begin to answer a request that is whole, by its reply. Or what answers or refuses it by ASGI."""
        route = self._table.fast[target]
        endpoint = route.endpoint
        request = Request(route.path, "POST", dict(headers), time.perf_counter(), model=route.model)
        if b"content-encoding" in request.headers or b"transfer-encoding" in request.headers:
            return self
        if endpoint.begin is None or (endpoint.needs_asgi is not None and endpoint.needs_asgi(request)):
            return self
        request.id = self._access_log.request_id(request.headers.get(b"x-request-id"))
        try:
            if len(request.headers) != len(headers):
                refuse_repeated(headers)
            if b"host" not in request.headers:
                refuse_version("1.1", request.headers)
            if endpoint.permission is not None:
                request.caller = self._access.caller(request.headers.get(_AUTHORIZATION), endpoint.permission).name
            if not self._admission.admits(client):
                return lambda scope, receive, send: self._shed(request, scope, send)
            try:
                answer, committed = endpoint.begin(self._service, request, body)
                committed.then(_FastResponse(self, request, reply, answer))
            except BaseException:
                self._admission.leave()
                raise
        except Exception as error:  # noqa: BLE001  the client gets it
            failure = error
            return lambda scope, receive, send: self._refuse(failure, request, send)
        return None

    def prepare(
        self, request: Request, reply: Reply, answer: PredictionResponse, failure: Exception | None = None
    ) -> int:
        """Make a reply ready with the answer; returns its bytes. Raises what the request is refused with."""
        if failure is not None:
            raise unrecorded(failure)
        body = answer.encode(request)
        reply.prepare(200, body, self._headers(request, body, JSON_TYPE, NO_HEADERS))
        return len(body)

    def refuse(self, request: Request, reply: Reply, error: Exception) -> tuple[int, int]:
        """Make a reply ready with an error; returns its status and bytes."""
        response = self._refusal(error, request)
        headers = self._headers(request, response.body, response.content_type, response.headers)
        reply.prepare(response.status, response.body, headers)
        return response.status, len(response.body)

    def leave(self) -> None:
        """A request that `begin` took on is answered."""
        self._admission.leave()

    def note(self, request: Request, status: int, size: int, seconds: float) -> None:
        """Note in the access log what was answered, in so many bytes."""
        self._access_log.note(
            request.id,
            request.method,
            request.path,
            status,
            seconds,
            request.caller,
            request.model,
            request.version,
            size,
        )

    # ------------------------------------------------------------------------------------------- by BentoML's API

    async def answer_typed(self, path: str, content_type: str, query: bytes, body: bytes) -> tuple[int, bytes]:
        """Status and body of a prediction request's response: what BentoML's typed API answers with."""
        headers = {CONTENT_TYPE: content_type.encode()}
        request = Request(path, "POST", headers, time.perf_counter(), query)
        try:
            match = self._match(path)
            endpoint = match.endpoints.get("POST") if match is not None else None
            if match is None or endpoint is None or endpoint.handle is None:
                raise not_found(path)
            request.parameters, request.model = match.parameters, match.parameters.get("model")
            response = await endpoint.handle(self._service, request, body)
        except Refused as refused:
            response = self._refusal(refused, request)
        return response.status, response.body

    # ------------------------------------------------------------------------------------------- shared

    def _match(self, path: str) -> Match | None:
        if self._generation != self._models.generation:
            self._update()
        return self._table.match(path)

    def _update(self) -> None:
        self._generation = self._models.generation
        self._table.update(self._models.routes, self._models.default)

    def _headers(self, request: Request, body: bytes, content_type: bytes, more: Any) -> Headers:
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request.id.encode()),
            *more,
        ]
        if self._site.origins:
            headers += self._site.shared(request.headers)
        if self._service.draining:
            headers.append((b"connection", b"close"))
        return headers

    def _refusal(self, error: Exception, request: Request) -> Response:
        """The response to a request that raised; what is not the client's fault is written to the log."""
        if not isinstance(error, Refused):
            fields = {"path": request.path, "request_id": request.id}
            log.error("internal error", exc_info=error, extra={"fields": fields})
            error = Refused(500, "internal", "the service failed to answer this request; its log says why")
        self._metrics.refused.labels(str(error.status), error.code).inc()
        match = self._match(request.path) if error.status == 401 else None
        return error_response(error, browser=match is not None and match.browser)


@dataclass(slots=True)
class _FastResponse:
    """A request on the fast path, until it is recorded, answered and counted (`Waiting`)."""

    application: Application
    request: Request
    reply: Reply
    answer: PredictionResponse
    status: int = 200
    size: int = 0
    """Bytes of the response that is ready; 0: none is."""
    seconds: float = 0.0

    def prepare(self) -> None:
        """Make the response ready, while the disk writes; what it is refused with is sent when it has."""
        self.size = self.application.prepare(self.request, self.reply, self.answer)

    def resolve(self, failure: Exception | None) -> None:
        """Send it; or, where it could not be recorded, the reason."""
        application, request, reply = self.application, self.request, self.reply
        try:
            if failure is not None or not self.size:
                self.size = application.prepare(request, reply, self.answer, failure)
        except Exception as error:  # noqa: BLE001  the client gets it
            self.status, self.size = application.refuse(request, reply, error)
        application.leave()
        reply.send()
        self.seconds = time.perf_counter() - request.started

    def count(self) -> None:
        """Count it, and note it in the access log."""
        if self.status == 200:
            self.answer.count(self.seconds)
        self.application.note(self.request, self.status, self.size, self.seconds)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        response = error_response(Refused(404, "not_found", "there is nothing here"))
        headers = [(b"content-type", response.content_type), (b"content-length", b"%d" % len(response.body))]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
