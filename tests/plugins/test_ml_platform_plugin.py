"""The page over HTTP, and in a real browser as an operator opens it."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from include.alerting.place import Failure, Place
from include.monitoring import drift_measures, report
from tests.conftest import administering
from tests.dags import airflow_home
from tests.dags.airflow_home import Server
from tests.include.ingestion.conftest import (
    Ingest,
    generated,
    ingest,  # noqa: F401
)

pytestmark = pytest.mark.slow

PATHS = [
    "/ml-platform/",
    "/ml-platform/files/docs/trips/index.html",
    "/ml-platform/files/reports/trip_duration/r1.html",
]


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.token()


@pytest.mark.parametrize("path", [*PATHS, "/ml-platform/docs", "/ml-platform/openapi.json"])
def test_nothing_is_shown_to_who_has_not_logged_in(server: Server, path: str) -> None:
    assert server.get(path).status_code in (401, 404)
    assert "trip_duration" not in server.get(path).text


@pytest.mark.parametrize("path", PATHS)
def test_a_user_of_airflow_sees_it(server: Server, token: str, path: str) -> None:
    assert server.get(path, token).status_code == 200


def test_a_forged_token_is_refused(server: Server, token: str) -> None:
    assert server.get("/ml-platform/", token[:-4] + "AAAA").status_code in (401, 403)


def test_the_page_tells_each_models_champion_and_each_sources_quality(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    for text in ("trip_duration", "champion v7", "2.871", "4.35", "34% less mae than the baseline", "xgboost",
                 "performance lost", "some drift", "mae on new rows, now 3.2", "HOLD", "tumour", "no champion yet",
                 "trips", "2026-03-30", "1 refused", "98.8 %", "20 of 1,990 rows quarantined"):  # fmt: skip
        assert text in page, text


def test_the_page_tells_what_is_tried_and_what_was_decided(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    for text in ("canary v9 on 5 %", "canary v9 beside v7", "canary v9: step", "1% went well", "&lt;i&gt;ann",
                 "/dags/rollback_trip_duration"):  # fmt: skip
        assert text in page, text


def test_alerts_that_no_person_has_acknowledged_are_on_the_page(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    assert "part_died &lt;img src=x&gt; of the prediction service" in page
    assert "part_flaps" not in page


def test_a_channel_that_does_not_have_every_alert_is_on_the_page_with_the_reason(server: Server, token: str) -> None:
    home, moment = Path(server.environment["MLOPS_HOME"]), dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    place = Place(home, "slack-3fa2c1")
    assert "Alerts that a channel does not have" not in server.get("/ml-platform/", token).text
    place.note(Failure(moment, 4, "<b> error=403", moment))
    page = server.get("/ml-platform/", token).text
    place.note(None)
    assert "slack-3fa2c1: 0 alerts not delivered; 4 attempts since 2026-03-01 12:00:00" in page
    assert "&lt;b&gt; error=403" in page


def test_a_column_of_another_type_is_on_the_page_with_when_and_why(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    for text in ("passenger_count", "int → float → string", "2026-03-13 02:01", "the values of partition 2026-03-12",
                 "store_and_fwd_flag", "bool → string", "since then every partition is read as string"):  # fmt: skip
        assert text in page, text
    assert "fare_amount" not in page


def test_what_waits_for_a_person_and_what_is_paused_is_on_the_page(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    assert "waits for approval" in page
    assert "Promote trip_duration v8?" in page
    assert "/dags/deploy_trip_duration/runs/r%2B1/tasks/approve/required_actions" in page
    assert "Paused in Airflow, so nothing runs by itself" in page
    assert "/dags/train_tumour" in page
    assert "It is trained once its DAGs are active" in page
    assert "Somebody answered that" not in page


@pytest.mark.parametrize("path", ["/ml-platform/", PATHS[1], "/ml-platform/?x=1"])
def test_a_link_opened_without_a_login_leads_to_the_login_and_back(server: Server, path: str) -> None:
    answer = httpx.get(f"{server.url}{path}", headers={"Accept": "text/html,*/*"}, timeout=30)
    assert answer.status_code == 302
    assert answer.headers["location"] == f"/api/v2/auth/login?next={quote(path, safe='')}"
    onward = httpx.get(f"{server.url}{answer.headers['location']}", timeout=30)
    assert onward.status_code in (302, 307)
    assert parse_qs(urlsplit(onward.headers["location"]).query)["next"] == [path]
    assert server.get(path).status_code == 401  # a script gets JSON, as everywhere in Airflow


def test_while_postgresql_is_away_the_page_is_words_and_not_a_bare_error(
    server: Server, token: str, postgres_url: str
) -> None:
    name = sa.make_url(server.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).database
    headers = {"Accept": "text/html", "Authorization": f"Bearer {token}"}
    with administering(postgres_url) as execute:
        execute(f"alter database {name} allow_connections false")
        execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        try:
            away = httpx.get(f"{server.url}/ml-platform/", headers=headers, timeout=60)
        finally:
            execute(f"alter database {name} allow_connections true")
    assert away.status_code == 503
    assert "The platform's database does not answer" in away.text
    assert "does not answer either" in away.text  # the fixture starts no prediction service
    assert "trip_duration" not in away.text
    assert "script" not in away.headers["content-security-policy"]
    assert httpx.get(f"{server.url}/ml-platform/", headers=headers, timeout=60).status_code == 200


def test_a_mistake_in_params_yaml_is_shown_beside_the_models_that_it_does_not_concern(
    server: Server, token: str
) -> None:
    params = Path(server.environment["MLOPS_PARAMS"])
    text = params.read_text()
    params.write_text(text.replace("tumour: {source", "tumour: {sorce"))
    try:
        page = server.get("/ml-platform/", token).text
    finally:
        params.write_text(text)
    assert "models.tumour.sorce: unknown key; did you mean" in page
    assert "champion v7" in page


def test_it_answers_while_mlflow_and_the_service_are_down(server: Server, token: str) -> None:
    """The fixture starts neither."""
    page = server.get("/ml-platform/", token)
    assert page.status_code == 200
    assert "champion v7" in page.text


def test_what_comes_from_data_is_escaped(server: Server, token: str) -> None:
    page = server.get("/ml-platform/", token).text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Minutes, not &lt;b&gt;hours" in page


def test_pages_made_from_data_cannot_act_as_the_user(server: Server, token: str) -> None:
    assert "script-src 'none'" in server.get(PATHS[1], token).headers["content-security-policy"]
    assert server.get(PATHS[2], token).headers["content-security-policy"].startswith("sandbox allow-scripts")
    for path in PATHS:
        policy = server.get(path, token).headers["content-security-policy"]
        assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'self'"} <= set(policy.split("; ")), path
        assert "sandbox allow-" in policy


@pytest.mark.parametrize(
    "path",
    [
        "validated/trips/2026-03-01.parquet",
        "docs/../validated/trips/2026-03-01.parquet",
        "docs/%2e%2e/validated/trips/2026-03-01.parquet",
        "docs/..%2f..%2f..%2f..%2fetc/passwd",
        "docs//etc/passwd",
        "%2fetc%2fpasswd",
        "docs",
        "docs/",
        "docs/trips",
        "docs/no/such.html",
        "docs/a%00b",
    ],
)
def test_no_other_file_can_be_read(server: Server, token: str, path: str) -> None:
    answer = server.get(f"/ml-platform/files/{path}", token)
    assert answer.status_code == 404, answer.text[:200]
    assert "root:" not in answer.text


@pytest.mark.browser
def test_an_operator_logs_in_clicks_the_entry_and_sees_the_champion(
    server: Server, browser: Any, tmp_path: Any
) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page, foreign = context.new_page(), []
    page.on(
        "request",
        lambda request: foreign.append(request.url) if not request.url.startswith((server.url, "data:")) else None,
    )
    page.goto(f"{server.url}/ml-platform/")  # a link from a message, say: the login comes first, and then the page
    page.get_by_label("Username").fill(airflow_home.USER)
    page.get_by_label("Password").fill(airflow_home.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="ML platform").wait_for(timeout=20_000)
    page.goto(server.url)
    page.get_by_role("link", name="ML platform").click()
    frame = page.frame_locator("iframe")
    card = frame.locator("#model-trip_duration")
    card.get_by_text("champion v7").wait_for(timeout=20_000)
    assert "2.871" in card.inner_text()
    assert frame.locator("#source-trips").get_by_role("cell", name="2026-03-30").is_visible()
    page.screenshot(path=str(tmp_path / "page.png"))

    with context.expect_page() as opened:  # Airflow's frame opens no windows: the page gets its links out of it
        card.get_by_role("link", name="Drift report").click()
    opened.value.get_by_text("Drift report").wait_for(timeout=10_000)

    page.evaluate("document.documentElement.className = 'dark'")
    frame.locator("html[data-theme=dark]").wait_for(state="attached", timeout=5_000)
    page.screenshot(path=str(tmp_path / "dark.png"))
    assert [url for url in foreign if "/ml-platform" in url] == []
    context.close()


@contextlib.contextmanager
def logged_in(server: Server, browser: Any, token: str) -> Iterator[tuple[Any, list[str]]]:
    """A browser's page of a user of Airflow, and what goes wrong on it."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.add_cookies([{"name": "_token", "value": token, "url": server.url}])
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
    yield page, wrong
    context.close()


@pytest.mark.browser
def test_a_drift_report_opens_in_a_browser_though_it_is_stored_compressed(
    server: Server, browser: Any, token: str, tmp_path: Path
) -> None:
    from tests.include.monitoring.test_report import build, columns

    url = report.publish(
        build(columns(2), columns(3, shift=1.0)), str(server.data / "reports" / "trip_duration" / "r2")
    )
    assert url.endswith("/evidently.html.gz")
    with logged_in(server, browser, token) as (page, wrong):
        page.goto(f"{server.url}/ml-platform/files/reports/trip_duration/r2/evidently.html.gz")
        page.get_by_text("Dataset Drift", exact=False).first.wait_for(timeout=30_000)
        page.get_by_text(report.method(drift_measures.load("psi"))).first.wait_for(timeout=10_000)
        page.screenshot(path=str(tmp_path / "report.png"))
    assert wrong == []


@pytest.mark.browser
def test_data_docs_open_in_a_browser_and_lead_to_the_refused_day(
    server: Server,
    browser: Any,
    token: str,
    ingest: Ingest,  # noqa: F811
    tmp_path: Path,
) -> None:
    day = "2018-01-05"
    ingest(generated(incidents=[{"kind": "poisoned_day", "start": day, "end": day}]), ["2018-01-04", day])
    shutil.copytree(ingest.path("docs", "trips"), server.data / "docs" / "of_a_browser")
    with logged_in(server, browser, token) as (page, wrong):
        page.goto(f"{server.url}/ml-platform/files/docs/of_a_browser/index.html")
        page.get_by_text("quarantined").first.wait_for(timeout=10_000)
        page.screenshot(path=str(tmp_path / "docs.png"))
        page.get_by_role("link", name=day).first.click()
        page.get_by_text("Unsuccessful Expectations").first.wait_for(timeout=10_000)
        assert page.get_by_text("the trip did not take 1 to 120 minutes").first.is_visible()
        page.screenshot(path=str(tmp_path / "day.png"))
    assert wrong == []
