"""The contract, for people and programs.

GET /                links
GET /openapi.json    the OpenAPI document, with examples that succeed
GET /docs            the same as a page: the Swagger UI that BentoML brings along, nothing from the internet
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Service
from include.serving.http.messages import Request, Response, json_response

ASSETS = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-light-32x32.png": b"image/png",
}
PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Prediction</title>
<link rel="icon" href="./docs/favicon-light-32x32.png"><link rel="stylesheet" href="./docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="./docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "./openapi.json", dom_id: "#swagger-ui", tryItOutEnabled: true, validatorUrl: null})
</script>
</body></html>"""


async def links(service: Service, request: Request, body: bytes) -> Response:
    """Answer with where to begin."""
    base = service.site.base(request.headers)
    return json_response({name: f"{base}/{name}" for name in ("docs", "models", "health")})


async def document(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the OpenAPI document of the models that answer now."""
    models, base = service.models, service.site.base(request.headers)
    return json_response(openapi.document(service.endpoints, models.routes, models.default, base))


async def page(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the page."""
    return Response(PAGE, content_type=b"text/html; charset=utf-8")


async def asset(service: Service, request: Request, body: bytes) -> Response:
    """Answer with a file of the page's."""
    name = request.path.removeprefix("/docs/")
    return Response(_content(name), content_type=ASSETS[name])


def _content(name: str) -> bytes:
    bentoml = importlib.util.find_spec("bentoml")
    assert bentoml is not None  # noqa: S101
    assert bentoml.origin is not None  # noqa: S101
    return (Path(bentoml.origin).parent / "_internal" / "server" / "static_content" / name).read_bytes()


ENDPOINTS = (
    Endpoint("GET", ("/",), "predict", links, browser=True),
    Endpoint("GET", ("/openapi.json",), "predict", document, browser=True),
    Endpoint("GET", ("/docs",), "predict", page, browser=True),
    Endpoint("GET", tuple(f"/docs/{name}" for name in ASSETS), "predict", asset, browser=True),
)
