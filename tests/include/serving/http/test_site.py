"""The service below a path of a proxy's, and called by pages of other origins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from include.serving.batching.micro_batcher import Unrecorded
from include.serving.control.reconciler import Reconciler
from include.serving.http.access_log import AccessLog
from include.serving.http.application import Application
from include.serving.http.authentication import Authentication
from include.serving.http.load_shedding import LoadShedder
from include.serving.http.site import Site
from include.serving.metrics.prometheus import Metrics
from include.serving.versions.disk_cache import write_bundle
from include.settings import Service
from tests.include.serving.crafted import ROWS, champion_of, craft
from tests.include.serving.http.test_application import KEY, call
from tests.include.serving.http.test_fast_path import JSON, ROW, answer, asking, connect, serving
from tests.include.serving.http.test_fast_path import KEY as KEY_HEADER

PAGE = "https://app.example.org"
ASKS = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reconciler, Metrics]:
    folder = tmp_path_factory.mktemp("site")
    crafted = craft(folder / "form")
    write_bundle(folder / "served", crafted.form, champion_of(crafted, 7))
    metrics = Metrics(CollectorRegistry())
    models = Reconciler(metrics, bundled=folder / "served")
    models.start()
    return models, metrics


def application(served: tuple[Reconciler, Metrics], site: Site, most: int = 64) -> Application:
    models, metrics = served
    return Application(
        models,
        metrics,
        access=Authentication(None, metrics, key="secret"),
        admission=LoadShedder(most, metrics),
        recorder=Unrecorded(),
        access_log=AccessLog("off", metrics),
        site=site,
    )


@pytest.fixture(params=[True, False], ids=["directly", "by ASGI"])
def below(served: tuple[Reconciler, Metrics], request: pytest.FixtureRequest) -> Iterator[int]:
    with serving(application(served, Site("/ml/v1", [PAGE])), direct=request.param) as (port, _):
        yield port


def test_requests_arrive_with_the_prefix_and_without(below: int) -> None:
    origin = b"origin: %b\r\n" % PAGE.encode()
    for target in (b"/models/trips/predict", b"/ml/v1/models/trips/predict", b"/ml/v1/predict"):
        with connect(below) as client:
            client.sendall(asking(target=target, more=KEY_HEADER + JSON + origin))
            head, body, _ = answer(client)
            assert head.startswith(b"HTTP/1.1 200"), (target, body)
            assert b"access-control-allow-origin: %b\r\n" % PAGE.encode() in head
            assert b"vary: origin" in head
    for target in (b"/ml/models/trips/predict", b"/ml/v1models/trips/predict", b"/ml/v1/ml/v1/predict"):
        with connect(below) as client:
            client.sendall(asking(target=target))
            assert answer(client)[0].startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("prefix", "sent", "base"),
    [
        ("", {}, ""),
        ("/ml", {}, "/ml"),
        ("", {"X-Forwarded-Prefix": "/ml"}, "/ml"),
        ("", {"X-Forwarded-Prefix": "/team/ml/"}, "/team/ml"),
        ("/a", {"X-Forwarded-Prefix": "/b, /c"}, "/b"),
        ("", {"X-Forwarded-Prefix": "//evil.example"}, ""),
        ("", {"X-Forwarded-Prefix": "javascript:alert(1)"}, ""),
        ("", {"X-Forwarded-Prefix": '/"><script>'}, ""),
    ],
)
def test_links_carry_the_prefix_that_a_client_used(
    served: tuple[Reconciler, Metrics], prefix: str, sent: dict[str, str], base: str
) -> None:
    app = application(served, Site(prefix))
    document = call(app, "GET", f"{prefix}/openapi.json", headers={**KEY, **sent}).json()
    assert document["servers"] == [{"url": base or "/"}]
    links = call(app, "GET", prefix + "/", headers={**KEY, **sent}).json()
    assert links == {"docs": f"{base}/docs", "models": f"{base}/models", "health": f"{base}/health"}


def test_the_page_has_relative_addresses_only(served: tuple[Reconciler, Metrics]) -> None:
    page = call(application(served, Site("/ml")), "GET", "/ml/docs").text
    addresses = re.findall(r'(?:href|src|url)[=:] ?"([^"]*)"', page)
    assert sorted(addresses) == [
        "./docs/favicon-light-32x32.png",
        "./docs/swagger-ui-bundle.js",
        "./docs/swagger-ui.css",
        "./openapi.json",
    ]
    assert call(application(served, Site("/ml")), "GET", "/ml/docs/swagger-ui.css").status_code == 200


def test_times_of_the_examples_are_date_times_and_are_taken(served: tuple[Reconciler, Metrics]) -> None:
    app = application(served, Site())
    document = call(app, "GET", "/openapi.json").json()
    pickup = document["components"]["schemas"]["trips"]["properties"]["pickup"]
    assert pickup["format"] == "date-time"
    assert "Without a zone it is UTC." in pickup["description"]
    body = document["paths"]["/models/trips/predict"]["post"]["requestBody"]["content"]["application/json"]
    for moment in (pickup["example"], body["example"]["pickup"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment)
    with_zone = call(app, "POST", "/models/trips/predict", json=body["example"]).json()
    without = call(app, "POST", "/models/trips/predict", json=ROWS[0]).json()
    assert with_zone["prediction"] == without["prediction"]


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [([PAGE], PAGE, PAGE), (["*"], PAGE, "*"), ([PAGE], "https://evil.example", None), ([], PAGE, None),
     ([PAGE], "null", None), ([PAGE], PAGE + ".evil.example", None), ([PAGE], PAGE.upper(), None)],
)  # fmt: skip
def test_a_browser_may_ask_without_a_key_and_pages_of_allowed_origins_read_answers_and_refusals(
    served: tuple[Reconciler, Metrics], origins: list[str], origin: str, allowed: str | None
) -> None:
    app = application(served, Site(origins=origins))
    asked = call(app, "OPTIONS", "/models/trips/predict", headers={**ASKS, "Origin": origin})
    assert asked.status_code == (204 if allowed else 401)
    assert asked.headers.get("access-control-allow-origin") == allowed
    if allowed:
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert not asked.content
    for sent in ({"content": ROW}, {"content": b"{}"}):
        headers = {**KEY, "Origin": origin, "Content-Type": "application/json"}
        answered = call(app, "POST", "/predict", headers=headers, **sent)
        assert answered.headers.get("access-control-allow-origin") == allowed
        assert ("x-request-id" in answered.headers.get("access-control-expose-headers", "")) == bool(allowed)
        assert "access-control-allow-credentials" not in answered.headers
    plain = call(app, "OPTIONS", "/models/trips/predict", headers={"Origin": origin})
    assert plain.status_code == 401


def test_a_page_reads_that_there_is_too_much_to_do(served: tuple[Reconciler, Metrics]) -> None:
    app = application(served, Site(origins=[PAGE]), most=0)
    answered = call(app, "POST", "/predict", headers={**KEY, "Origin": PAGE}, json=ROWS[0])
    assert (answered.status_code, answered.headers["access-control-allow-origin"]) == (503, PAGE)
    assert json.loads(answered.content)["error"]["code"] == "overloaded"


@pytest.mark.parametrize(
    "wrong",
    [{"path_prefix": "ml"}, {"path_prefix": "/ml/"}, {"path_prefix": "/a b"}, {"path_prefix": "//x"},
     {"allowed_origins": ["app.example.org"]}, {"allowed_origins": ["https://app.example.org/"]}],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Service(**wrong)
    assert Service(path_prefix="/ml/v1", allowed_origins=(PAGE, "http://localhost:3000", "*")).path_prefix == "/ml/v1"
