"""One file for each endpoint, or family of endpoints: method, paths, permission, handler, OpenAPI operation.

An endpoint is a module of this package with a tuple `ENDPOINTS`; it is found by its file's name, so that adding one is
adding one file.
"""

from __future__ import annotations

import importlib
import pkgutil

from include.serving.http.endpoint import Endpoint


def all_endpoints() -> tuple[Endpoint, ...]:
    """Every endpoint, in the order of the files' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(endpoint for module in modules for endpoint in module.ENDPOINTS)
