"""Which files of include/ a module needs: what is copied into a Bento and beside a model in MLflow."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path


def imported_modules(file: Path, root: Path) -> list[Path]:
    """The files of `include` that a module imports, directly or not, with their packages' `__init__.py`.

    Of a package that finds its modules by their files' names, all files.
    """
    found: set[Path] = set()
    todo = [file]
    while todo:
        current = todo.pop()
        paths = {path for module in _imports(current) for path in _files(module, root)}
        new = (paths | _found_by_name(current)) - found
        found |= new
        todo += new
    return sorted(found)


def _found_by_name(package: Path) -> set[Path]:
    """The modules that a package's `__init__.py` imports as `{__name__}.{name}`."""
    by_name = package.name == "__init__.py" and 'import_module(f"{__name__}.' in package.read_text(encoding="utf-8")
    return set(package.parent.glob("[a-z]*.py")) if by_name else set()


def _imports(file: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(module: str, root: Path) -> Iterable[Path]:
    parts = module.split(".")
    if parts[0] != "include":
        return
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        if (package := place / "__init__.py").is_file():
            yield package
        elif (module_file := place.with_suffix(".py")).is_file():
            yield module_file
