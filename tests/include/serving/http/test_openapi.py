"""The OpenAPI document held against the service by schemathesis: every answer is one that the document promises."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import free_port
from tests.include.serving.http.test_application import KEY, application_of, call
from tests.waiting import until

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A running service's address, and its document."""
    app = application_of(tmp_path_factory.mktemp("binary"), task="binary", unknown="error")
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, unless=lambda: not thread.is_alive())
    yield f"http://127.0.0.1:{server.config.port}", call(app, "GET", "/openapi.json").json()
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_promises(served: tuple[str, dict[str, Any]]) -> None:
    """Promise 37: right and wrong requests, made from the document; no 5xx, no status or form that it does not name."""
    url, document = served
    found: Any = schemathesis.openapi.from_dict(document)
    operations = [operation.ok() for operation in found.get_all_operations()]
    assert len(operations) >= 10
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing is sent that could be wrong
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=15,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=strategy)
            def answer_as_promised(case: schemathesis.Case) -> None:
                response = case.call(base_url=url, headers=KEY)
                case.validate_response(response, checks=CHECKS)

            answer_as_promised()


@pytest.mark.browser
def test_somebody_tries_the_example_on_the_documentation_page(
    served: tuple[str, dict[str, Any]], browser: Any, tmp_path: Path
) -> None:
    """The browser asks for a password, the page shows the contract, and its example succeeds when sent."""
    url, _ = served
    context = browser.new_context(http_credentials={"username": "anybody", "password": "secret"})
    page, foreign = context.new_page(), []
    page.on("request", lambda request: None if request.url.startswith((url, "data:")) else foreign.append(request.url))
    page.goto(f"{url}/docs")
    operation = page.locator("#operations-default-post_predict")
    operation.wait_for(timeout=20_000)
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for(timeout=10_000)
    assert "prediction_id" in operation.locator(".live-responses-table").inner_text()
    page.screenshot(path=str(tmp_path / "docs.png"), full_page=True)
    assert foreign == []
    context.close()
