"""The limit for Python: a plain ASGI application, msgspec, NumPy, and onnxruntime on the platform's own graph.

It checks types and nothing else, knows no key, writes no log and counts nothing. Each request is one call.
"""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import onnxruntime

from benchmarks.serving.contenders import preprocessing

_FIELDS: list[Any] = [(n, float) for n in preprocessing.NUMBERS] + [(n, str) for n in preprocessing.CATEGORIES]
Row: Any = msgspec.defstruct("Row", _FIELDS, gc=False)
Rows: Any = msgspec.defstruct("Rows", [("rows", list[Row])])
decode_row, decode_rows = msgspec.json.Decoder(Row).decode, msgspec.json.Decoder(Rows).decode
encode, values = msgspec.json.Encoder().encode, msgspec.structs.astuple

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
_options.enable_cpu_mem_arena = False
_run = onnxruntime.InferenceSession(
    preprocessing.MODEL / "served" / "model.onnx", _options, providers=["CPUExecutionProvider"]
).run


def one(body: bytes) -> bytes:
    """The answer to a row."""
    prediction = _run(None, {"X": preprocessing.of_row(values(decode_row(body)))})[0]
    return encode({"prediction": prediction.item()})


def many(body: bytes) -> bytes:
    """The answer to `{"rows": […]}`."""
    rows: Any = decode_rows(body)
    predictions = _run(None, {"X": preprocessing.of_rows([values(row) for row in rows.rows])})[0]
    return encode({"predictions": predictions.ravel().tolist()})


def served_by(one: Any, many: Any) -> Any:
    """The ASGI application around two functions from bytes to bytes."""
    gc.collect()
    gc.freeze()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        answer = one(body) if scope["path"] == "/predict" else many(body)
        length = (b"content-length", b"%d" % len(answer))
        headers = [(b"content-type", b"application/json"), length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return application


application = served_by(one, many)
