"""Names say what a thing is in the field's terms: words that can mean anything are refused as names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

VAGUE = frozenset(
    {
        *("tell", "tells", "told", "ask", "asks", "asked", "asking", "say", "says", "said", "hold", "holds", "holding"),
        *("held", "keep", "keeps", "kept", "wanted", "wants", "beside", "whoever", "nobody", "somebody", "company"),
        *("look", "looks", "lay", "lays", "laid", "turn", "turns"),
    }
)
TERMS = {
    "held_out": "the rows that neither side of a comparison was fitted on",
    "keep_alive": "HTTP's",
    "KEEP_ALIVE_SECONDS": "HTTP's",
    "keep": "a section of params.yaml",
    "keep_days": "a setting of params.yaml",
}
"""Names with such a word that is a term here, and whose."""
SOURCES = sorted(p for room in ("include", "dags", "plugins", "bentofiles") for p in (ROOT / room).rglob("*.py"))


def named(path: Path) -> Iterator[str]:
    """What a file gives a name to: classes, functions, parameters, variables, attributes, aliases."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def words(name: str) -> set[str]:
    """`_tell_loop` → tell, loop; `HeldRows` → held, rows."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_a_name_is_cut_into_its_words() -> None:
    assert words("_tell_loop") == {"tell", "loop"}
    assert words("HeldRows") == {"held", "rows"}
    assert words("LOOKS") == {"looks"}


def test_no_name_is_a_word_that_can_mean_anything() -> None:
    vague = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in named(path)
        if words(name) & VAGUE and name.lstrip("_") not in TERMS
    }
    assert sorted(vague) == []
