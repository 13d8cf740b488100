"""What a caller may send: the JSON Schema of a row of the version that answers, with an example that succeeds.

    GET /models/{model}/schema → JSON Schema (draft 2020-12)

What training saw of a field, bounds or categories, is in its description; where the model refuses what lies beyond, it
is in the schema. The `ETag` is the hash of the document: clients that generate code from it ask with `If-None-Match`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Operation, Service
from include.serving.http.messages import Request, Response
from include.serving.versions.loader import Loaded

DRAFT = "https://json-schema.org/draft/2020-12/schema"
CONTENT_TYPE = b"application/schema+json"


async def schema(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the schema; 304 where the client has it."""
    document = msgspec.json.encode(row_schema(service.route(request.model).champion.loaded))
    tag = f'"{sha256(document).hexdigest()}"'.encode()
    headers = ((b"etag", tag), (b"cache-control", b"private, no-cache"))  # private: it needs a key
    if _names(request.headers.get(b"if-none-match", b""), tag):
        return Response(b"", 304, CONTENT_TYPE, headers)
    return Response(document, 200, CONTENT_TYPE, headers)


def row_schema(loaded: Loaded) -> dict[str, Any]:
    """The JSON Schema of a row. (OpenAPI 3.0 has a dialect of its own, in which null is no type.)"""
    row = openapi.row_schema(loaded)
    properties = {name: _with_null(field) for name, field in row["properties"].items()}
    head = {"$schema": DRAFT, "title": loaded.model, "description": f"Predicts {openapi.subject(loaded)}."}
    return {**head, **row, "properties": properties, "examples": openapi.example_rows(loaded, 1)}


def _with_null(field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema, where a missing value may be null, too."""
    schema = {key: value for key, value in field.items() if key not in ("nullable", "example")}
    if "example" in field:
        schema["examples"] = [field["example"]]
    if field.get("nullable"):
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema


def _names(sent: bytes, tag: bytes) -> bool:
    """Whether If-None-Match names a tag, by weak comparison (RFC 9110)."""
    return any(name.strip().removeprefix(b"W/") in (tag, b"*") for name in sent.split(b","))


def _openapi(loaded: Loaded) -> Operation:
    summary = f"The JSON Schema of what {loaded.model} takes, with an example; an ETag to ask again by."
    operation = openapi.get(summary, openapi.KEY_ERRORS | {"404", "503"})
    operation["responses"]["200"]["content"] = {CONTENT_TYPE.decode(): {"schema": {"type": "object"}}}
    operation["responses"]["304"] = {"description": "The client has it, as `If-None-Match` says."}
    return operation


ENDPOINTS = (Endpoint("GET", ("/models/{model}/schema",), "predict", schema, openapi=_openapi),)
