"""The OpenAPI document, made from the endpoints and the models that answer now, and the parts that operations share.

Its examples are golden rows, which succeed when pasted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from include.serving.http.endpoint import Endpoint, Operation
from include.serving.routing.route import Route
from include.serving.versions.loader import Loaded

_TYPES: dict[str, dict[str, Any]] = {
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}
_ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "400": ("The body is not what its media type says, or a parameter is not known.", {
        "code": "malformed_json", "message": "the body is not JSON: Expecting value at line 1 column 1",
        "field": None}),
    "401": ("The key is missing or wrong.", {
        "code": "unauthorized", "message": "send a key of the service: Authorization: Bearer <key>", "field": None}),
    "403": ("The key lacks the scope.", {
        "code": "forbidden", "message": "this key may not do this; it needs the scope feedback", "field": None}),
    "404": ("There is no such model.", {
        "code": "unknown_model", "message": "there is no model 'fares'; loaded are trip_duration", "field": None}),
    "408": ("The body did not arrive in time.", {
        "code": "too_slow", "message": "the body did not arrive within 10 s", "field": None}),
    "413": ("The body is too large, or the batch has too many rows.", {
        "code": "too_many_rows", "message": "the batch has 20000 rows; this model takes 10000: send several requests",
        "field": "rows"}),
    "415": ("The content type is not one of the request body's.", {
        "code": "unsupported_media_type", "message": "send the body as Content-Type: application/json", "field": None}),
    "422": ("A field is wrong; `field` is its path.", {
        "code": "wrong_type", "message": "rows[3].x must be a number, not a string", "field": "rows[3].x"}),
    "429": ("The key's quota is used up; Retry-After says when to come again.", {
        "code": "quota", "message": "this key may send 100 requests a second", "field": None}),
    "503": ("Overloaded, about to end, or no version of the model is loaded; Retry-After says when to come again.", {
        "code": "overloaded", "message": "the service has more requests than it can answer in time; come again",
        "field": None}),
}  # fmt: skip
EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "description": "Adds what each feature contributed to each prediction: exact TreeSHAP for tree models.",
    "schema": {"type": "boolean", "default": False},
}
_ZONE = re.compile(r"[Zz]$|[+-]\d\d:?\d\d$").search
_LIMIT = {"429", "503"}
KEY_ERRORS = {"401", "403", "429"}


def document(
    endpoints: Iterable[Endpoint], routes: Mapping[str, Route], default: str | None, base: str = ""
) -> dict[str, Any]:
    """OpenAPI 3.0, with a request and the answer it gets for each model; `base` is the path before all others."""
    models = {name: route.champion.loaded for name, route in sorted(routes.items())}
    schemas: dict[str, Any] = {"Error": _error_schema(), "Accepted": _accepted_schema()}
    for name, loaded in models.items():
        schemas[name] = row_schema(loaded)
        schemas[f"{name}_prediction"] = _prediction_schema(loaded)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Prediction",
            "version": "1",
            "description": "Answers with the champion of each model, and names its version and a prediction id.",
        },
        "servers": [{"url": base or "/"}],
        "paths": _paths(endpoints, models, default),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "browser": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{"key": []}, {"browser": []}],
    }


def _paths(endpoints: Iterable[Endpoint], models: Mapping[str, Loaded], default: str | None) -> dict[str, Any]:
    """Each documented endpoint: once where it is no model's, else for every model and for the default one."""
    paths: dict[str, dict[str, Operation]] = {}
    for endpoint in endpoints:
        operation, method, template = endpoint.openapi, endpoint.method.lower(), endpoint.paths[0]
        if isinstance(operation, dict):
            paths.setdefault(template, {})[method] = operation
        elif operation is not None:
            for name, loaded in models.items():
                paths.setdefault(template.replace("{model}", name), {})[method] = operation(loaded)
            if endpoint.default_path is not None and default in models:
                paths.setdefault(endpoint.default_path, {})[method] = operation(models[str(default)])
    return paths


# ------------------------------------------------------------------------------------------------ operations


def post(
    summary: str, content: dict[str, Any], schema: dict[str, Any], answer: dict[str, Any], parameters: list[Any]
) -> Operation:
    """A POST operation: the request's content by media type, and the schema and an example of its answer."""
    good = {
        "description": "As asked.",
        "content": {"application/json": {"schema": schema, "example": answer}},
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": good, **_error_responses(set(_ERRORS))},
    }


def get(summary: str, errors: set[str]) -> Operation:
    """A GET operation that answers with JSON, or with one of these statuses."""
    good = {"description": "JSON.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"summary": summary, "responses": {"200": good, **_error_responses(errors)}}


def subject(loaded: Loaded) -> str:
    """What a version predicts, in words."""
    manifest = loaded.predictor.manifest
    unit = f" in {manifest['target_unit']}" if manifest.get("target_unit") else ""
    return f"{manifest.get('target')}{unit} ({manifest.get('task')}), by version {loaded.version} of {loaded.model}"


def row_reference(loaded: Loaded) -> dict[str, Any]:
    """The reference to `row_schema`."""
    return {"$ref": f"#/components/schemas/{loaded.model}"}


def prediction_reference(loaded: Loaded) -> dict[str, Any]:
    """The reference to the schema of a prediction."""
    return {"$ref": f"#/components/schemas/{loaded.model}_prediction"}


def example_rows(loaded: Loaded, count: int) -> list[dict[str, Any]]:
    """Golden rows, with times as `format: date-time` demands them: with a zone, UTC, as which they count anyway."""
    inputs = loaded.predictor.schema.inputs
    return [
        {name: _zoned(value, inputs[name]["type"]) if name in inputs else value for name, value in row.items()}
        for row in loaded.predictor.golden["rows"][:count]
    ]


def example_predictions(loaded: Loaded, count: int) -> list[dict[str, Any]]:
    """What the golden rows are answered with; the ids are made up."""
    return [
        {"prediction_id": "0190f3c2a1b4" + f"{n:020x}", **loaded.answers.as_dict(expected)}
        for n, expected in enumerate(loaded.predictor.golden["expected"][:count])
    ]


def _error_responses(statuses: set[str]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        status: {
            "description": description,
            "content": {"application/json": {"schema": schema, "example": {"error": example}}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in _LIMIT else {}),
        }
        for status, (description, example) in _ERRORS.items()
        if status in statuses
    }


# ------------------------------------------------------------------------------------------------ schemas


def _error_schema() -> dict[str, Any]:
    text = {"type": "string"}
    fields = {"code": text, "message": text, "field": {"type": "string", "nullable": True}}
    return {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": list(fields), "properties": fields}},
    }


def _accepted_schema() -> dict[str, Any]:
    return {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}


def _prediction_schema(loaded: Loaded) -> dict[str, Any]:
    classes = loaded.predictor.classes
    properties: dict[str, Any] = {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "prediction_id": {"type": "string"},
        "prediction": label_schema(loaded),
        "warnings": {"type": "array", "items": {"type": "object"}},
        "explanation": {"type": "object"},
    }
    if classes is not None:
        properties["probabilities"] = {"type": "object", "additionalProperties": {"type": "number"}}
    return {"type": "object", "required": ["prediction_id", "prediction"], "properties": properties}


def label_schema(loaded: Loaded) -> dict[str, Any]:
    """The schema of what is predicted."""
    classes = loaded.predictor.classes
    if classes is None:
        unit = loaded.predictor.manifest.get("target_unit")
        return {"type": "number", **({"description": f"In {unit}."} if unit else {})}
    return {"enum": classes}


def row_schema(loaded: Loaded) -> dict[str, Any]:
    """The schema of a row."""
    inputs = loaded.predictor.schema.inputs
    properties = {name: field_schema(entry) for name, entry in inputs.items()}
    if entity := loaded.predictor.manifest.get("entity"):
        properties.setdefault(entity, {"description": "Whom or what the row is about; kept with the prediction."})
    return {
        "type": "object",
        "additionalProperties": loaded.predictor.manifest.get("extra_field") == "ignore",
        "required": [name for name, entry in inputs.items() if _required(entry)],
        "properties": properties,
    }


def _zoned(value: Any, kind: str) -> Any:
    if kind != "timestamp" or not isinstance(value, str) or _ZONE(value):
        return value
    return value + "Z"


def _required(entry: dict[str, Any]) -> bool:
    missing = entry.get("missing", "auto")
    return bool(entry.get("required", True)) if missing == "auto" else missing == "error"


def field_schema(entry: dict[str, Any]) -> dict[str, Any]:
    """The schema of an input, an entry of the manifest's `inputs`."""
    described = dict(_TYPES[entry["type"]])
    sentences = [f"In {entry['unit']}."] if entry.get("unit") else []
    if entry["type"] == "timestamp":
        sentences.append("Without a zone it is UTC.")
    if entry.get("example") is not None:
        described["example"] = _zoned(entry["example"], entry["type"])
    if not _required(entry):
        described["nullable"] = True
    if categories := entry.get("categories"):
        if entry.get("unknown_category") == "error":
            described["enum"] = categories
        else:
            shown = ", ".join(map(str, categories[:20])) + (" …" if len(categories) > 20 else "")
            sentences.append(f"Seen in training: {shown}; anything else carries a warning.")
    elif entry.get("minimum") is not None and entry.get("maximum") is not None:
        policy = entry.get("out_of_range", "warn")
        if policy == "error" and entry["type"] in ("int", "float"):
            described |= {"minimum": entry["minimum"], "maximum": entry["maximum"]}
        beyond = {"warn": "beyond it the answer carries a warning", "clip": "what is beyond is clipped"}.get(policy)
        sentences.append(
            f"Seen in training: {entry['minimum']} to {entry['maximum']}{'; ' + beyond if beyond else ''}."
        )
    if sentences:
        described["description"] = " ".join(sentences)
    return described
