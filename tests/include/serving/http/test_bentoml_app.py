"""What is built upon BentoML: where our application stands in its server, and its typed API as the contract.

These fail loudly when a new BentoML does one of them otherwise.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from include.serving.process.command import serve_environment
from include.serving.versions.disk_cache import write_bundle
from tests.conftest import ROOT
from tests.include.serving.crafted import ROWS, champion_of, craft
from tests.include.serving.process.test_service import KEY, NO_DATABASE, served

IN_PROCESS = """
import asyncio, inspect, json
import bentoml, httpx
from bentofiles.prediction import service

passed = []

class Counting:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            passed.append(scope["path"])
        await self.app(scope, receive, send)

service.Prediction.add_asgi_middleware(Counting)

async def main():
    application = service.Prediction.to_asgi(is_main=True)
    transport = httpx.ASGITransport(application)
    headers = {"authorization": "Bearer secret"}
    statuses = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
        for method, path in REQUESTS:
            statuses[path] = (await client.request(method, path, json={})).status_code
    print(json.dumps({
        "outermost": application is service.worker.application,
        "passed": passed,
        "statuses": statuses,
        "routes": sorted(api.route for api in service.Prediction.apis.values()),
        "class": type(service.Prediction).__name__,
        "signature": str(inspect.signature(bentoml.Service.to_asgi)),
    }))

asyncio.run(main())
"""


def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(folder / "bentoml", key="secret", root=ROOT)
    environment |= {"MLOPS_HOME": str(folder)}
    environment |= {"MLOPS_PARAMS": str(folder / "none"), "PROMETHEUS_MULTIPROC_DIR": str(folder)} | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_predictions_pass_none_of_bentomls_middleware_and_its_own_pages_do(tmp_path: Path) -> None:
    requests = [
        ("POST", "/models/trips/predict"), ("POST", "/predict"), ("GET", "/models"), ("GET", "/livez"),
        ("GET", "/metrics"), ("POST", "/schema.json"), ("GET", "/docs.json"),
    ]  # fmt: skip
    done = run(f"REQUESTS = {requests!r}\n{IN_PROCESS}", tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["outermost"]
    assert told["class"] == "InFront"
    assert told["signature"] == "(self, is_main: 'bool' = True) -> 'ext.ASGIApp'"
    assert told["passed"] == ["/livez", "/metrics"]
    assert told["statuses"] == {
        "/models/trips/predict": 503, "/predict": 503, "/models": 200, "/livez": 200, "/metrics": 200,
        "/schema.json": 404, "/docs.json": 404,
    }  # fmt: skip
    assert told["routes"] == [
        "/batch-predict", "/models/{model}/batch-predict", "/models/{model}/predict", "/predict",
    ]  # fmt: skip


def test_a_bentoml_that_goes_another_way_finds_a_service_that_does_not_start(tmp_path: Path) -> None:
    """Nothing is ever answered past the application: nobody would check keys there."""
    code = """
import bentoml, uvicorn
from bentofiles.prediction.service import Prediction
uvicorn.run(bentoml.Service.to_asgi(Prediction), port=0, log_level="error")
"""
    done = run(code, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "does not run the application that `to_asgi` makes" in done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------ the contract

GOOD = dict(ROWS[5])
JSON = {"content-type": "application/json"}


def bodies() -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """What is sent to the row and to the batch endpoints: a name, a path, headers, a body."""
    one, many = "/models/trips/predict", "/models/trips/batch-predict"
    rows = {
        "good": GOOD,
        "default model": GOOD,
        "optional field missing": {k: v for k, v in GOOD.items() if k != "night"},
        "optional field null": {**GOOD, "night": None},
        "field missing": {k: v for k, v in GOOD.items() if k != "vendor"},
        "field misspelt": {("vender" if k == "vendor" else k): v for k, v in GOOD.items()},
        "field null": {**GOOD, "trip_distance": None},
        "field too many": {**GOOD, "color": "red"},
        "string for a number": {**GOOD, "trip_distance": "far"},
        "number for a string": {**GOOD, "vendor": 3},
        "bool for a number": {**GOOD, "passenger_count": True},
        "fraction for a whole number": {**GOOD, "passenger_count": 1.5},
        "list for a number": {**GOOD, "trip_distance": [1]},
        "unknown category": {**GOOD, "vendor": "zzz"},
        "huge number": {**GOOD, "trip_distance": 1e308},
        "far number": {**GOOD, "trip_distance": 1e6},
        "no time": {**GOOD, "pickup": "yesterday"},
        "time with a zone": {**GOOD, "pickup": "2018-01-06T05:30:00+02:00"},
        "empty object": {},
        "list": [],
        "string": "row",
        "null": None,
    }
    for name, row in rows.items():
        body = json.dumps(row).encode()
        yield name, "/predict" if name == "default model" else one, JSON, body
        yield f"batch of: {name}", many, JSON, b'{"rows": [%b, %b]}' % (json.dumps(GOOD).encode(), body)
    good = json.dumps(GOOD).encode()
    raw = {
        "empty body": b"",
        "white space": b"  \n",
        "cut off": good[:-5],
        "two documents": good + good,
        "NaN": good.replace(b"5.5", b"NaN"),
        "infinity": good.replace(b"5.5", b"-Infinity"),
        "1e999": good.replace(b"5.5", b"1e999"),
        "key twice": good[:-1] + b', "vendor": "b"}',
        "not UTF-8": good.replace(b'"c"', b'"\xff"'),
        "lone surrogate": good.replace(b'"c"', rb'"\ud800"'),
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "long integer": good.replace(b"5.5", b"9" * 400),
        "byte order mark": b"\xef\xbb\xbf" + good,
    }
    for name, body in raw.items():
        yield name, one, JSON, body
        yield f"batch of: {name}", many, JSON, b'{"rows": [%b]}' % body
    batches: dict[str, Any] = {
        "rows": {"rows": ROWS},
        "columns": {"columns": {name: [row[name] for row in ROWS] for name in ROWS[0]}},
        "columns of unequal length": {"columns": {name: [1] * n for n, name in enumerate(ROWS[0], 1)}},
        "no rows": {"rows": []},
        "rows and columns": {"rows": ROWS, "columns": {}},
        "too many rows": {"rows": ROWS * 9},
        "neither": {"row": GOOD},
        "rows of another kind": {"rows": GOOD},
    }
    for name, batch in batches.items():
        yield f"batch: {name}", many, JSON, json.dumps(batch).encode()
    yield "default model's batch", "/batch-predict", JSON, json.dumps({"rows": ROWS}).encode()
    for content_type in (
        "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/x-www-form-urlencoded", "",
        "multipart/form-data; boundary=x", "application/vnd.bentoml+pickle", "application/vnd.apache.arrow.stream",
        "application/vnd.apache.parquet", "image/*",
    ):  # fmt: skip
        yield f"as {content_type or 'nothing'}", one, {"content-type": content_type}, good
        yield f"batch as {content_type or 'nothing'}", many, {"content-type": content_type}, b'{"rows": [%b]}' % good
    for query in ("?explain=true", "?explain=false", "?explain=maybe", "?explian=true", "?"):
        yield f"with {query}", one + query, JSON, good
        yield f"batch with {query}", many + query, JSON, b'{"rows": [%b]}' % good
    for path in (
        "/models/other/predict", "/models/other/batch-predict", "/models/trips/predict/", "/models//predict",
        "/models/trips%2Fpredict", "/models/trips/guess", "/predict/", "//predict", "/schema.json",
        "/docs.json", "/static_content",
    ):  # fmt: skip
        yield f"to {path}", path, JSON, good
    yield "without a key", one, {**JSON, "authorization": ""}, good
    yield "with another key", one, {**JSON, "authorization": "Bearer guess"}, good
    yield "chunked", one, {**JSON, "x-chunked": "1"}, good


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The service twice, with the same model: the application answers, or BentoML's typed API does."""
    home = tmp_path_factory.mktemp("both")
    crafted = craft(home / "form")
    for name in ("hot", "plain"):
        write_bundle(home / name / "serving", crafted.form, champion_of(crafted, 1))
    with (
        served(home / "hot", NO_DATABASE) as hot,
        served(home / "plain", NO_DATABASE, MLOPS_SERVING_HOT_PATH="off") as plain,
        httpx.Client(base_url=hot, headers=KEY, timeout=30) as of_the_application,
        httpx.Client(base_url=plain, headers=KEY, timeout=30) as of_bentoml,
    ):
        yield of_the_application, of_bentoml


def ask(client: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """What a client sees, without what differs from one request to the next."""
    chunked = headers.pop("x-chunked", None)
    request = client.build_request(method, path, headers=headers, content=iter([body]) if chunked else body)
    if headers.get("content-type") == "":
        del request.headers["content-type"]
    answer = client.send(request)
    compared = ("content-type", "content-length", "allow", "retry-after", "www-authenticate", "server")
    return {
        "status": answer.status_code,
        "body": re.sub(rb'"prediction_id":"[0-9a-f-]+"', b'"prediction_id":""', answer.content),
        "headers": {name: answer.headers.get(name) for name in compared},
    }


@pytest.mark.slow
def test_the_application_answers_as_the_typed_api_does_to_the_byte(both: tuple[httpx.Client, httpx.Client]) -> None:
    wrong, statuses = [], set()
    for name, path, headers, body in bodies():
        ours, typed = (ask(client, "POST", path, dict(headers), body) for client in both)
        statuses.add(ours["status"])
        if ours != typed:
            wrong.append(f"{name}: {ours} {typed}")
        if ours["status"] >= 300:
            error = json.loads(ours["body"])["error"]
            assert error.keys() >= {"code", "message", "field"}, name
        assert ours["status"] < 500, (name, ours)
    assert not wrong, "\n".join(wrong[:10])
    assert statuses == {200, 400, 401, 404, 405, 413, 415, 422}
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for path in ("/predict", "/models/trips/batch-predict", "/livez", "/docs", "/nowhere"):
            ours, typed = (ask(client, method, path, {}, b"") for client in both)
            assert ours == typed, (method, path)


@pytest.mark.slow
def test_the_typed_api_has_the_same_limits(both: tuple[httpx.Client, httpx.Client]) -> None:
    large = json.dumps({"rows": ROWS * 10_000}).encode()
    for headers in (JSON, {**JSON, "x-chunked": "1"}):
        ours, typed = (ask(client, "POST", "/models/trips/batch-predict", dict(headers), large) for client in both)
        assert (ours["status"], json.loads(ours["body"])["error"]["code"]) == (413, "body_too_large")
        assert ours == typed


@pytest.mark.slow
def test_the_typed_api_is_reached_only_when_asked_for(both: tuple[httpx.Client, httpx.Client]) -> None:
    """By BentoML's own counters; and of itself it shows nothing else."""
    counted = []
    for client in both:
        client.post("/models/trips/predict", json=GOOD)
        metrics = client.get("/metrics")
        assert metrics.status_code == 200
        counted.append(re.findall(r'bentoml_service_request_total\{endpoint="([^"]*predict)".* [1-9]', metrics.text))
        answer = client.post("/livez")
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert not {"server", "x-bentoml-request-id"} & answer.headers.keys()
    assert not counted[0]
    assert "/models/trips/predict" in counted[1]
