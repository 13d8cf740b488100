"""LitServe around the hand-written preprocessing and onnxruntime, on the platform's own graph; one worker."""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime

from benchmarks.serving.contenders import preprocessing

_NAMES = [*preprocessing.NUMBERS, *preprocessing.CATEGORIES]


class Delivery(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = preprocessing.MODEL / "served" / "model.onnx"
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        rows = [[row[name] for name in _NAMES] for row in request["rows"]]
        return preprocessing.of_row(rows[0]) if len(rows) == 1 else preprocessing.of_rows(rows)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {"X": x})[0])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"predictions": output.ravel().tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Delivery(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
