"""The OpenAPI document of the models that answer now: its examples are golden rows, which succeed when pasted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from include.inference.schema import BATCH_TYPES, JSON
from include.serving.http import v2
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
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "description": "Adds what each feature contributed to each prediction: exact TreeSHAP for tree models.",
    "schema": {"type": "boolean", "default": False},
}
_BECAME_TRUE = "When it became true; default: now. Without a zone it is UTC."
_ZONE = re.compile(r"[Zz]$|[+-]\d\d:?\d\d$").search
_LIMIT = {"429", "503"}
_GET = {"401", "403", "429"}


def document(routes: Mapping[str, Route], default: str | None, base: str = "") -> dict[str, Any]:
    """OpenAPI 3.0, with a request and the answer it gets for each model; `base` is the path before all others."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _error_schema(), "Accepted": _accepted_schema()}
    for name, route in sorted(routes.items()):
        loaded = route.champion.loaded
        schemas[name] = _row_schema(loaded)
        schemas[f"{name}_prediction"] = _prediction_schema(loaded)
        paths |= _paths(f"/models/{name}", name, loaded)
        paths[f"/models/{name}/feedback"] = _feedback(loaded)
        paths |= _protocol_paths(name, loaded)
    if default in routes:
        paths |= _paths("", str(default), routes[str(default)].champion.loaded)
    paths["/models"] = {"get": _get("The loaded models, their arms, and which version was refused and why.", _GET)}
    paths["/health"] = {
        "get": _get("`ok`, `degraded` (answering; with the admin key, see `problems`) or `unavailable`.", {"503"})
    }
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Prediction",
            "version": "1",
            "description": "Answers with the champion of each model, and names its version and a prediction id.",
        },
        "servers": [{"url": base or "/"}],
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


# ------------------------------------------------------------------------------------------------ paths


def _paths(prefix: str, name: str, loaded: Loaded) -> dict[str, Any]:
    golden = loaded.predictor.golden
    rows, expected = [_as_example(row, loaded) for row in golden["rows"][:2]], golden["expected"][:2]
    answers = [
        {"prediction_id": "0190f3c2a1b4" + f"{n:020x}", **loaded.answers.told(e)} for n, e in enumerate(expected)
    ]
    head = {"model": name, "version": loaded.version}
    manifest = loaded.predictor.manifest
    unit = f" in {manifest['target_unit']}" if manifest.get("target_unit") else ""
    what = f"{manifest.get('target')}{unit} ({manifest.get('task')}), by version {loaded.version} of {name}"
    row = {"$ref": f"#/components/schemas/{name}"}
    one = {"application/json": {"schema": row, "example": rows[0]}}
    told = {"$ref": f"#/components/schemas/{name}_prediction"}
    whole = {
        "type": "object",
        "required": ["model", "version", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {"type": "array", "items": told},
        },
    }
    return {
        f"{prefix}/predict": _post(f"Predict {what}: one row.", one, told, head | answers[0], [_EXPLAIN]),
        f"{prefix}/batch-predict": _post(
            f"Predict {what}: several rows.",
            _batch_bodies(name, loaded, rows),
            whole,
            head | {"predictions": answers},
            [_EXPLAIN],
        ),
    }


def _batch_bodies(name: str, loaded: Loaded, rows: list[dict[str, Any]]) -> dict[str, Any]:
    limit = loaded.predictor.schema.max_batch
    row = {"$ref": f"#/components/schemas/{name}"}
    inputs = loaded.predictor.schema.inputs
    columns = {
        field: {"type": "array", "maxItems": limit, "items": _property(entry)} for field, entry in inputs.items()
    }
    required = [field for field, entry in inputs.items() if entry.get("required", True)]
    as_rows = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": {"type": "array", "minItems": 1, "maxItems": limit, "items": row}},
    }
    as_columns = {
        "type": "object",
        "required": ["columns"],
        "additionalProperties": False,
        "properties": {"columns": {"type": "object", "required": required, "properties": columns}},
    }
    example_columns = {field: [r.get(field) for r in rows] for field in inputs}
    examples = {"rows": {"value": {"rows": rows}}, "columns": {"value": {"columns": example_columns}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    json_body = {"schema": {"oneOf": [as_rows, as_columns]}, "examples": examples}
    return {kind: json_body if kind == JSON else binary for kind in sorted(BATCH_TYPES)}


def _feedback(loaded: Loaded) -> dict[str, Any]:
    label = _label_schema(loaded)
    moment = {"type": "string", "format": "date-time", "description": _BECAME_TRUE}
    by_id = {
        "type": "object",
        "required": ["prediction_id", "label"],
        "properties": {"prediction_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "label": label, "at": moment},
    }
    by_entity = {
        "type": "object",
        "required": ["entity", "label"],
        "properties": {"entity": {"type": "string", "minLength": 1}, "label": label, "at": moment},
    }
    one = {"oneOf": [by_id, by_entity]}
    many = {"type": "object", "required": ["labels"], "properties": {"labels": {"type": "array", "items": one}}}
    expected = loaded.predictor.golden["expected"][0]
    example = {"prediction_id": "0190f3c2a1b4" + "0" * 20, "label": loaded.answers.told(expected)["prediction"]}
    body = {"application/json": {"schema": {"oneOf": [by_id, by_entity, many]}, "example": example}}
    accepted = {"$ref": "#/components/schemas/Accepted"}
    return _post("Tell what came true: needs a key with the scope feedback.", body, accepted, {"accepted": 1}, [])


def _protocol_paths(name: str, loaded: Loaded) -> dict[str, Any]:
    inputs = v2.metadata(loaded)["inputs"]
    row = _as_example(loaded.predictor.golden["rows"][0], loaded)
    example = {
        "inputs": [
            {"name": i["name"], "datatype": i["datatype"], "shape": [1], "data": [row.get(i["name"])]} for i in inputs
        ]
    }
    anything = {"type": "object"}
    body = {"application/json": {"schema": {"type": "object", "required": ["inputs"]}, "example": example}}
    ready = _get("Whether it answers.", _GET | {"404"})
    return {
        f"/v2/models/{name}": {"get": _get("Open Inference Protocol: the model's tensors.", _GET | {"404"})},
        f"/v2/models/{name}/ready": {"get": ready},
        f"/v2/models/{name}/infer": _post(
            "Open Inference Protocol: infer.", body, anything, {"model_name": name, "outputs": []}, []
        ),
    }


def _post(
    summary: str, content: dict[str, Any], schema: dict[str, Any], answered: dict[str, Any], parameters: list[Any]
) -> dict[str, Any]:
    good = {
        "description": "As asked.",
        "content": {"application/json": {"schema": schema, "example": answered}},
    }
    return {
        "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": good, **_error_responses(set(_ERRORS))},
        }
    }


def _get(summary: str, errors: set[str]) -> dict[str, Any]:
    good = {"description": "JSON.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"summary": summary, "responses": {"200": good, **_error_responses(errors)}}


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
        "prediction": _label_schema(loaded),
        "warnings": {"type": "array", "items": {"type": "object"}},
        "explanation": {"type": "object"},
    }
    if classes is not None:
        properties["probabilities"] = {"type": "object", "additionalProperties": {"type": "number"}}
    return {"type": "object", "required": ["prediction_id", "prediction"], "properties": properties}


def _label_schema(loaded: Loaded) -> dict[str, Any]:
    classes = loaded.predictor.classes
    if classes is None:
        unit = loaded.predictor.manifest.get("target_unit")
        return {"type": "number", **({"description": f"In {unit}."} if unit else {})}
    return {"enum": classes}


def _row_schema(loaded: Loaded) -> dict[str, Any]:
    inputs = loaded.predictor.schema.inputs
    properties = {name: _property(entry) for name, entry in inputs.items()}
    if entity := loaded.predictor.manifest.get("entity"):
        properties.setdefault(entity, {"description": "Whom or what the row is about; kept with the prediction."})
    return {
        "type": "object",
        "additionalProperties": loaded.predictor.manifest.get("extra_field") == "ignore",
        "required": [name for name, entry in inputs.items() if _required(entry)],
        "properties": properties,
    }


def _as_example(row: Mapping[str, Any], loaded: Loaded) -> dict[str, Any]:
    """A golden row, with times as `format: date-time` wants them: of a zone, here UTC, as which they count anyway."""
    inputs = loaded.predictor.schema.inputs
    return {name: _zoned(value, inputs[name]["type"]) if name in inputs else value for name, value in row.items()}


def _zoned(value: Any, kind: str) -> Any:
    if kind != "timestamp" or not isinstance(value, str) or _ZONE(value):
        return value
    return value + "Z"


def _required(entry: dict[str, Any]) -> bool:
    missing = entry.get("missing", "auto")
    return bool(entry.get("required", True)) if missing == "auto" else missing == "error"


def _property(entry: dict[str, Any]) -> dict[str, Any]:
    described = dict(_TYPES[entry["type"]])
    said = [f"In {entry['unit']}."] if entry.get("unit") else []
    if entry["type"] == "timestamp":
        said.append("Without a zone it is UTC.")
    if entry.get("example") is not None:
        described["example"] = _zoned(entry["example"], entry["type"])
    if not _required(entry):
        described["nullable"] = True
    if categories := entry.get("categories"):
        if entry.get("unknown_category") == "error":
            described["enum"] = categories
        else:
            shown = ", ".join(map(str, categories[:20])) + (" …" if len(categories) > 20 else "")
            said.append(f"Seen in training: {shown}; anything else carries a warning.")
    elif entry.get("minimum") is not None and entry.get("maximum") is not None:
        policy = entry.get("out_of_range", "warn")
        if policy == "error" and entry["type"] in ("int", "float"):
            described |= {"minimum": entry["minimum"], "maximum": entry["maximum"]}
        beyond = {"warn": "beyond it the answer carries a warning", "clip": "what is beyond is clipped"}.get(policy)
        said.append(f"Seen in training: {entry['minimum']} to {entry['maximum']}{'; ' + beyond if beyond else ''}.")
    if said:
        described["description"] = " ".join(said)
    return described
