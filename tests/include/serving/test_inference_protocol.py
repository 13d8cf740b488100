"""The Open Inference Protocol, spoken by a public client of it, Triton's, over HTTP: as JSON and as binary data."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from include.serving.application import Application
from tests.conftest import free_port
from tests.include.serving.crafted import ROWS
from tests.include.serving.test_application import KEY, application_of, call

http = pytest.importorskip("tritonclient.http")

NUMPY = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("regression"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("binary"), task="binary")


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    app = request.getfixturevalue(request.param)
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with http.InferenceServerClient(f"127.0.0.1:{server.config.port}") as client:
        yield client
    server.should_exit = True
    thread.join()


def inputs(metadata: dict[str, Any], *, binary: bool) -> list[Any]:
    """The rows as the client makes tensors of them, from what the model says of itself."""
    tensors = []
    for entry in metadata["inputs"]:
        values = np.array([row[entry["name"]] for row in ROWS], dtype=NUMPY[entry["datatype"]])
        tensor = http.InferInput(entry["name"], [len(ROWS)], entry["datatype"])
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensors.append(tensor)
    return tensors


@pytest.mark.parametrize("client", ["regression"], indirect=True)
def test_health_readiness_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("trips", headers=dict(KEY))
    assert client.is_model_ready("trips", "7", headers=dict(KEY))
    assert not client.is_model_ready("trips", "8", headers=dict(KEY))
    assert client.get_server_metadata(headers=dict(KEY))["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("trips", headers=dict(KEY))
    assert metadata["versions"] == ["7"]
    assert {i["name"]: i["datatype"] for i in metadata["inputs"]} == {
        "trip_distance": "FP64", "passenger_count": "INT64", "vendor": "BYTES", "pickup": "BYTES", "night": "BOOL",
    }  # fmt: skip


@pytest.mark.parametrize("client", ["regression"], indirect=True)
@pytest.mark.parametrize("binary", [False, True])
def test_it_infers_what_the_service_predicts(client: Any, regression: Application, binary: bool) -> None:
    loaded = regression._models.get("trips")
    assert loaded
    metadata = client.get_model_metadata("trips", headers=dict(KEY))
    outputs = [http.InferRequestedOutput("prediction", binary_data=binary), http.InferRequestedOutput("prediction_id")]
    tensors = inputs(metadata, binary=binary)
    answer = client.infer("trips", tensors, outputs=outputs, request_id="mine", headers=dict(KEY))
    assert answer.as_numpy("prediction").tolist() == pytest.approx(loaded.predictor.golden["expected"])
    assert len(set(answer.as_numpy("prediction_id").tolist())) == len(ROWS)
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == "7"


@pytest.mark.parametrize("client", ["classifier"], indirect=True)
def test_classes_come_with_their_probabilities(client: Any, classifier: Application) -> None:
    loaded = classifier._models.get("trips")
    assert loaded
    metadata = client.get_model_metadata("trips", headers=dict(KEY))
    answer = client.infer("trips", inputs(metadata, binary=True), headers=dict(KEY))
    expected = np.array(loaded.predictor.golden["expected"])
    assert answer.as_numpy("probabilities") == pytest.approx(expected)
    assert answer.as_numpy("prediction").tolist() == (expected[:, 1] > 0.5).tolist()


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"shape": [2]}, 422, "inputs.trip_distance"),
        ({"shape": [1, 2]}, 422, "inputs.trip_distance"),
        ({"datatype": "FP80"}, 422, "inputs.trip_distance"),
        ({"data": ["far"]}, 422, "inputs.trip_distance[0]"),
        ({"parameters": {"binary_data_size": 8}, "data": None}, 400, "inputs.trip_distance"),
        ({"name": "distance"}, 422, None),
    ],
)
def test_mistakes_are_named_with_their_tensor(
    regression: Application, change: dict[str, Any], status: int, field: str | None
) -> None:
    datatypes = {"trip_distance": "FP64", "passenger_count": "INT64", "vendor": "BYTES", "pickup": "BYTES"}
    tensors = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [ROWS[0][name]]}
        for name, datatype in datatypes.items()
    ]
    tensors[0] |= change
    answer = call(regression, "POST", "/v2/models/trips/infer", json={"inputs": tensors})
    assert answer.status_code == status, answer.text
    assert field is None or answer.json()["error"]["field"] == field


@pytest.mark.parametrize("length", [b"x", b"99999", b"-1", b"3"])
def test_a_wrong_header_length_is_refused(regression: Application, length: bytes) -> None:
    headers = {**KEY, "Inference-Header-Content-Length": length.decode()}
    answer = call(regression, "POST", "/v2/models/trips/infer", headers=headers, json={"inputs": []})
    assert answer.status_code == 400


def test_what_is_not_there_is_said(regression: Application, tmp_path: Path) -> None:
    for path in ("/v2/models/nobody", "/v2/models/trips/versions/8", "/v2/models/trips/nothing", "/v2/nothing"):
        assert call(regression, "GET", path).status_code == 404
    assert call(regression, "POST", "/v2/models/nobody/infer", json={}).status_code == 404
    assert call(regression, "GET", "/v2/models/trips", headers={}).status_code == 401
