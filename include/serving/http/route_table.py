"""The route table: a path → its endpoints and parameters. Paths of loaded models are looked up, others are matched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from include.serving.http.endpoint import Endpoint
from include.serving.routing.route import Route

_PLACEHOLDER = re.compile(r"\\{(\w+)\\}")


@dataclass(frozen=True, slots=True)
class Match:
    """A path that is there."""

    endpoints: Mapping[str, Endpoint]
    """By method."""
    parameters: Mapping[str, str]

    @property
    def permission(self) -> str | None:
        """What a request with a method that the path does not take needs before it learns so."""
        return next(iter(self.endpoints.values())).permission

    @property
    def browser(self) -> bool:
        """Whether a page is there."""
        return any(endpoint.browser for endpoint in self.endpoints.values())


@dataclass(frozen=True, slots=True)
class FastRoute:
    """A target of POST requests that may take the fast path."""

    endpoint: Endpoint
    path: str
    """Without the prefix of `Site`."""
    model: str


class RouteTable:
    """All endpoints by their paths. Belongs to the event loop's thread.

    Args:
        endpoints: the rows.
        prefix: of the service's paths, `Site.prefix`; only the fast path's targets come with it.
    """

    def __init__(self, endpoints: Sequence[Endpoint], prefix: str = "") -> None:
        self._prefix = prefix
        self._by_template: dict[str, dict[str, Endpoint]] = {}
        self._by_default_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            for template in endpoint.paths:
                self._by_template.setdefault(template, {})[endpoint.method] = endpoint
            if endpoint.default_path is not None:
                self._by_default_path.setdefault(endpoint.default_path, {})[endpoint.method] = endpoint
        self._patterns = [(_pattern(t), found) for t, found in self._by_template.items() if "{" in t]
        self._matches: dict[str, Match] = {}
        self.fast: dict[bytes, FastRoute] = {}
        """By target, as it is sent."""

    def update(self, routes: Mapping[str, Route], default: str | None) -> None:
        """Learn the models that answer now, and which of them is the default."""
        matches = {t: Match(found, {}) for t, found in self._by_template.items() if "{" not in t}
        for model, route in routes.items():
            parameters = {"model": model, "version": str(route.champion.loaded.version)}
            for template, found in self._by_template.items():
                if "{" in template:
                    matches[template.format_map(parameters)] = Match(found, parameters)
        known = default if default is not None and default in routes else ""
        for path, found in self._by_default_path.items():
            matches[path] = Match(found, {"model": known})
        self._matches = matches
        self.fast = {
            (prefix + path).encode(): FastRoute(endpoint, path, model)
            for path, match in matches.items()
            if (model := match.parameters.get("model", ""))
            and (endpoint := match.endpoints.get("POST")) is not None
            and endpoint.begin is not None
            for prefix in {"", self._prefix}
        }

    def match(self, path: str) -> Match | None:
        """What is at a path; None: nothing."""
        return self._matches.get(path) or self._search(path)

    def _search(self, path: str) -> Match | None:
        """A path of a model or version that is not loaded: its handler refuses it for that, after the key's check."""
        for pattern, endpoints in self._patterns:
            if found := pattern.fullmatch(path):
                return Match(endpoints, found.groupdict())
        return None


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^/]*)", re.escape(template)))
