"""A row → its prediction.

    POST /models/{model}/predict    a row → {"model", "version", "prediction_id", "prediction"[, "probabilities"]}
    POST /predict                   by the default model

`?explain=true` adds what each feature contributed.
"""

from __future__ import annotations

import time

from include.inference.schema import JSON
from include.serving.batching.micro_batcher import CommitFuture
from include.serving.batching.scoring import Scored
from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Operation, Service, explanation_requested
from include.serving.http.messages import CONTENT_TYPE, Request, Response
from include.serving.http.predict import Codec, DecodedRequest, RawRequest, Row, media_type, unsupported
from include.serving.versions.loader import Loaded


async def predict(service: Service, request: Request, body: bytes) -> Response:
    """Answer with one prediction."""
    if not explanation_requested(request.query):
        return await service.predictions.finish(request, begin(service, request, body))
    return await service.predictions.answer(ROW, service.route(request.model), request, body, explain=True)


def begin(service: Service, request: Request, body: bytes) -> tuple[Row, CommitFuture]:
    """Check the row and add it to the batch that is being collected."""
    return service.predictions.begin_row(service.route(request.model), request, body)


def _decode(raw: RawRequest, loaded: Loaded) -> DecodedRequest:
    started, schema = time.perf_counter(), loaded.predictor.schema
    if media_type(raw.request.headers.get(CONTENT_TYPE, b"")) != JSON:
        raise unsupported([JSON])
    rows = [schema.row(raw.body)]
    return DecodedRequest(started, schema.columns(rows, batch=False), rows)


def _encode(request: Request, decoded: DecodedRequest, loaded: Loaded, scored: Scored) -> bytes:
    return loaded.answers.row(scored.ids[0], scored.outputs[0], scored.more[0] if scored.more else None)


def _openapi(loaded: Loaded) -> Operation:
    body = {
        "application/json": {"schema": openapi.row_reference(loaded), "example": openapi.example_rows(loaded, 1)[0]}
    }
    answer = {"model": loaded.model, "version": loaded.version} | openapi.example_predictions(loaded, 1)[0]
    summary = f"Predict {openapi.subject(loaded)}: one row."
    return openapi.post(summary, body, openapi.prediction_reference(loaded), answer, [openapi.EXPLAIN])


ROW = Codec(_decode, _encode, is_row=True)
ENDPOINTS = (
    Endpoint(
        "POST",
        ("/models/{model}/predict",),
        "predict",
        predict,
        default_path="/predict",
        typed=True,
        begin=begin,
        openapi=_openapi,
    ),
)
