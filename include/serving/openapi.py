"""The OpenAPI document of the models that answer now: its examples are golden rows, which succeed when pasted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from include.serving.models import Loaded

_TYPES: dict[str, dict[str, Any]] = {
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}
_ERRORS = {
    "400": "The body is not JSON.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large, or the batch has too many rows.",
    "415": "The content type is not application/json.",
    "422": "A field is wrong; `field` is its path.",
    "503": "The model is not loaded yet.",
}
_ERROR_EXAMPLE = {
    "error": {"code": "wrong_type", "message": "rows[3].x must be a number, not a string", "field": "rows[3].x"}
}


def document(models: Mapping[str, Loaded], default: str | None) -> dict[str, Any]:
    """OpenAPI 3.0, with a request and the answer it gets for each model."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _error_schema()}
    for name, loaded in sorted(models.items()):
        schemas[name] = _row_schema(loaded)
        paths |= _paths(f"/models/{name}", name, loaded)
    if default in models:
        paths |= _paths("", str(default), models[str(default)])
    paths["/models"] = {"get": _get("The loaded models, and which champion was refused and why.")}
    paths["/health"] = {"get": _get("`ok`, `degraded` (answering, but see `problems`) or `unavailable` (503).")}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Prediction",
            "version": "1",
            "description": "Answers with the champion of each model, and names its version and a prediction id.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "browser": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{"key": []}, {"browser": []}],
    }


def answer(loaded: Loaded, prediction: Any) -> dict[str, Any]:
    """How one prediction, a number or probabilities in the order of the classes, is told to a client."""
    classes = loaded.predictor.classes
    if classes is None:
        return {"prediction": prediction}
    likeliest = max(range(len(classes)), key=prediction.__getitem__)
    return {
        "prediction": classes[likeliest],
        "probabilities": dict(zip(map(class_key, classes), prediction, strict=True)),
    }


def class_key(label: Any) -> str:
    """A class label as a JSON object's key."""
    return label if isinstance(label, str) else json.dumps(label)


def _paths(prefix: str, name: str, loaded: Loaded) -> dict[str, Any]:
    golden = loaded.predictor.golden
    rows, expected = golden["rows"][:2], golden["expected"][:2]
    answers = [{"prediction_id": "0190f3c2a1b4" + f"{n:020x}", **answer(loaded, e)} for n, e in enumerate(expected)]
    head = {"model": name, "version": loaded.version}
    row = {"$ref": f"#/components/schemas/{name}"}
    batch = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {
            "rows": {"type": "array", "minItems": 1, "maxItems": loaded.predictor.schema.max_batch, "items": row}
        },
    }
    target, task = loaded.predictor.manifest.get("target"), loaded.predictor.manifest.get("task")
    what = f"{target} ({task}), by version {loaded.version} of {name}"
    return {
        f"{prefix}/predict": _post(f"Predict {what}: one row.", row, rows[0], head | answers[0]),
        f"{prefix}/batch-predict": _post(
            f"Predict {what}: several rows.", batch, {"rows": rows}, head | {"predictions": answers}
        ),
    }


def _post(summary: str, schema: dict[str, Any], example: Any, answered: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
    good = {"description": "The prediction.", "content": {"application/json": {"example": answered}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": {"200": good, **_error_responses(_ERRORS)}}}


def _get(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "JSON."}, **_error_responses({"401": _ERRORS["401"]})},
    }


def _error_responses(errors: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "example": _ERROR_EXAMPLE}}
    return {status: {"description": description, "content": content} for status, description in errors.items()}


def _error_schema() -> dict[str, Any]:
    text = {"type": "string"}
    fields = {"code": text, "message": text, "field": {"type": "string", "nullable": True}}
    return {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": list(fields), "properties": fields}},
    }


def _row_schema(loaded: Loaded) -> dict[str, Any]:
    inputs = loaded.predictor.schema.inputs
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, entry in inputs.items() if entry.get("required", True)],
        "properties": {name: _property(entry, loaded) for name, entry in inputs.items()},
    }


def _property(entry: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    described = dict(_TYPES[entry["type"]])
    if entry.get("example") is not None:
        described["example"] = entry["example"]
    if not entry.get("required", True):
        described["nullable"] = True
    if categories := entry.get("categories"):
        if loaded.predictor.manifest.get("unknown_category") == "error":
            described["enum"] = categories
        else:
            described["description"] = "Seen in training: " + ", ".join(map(str, categories[:20]))
    elif entry.get("minimum") is not None and entry.get("maximum") is not None:
        described["description"] = f"Seen in training: {entry['minimum']} to {entry['maximum']}."
    return described
