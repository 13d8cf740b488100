"""Several rows → their predictions, in their order.

    POST /models/{model}/batch-predict    {"rows": […]}, {"columns": {…}}, Arrow or parquet
                                          → {"model", "version", "predictions": […]}
    POST /batch-predict                   by the default model

`?explain=true` adds what each feature contributed.
"""

from __future__ import annotations

import time
from typing import Any

from include.inference.schema import BATCH_TYPES, JSON
from include.serving.batching.micro_batcher import CommitFuture
from include.serving.batching.scoring import Scored
from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Operation, Service, explanation_requested
from include.serving.http.messages import CONTENT_TYPE, Request, Response
from include.serving.http.predict import BatchItem, Codec, DecodedRequest, RawRequest, is_table, media_type
from include.serving.versions.loader import Loaded


async def batch_predict(service: Service, request: Request, body: bytes) -> Response:
    """Answer with a prediction for each row."""
    explain, route = explanation_requested(request.query), service.route(request.model)
    return await service.predictions.answer(BATCH, route, request, body, explain=explain, table=_is_table(request))


def begin(service: Service, request: Request, body: bytes) -> tuple[BatchItem, CommitFuture]:
    """Check a small batch and let it be predicted together with others."""
    return service.predictions.begin_batch(BATCH, service.route(request.model), request, body)


def _is_table(request: Request) -> bool:
    return is_table(request.headers.get(CONTENT_TYPE, b""))


def _decode(raw: RawRequest, loaded: Loaded) -> DecodedRequest:
    started, content_type = time.perf_counter(), media_type(raw.request.headers.get(CONTENT_TYPE, b""))
    return DecodedRequest(started, loaded.predictor.schema.many(raw.body, content_type, raw.tables))


def _encode(request: Request, decoded: DecodedRequest, loaded: Loaded, scored: Scored) -> bytes:
    return loaded.answers.batch(scored.ids, scored.outputs, scored.more)


def _openapi(loaded: Loaded) -> Operation:
    whole = {
        "type": "object",
        "required": ["model", "version", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {"type": "array", "items": openapi.prediction_reference(loaded)},
        },
    }
    answer = {"model": loaded.model, "version": loaded.version, "predictions": openapi.example_predictions(loaded, 2)}
    summary = f"Predict {openapi.subject(loaded)}: several rows."
    return openapi.post(summary, _bodies(loaded), whole, answer, [openapi.EXPLAIN])


def _bodies(loaded: Loaded) -> dict[str, Any]:
    """The request's content, by media type."""
    limit, inputs = loaded.predictor.schema.max_batch, loaded.predictor.schema.inputs
    columns = {
        field: {"type": "array", "maxItems": limit, "items": openapi.field_schema(entry)}
        for field, entry in inputs.items()
    }
    required = [field for field, entry in inputs.items() if entry.get("required", True)]
    rows = {"type": "array", "minItems": 1, "maxItems": limit, "items": openapi.row_reference(loaded)}
    named_columns = {"type": "object", "required": required, "properties": columns}
    examples = openapi.example_rows(loaded, 2)
    example_columns = {field: [row.get(field) for row in examples] for field in inputs}
    body = {
        "schema": {"oneOf": [_only("rows", rows), _only("columns", named_columns)]},
        "examples": {"rows": {"value": {"rows": examples}}, "columns": {"value": {"columns": example_columns}}},
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {kind: body if kind == JSON else binary for kind in sorted(BATCH_TYPES)}


def _only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with one property."""
    return {"type": "object", "required": [name], "additionalProperties": False, "properties": {name: schema}}


BATCH = Codec(_decode, _encode)
ENDPOINTS = (
    Endpoint(
        "POST",
        ("/models/{model}/batch-predict",),
        "predict",
        batch_predict,
        default_path="/batch-predict",
        typed=True,
        begin=begin,
        needs_asgi=_is_table,
        openapi=_openapi,
    ),
)
