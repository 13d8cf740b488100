"""The fingerprint of a program: a hash of a module's text and of all of ours that it imports, however deep.

Features that were computed by two states of the program are never mixed: see `Plan.fingerprint`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from include.home import ROOT

STAGE = "include.features.stage"
"""What computes features."""


def fingerprint(module: str = STAGE, root: Path = ROOT) -> str:
    """The SHA-256 of the names and texts of all files that running a module needs.

    Args:
        module: its name, such as `include.features.stage`.
        root: the folder that holds include/.
    """
    digest = hashlib.sha256()
    for name, file in sorted(files(module, root).items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def files(module: str, root: Path = ROOT) -> dict[str, Path]:
    """Module → file: a module, all that it imports of the same package, and the packages in which these are."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(name, root)
        if name in found or file is None:
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0], *_imported(ast.parse(file.read_bytes()), module.partition(".")[0])]
    return found


def _file(module: str, root: Path) -> Path | None:
    """A module's file; None for what is no module, such as a function that is imported from one."""
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if module and file.is_file()), None)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The names of a package that a module imports when it runs, at its top or in a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imported(other, package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == package)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == package:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imported(node, package)
