"""The prediction service's ASGI application: every path a client can reach, and the one way in which it is refused.

    POST /models/{model}/predict         a row → {"model", "version", "prediction_id", "prediction"[, "probabilities"]}
    POST /models/{model}/batch-predict   {"rows": [a row, …]} → {"model", "version", "predictions": [the same, …]}
    POST /predict, /batch-predict        the same, of the default model
    GET  /models, /health                what answers, and what is wrong
    GET  /openapi.json, /docs            the contract, with examples that succeed
    GET  /livez, /readyz                 open to all; /metrics is not

Every other answer is `{"error": {"code", "message", "field"}}`. It stands in front of BentoML's own application, which
answers /livez and /metrics, and needs neither BentoML nor anything heavy: the tests call it directly.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import importlib.util
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from include.features.feature_set import FeatureError, UnknownCategory
from include.serving import openapi
from include.serving.metrics import Metrics
from include.serving.models import Loaded, Models
from include.serving.predictor import NotComputable
from include.serving.requests import Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 10 * 1024 * 1024
BODY_SECONDS = 10.0
"""How long a body may take to arrive."""
INLINE_BODY = 32 * 1024
"""Bodies up to this size are answered on the event loop; larger ones in a thread, so that they hold nobody up."""
OPEN = frozenset({"/livez", "/healthz", "/readyz", "/health"})
BENTOML = frozenset({"/livez", "/healthz", "/metrics"})
ASSETS = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-light-32x32.png": "image/png",
}
DOCS = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Prediction</title>
<link rel="icon" href="/docs/favicon-light-32x32.png"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", tryItOutEnabled: true, validatorUrl: null})
</script>
</body></html>"""

log = logging.getLogger("mlops.serving")
_JSON = b"application/json"


class Application:
    """Routes, checks the key, answers. `key` None means open to everyone, which somebody must have asked for."""

    def __init__(self, models: Models, metrics: Metrics, *, key: str | None) -> None:
        self._models, self._metrics = models, metrics
        self._key = key.encode() if key is not None else None
        self._inner: ASGIApp = _not_found
        self._counters: dict[tuple[str, int], tuple[Any, Any, Any]] = {}

    def in_front_of(self, inner: ASGIApp) -> Application:
        """Stand in front of another application: it gets /livez, /healthz, /metrics, and what is not HTTP."""
        self._inner = inner
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        path: str = scope["path"]
        try:
            await self._route(scope, path, receive, send)
        except Refused as refused:
            await self._refuse(refused, path, send)
        except Exception:
            log.exception("internal error", extra={"fields": {"path": path}})
            failure = Refused(500, "internal", "the service failed to answer this request; its log says why")
            await self._refuse(failure, path, send)

    async def _route(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if path not in OPEN and not self._has_key(headers):
            raise Refused(401, "unauthorized", "send the service's key: Authorization: Bearer <MLOPS_SERVING_KEY>")
        if path in BENTOML:
            await self._inner(scope, receive, send)
            return
        model, batch = self._prediction(path)
        if model is None:
            await self._get(scope["method"], path, headers, send)
            return
        if scope["method"] != "POST":
            raise Refused(405, "method_not_allowed", f"{path} takes POST")
        if self._models.get(model) is None:
            raise self._absent(model)
        body = await self._body(headers, receive)
        if body is not None:  # else the client has gone
            await _respond(send, 200, await self._predict(model, body, batch=batch))

    # ------------------------------------------------------------------------------------------- predicting

    def _prediction(self, path: str) -> tuple[str | None, bool]:
        """The model and whether it is a batch, of a path that predicts; else (None, False)."""
        if path in ("/predict", "/batch-predict"):
            model = self._models.default
            if model is None:
                raise self._absent(None)
            return model, path == "/batch-predict"
        parts = path.split("/")
        if len(parts) == 4 and parts[1] == "models" and parts[3] in ("predict", "batch-predict"):
            return parts[2], parts[3] == "batch-predict"
        return None, False

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        content_type = headers.get(b"content-type", b"")
        if content_type != _JSON and content_type.partition(b";")[0].strip().lower() != _JSON:
            raise Refused(415, "unsupported_media_type", "send the body as Content-Type: application/json")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await _read(receive)
        except TimeoutError:
            raise Refused(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s") from None

    async def _predict(self, model: str, body: bytes, *, batch: bool) -> bytes:
        started = time.perf_counter()
        loaded = self._models.loaded[model]  # this version answers, whatever is swapped meanwhile
        if len(body) <= INLINE_BODY:
            answer, rows = _answer(loaded, body, batch=batch)
        else:
            answer, rows = await asyncio.to_thread(_answer, loaded, body, batch=batch)
        requests, predicted, seconds = self._count(loaded)
        requests.inc()
        predicted.inc(rows)
        seconds.observe(time.perf_counter() - started)
        return answer

    def _count(self, loaded: Loaded) -> tuple[Any, Any, Any]:
        key = (loaded.champion.model, loaded.version)
        if key not in self._counters:
            labels = (key[0], str(key[1]))
            self._counters[key] = (
                self._metrics.requests.labels(*labels),
                self._metrics.rows.labels(*labels),
                self._metrics.seconds.labels(key[0]),
            )
        return self._counters[key]

    def _absent(self, model: str | None) -> Refused:
        known = sorted(entry["model"] for entry in self._models.describe())
        if self._models.not_ready or model in known:
            return Refused(
                503, "not_loaded", self._models.not_ready or f"no version of {model} could be loaded; see /models"
            )
        if model is None:
            return Refused(
                404, "no_default_model", f"name a model: /models/{{model}}/predict, one of {', '.join(known)}"
            )
        return Refused(404, "unknown_model", f"there is no model {model!r}; loaded are {', '.join(known)}")

    # ------------------------------------------------------------------------------------------- everything else

    async def _get(self, method: str, path: str, headers: Mapping[bytes, bytes], send: Send) -> None:
        if path.startswith("/docs/") and path.removeprefix("/docs/") in ASSETS:
            answer = 200, _asset(path.removeprefix("/docs/")), ASSETS[path.removeprefix("/docs/")].encode()
        elif path == "/docs":
            answer = 200, DOCS, b"text/html; charset=utf-8"
        elif path in ("/models", "/health", "/readyz", "/openapi.json"):
            status, document = self._document(path, headers)
            answer = status, msgspec.json.encode(document), _JSON
        elif path == "/":
            answer = 200, b'{"docs":"/docs","models":"/models","health":"/health"}', _JSON
        else:
            raise Refused(404, "not_found", f"there is nothing at {path}; see /docs")
        if method not in ("GET", "HEAD"):
            raise Refused(405, "method_not_allowed", f"{path} takes GET")
        await _respond(send, answer[0], b"" if method == "HEAD" else answer[1], answer[2])

    def _document(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        models = self._models
        if path == "/openapi.json":
            return 200, openapi.document(models.loaded, models.default)
        if path == "/readyz":
            if reason := models.not_ready:
                raise Refused(503, "not_ready", reason)
            return 200, {"status": "ready"}
        if path == "/models":
            return 200, {"status": models.status, "default": models.default, "models": models.describe()}
        health: dict[str, Any] = {"status": models.status}
        if self._has_key(headers):  # whoever only watches needs no key for the one word
            health["problems"] = models.problems()
            health["models"] = {name: loaded.version for name, loaded in models.loaded.items()}
        return 503 if models.status == "unavailable" else 200, health

    def _has_key(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the key is there: as a bearer token, or as the password that a browser asks for on /docs."""
        if self._key is None:
            return True
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                sent = base64.b64decode(sent, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(sent, self._key)

    async def _refuse(self, refused: Refused, path: str, send: Send) -> None:
        self._metrics.refused.labels(str(refused.status), refused.code).inc()
        error = {"code": refused.code, "message": refused.message, "field": refused.field}
        extra: list[tuple[bytes, bytes]] = []
        if refused.status == 401:
            browser = path == "/" or path.startswith(("/docs", "/openapi.json"))
            extra = [(b"www-authenticate", b'Basic realm="prediction"' if browser else b"Bearer")]
        elif refused.status == 503:
            extra = [(b"retry-after", b"2")]
        elif refused.status == 405:
            extra = [(b"allow", b"POST" if refused.message.endswith("POST") else b"GET, HEAD")]
        await _respond(send, refused.status, msgspec.json.encode({"error": error}), _JSON, extra)


def _answer(loaded: Loaded, body: bytes, *, batch: bool) -> tuple[bytes, int]:
    """The answer's JSON and its number of rows."""
    predictor = loaded.predictor
    columns = predictor.schema.many(body) if batch else predictor.schema.one(body)
    try:
        predictions = predictor.predict(columns).tolist()
    except NotComputable as error:
        field = f"rows[{error.row}]" if batch else None
        raise Refused(
            422, "not_computable", f"the model has no finite answer for {field or 'this row'}", field
        ) from None
    except UnknownCategory as error:
        field = f"rows[{error.row}].{error.column}" if batch else str(error.column)
        raise Refused(
            422, "unknown_category", f"{field} is a category that the model was not trained on", field
        ) from None
    except FeatureError:  # it computed the golden rows: these rows are beyond what it was written for
        log.exception("features failed", extra={"fields": {"model": loaded.champion.model, "version": loaded.version}})
        raise Refused(422, "not_computable", "the model's features cannot be computed from these values") from None
    head = {"model": loaded.champion.model, "version": loaded.version}
    ids = _prediction_ids(len(predictions))
    if not batch:
        return msgspec.json.encode({**head, "prediction_id": ids[0], **openapi.answer(loaded, predictions[0])}), 1
    answers = [{"prediction_id": i, **openapi.answer(loaded, p)} for i, p in zip(ids, predictions, strict=True)]
    return msgspec.json.encode({**head, "predictions": answers}), len(answers)


def _prediction_ids(count: int) -> list[str]:
    """128 bits in hexadecimal that sort by time: 48 of milliseconds, 80 at random."""
    moment, chance = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10 * count).hex()
    return [moment + chance[start : start + 20] for start in range(0, 20 * count, 20)]


async def _read(receive: Receive) -> bytes | None:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise _too_large()
        return body
    chunks, size = [], 0
    while message["type"] == "http.request":
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY:
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    return None


def _too_large() -> Refused:
    return Refused(
        413, "body_too_large", f"the body is larger than {LARGEST_BODY // 1024**2} MB; send several requests"
    )


async def _respond(
    send: Send, status: int, body: bytes, content_type: bytes = _JSON, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        refused = {"error": {"code": "not_found", "message": "there is nothing here", "field": None}}
        await _respond(send, 404, msgspec.json.encode(refused))


def _asset(name: str) -> bytes:
    """A file of the Swagger UI that BentoML brings along: nothing is fetched from the internet."""
    bentoml = importlib.util.find_spec("bentoml")
    assert bentoml is not None  # noqa: S101
    assert bentoml.origin is not None  # noqa: S101
    return (Path(bentoml.origin).parent / "_internal" / "server" / "static_content" / name).read_bytes()
