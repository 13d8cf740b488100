"""The loaded models, their arms, and what was refused.

GET /models → {"status", "default", "models": […]}
"""

from __future__ import annotations

from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Service
from include.serving.http.messages import Request, Response, json_response


async def list_models(service: Service, request: Request, body: bytes) -> Response:
    """Answer with every model's version and arms."""
    models = service.models
    return json_response({"status": models.status, "default": models.default, "models": models.describe()})


ENDPOINTS = (
    Endpoint(
        "GET",
        ("/models",),
        "predict",
        list_models,
        openapi=openapi.get(
            "The loaded models, their arms, and which version was refused and why.", openapi.KEY_ERRORS
        ),
    ),
)
