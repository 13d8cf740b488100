"""Whether the service lives, may be sent requests, and is well. No key is needed.

GET /livez, /healthz    the process answers (BentoML's own)
GET /readyz             503 while it should be sent no requests
GET /health             one word; with a key of scope admin, all problems
"""

from __future__ import annotations

from typing import Any

from include.inference.errors import Refused
from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Service
from include.serving.http.messages import Request, Response, json_response


async def ready(service: Service, request: Request, body: bytes) -> Response:
    """Answer whether requests should be sent here."""
    if reason := service.not_ready:
        raise Refused(503, "not_ready", reason)
    return json_response({"status": "ready"})


async def health(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the state, to an administrator with its reasons."""
    models, authentication = service.models, service.authentication
    document: dict[str, Any] = {"status": models.status}
    if authentication.allows(request.headers.get(b"authorization"), "admin"):
        document["problems"] = models.problems() + ([authentication.problem] if authentication.problem else [])
        document["models"] = {name: route.champion.loaded.version for name, route in models.routes.items()}
        document["prediction_log"] = service.recorder.state()
    return json_response(document, 503 if models.status == "unavailable" else 200)


_SUMMARY = "`ok`, `degraded` (answering; with the admin key, see `problems`) or `unavailable`."
ENDPOINTS = (
    Endpoint("GET", ("/livez", "/healthz"), None, None),
    Endpoint("GET", ("/readyz",), None, ready),
    Endpoint("GET", ("/health",), None, health, openapi=openapi.get(_SUMMARY, {"503"})),
)
