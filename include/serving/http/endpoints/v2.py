"""The Open Inference Protocol (version 2, as KServe, Triton and MLServer speak it), so that its clients work here.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready]
    POST /v2/models/{model}[/versions/{version}]/infer

Each input column is a tensor of its name, of shape [n] or [n, 1]: FP64, INT64 and BOOL, or BYTES for strings,
timestamps and dates. The answer's tensors are `prediction`, for classes `probabilities`, and `prediction_id`, which
feedback names. Data come as JSON or by the binary extension (Inference-Header-Content-Length).
Source: https://github.com/kserve/open-inference-protocol, and Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import re
import struct
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from include.inference import errors
from include.inference.duplicate_keys import refuse_duplicates
from include.inference.errors import Refused, cut
from include.inference.schema import JSON, Checked
from include.serving.batching.scoring import Scored
from include.serving.http import openapi
from include.serving.http.endpoint import Endpoint, Operation, Service, explanation_requested
from include.serving.http.messages import Request, Response, json_response
from include.serving.http.predict import Codec, DecodedRequest, RawRequest
from include.serving.routing.route import Route
from include.serving.versions.loader import Loaded

BINARY = "application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
_DATATYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES", "timestamp": "BYTES", "date": "BYTES"}
_FIXED = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None


@dataclass(slots=True)
class InferRequest:
    """A checked inference request."""

    checked: Checked
    id: str | None
    outputs: list[tuple[str, bool]] | None
    """Outputs and whether each is to be binary; None: all of them."""
    binary: bool
    """Whether outputs are binary unless they say otherwise."""


_COLUMNS = re.compile(r"^(from )?columns\b|(?<= values and )columns(?=\.)")
_decode = msgspec.json.Decoder(_Body).decode


async def infer(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the outputs of a model."""
    route = _of_version(service.route(request.model), request)
    explain = explanation_requested(request.query)
    return await service.predictions.answer(INFER, route, request, body, explain=explain)


async def server(service: Service, request: Request, body: bytes) -> Response:
    """Answer with the server's metadata."""
    return json_response({"name": "mlops-prediction", "version": "1", "extensions": ["binary_tensor_data"]})


async def live(service: Service, request: Request, body: bytes) -> Response:
    """Answer that the process lives."""
    return json_response({"live": True})


async def ready(service: Service, request: Request, body: bytes) -> Response:
    """Answer whether requests should be sent here."""
    if reason := service.not_ready:
        raise Refused(503, "not_ready", reason)
    return json_response({"ready": True})


async def model(service: Service, request: Request, body: bytes) -> Response:
    """Answer with a model's tensors."""
    return json_response(metadata(_loaded(service, request)))


async def model_ready(service: Service, request: Request, body: bytes) -> Response:
    """Answer whether a model, or this version of it, answers."""
    return json_response({"name": _loaded(service, request).model, "ready": True})


def _loaded(service: Service, request: Request) -> Loaded:
    route = service.models.route(request.model or "")
    if route is None:
        names = ", ".join(service.models.routes)
        raise Refused(404, "unknown_model", f"there is no model {cut(request.model or '')!r}; loaded are {names}")
    return _of_version(route, request).champion.loaded


def _of_version(route: Route, request: Request) -> Route:
    """The route, if the path names the version that answers, or none; that of the version that stands by, if it does.

    Raises:
        Refused: 404 for any other version.
    """
    answering = str(route.champion.loaded.version)
    version = (request.parameters or {}).get("version", answering)
    if version == answering:
        return route
    if route.trial is not None and version == str(route.trial.champion.loaded.version):
        return route.trial
    raise Refused(404, "unknown_version", f"{route.model} answers with version {answering}, not {cut(version)!r}")


# ------------------------------------------------------------------------------------------------ infer


def _decode_request(raw: RawRequest, loaded: Loaded) -> DecodedRequest:
    started = time.perf_counter()
    infer = decode(raw.body, raw.request.headers.get(HEADER_LENGTH), loaded)
    return DecodedRequest(started, infer.checked, infer=infer)


def _encode_response(request: Request, decoded: DecodedRequest, loaded: Loaded, scored: Scored) -> bytes:
    body, content_type, headers = encode(decoded.infer, loaded, scored)
    request.response_type = content_type.encode(), headers
    return body


def decode(body: bytes, header_length: bytes | None, loaded: Loaded) -> InferRequest:
    """Check an inference request against the inputs of the version that answers.

    Args:
        body: JSON, followed by binary tensor data when `header_length` says where the JSON ends.
        header_length: the header Inference-Header-Content-Length.
        loaded: the version.

    Raises:
        Refused: 400 for what is not the protocol, 422 with the path of the tensor that is wrong.
    """
    head, data = body, memoryview(b"")
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
            raise Refused(400, "bad_inference_request", "Inference-Header-Content-Length is not where the JSON ends")
        head, data = body[: int(header_length)], memoryview(body)[int(header_length) :]
    try:
        document = _decode(head)
    except msgspec.ValidationError as error:
        raise Refused(400, "bad_inference_request", f"not a request of the Open Inference Protocol: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error}") from None
    refuse_duplicates(head)
    columns: dict[str, list[Any]] = {}
    for tensor in document.inputs:
        values, data = _values(tensor, data)
        if tensor.name in columns:
            raise Refused(422, "duplicate_input", f"inputs.{tensor.name} is given twice", f"inputs.{tensor.name}")
        columns[tensor.name] = values
    if len(data):
        raise Refused(400, "bad_inference_request", f"{len(data)} bytes of binary data belong to no input")
    try:
        checked = loaded.predictor.schema.many(msgspec.json.encode({"columns": columns}), JSON)
    except Refused as refused:
        raise _renamed(refused) from None
    checked.form = "inputs"
    binary = bool((document.parameters or {}).get("binary_data_output", False))
    outputs = None
    if document.outputs is not None:
        outputs = [(o.name, bool((o.parameters or {}).get("binary_data", binary))) for o in document.outputs]
    return InferRequest(checked, document.id, outputs, binary)


def encode(infer: InferRequest, loaded: Loaded, scored: Scored) -> tuple[bytes, str, list[tuple[bytes, bytes]]]:
    """The answer's body, its media type and the headers that the binary extension needs.

    Raises:
        Refused: an output is requested that there is not, or twice.
    """
    tensors = _outputs(loaded, scored)
    requested = infer.outputs if infer.outputs is not None else [(name, infer.binary) for name in tensors]
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for name, binary in requested:
        if name not in tensors:
            known = ", ".join(tensors)
            raise Refused(422, "unknown_output", f"there is no output {name!r}; there are {known}", f"outputs.{name}")
        if any(output["name"] == name for output in outputs):  # else an answer is as long as somebody can write names
            raise Refused(422, "duplicate_output", f"outputs.{name} is given twice", f"outputs.{name}")
        datatype, shape, values = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            chunks.append(_packed(datatype, values))
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            output["data"] = np.asarray(values).ravel().tolist()
        outputs.append(output)
    head: dict[str, Any] = {"model_name": loaded.model, "model_version": str(loaded.version)}
    if infer.id is not None:
        head["id"] = infer.id
    if scored.more is not None:
        notes = [_as_inputs(more or {}) for more in scored.more]
        head["parameters"] = {"notes": msgspec.json.encode(notes).decode()}
    text = msgspec.json.encode({**head, "outputs": outputs})
    if not chunks:
        return text, JSON, []
    return text + b"".join(chunks), BINARY, [(HEADER_LENGTH, b"%d" % len(text))]


def metadata(loaded: Loaded) -> dict[str, Any]:
    """A model's tensors, as GET /v2/models/{model} lists them."""
    inputs = loaded.predictor.schema.inputs.values()
    classes = loaded.predictor.classes
    outputs = [{"name": "prediction", "datatype": _prediction_type(classes), "shape": [-1]}]
    if classes is not None:
        outputs.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(classes)]})
    outputs.append({"name": "prediction_id", "datatype": "BYTES", "shape": [-1]})
    return {
        "name": loaded.model,
        "versions": [str(loaded.version)],
        "platform": "onnx_onnxruntime",
        "inputs": [{"name": i["name"], "datatype": _DATATYPES[i["type"]], "shape": [-1]} for i in inputs],
        "outputs": outputs,
    }


def _values(tensor: _Tensor, data: memoryview) -> tuple[list[Any], memoryview]:
    """A tensor's elements, and what of the binary data is left."""
    where = f"inputs.{tensor.name}"
    if any(n < 0 for n in tensor.shape) or len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise Refused(422, "wrong_shape", f"{where} must have shape [n] or [n, 1], not {tensor.shape}", where)
    if tensor.datatype != "BYTES" and tensor.datatype not in _FIXED:
        raise Refused(422, "wrong_type", f"{where}: there is no datatype {tensor.datatype!r}", where)
    count = tensor.shape[0]
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        values = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in tensor.data or []]
    else:
        if tensor.data:
            raise Refused(400, "bad_inference_request", f"{where} has both data and binary_data_size", where)
        if not isinstance(size, int) or not 0 <= size <= len(data):
            raise Refused(
                400, "bad_inference_request", f"{where}: binary_data_size {size!r} is not what was sent", where
            )
        values, data = _unpacked(tensor.datatype, data[:size], where), data[size:]
    if len(values) != count:
        raise Refused(422, "wrong_shape", f"{where} has {len(values)} elements; its shape says {count}", where)
    return values, data


def _unpacked(datatype: str, data: memoryview, where: str) -> list[Any]:
    if datatype != "BYTES":
        dtype = np.dtype(_FIXED[datatype])
        if len(data) % dtype.itemsize:
            raise Refused(400, "bad_inference_request", f"{where}: its bytes are no whole number of {datatype}", where)
        numbers = np.frombuffer(data, dtype)
        if dtype.kind == "f" and (infinite := np.isinf(numbers)).any():  # JSON, by way of which it goes on, has none
            raise errors.not_finite(f"{where}[{int(infinite.argmax())}]")
        return [None if v != v else v for v in numbers.tolist()]  # NaN stands for missing
    values, position = [], 0
    try:
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            (text,) = struct.unpack_from(f"{length}s", data, position + 4)
            values.append(text.decode())
            position += 4 + length
    except (struct.error, UnicodeDecodeError):
        raise Refused(
            400, "bad_inference_request", f"{where}: its bytes are not length-prefixed UTF-8", where
        ) from None
    return values


def _packed(datatype: str, values: Any) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, dtype=_FIXED[datatype]).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _prediction_type(classes: list[Any] | None) -> str:
    if classes is None:
        return "FP64"
    kinds = {type(label) for label in classes}
    return "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "FP64" if kinds == {float} else "BYTES"


def _outputs(loaded: Loaded, scored: Scored) -> dict[str, tuple[str, list[int], Any]]:
    classes = loaded.predictor.classes
    count = len(scored.ids)
    ids = ("BYTES", [count], scored.ids)
    if classes is None:
        return {"prediction": ("FP64", [count], scored.predictions), "prediction_id": ids}
    labels = [classes[n] for n in scored.predictions.argmax(axis=1)]
    return {
        "prediction": (_prediction_type(classes), [count], labels),
        "probabilities": ("FP64", [count, len(classes)], scored.predictions),
        "prediction_id": ids,
    }


def _as_inputs(more: dict[str, Any]) -> dict[str, Any]:
    """What goes with a prediction, with the warnings' paths as this protocol's client knows them."""
    if "warnings" not in more:
        return more
    named = [{**w, "field": _path(w["field"]), "message": _path(w["message"])} for w in more["warnings"]]
    return {**more, "warnings": named}


def _renamed(refused: Refused) -> Refused:
    """The same refusal, with the path as this protocol's client knows it."""
    return Refused(refused.status, refused.code, _path(refused.message), refused.field and _path(refused.field))


def _path(text: str) -> str:
    """A path of our batches, or what begins with one, in this protocol's terms."""
    return _COLUMNS.sub(r"\g<1>inputs", text)


# ------------------------------------------------------------------------------------------------ OpenAPI


def _openapi(loaded: Loaded) -> Operation:
    row = openapi.example_rows(loaded, 1)[0]
    inputs = [
        {"name": entry["name"], "datatype": entry["datatype"], "shape": [1], "data": [row.get(entry["name"])]}
        for entry in metadata(loaded)["inputs"]
    ]
    schema, answer = {"type": "object", "required": ["inputs"]}, {"model_name": loaded.model, "outputs": []}
    body = {"application/json": {"schema": schema, "example": {"inputs": inputs}}}
    return openapi.post("Open Inference Protocol: infer.", body, {"type": "object"}, answer, [])


def _openapi_model(loaded: Loaded) -> Operation:
    return openapi.get("Open Inference Protocol: the model's tensors.", openapi.KEY_ERRORS | {"404"})


def _openapi_ready(loaded: Loaded) -> Operation:
    return openapi.get("Whether it answers.", openapi.KEY_ERRORS | {"404"})


INFER = Codec(_decode_request, _encode_response)
_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
ENDPOINTS = (
    Endpoint("GET", ("/v2",), "predict", server),
    Endpoint("GET", ("/v2/health/live",), None, live),
    Endpoint("GET", ("/v2/health/ready",), None, ready),
    Endpoint("GET", (_MODEL, _VERSION), "predict", model, openapi=_openapi_model),
    Endpoint("GET", (f"{_MODEL}/ready", f"{_VERSION}/ready"), "predict", model_ready, openapi=_openapi_ready),
    Endpoint("POST", (f"{_MODEL}/infer", f"{_VERSION}/infer"), "predict", infer, openapi=_openapi),
)
