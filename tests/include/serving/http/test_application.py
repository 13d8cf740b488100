"""Every path a client can reach, called in process."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from include.serving.batching.micro_batcher import Unrecorded
from include.serving.control.reconciler import Reconciler
from include.serving.http.access_log import AccessLog
from include.serving.http.application import Application, Limits
from include.serving.http.authentication import Authentication
from include.serving.http.endpoints.docs import ASSETS
from include.serving.http.load_shedding import LoadShedder
from include.serving.metrics.counters import ArmCounters
from include.serving.metrics.prometheus import Metrics
from include.serving.routing.route import Arm, Route
from include.serving.versions.disk_cache import write_bundle
from include.serving.versions.response_encoder import prediction_ids
from tests.include.serving.crafted import ROWS, champion_of, craft

KEY = {"Authorization": "Bearer secret"}


def application_of(folder: Path, *, limits: Limits = Limits(), **craft_arguments: Any) -> Application:  # noqa: B008
    crafted = craft(folder / "form", **craft_arguments)
    write_bundle(folder / "served", crafted.form, champion_of(crafted, 7))
    metrics = Metrics(CollectorRegistry())
    models = Reconciler(metrics, bundled=folder / "served")
    models.start()
    return around(models, metrics, limits)


def around(models: Reconciler, metrics: Metrics, limits: Limits = Limits()) -> Application:  # noqa: B008
    return Application(
        models,
        metrics,
        access=Authentication(None, metrics, key="secret"),
        admission=LoadShedder(64, metrics),
        recorder=Unrecorded(),
        access_log=AccessLog("off", metrics),
        limits=limits,
    )


def call(
    app: Application, method: str, path: str, headers: dict[str, str] | None = None, **sent: Any
) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, headers=KEY if headers is None else headers, **sent)

    return asyncio.run(send())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("regression"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("binary"), task="binary", unknown="error")


def golden(app: Application) -> dict[str, Any]:
    loaded = app._models.get("trips")
    assert loaded
    return loaded.predictor.golden


@pytest.mark.parametrize("path", ["/predict", "/models/trips/predict"])
def test_one_row_is_answered_with_model_version_and_id(app: Application, path: str) -> None:
    answer = call(app, "POST", path, json=ROWS[2])
    assert answer.status_code == 200
    document = answer.json()
    assert (document["model"], document["version"]) == ("trips", 7)
    assert len(document["prediction_id"]) == 32
    assert document["prediction"] == pytest.approx(golden(app)["expected"][2])


@pytest.mark.parametrize("path", ["/batch-predict", "/models/trips/batch-predict"])
def test_a_batch_is_answered_in_order_each_with_its_own_id(app: Application, path: str) -> None:
    document = call(app, "POST", path, json={"rows": ROWS}).json()
    assert [p["prediction"] for p in document["predictions"]] == pytest.approx(golden(app)["expected"])
    assert len({p["prediction_id"] for p in document["predictions"]}) == len(ROWS)


def test_classes_come_with_their_probabilities(classifier: Application) -> None:
    document = call(classifier, "POST", "/predict", json=ROWS[0]).json()
    assert list(document["probabilities"]) == ["false", "true"]
    assert document["prediction"] is (document["probabilities"]["true"] > 0.5)
    assert sum(document["probabilities"].values()) == pytest.approx(1)


def test_a_large_batch_is_answered_like_a_small_one(tmp_path: Path) -> None:
    app = application_of(tmp_path, max_batch=1000)
    document = call(app, "POST", "/batch-predict", json={"rows": ROWS * 80}).json()
    assert [p["prediction"] for p in document["predictions"]] == pytest.approx(golden(app)["expected"] * 80)


def test_ids_sort_by_time() -> None:
    first = prediction_ids(2)
    time.sleep(0.002)
    assert max(first)[:12] < min(prediction_ids(2))[:12]


# ------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    "path", ["/predict", "/models/trips/predict", "/models", "/metrics", "/docs", "/openapi.json", "/", "/nothing"]
)
@pytest.mark.parametrize(
    "sent", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}, {"Authorization": "secret"}]
)
def test_without_the_key_nothing_is_told(app: Application, path: str, sent: dict[str, str]) -> None:
    app = around(app._models, app._metrics)  # with a new budget for wrong keys
    answer = call(app, "POST" if "predict" in path else "GET", path, headers=sent, json=ROWS[0])
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert "www-authenticate" in answer.headers


def test_a_browser_sends_the_key_as_its_password(app: Application) -> None:
    sent = {"Authorization": "Basic " + base64.b64encode(b"anybody:secret").decode()}
    assert call(app, "GET", "/docs", headers={}).headers["www-authenticate"].startswith("Basic")
    assert call(app, "GET", "/openapi.json", headers=sent).status_code == 200


def test_health_says_one_word_to_strangers_and_all_to_those_with_the_key(app: Application) -> None:
    assert call(app, "GET", "/health", headers={}).json() == {"status": "ok"}
    told = call(app, "GET", "/health").json()
    assert (told["status"], told["problems"], told["models"]) == ("ok", [], {"trips": 7})
    assert call(app, "GET", "/readyz", headers={}).status_code == 200


def test_without_a_model_it_is_not_ready_and_says_why() -> None:
    """Promise 30."""
    metrics = Metrics(CollectorRegistry())
    app = around(Reconciler(metrics), metrics)
    for method, path in (("GET", "/readyz"), ("POST", "/predict"), ("POST", "/models/trips/predict")):
        answer = call(app, method, path, json={})
        assert answer.status_code == 503
        assert "no model is packed into this Bento" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
    assert call(app, "GET", "/health").status_code == 503


# ------------------------------------------------------------------------------------------------ refusals


INF = float("inf")
REFUSED: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("malformed", {"content": b'{"a"'}, 400, "malformed_json", None),
    ("deep", {"content": b"[" * 200_000}, 400, "too_deep", None),
    ("empty", {"content": b""}, 400, "malformed_json", None),
    ("NaN", {"content": json.dumps({**ROWS[0], "trip_distance": float("nan")})}, 422, "not_finite", "trip_distance"),
    ("-Infinity", {"content": json.dumps({**ROWS[0], "trip_distance": -INF})}, 422, "not_finite", "trip_distance"),
    ("1e308", {"json": {**ROWS[0], "trip_distance": 1e308}}, 422, "out_of_range", "trip_distance"),
    ("null", {"json": {**ROWS[0], "trip_distance": None}}, 422, "missing", "trip_distance"),
    ("a string", {"json": {**ROWS[0], "trip_distance": "2.1"}}, 422, "wrong_type", "trip_distance"),
    ("missing", {"json": {k: v for k, v in ROWS[0].items() if k != "pickup"}}, 422, "missing", "pickup"),
    ("extra", {"json": {**ROWS[0], "tip": 1}}, 422, "unknown_field", "tip"),
    ("a list", {"json": [ROWS[0]]}, 422, "wrong_type", None),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "code", "field"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_wrong_input_is_refused_with_the_path_of_the_field(
    app: Application, sent: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    """Promise 37."""
    answer = call(app, "POST", "/predict", headers={**KEY, "Content-Type": "application/json"}, **sent)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert (answer.json()["error"]["code"], answer.json()["error"]["field"]) == (code, field)
    assert answer.json()["error"]["message"]


def test_a_batch_names_the_row(app: Application) -> None:
    """Promise 37."""
    answer = call(app, "POST", "/batch-predict", json={"rows": [*ROWS[:3], {**ROWS[3], "trip_distance": "x"}]})
    assert answer.json()["error"]["field"] == "rows[3].trip_distance"


def test_an_unknown_category_follows_the_declared_policy(app: Application, classifier: Application) -> None:
    """Promise 37: `other` answers, `error` refuses with the field."""
    strange = {**ROWS[1], "vendor": "never seen"}
    assert call(app, "POST", "/predict", json=strange).status_code == 200
    answer = call(classifier, "POST", "/batch-predict", json={"rows": [ROWS[0], strange]})
    assert answer.status_code == 422
    assert (answer.json()["error"]["code"], answer.json()["error"]["field"]) == ("unknown_category", "rows[1].vendor")
    assert call(classifier, "POST", "/predict", json=strange).json()["error"]["field"] == "vendor"


def test_an_answer_that_is_no_number_is_a_refusal(tmp_path: Path) -> None:
    app = application_of(tmp_path, scale=1e300)
    answer = call(app, "POST", "/batch-predict", json={"rows": [ROWS[0], {**ROWS[1], "trip_distance": 3e38}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_computable")
    assert answer.json()["error"]["field"] == "rows[1]"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_another_content_type_is_refused(app: Application, content_type: str) -> None:
    """Promise 37."""
    sent = {**KEY, "Content-Type": content_type}
    assert call(app, "POST", "/predict", headers=sent, content=json.dumps(ROWS[0])).status_code == 415


def test_json_with_a_charset_is_taken(app: Application) -> None:
    sent = {**KEY, "Content-Type": "Application/JSON; charset=utf-8"}
    assert call(app, "POST", "/predict", headers=sent, content=json.dumps(ROWS[0])).status_code == 200


def test_a_body_that_is_too_large_is_refused_by_its_announced_length(app: Application) -> None:
    """Promise 38: nothing of it was read."""
    read = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    assert asyncio.run(_raw(app, receive, {b"content-length": b"99999999"}))[0]["status"] == 413
    assert not read


def test_a_body_that_grows_too_large_is_cut_off(app: Application) -> None:
    """Promise 38: a chunked body stops being read at the limit."""
    read = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"x" * 2**20, "more_body": True}

    assert asyncio.run(_raw(app, receive, {}))[0]["status"] == 413
    assert len(read) == 11


def test_a_slow_sender_is_cut_off(tmp_path: Path) -> None:
    """Promise 38."""
    app = application_of(tmp_path, limits=Limits(body_seconds=0.05))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    assert asyncio.run(_raw(app, receive, {}))[0]["status"] == 408


def test_a_client_that_goes_away_is_not_answered(app: Application) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert asyncio.run(_raw(app, receive, {})) == []


async def _raw(app: Application, receive: Any, headers: dict[bytes, bytes]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    both = {b"authorization": b"Bearer secret", b"content-type": b"application/json", **headers}
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": list(both.items())}
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("POST", "/models", 405),
        ("DELETE", "/docs", 405),
        ("POST", "/models/nobody/predict", 404),
        ("GET", "/models/trips", 404),
        ("GET", "/docs/../../../etc/passwd", 404),
        ("GET", "/docs/swagger-initializer.js", 404),
        ("GET", "/schema.json", 404),
    ],
)
def test_what_is_not_there_is_an_error_of_the_one_form(app: Application, method: str, path: str, status: int) -> None:
    answer = call(app, method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "field"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(list(ROWS[0])), JSON | st.floats(allow_nan=False) | st.datetimes().map(str)),
    st.booleans(),
)
def test_nothing_that_a_client_sends_is_an_internal_error(
    app: Application, fields: dict[str, Any], batch: bool
) -> None:
    """Promise 37, by hypothesis over every field, through the features and the model."""
    row = {**ROWS[0], **fields}
    path, document = ("/batch-predict", {"rows": [row]}) if batch else ("/predict", row)
    body = json.dumps(document).encode()
    answer = call(app, "POST", path, headers={**KEY, "Content-Type": "application/json"}, content=body)
    assert answer.status_code in (200, 400, 422), answer.text
    assert "Traceback" not in answer.text


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("fixture", ["app", "classifier"])
def test_the_examples_of_the_openapi_document_succeed(request: pytest.FixtureRequest, fixture: str) -> None:
    app = request.getfixturevalue(fixture)
    document = call(app, "GET", "/openapi.json").json()
    posts = {path: entry["post"] for path, entry in document["paths"].items() if "post" in entry}
    assert {"/predict", "/batch-predict", "/models/trips/predict", "/models/trips/feedback"} < set(posts)
    for path, operation in posts.items():
        body = operation["requestBody"]["content"]["application/json"]
        for example in [body["example"]] if "example" in body else [e["value"] for e in body["examples"].values()]:
            answer = call(app, "POST", path, json=example)
            assert answer.status_code == 200, (path, answer.text)
            promised = operation["responses"]["200"]["content"]["application/json"]["example"]
            if not path.startswith("/v2"):
                assert _without_ids(answer.json()) == _without_ids(promised)


def _without_ids(document: Any) -> Any:
    if isinstance(document, list):
        return [_without_ids(entry) for entry in document]
    if isinstance(document, dict):
        return {k: _without_ids(v) for k, v in document.items() if k != "prediction_id"}
    return pytest.approx(document) if isinstance(document, float) else document


def test_the_documentation_page_loads_nothing_from_elsewhere(app: Application) -> None:
    page = call(app, "GET", "/docs").text
    assert "http" not in page
    for asset in ASSETS:
        assert f"/docs/{asset}" in page
        assert call(app, "GET", f"/docs/{asset}").status_code == 200
    assert "SwaggerUIBundle" in call(app, "GET", "/docs/swagger-ui-bundle.js").text


# ------------------------------------------------------------------------------------------------ more than one row


def test_columns_arrow_and_parquet_are_answered_as_rows_are(app: Application) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = pytest.approx(golden(app)["expected"])
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    as_columns = call(app, "POST", "/batch-predict", json={"columns": columns})
    assert [p["prediction"] for p in as_columns.json()["predictions"]] == expected
    moments = [dt.datetime.fromisoformat(moment) for moment in columns["pickup"]]
    table = pa.table({**columns, "pickup": moments})
    stream, file = io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, file)
    for media_type, body in (("arrow.stream", stream), ("parquet", file)):
        headers = {**KEY, "Content-Type": f"application/vnd.apache.{media_type}"}
        answer = call(app, "POST", "/batch-predict", headers=headers, content=body.getvalue())
        assert answer.status_code == 200, answer.text
        assert [p["prediction"] for p in answer.json()["predictions"]] == expected


def test_a_request_id_comes_back(app: Application) -> None:
    answer = call(app, "POST", "/predict", headers={**KEY, "X-Request-ID": "order-7"}, json=ROWS[0])
    assert answer.headers["x-request-id"] == "order-7"
    assert call(app, "POST", "/predict", json=ROWS[0]).headers["x-request-id"]


def test_while_it_ends_readiness_is_off_and_answers_close_their_connections(tmp_path: Path) -> None:
    """Promise 35, of which test_service.py shows the whole."""
    app = application_of(tmp_path)
    app.draining = True
    assert call(app, "GET", "/readyz").status_code == 503
    answer = call(app, "POST", "/predict", json=ROWS[0])
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_unknown_parameters_are_refused(app: Application) -> None:
    for query, code in (("explian=true", "unknown_parameter"), ("explain=maybe", "bad_parameter")):
        answer = call(app, "POST", f"/predict?{query}", json=ROWS[0])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_feedback_is_taken_and_its_mistakes_have_a_path(app: Application) -> None:
    told = call(app, "POST", "/predict", json=ROWS[0]).json()
    label = {"prediction_id": told["prediction_id"], "label": 12.5}
    path = "/models/trips/feedback"
    assert call(app, "POST", path, json=label).json() == {"accepted": 1}
    answer = call(app, "POST", path, json={"labels": [label, {**label, "label": "long"}]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "labels[1].label")


def test_an_answer_that_the_champion_gave_in_a_challengers_place_counts_as_the_champions(tmp_path: Path) -> None:
    broken = craft(tmp_path / "broken" / "form", scale=1e300)
    write_bundle(tmp_path / "broken" / "served", broken.form, champion_of(broken, 8))
    tried = Reconciler(Metrics(CollectorRegistry()), bundled=tmp_path / "broken" / "served")
    tried.start()
    app = application_of(tmp_path)
    route, other = app._models.route("trips"), tried.route("trips")
    assert route
    assert other
    canary = Arm("canary", other.champion.loaded, 1, ArmCounters("trips", "canary", 8))
    app._models._routes.current = {"trips": Route("trips", route.champion, challenger=canary, share=1.0)}
    far = {**ROWS[1], "trip_distance": 3e38}
    for path, row in (("/predict", far), ("/batch-predict", {"rows": [far]})):
        answer = call(app, "POST", path, json=row)
        assert answer.json()["version"] == 7, answer.text
    champions, canarys = route.champion.tally.take(), canary.tally.take()
    assert (champions.requests, champions.errors) == (2, 0)
    assert (canarys.requests, canarys.errors) == (2, 2)
