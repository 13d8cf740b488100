"""The prediction service's ASGI application: every path a client can reach, and the one way in which it is refused.

    POST /models/{model}/predict         a row → {"model", "version", "prediction_id", "prediction"[, "probabilities"]}
    POST /models/{model}/batch-predict   rows, columns, Arrow, parquet → {"model", "version", "predictions": [such]}
    POST /models/{model}/feedback        labels by prediction id or entity → {"accepted": n}
    POST /predict, /batch-predict        of the default model
    POST /v2/models/{model}/infer        the Open Inference Protocol, with its metadata and health below /v2
    GET  /models, /health                what answers, and what is wrong
    GET  /openapi.json, /docs            the contract, with examples that succeed
    GET  /livez, /readyz                 open to all; /metrics is not

`?explain=true` adds what each feature contributed. Every other answer is `{"error": {"code", "message", "field"}}`. It
stands in front of BentoML's own application, which answers /livez and /metrics, and needs neither BentoML nor anything
heavy: the tests call it directly.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import numpy as np

from include.inference.errors import Refused, cut
from include.inference.schema import JSON
from include.serving.batching.micro_batcher import Batch, CommitFuture, MicroBatcher, Recorder, Shadows
from include.serving.batching.scoring import is_the_arms_fault, refusal, score
from include.serving.control.reconciler import Reconciler
from include.serving.http import feedback, openapi, v2
from include.serving.http.access_log import LONGEST_PATH, AccessLog
from include.serving.http.authentication import Authentication
from include.serving.http.bentoml_app import replayed
from include.serving.http.fast_path import Reply
from include.serving.http.headers import refuse_repeated, refuse_transfer_coding, refuse_version
from include.serving.http.load_shedding import LoadShedder, overloaded
from include.serving.http.predict import (
    CONTENT_TYPE,
    JSON_TYPE,
    NO_HEADERS,
    Answer,
    BatchItem,
    DecodedRequest,
    Headers,
    PredictionResponse,
    RawRequest,
    Request,
    Row,
    is_table,
    media_type,
    unsupported,
)
from include.serving.http.request_body import Bodies
from include.serving.http.site import Site
from include.serving.http.table_process import TableProcess
from include.serving.metrics.prometheus import Metrics
from include.serving.routing.route import Arm, Route

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_TABLES = 16
"""Tables that wait to be read, or are; more of them are refused at once."""
INLINE_BODY = 32 * 1024
"""Batches of up to this size are answered on the event loop; larger ones in a thread, so that they hold nobody up."""
OPEN = frozenset({"/livez", "/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})
BENTOML = frozenset({"/livez", "/healthz", "/metrics"})
ASSETS = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-light-32x32.png": "image/png",
}
DOCS = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Prediction</title>
<link rel="icon" href="./docs/favicon-light-32x32.png"><link rel="stylesheet" href="./docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="./docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "./openapi.json", dom_id: "#swagger-ui", tryItOutEnabled: true, validatorUrl: null})
</script>
</body></html>"""

log = logging.getLogger("mlops.serving")
_AUTHORIZATION = b"authorization"


@dataclass(frozen=True)
class Limits:
    """What one request may cost; see `Service` in include/settings.py."""

    max_body_bytes: int = 10 * 1024 * 1024
    body_seconds: float = 10.0
    request_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path that takes POST: what it does, for which model."""

    does: str
    model: str
    scope: str


class Application:
    """Routes, checks the key, answers.

    Args:
        models: what answers.
        metrics: what is counted.
        access: who may do what.
        admission: how many at once.
        recorder: the prediction log, or `Unrecorded()`.
        shadows: who scores for shadows.
        access_log: a line for each request.
        limits: what one request may cost.
        site: where clients find the service; None: at its root, and pages of its own origin only.
        hot: whether predictions are answered here; otherwise BentoML's typed API does, by way of `answer_plainly`.
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
        self._recorder, self._shadows, self._limits, self._hot = recorder, shadows, limits, hot
        self._turns = MicroBatcher(recorder, shadows, seconds=limits.request_seconds)
        self._site = site or Site()
        self._inner: ASGIApp = _not_found
        self._endpoints: dict[str, Endpoint] = {}
        self._direct: dict[bytes, Endpoint] = {}
        self._generation = -1
        self._bodies = Bodies(limits.max_body_bytes, limits.body_seconds)
        self._tables = TableProcess(limits.request_seconds)
        self._table_threads = ThreadPoolExecutor(2, "tables")  # one is read while another is predicted
        self._reading = 0
        self.draining = False
        """Readiness says 503, and clients are asked to close their connections: the process is about to end."""

    def in_front_of(self, inner: ASGIApp) -> Application:
        """Stand in front of another application: it gets /livez, /healthz, /metrics, and what is not HTTP."""
        self._inner = inner
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        if self._site.prefix:
            path = self._site.inside(scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode()}
        request = _request(scope)
        request.id = self._access_log.request_id(request.headers.get(b"x-request-id"))
        try:
            if len(request.headers) != len(scope["headers"]):
                refuse_repeated(scope["headers"])
            refuse_transfer_coding(request.headers)
            refuse_version(scope.get("http_version", "1.0"), request.headers)
            if request.method == "OPTIONS" and await self._preflight(request, send):
                return
            endpoint = self._endpoint(request.path)
            if endpoint is not None and request.method == "POST":
                request.model = endpoint.model
                request.caller = self._access.caller(request.headers.get(_AUTHORIZATION), endpoint.scope).name
                if not self._admission.admits(scope.get("client")):
                    await self._turn_away(request, scope, send)
                    return
                try:
                    body = await self._post(endpoint, request, scope, receive, send)
                finally:
                    self._admission.leave()
                if not body:  # the client has gone, or BentoML has answered
                    return
                status, (content_type, extra) = 200, request.replied
            else:
                answer = await self._get(endpoint, request, scope, receive, send)
                if answer is None:  # BentoML has answered
                    return
                status, body, content_type = answer
                extra = NO_HEADERS
        except Exception as error:  # noqa: BLE001  told to the client
            await self._refuse(error, request, send)
        else:
            await self._send(request, send, status, body, content_type, extra)

    async def _preflight(self, request: Request, send: Send) -> bool:
        """Answer a browser that asks what a page may send; it does so without a key."""
        headers = self._site.preflight(request.headers)
        if headers is None:
            return False
        headers.append((b"x-request-id", request.id.encode()))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self.note(request, 204, 0, time.perf_counter() - request.started)
        return True

    async def _send(
        self, request: Request, send: Send, status: int, body: bytes, content_type: bytes, extra: Headers
    ) -> None:
        headers = self._headers(request, body, content_type, extra)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        self.note(request, status, len(body), time.perf_counter() - request.started)

    def _headers(self, request: Request, body: bytes, content_type: bytes, extra: Headers) -> Headers:
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request.id.encode()),
            *extra,
        ]
        if self._site.origins:
            headers += self._site.shared(request.headers)
        if self.draining:
            headers.append((b"connection", b"close"))
        return headers

    async def _refuse(self, error: Exception, request: Request, send: Send) -> None:
        status, body, extra = self._refusal(error, request)
        if status in (401, 403, 429):
            await self._admission.pace()
        await self._send(request, send, status, body, JSON_TYPE, extra)

    async def _turn_away(self, request: Request, scope: Scope, send: Send) -> None:
        shared = self._site.shared(request.headers) if self._site.origins else NO_HEADERS

        async def share(message: MutableMapping[str, Any]) -> None:
            if shared and "headers" in message:
                message = {**message, "headers": [*message["headers"], *shared]}
            await send(message)

        await self._admission.refuse(share, scope.get("client"))
        self.note(request, 503, 0, time.perf_counter() - request.started)

    def _refusal(self, error: Exception, request: Request) -> tuple[int, bytes, Headers]:
        """Status, body and more headers for what was raised; what is not the client's fault is written to the log."""
        if not isinstance(error, Refused):
            fields = {"path": request.path, "request_id": request.id}
            log.error("internal error", exc_info=error, extra={"fields": fields})
            error = Refused(500, "internal", "the service failed to answer this request; its log says why")
        return self._refused(error, request)

    def _endpoint(self, path: str) -> Endpoint | None:
        if self._generation != self._models.generation:
            self._look_up()
        return self._endpoints.get(path) or self._absent(path)

    def _look_up(self) -> None:
        self._generation = self._models.generation
        self._endpoints = found = _endpoints(self._models.routes, self._models.default)
        direct = {path: e for path, e in found.items() if e.does in ("predict", "batch") and self._hot}
        self._direct = {(prefix + p).encode(): e for p, e in direct.items() for prefix in ("", self._site.prefix)}

    # ------------------------------------------------------------------------------------------- the direct way

    def answers(self, url: bytes) -> bool:
        """Whether a POST to this target is answered without ASGI; see include/serving/http/fast_path.py."""
        if self._generation != self._models.generation:
            self._look_up()
        return url in self._direct

    def ask(self, url: bytes, headers: Headers, body: bytes, client: Any, reply: Reply) -> ASGIApp | None:
        """Begin to answer a request that is whole, by its reply. Or what answers or refuses it by ASGI."""
        endpoint = self._direct[url]
        path = self._site.inside(url.decode())
        request = Request(path, "POST", dict(headers), time.perf_counter(), model=endpoint.model)
        if b"content-encoding" in request.headers or b"transfer-encoding" in request.headers:
            return self
        if endpoint.does == "batch" and is_table(request.headers.get(CONTENT_TYPE, b"")):
            return self
        request.id = self._access_log.request_id(request.headers.get(b"x-request-id"))
        try:
            if len(request.headers) != len(headers):
                refuse_repeated(headers)
            if b"host" not in request.headers:
                refuse_version("1.1", request.headers)
            request.caller = self._access.caller(request.headers.get(_AUTHORIZATION), endpoint.scope).name
            if not self._admission.admits(client):
                return lambda scope, receive, send: self._turn_away(request, scope, send)
            try:
                route = self._route(endpoint)
                begin = self._begin if endpoint.does == "predict" else self._join
                answer, committed = begin(route, request, body)
                committed.then(_FastResponse(self, request, reply, answer))
            except BaseException:
                self._admission.leave()
                raise
        except Exception as error:  # noqa: BLE001  told to the client
            failure = error
            return lambda scope, receive, send: self._refuse(failure, request, send)
        return None

    def prepared(
        self, request: Request, reply: Reply, answer: PredictionResponse, failure: Exception | None = None
    ) -> int:
        """Make a reply ready that tells the answer; returns its bytes. Raises what it is refused with."""
        if failure is not None:
            raise self._unrecorded(failure)
        body = answer.told(request)
        reply.prepare(200, body, self._headers(request, body, JSON_TYPE, NO_HEADERS))
        return len(body)

    def refuse(self, request: Request, reply: Reply, error: Exception) -> tuple[int, int]:
        """Make a reply ready that tells an error; returns its status and bytes."""
        status, body, extra = self._refusal(error, request)
        reply.prepare(status, body, self._headers(request, body, JSON_TYPE, extra))
        return status, len(body)

    def leave(self) -> None:
        """A request that `ask` took on is answered."""
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

    def close(self) -> None:
        """End the process that reads tables."""
        self._table_threads.shutdown(wait=False, cancel_futures=True)
        self._tables.close()

    def count(self) -> None:
        """Count and note what was answered but a moment ago; before the process ends."""
        self._turns.count()

    # ------------------------------------------------------------------------------------------- predicting

    async def _post(self, endpoint: Endpoint, request: Request, scope: Scope, receive: Receive, send: Send) -> bytes:
        route = self._route(endpoint)
        body = await self._bodies.read(request.headers, receive)
        if body is None:
            return b""
        try:
            if not self._hot and endpoint.does in ("predict", "batch"):
                await self._inner(scope, replayed(body, receive), send)
                return b""
            explain = _explains(scope["query_string"])
            if endpoint.does == "predict" and not explain:
                return await self._row(route, request, body)
            if endpoint.does == "feedback":
                return await self._feedback(route, request, body)
            return await self._rows(self._asking(endpoint, route, request, body, explain=explain))
        finally:
            self._bodies.done(body)

    def _route(self, endpoint: Endpoint) -> Route:
        route = self._models.route(endpoint.model)
        if route is None:
            raise self._unloaded(endpoint.model)
        return route

    async def _row(self, route: Route, request: Request, body: bytes) -> bytes:
        answer, committed = self._begin(route, request, body)
        return self._finish(request, answer, await committed)

    def _begin(self, route: Route, request: Request, body: bytes) -> tuple[Row, CommitFuture]:
        """Check a row and let it be answered in this turn."""
        content_type = request.headers.get(CONTENT_TYPE, b"")
        if content_type != JSON_TYPE and media_type(content_type) != JSON:
            raise unsupported([JSON])
        arm = route.champion if route.challenger is None else route.choose(_entity(route, body))
        row = arm.loaded.predictor.schema.row(body)
        rows = self._turns.add(route, arm, row, body, request.caller, request.started)
        return Row(rows, len(rows.rows) - 1), rows.committed

    def _asking(self, endpoint: Endpoint, route: Route, request: Request, body: bytes, *, explain: bool) -> RawRequest:
        table = endpoint.does == "batch" and is_table(request.headers.get(CONTENT_TYPE, b""))
        return RawRequest(endpoint.does, route, request, body, explain, self._tables if table else None)

    async def _rows(self, asking: RawRequest) -> bytes:
        if asking.tables is None and len(asking.body) <= INLINE_BODY and not asking.explain:
            answer = self._scored(asking)
        else:  # a row's explanation takes milliseconds, a table whatever its bytes make of it
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    answer = await self._in_a_thread(asking)
            except TimeoutError:
                seconds = self._limits.request_seconds
                message = f"the answer took longer than {seconds:g} s; send smaller batches"
                raise Refused(503, "timeout", message) from None
        return self._finish(asking.request, answer, await self._turns.record(answer.lines, answer.rows))

    async def _in_a_thread(self, asking: RawRequest) -> Answer:
        """Score outside of the event loop. Tables, which are read one at a time, wait apart from the others."""
        score_whole = partial(self._scored, asking, whole=True)
        if asking.tables is None:
            return await asyncio.to_thread(score_whole)
        if self._reading >= MOST_TABLES:
            raise overloaded()
        self._reading += 1
        found = asyncio.get_running_loop().run_in_executor(self._table_threads, score_whole)
        try:
            return await found
        finally:
            self._reading -= 1

    def _join(self, route: Route, request: Request, body: bytes) -> tuple[BatchItem, CommitFuture]:
        """Check a small batch and let it be answered in this turn."""
        arm = route.champion if route.challenger is None else route.choose(None)
        asking = RawRequest("batch", route, request, body)
        joined = BatchItem(partial(self._answer, asking, arm, asked := asking.by(arm)))
        return joined, self._turns.join(Batch(arm, asked.checked, joined.take))

    def _finish(self, request: Request, answer: PredictionResponse, failure: Exception | None) -> bytes:
        """The answer after it was recorded."""
        if failure is not None:
            raise self._unrecorded(failure)
        body = answer.told(request)
        answer.count(time.perf_counter() - request.started)
        return body

    def _scored(self, asking: RawRequest, *, whole: bool = False) -> Answer:
        """A whole body, answered; by the champion where a challenger fails. `whole`: as bytes, too."""
        route = asking.route
        arm = route.champion
        if route.challenger is not None:
            arm = route.choose(_entity(route, asking.body) if asking.does == "predict" else None)
        answer = self._answer(asking, arm, asking.by(arm))
        if whole:
            answer.told(asking.request)
        return answer

    def _answer(
        self, asking: RawRequest, arm: Arm, asked: DecodedRequest, predictions: np.ndarray | None = None
    ) -> Answer:
        """The answer of an arm to a checked body, or the champion's where a challenger fails."""
        route, checked = asking.route, asked.checked
        try:
            scored = score(arm, checked, explain=asking.explain, predictions=predictions)
        except Exception as error:  # noqa: BLE001  sorted out here
            told = refusal(error, arm, checked.path)
            if is_the_arms_fault(error):
                arm.tally.failed(1)
                if arm is not route.champion:
                    return self._scored(replace(asking, route=replace(route, challenger=None)))
            raise told from None
        shadowed = None
        if route.shadow is not None and self._shadows is not None:
            shadowed = partial(self._shadows.score, route.shadow, checked.columns, scored.ids, self._recorder)
        return Answer(asking, arm, asked, scored, shadowed)

    async def answer_plainly(self, path: str, content_type: str, query: bytes, body: bytes) -> tuple[int, bytes]:
        """Status and body for a prediction request, without turns: what BentoML's typed API answers with."""
        request = Request(path, "POST", {CONTENT_TYPE: content_type.encode()}, time.perf_counter())
        try:
            endpoint = self._endpoint(path)
            route = self._models.route(endpoint.model) if endpoint else None
            if endpoint is None or route is None:
                raise self._unloaded(endpoint.model if endpoint else "")
            return 200, await self._rows(self._asking(endpoint, route, request, body, explain=_explains(query)))
        except Refused as refused:
            status, answer, _ = self._refused(refused, request)
            return status, answer

    async def _feedback(self, route: Route, request: Request, body: bytes) -> bytes:
        now = dt.datetime.now(dt.UTC)
        classes, caller = route.champion.loaded.predictor.classes, request.caller
        labels = partial(feedback.labels, route.model, body, classes=classes, caller=caller, now=now)
        lines, count = labels() if len(body) <= INLINE_BODY else await asyncio.to_thread(labels)
        failure = await self._turns.record(lines, count, feedback.TABLE)
        if failure is not None:
            raise self._unrecorded(failure)
        return b'{"accepted":%d}' % count

    def _unrecorded(self, failure: Exception) -> Refused:
        """An answer that could not be recorded is not given."""
        if isinstance(failure, Refused):
            return failure
        log.error("not recorded", exc_info=failure)
        return Refused(503, "not_recorded", "the prediction could not be recorded, so it is not given")

    # ------------------------------------------------------------------------------------------- everything else

    def _absent(self, path: str) -> Endpoint | None:
        """The endpoint of a model that is not there, so that it is refused for that, and after the key's check."""
        parts = path.split("/")
        if path in ("/predict", "/batch-predict"):
            return Endpoint("absent", "", "predict")
        if len(parts) == 4 and parts[1] == "models" and parts[3] in ("predict", "batch-predict"):
            return Endpoint("absent", parts[2], "predict")
        if len(parts) == 4 and parts[1] == "models" and parts[3] == "feedback":
            return Endpoint("absent", parts[2], "feedback")
        if len(parts) == 5 and parts[1:3] == ["v2", "models"] and parts[4] == "infer":
            return Endpoint("absent", parts[3], "predict")
        return None

    def _unloaded(self, model: str) -> Refused:
        known = sorted(entry["model"] for entry in self._models.describe())
        if self._models.not_ready or model in known:
            why = self._models.not_ready or f"no version of {model} could be loaded; see /models"
            return Refused(503, "not_loaded", why)
        if not model:
            return Refused(
                404, "no_default_model", f"name a model: /models/{{model}}/predict, one of {', '.join(known)}"
            )
        return Refused(404, "unknown_model", f"there is no model {cut(model)!r}; loaded are {', '.join(known)}")

    async def _get(
        self, endpoint: Endpoint | None, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, bytes, bytes] | None:
        path = request.path
        if path not in OPEN:
            needed = "admin" if path == "/metrics" else endpoint.scope if endpoint else "predict"
            request.caller = self._access.caller(request.headers.get(_AUTHORIZATION), needed).name
        if path in BENTOML:
            await self._inner(scope, receive, send)
            return None
        if endpoint is not None:
            raise Refused(405, "method_not_allowed", f"{cut(path, LONGEST_PATH)} takes POST")
        answer = self._page(path, request)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "method_not_allowed", f"{cut(path, LONGEST_PATH)} takes GET")
        return answer

    def _page(self, path: str, request: Request) -> tuple[int, bytes, bytes]:
        if path.startswith("/docs/") and path.removeprefix("/docs/") in ASSETS:
            return 200, _asset(path.removeprefix("/docs/")), ASSETS[path.removeprefix("/docs/")].encode()
        if path == "/docs":
            return 200, DOCS, b"text/html; charset=utf-8"
        if path == "/":
            base = self._site.base(request.headers)
            links = {name: f"{base}/{name}" for name in ("docs", "models", "health")}
            return 200, msgspec.json.encode(links), JSON_TYPE
        if path == "/v2" or path.startswith("/v2/"):
            status, document = v2.page(path, self._models, draining=self.draining)
        else:
            status, document = self._document(path, request)
        return status, msgspec.json.encode(document), JSON_TYPE

    def _document(self, path: str, request: Request) -> tuple[int, dict[str, Any]]:
        models = self._models
        if path == "/openapi.json":
            return 200, openapi.document(models.routes, models.default, self._site.base(request.headers))
        if path == "/readyz":
            if reason := "the service is about to end" if self.draining else models.not_ready:
                raise Refused(503, "not_ready", reason)
            return 200, {"status": "ready"}
        if path == "/models":
            return 200, {"status": models.status, "default": models.default, "models": models.describe()}
        if path != "/health":
            raise Refused(404, "not_found", f"there is nothing at {cut(path, LONGEST_PATH)}; see /docs")
        health: dict[str, Any] = {"status": models.status}
        if self._access.allows(
            request.headers.get(_AUTHORIZATION), "admin"
        ):  # whoever only watches needs no key for the one word
            health["problems"] = models.problems() + ([self._access.problem] if self._access.problem else [])
            health["models"] = {name: route.champion.loaded.version for name, route in models.routes.items()}
            health["prediction_log"] = self._recorder.state()
        return 503 if models.status == "unavailable" else 200, health

    def _refused(self, refused: Refused, request: Request) -> tuple[int, bytes, Headers]:
        self._metrics.refused.labels(str(refused.status), refused.code).inc()
        error = {"code": refused.code, "message": refused.message, "field": refused.field}
        extra: Headers = []
        if refused.status == 401:
            path = request.path
            browser = path == "/" or path.startswith(("/docs", "/openapi.json"))
            extra = [(b"www-authenticate", b'Basic realm="prediction"' if browser else b"Bearer")]
        elif refused.status in (429, 503):
            extra = [(b"retry-after", b"%d" % max(1, math.ceil(refused.retry_after or 2)))]
        elif refused.status == 405:
            extra = [(b"allow", b"POST" if refused.message.endswith("POST") else b"GET, HEAD")]
        elif refused.status in (408, 413):  # what is left of the body is not read
            extra = [(b"connection", b"close")]
        elif refused.code == "unsupported_content_encoding":
            extra = [(b"accept-encoding", b"gzip, identity")]
        return refused.status, msgspec.json.encode({"error": error}), extra


@dataclass(slots=True)
class _FastResponse:
    """A request on the direct way, until it is recorded, told and counted."""

    application: Application
    request: Request
    reply: Reply
    answer: PredictionResponse
    status: int = 200
    size: int = 0
    """Bytes of the answer that is ready; 0: none is."""
    seconds: float = 0.0

    def prepare(self) -> None:
        """Make the answer ready, while the disk writes; what refuses it is told when it has."""
        self.size = self.application.prepared(self.request, self.reply, self.answer)

    def tell(self, failure: Exception | None) -> None:
        """Send it; or, where the turn could not be recorded, the reason."""
        application, request, reply = self.application, self.request, self.reply
        try:
            if failure is not None or not self.size:
                self.size = application.prepared(request, reply, self.answer, failure)
        except Exception as error:  # noqa: BLE001  told to the client
            self.status, self.size = application.refuse(request, reply, error)
        application.leave()
        reply.send()
        self.seconds = time.perf_counter() - request.started

    def count(self) -> None:
        """Count it, and note it in the access log."""
        if self.status == 200:
            self.answer.count(self.seconds)
        self.application.note(self.request, self.status, self.size, self.seconds)


def _request(scope: Scope) -> Request:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return Request(scope["path"], scope["method"], headers, time.perf_counter())


def _endpoints(routes: Any, default: str | None) -> dict[str, Endpoint]:
    found: dict[str, Endpoint] = {}
    for model in routes:
        found[f"/models/{model}/predict"] = Endpoint("predict", model, "predict")
        found[f"/models/{model}/batch-predict"] = Endpoint("batch", model, "predict")
        found[f"/models/{model}/feedback"] = Endpoint("feedback", model, "feedback")
        found[f"/v2/models/{model}/infer"] = Endpoint("infer", model, "predict")
        version = routes[model].champion.loaded.version
        found[f"/v2/models/{model}/versions/{version}/infer"] = found[f"/v2/models/{model}/infer"]
    if default in routes:
        found["/predict"] = found[f"/models/{default}/predict"]
        found["/batch-predict"] = found[f"/models/{default}/batch-predict"]
    return found


def _entity(route: Route, body: bytes) -> str | None:
    return route.champion.loaded.predictor.schema.entity_of(body)


def _explains(query: bytes) -> bool:
    """Whether the query asks for an explanation; it may ask for nothing else."""
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


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        body = msgspec.json.encode({"error": {"code": "not_found", "message": "there is nothing here", "field": None}})
        headers = [(b"content-type", JSON_TYPE), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _asset(name: str) -> bytes:
    """A file of the Swagger UI that BentoML brings along: nothing is fetched from the internet."""
    bentoml = importlib.util.find_spec("bentoml")
    assert bentoml is not None  # noqa: S101
    assert bentoml.origin is not None  # noqa: S101
    return (Path(bentoml.origin).parent / "_internal" / "server" / "static_content" / name).read_bytes()
