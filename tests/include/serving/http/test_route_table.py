"""The route table: a path finds its endpoint, and what follows from a row of it follows for every endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.serving.http.application import Application
from include.serving.http.endpoint import Endpoint
from include.serving.http.endpoints import all_endpoints
from include.serving.http.route_table import RouteTable
from tests.include.serving.http.test_application import application_of, call

ENDPOINTS = all_endpoints()
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("routes"))


def table_of(app: Application, prefix: str = "", default: str | None = "trips") -> RouteTable:
    table = RouteTable(ENDPOINTS, prefix)
    table.update(app._models.routes, default)
    return table


def filled(template: str) -> str:
    return template.format(model="trips", version=7)


def test_every_file_of_the_package_has_endpoints() -> None:
    folder = Path(__file__).parents[4] / "include/serving/http/endpoints"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    handlers = {e.handle.__module__.rpartition(".")[2] for e in ENDPOINTS if e.handle is not None}
    assert handlers == files - {"metrics"}  # which BentoML answers


def test_no_two_endpoints_have_one_path_and_method() -> None:
    keys = [(e.method, path) for e in ENDPOINTS for path in (*e.paths, e.default_path) if path is not None]
    assert len(keys) == len(set(keys))


def test_the_endpoints_of_one_path_need_one_permission() -> None:
    """Else a method that a path does not take would be refused by the permission of another one."""
    permissions: dict[str, set[str | None]] = {}
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            permissions.setdefault(path, set()).add(endpoint.permission)
    assert [path for path, found in permissions.items() if len(found) > 1] == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.paths[0]}")
def test_a_path_takes_its_methods_and_names_them_to_others(app: Application, endpoint: Endpoint) -> None:
    for template in endpoint.paths:
        path = filled(template)
        allowed: set[str] = set()
        for other in ENDPOINTS:
            if template in other.paths:
                allowed |= {"GET", "HEAD"} if other.method == "GET" else {other.method}
        for method in METHODS - allowed:
            answer = call(app, method, path)
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) == allowed
        if endpoint.handle is not None:
            assert call(app, endpoint.method, path, json={}).status_code != 405


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.paths[0]}")
def test_a_path_is_open_only_if_its_row_says_so(app: Application, endpoint: Endpoint) -> None:
    for template in endpoint.paths:
        answer = call(app, endpoint.method, filled(template), headers={})
        assert (answer.status_code == 401) == (endpoint.permission is not None)
        if endpoint.permission is not None:
            assert answer.headers["www-authenticate"].startswith("Basic" if endpoint.browser else "Bearer")


def test_a_loaded_model_is_found_with_its_version_and_others_by_the_template(app: Application) -> None:
    table = table_of(app)
    loaded = table.match("/v2/models/trips/versions/7/infer")
    other = table.match("/v2/models/fares/versions/8/infer")
    assert loaded
    assert other
    assert (loaded.parameters, other.parameters) == (
        {"model": "trips", "version": "7"},
        {"model": "fares", "version": "8"},
    )
    assert loaded.endpoints is other.endpoints
    assert [table.match(path) for path in ("/models/trips/predict/", "/models/a/b/predict", "/", "/nothing")] == [
        None,
        None,
        table.match("/"),
        None,
    ]


def test_the_default_paths_mean_the_default_model(app: Application) -> None:
    for default, model in (("trips", "trips"), ("gone", ""), (None, "")):
        match = table_of(app, default=default).match("/predict")
        assert match
        assert match.parameters["model"] == model


def test_the_fast_path_takes_predictions_with_the_prefix_and_without(app: Application) -> None:
    paths = ["/models/trips/predict", "/models/trips/batch-predict", "/predict", "/batch-predict"]
    assert sorted(table_of(app).fast) == sorted(path.encode() for path in paths)
    table = table_of(app, "/ml")
    assert sorted(table.fast) == sorted(f"{prefix}{path}".encode() for path in paths for prefix in ("", "/ml"))
    assert {route.path for route in table.fast.values()} == set(paths)
