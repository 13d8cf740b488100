"""The "ML platform" entry in Airflow's navigation: one page, data docs and reports, all behind Airflow's own login.

Every Airflow process loads this file, workers before each task: only the API server pays for FastAPI, at its
first request.
"""

from __future__ import annotations

import datetime as dt
import functools
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/ml-platform"
FOLDERS = frozenset({"docs", "reports"})
"""What may be read below the data's folder."""

PAGE_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
FILE_POLICY = {
    # Values from the data stand in these pages. Data docs run no script at all; a report's scripts run in an origin of
    # their own, from which neither Airflow's session nor its API can be reached.
    "docs": "default-src 'self' data: 'unsafe-inline'; script-src 'none'; frame-ancestors 'self'",
    "reports": "sandbox allow-scripts allow-popups; default-src data: blob: 'unsafe-inline' 'unsafe-eval'",
}

Scope = dict[str, Any]


async def application(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[..., Awaitable[Any]]) -> None:
    """The ASGI application that Airflow mounts; made when it is first asked."""
    await _fastapi()(scope, receive, send)


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
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {"Content-Security-Policy": FILE_POLICY[folder], "X-Content-Type-Options": "nosniff"}
        return Response(data, media_type=kind, headers={**headers, "Cache-Control": "private, max-age=60"})

    return app


def safe_name(path: str) -> tuple[str | None, str]:
    """The folder of FOLDERS that a path is in and the whole path, or None: nothing else can be named, `..` included."""
    parts = path.split("/")
    safe = all(part and part not in (".", "..") and not set(part) & set("\\\0:") for part in parts)
    return (parts[0], path) if safe and len(parts) > 1 and parts[0] in FOLDERS else (None, "")


def render(environment: Any, *, nonce: str, now: dt.datetime) -> str:
    """The page as HTML; what went wrong is on it, in words, rather than a server error."""
    from include import settings
    from include.monitoring.overview import overview

    found, problem = None, None
    try:
        found = overview(settings.load_params(environment.params), environment.database_url)
    except settings.ParamsError as error:
        problem = f"params.yaml is wrong, and no DAG is made from it:\n{error}"
    except Exception as error:  # noqa: BLE001  (whatever it is, an operator must read it here)
        problem = f"the platform's database could not be read: {error}"
    template = _templates().get_template("page.html")
    return template.render(
        overview=found, problem=problem, environment=environment, nonce=nonce, now=now,
        airflow=_airflow(), prefix=_airflow() + PREFIX,
    )  # fmt: skip


@functools.cache
def _templates() -> Any:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"ago": ago, "figure": figure, "spark": spark, "report": report_address, "segment": quote}
    return templates


def _airflow() -> str:
    """The path of Airflow's own address, where it has one: behind a proxy, say."""
    from airflow.configuration import conf

    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


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


def spark(values: Sequence[float], width: float = 150, height: float = 30) -> list[tuple[float, float]]:
    """The points of a small line, left to right; its scale goes from the lowest value, or 0.9, to 1."""
    low = min([0.9, *values])
    step = (width - 6) / max(1, len(values) - 1)
    return [(3 + i * step, 3 + (height - 6) * (1 - (v - low) / (1 - low))) for i, v in enumerate(values)]


def report_address(url: str | None, data_url: str, prefix: str) -> str | None:
    """Where this page serves a stored report, if it lies where reports do."""
    root = data_url.rstrip("/") + "/"
    name = url.removeprefix(root) if url and url.startswith(root) else ""
    return f"{prefix}/files/{quote(str(PurePosixPath(name)))}" if safe_name(name)[0] else None


class MLPlatformPlugin(AirflowPlugin):
    """Adds the page to Airflow."""

    name = "ml_platform"
    fastapi_apps = [{"app": application, "url_prefix": PREFIX, "name": "ML platform"}]
    external_views = [
        {
            "name": "ML platform",
            "href": f"{_airflow()}{PREFIX}/",
            "destination": "nav",
            "url_route": "ml-platform",
            "nav_top_level": True,
        }
    ]
