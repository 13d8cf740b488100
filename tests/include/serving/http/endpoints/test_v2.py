"""The Open Inference Protocol, spoken by a public client of it, Triton's, over HTTP: as JSON and as binary data."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from include.serving.http.application import Application
from tests.conftest import free_port
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import KEY, application_of, call
from tests.waiting import until

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
    until(lambda: server.started, unless=lambda: not thread.is_alive())
    with http.InferenceServerClient(f"127.0.0.1:{server.config.port}") as client:
        yield client
    server.should_exit = True
    thread.join()


def inputs(metadata: dict[str, Any], *, binary: bool) -> list[Any]:
    """The rows as the client makes tensors of them, from what the model says of itself."""
    tensors = []
    for entry in metadata["inputs"]:
        values: np.ndarray = np.array([row[entry["name"]] for row in ROWS], dtype=NUMPY[entry["datatype"]])
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


def tensors_of(row: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    datatypes = {
        "trip_distance": "FP64",
        "passenger_count": "INT64",
        "vendor": "BYTES",
        "pickup": "BYTES",
        "night": "BOOL",
    }
    return [{"name": n, "datatype": d, "shape": [1], "data": [row[n]], **more} for n, d in datatypes.items()]


def test_an_output_is_given_once(regression: Application) -> None:
    outputs = [{"name": "prediction"}, {"name": "prediction_id"}] + [{"name": "prediction"}] * 50_000
    document = {"inputs": tensors_of(ROWS[0]), "outputs": outputs}
    answer = call(regression, "POST", "/v2/models/trips/infer", json=document)
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "duplicate_output", "message": "outputs.prediction is given twice", "field": "outputs.prediction",
    }  # fmt: skip


def test_what_may_be_left_out_may_be_null(regression: Application) -> None:
    body = {"id": None, "parameters": None, "inputs": tensors_of(ROWS[0], parameters=None), "outputs": None}
    assert call(regression, "POST", "/v2/models/trips/infer", json=body).status_code == 200
    body["outputs"] = [{"name": "prediction", "parameters": None}]
    assert [o["name"] for o in call(regression, "POST", "/v2/models/trips/infer", json=body).json()["outputs"]] == [
        "prediction"
    ]


def test_warnings_are_named_as_refusals_are(tmp_path: Path) -> None:
    seen = {"minimum": 0.0, "maximum": 2.0, "out_of_range": "warn"}
    app = application_of(tmp_path, described={"trip_distance": seen, "vendor": {"categories": ["a", "b", "c"]}})
    row = {**ROWS[0], "trip_distance": 50.0, "vendor": "A"}
    answer = call(app, "POST", "/v2/models/trips/infer", json={"inputs": tensors_of(row)}).json()
    [notes] = json.loads(answer["parameters"]["notes"])
    assert [(w["field"], w["message"]) for w in notes["warnings"]] == [
        ("inputs.trip_distance[0]", "inputs.trip_distance[0] is 50; training saw 0 to 2"),
        (
            "inputs.vendor[0]",
            "inputs.vendor[0] is 'A', which the model was not trained on; did you mean 'a'?",
        ),
    ]
    tensors = tensors_of(ROWS[0])
    without = call(app, "POST", "/v2/models/trips/infer", json={"inputs": tensors[:-1]}).json()["error"]
    assert (without["field"], without["message"]) == ("inputs[0]", "the model has no finite answer for inputs[0]")
    tensors[1] |= {"shape": [2], "data": [1, 2]}
    refused = call(app, "POST", "/v2/models/trips/infer", json={"inputs": tensors}).json()["error"]
    assert "columns" not in refused["message"]
    assert "inputs.passenger_count" in refused["message"]


@pytest.mark.parametrize("number", ["1" + "0" * 40, "1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, "1e400"])
def test_a_number_that_no_computer_computes_with_is_refused_wherever_it_stands(
    regression: Application, number: str
) -> None:
    good = json.dumps({"inputs": tensors_of(ROWS[0])})
    for place in ('"data": [0.5]', '"shape": [1]', '"data": [1]', '"data": ["a"]'):
        assert place in good
        name = place.partition(":")[0]
        for sent in (f"{name}: [{number}]", f'{place}, "parameters": {{"binary_data_size": {number}}}'):
            body = good.replace(place, sent, 1).encode()
            answer = call(regression, "POST", "/v2/models/trips/infer", content=body)
            assert answer.status_code in (400, 422), (answer.status_code, answer.text, sent[:60])


@pytest.mark.parametrize(("datatype", "infinite"), [("FP64", "<d"), ("FP32", "<f"), ("FP16", "<e")])
def test_infinity_in_bytes_is_refused_as_what_it_is(regression: Application, datatype: str, infinite: str) -> None:
    tensors, packed = tensors_of(ROWS[0]), struct.pack(infinite, float("-inf"))
    binary = {"datatype": datatype, "parameters": {"binary_data_size": len(packed)}}
    for change, code in (({}, "bad_inference_request"), ({"data": None}, "not_finite")):  # both data and bytes; bytes
        head = json.dumps({"inputs": [tensors[0] | binary | change, *tensors[1:]]}).encode()
        headers = {**KEY, "Inference-Header-Content-Length": str(len(head))}
        answer = call(regression, "POST", "/v2/models/trips/infer", headers=headers, content=head + packed)
        assert answer.json()["error"]["code"] == code, answer.text
        assert answer.json()["error"]["field"].startswith("inputs.trip_distance")


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
