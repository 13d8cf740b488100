"""The "ML platform" entry in Airflow's navigation: one page, data docs and reports, all behind Airflow's own login.

Every Airflow process loads this file, workers before each task: only the API server pays for FastAPI, at its
first request.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/ml-platform"
FOLDERS = frozenset({"docs", "reports"})
"""What may be read below the data's folder."""

_EVERYWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""No page of ours is framed by others, sends a form, or has its links moved elsewhere."""
PAGE_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:;"
    " sandbox allow-scripts allow-same-origin allow-popups allow-popups-to-escape-sandbox"
    f" allow-top-navigation-by-user-activation; {_EVERYWHERE}"
)
FILE_POLICY = {
    # Values from the data stand in these pages. Data docs run no script at all; a report's scripts run in an origin of
    # their own, from which neither Airflow's session nor its API can be reached.
    "docs": (
        "sandbox allow-same-origin; default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        f" {_EVERYWHERE}"
    ),
    "reports": (
        f"sandbox allow-scripts allow-popups; default-src data: blob: 'unsafe-inline' 'unsafe-eval'; {_EVERYWHERE}"
    ),
}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that Airflow mounts; made when it is first asked."""
    await _fastapi()(scope, receive, send)


class Door:
    """What a person meets before the page: the login, when it is needed, and words instead of a bare error.

    Airflow's own authentication answers in JSON, and fails with the database that it asks; both come from around our
    application, so this stands around all of Airflow's. It passes on whatever is not a page of ours.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; see to its refusal or failure where a person opened one of our pages."""
        if not _opened_by_a_person(scope):
            await self.app(scope, receive, send)
            return
        answer: str | None = None

        async def seen(message: dict[str, Any]) -> None:
            nonlocal answer
            if answer is None and message["type"] == "http.response.start":
                status = message["status"]
                answer = "login" if status in (401, 403) else "failed" if status == 500 else "passed"
            if answer == "passed":
                await send(message)

        try:
            await self.app(scope, receive, seen)
        except Exception:
            if answer == "passed":
                raise
            answer = "failed"
        if answer == "login":
            await _to_the_login(scope, send)
        elif answer == "failed":
            await _without_the_database(send)


def _opened_by_a_person(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return (path == PREFIX or path.startswith(f"{PREFIX}/")) and b"text/html" in accepted


async def _to_the_login(scope: Scope, send: Send) -> None:
    """Redirect to Airflow's login, which comes back to the page."""
    here = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope.get("query_string") else "")
    login = f"{_airflow()}/api/v2/auth/login?next={quote(here, safe='')}"
    headers = [(b"location", login.encode()), (b"cache-control", b"no-store"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 302, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _without_the_database(send: Send) -> None:
    """A page of nothing but what can be known without the database, which also knows who may see more."""
    import asyncio

    service = await asyncio.to_thread(_service_answers)
    body = _templates().get_template("away.html").render(service=service).encode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"retry-after", b"10"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _service_answers(seconds: float = 2) -> bool:
    """Whether the prediction service is ready, as it says itself."""
    import httpx

    from include import settings

    try:
        return httpx.get(f"{settings.environment().serving_url}/readyz", timeout=seconds).status_code == 200
    except httpx.HTTPError:
        return False


@functools.cache
def _fastapi() -> Any:
    from airflow.api_fastapi.core_api.security import requires_authenticated
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import HTMLResponse, Response

    from include import settings, storage

    app = FastAPI(
        title="ML platform",
        dependencies=[Depends(requires_authenticated())],  # on every route there is, and will be
        docs_url=None, redoc_url=None, openapi_url=None,
    )  # fmt: skip

    @app.get("/")
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        text = render(settings.environment(), nonce=nonce, now=dt.datetime.now(dt.UTC))
        headers = {"Content-Security-Policy": PAGE_POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse(text, headers=headers)

    @app.get("/files/{path:path}")
    def file(path: str) -> Response:
        folder, name = safe_name(path)
        if folder is None:
            raise HTTPException(404, "only data docs and reports can be read here")
        try:
            data = storage.read_bytes(storage.join(settings.environment().data_url, name))
        except (storage.StorageError, IsADirectoryError, NotADirectoryError):
            raise HTTPException(404, f"there is no {name}; it may not have been made yet") from None
        guessed, encoding = mimetypes.guess_type(name)
        kind = guessed or "application/octet-stream"
        headers = {"Content-Security-Policy": FILE_POLICY[folder], "X-Content-Type-Options": "nosniff"}
        headers |= {"Content-Encoding": encoding} if encoding == "gzip" else {}
        return Response(data, media_type=kind, headers={**headers, "Cache-Control": "private, max-age=60"})

    return app


def safe_name(path: str) -> tuple[str | None, str]:
    """The folder of FOLDERS that a path is in and the whole path, or None: nothing else can be named, `..` included."""
    parts = path.split("/")
    safe = all(part and part not in (".", "..") and not set(part) & set("\\\0:") for part in parts)
    return (parts[0], path) if safe and len(parts) > 1 and parts[0] in FOLDERS else (None, "")


def render(environment: Any, *, nonce: str, now: dt.datetime) -> str:
    """The page as HTML; what went wrong is on it, in words, rather than a server error."""
    from include import configuration, settings
    from include.alerting import delivery
    from include.monitoring.overview import overview

    found, problem = None, None
    try:
        in_force = configuration.load(environment.params, environment.data_url)
        if in_force.mistakes:
            problem = "params.yaml is not in force as it stands:\n" + "\n".join(in_force.mistakes)
        found = overview(in_force.params, environment.database_url)
    except settings.ParamsError as error:
        problem = f"params.yaml is wrong, and no DAG is made from it:\n{error}"
    except Exception as error:  # noqa: BLE001  (whatever it is, an operator must read it here)
        problem = f"the platform's database could not be read: {error}"
    template = _templates().get_template("page.html")
    page: str = template.render(
        overview=found, problem=problem, environment=environment, nonce=nonce, now=now, flow=flow(),
        undelivered=delivery.undelivered(environment.home), airflow=_airflow(), prefix=_airflow() + PREFIX,
    )  # fmt: skip
    return page


@dataclass(frozen=True)
class Waiting:
    """A question that waits for a person in Airflow."""

    dag: str
    subject: str
    address: str
    since: dt.datetime


@dataclass(frozen=True)
class Flow:
    """What Airflow knows of the flow: who waits for a person, and what does not run by itself."""

    waiting: list[Waiting]
    paused: frozenset[str]


def flow() -> Flow:
    """Ask Airflow's own database, in two queries."""
    import sqlalchemy as sa
    from airflow.models.dag import DagModel
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState

    questions = (
        sa.select(
            TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, HITLDetail.subject, HITLDetail.created_at
        )
        .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        .where(HITLDetail.responded_at.is_(None), TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
        .order_by(HITLDetail.created_at)
    )
    resting = sa.select(DagModel.dag_id).where(DagModel.is_paused, sa.not_(DagModel.is_stale))
    with create_session() as session:
        waiting = [
            Waiting(dag, subject, f"{_airflow()}/dags/{dag}/runs/{quote(run)}/tasks/{task}/required_actions", since)
            for dag, run, task, subject, since in session.execute(questions)
        ]
        return Flow(waiting, frozenset(session.execute(resting).scalars()))


@functools.cache
def _templates() -> Any:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {
        "ago": ago, "figure": figure, "spark": spark, "report": report_address, "segment": quote, "percent": percent,
    }  # fmt: skip
    return templates


def _airflow() -> str:
    """The path of Airflow's own address, where it has one: behind a proxy, say."""
    from airflow.configuration import conf

    address: str = conf.get("api", "base_url", fallback="")
    return urlsplit(address).path.rstrip("/")


def ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    """How long ago, in words."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def figure(value: float | None) -> str:
    """A number with four significant digits."""
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share in per cent, rounded down: what is not whole does not read 100.0 %."""
    return f"{math.floor(round(share * 1000, 6)) / 10:.1f} %"


def spark(values: Sequence[float], low: float = math.inf, high: float = -math.inf) -> list[tuple[float, float]]:
    """The points of a small line, left to right; its scale spans the values, `low` and `high`."""
    width, height = 150.0, 30.0
    bottom = min([low, *values])
    span = (max([high, *values]) - bottom) or 1.0
    step = (width - 6) / max(1, len(values) - 1)
    return [(3 + i * step, 3 + (height - 6) * (1 - (v - bottom) / span)) for i, v in enumerate(values)]


def report_address(url: str | None, data_url: str, prefix: str) -> str | None:
    """Where this page serves a stored report, if it lies where reports do."""
    root = data_url.rstrip("/") + "/"
    name = url.removeprefix(root) if url and url.startswith(root) else ""
    return f"{prefix}/files/{quote(str(PurePosixPath(name)))}" if safe_name(name)[0] else None


class MLPlatformPlugin(AirflowPlugin):
    """Adds the page to Airflow."""

    name = "ml_platform"
    fastapi_apps = [{"app": application, "url_prefix": PREFIX, "name": "ML platform"}]
    fastapi_root_middlewares = [{"middleware": Door, "name": "ML platform's door"}]
    external_views = [
        {
            "name": "ML platform",
            "href": f"{_airflow()}{PREFIX}/",
            "destination": "nav",
            "url_route": "ml-platform",
            "nav_top_level": True,
        }
    ]
