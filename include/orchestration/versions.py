"""The versions that a form offers, each with its metric, the gate's verdict, and what it is now.

Airflow's text field with suggestions (`examples`) shows what is sent: so what is chosen is the whole line, and a
number that is typed in counts as well, where the list is behind. Only the number matters: the task checks the version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from include.home import Home

PATTERN = r"^\s*[vV]?[1-9][0-9]{0,8}(\s.*)?$"
"""A version's number, with whatever is said of it after a space."""
VERDICTS = {"PROMOTE": "pass", "HOLD": "hold", "REJECT": "reject", None: "not judged"}
CHAMPIONS = ("champion", "champion before")
LENGTH = 120


def offered(home: Path, model: str, *, champions: bool = False) -> list[str]:
    """The lines for a model, newest version first; none where there is no list yet.

    Args:
        home: MLOPS_HOME; the list is written by include/deployment/choices.py.
        model: The registered model.
        champions: Only those that are or were champion.
    """
    try:
        known = json.loads(Home(home).versions.read_text(encoding="utf-8"))
        found = [entry for entry in known.get(model, ()) if not champions or entry["standing"] in CHAMPIONS]
        return [line(entry) for entry in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # a form without suggestions is better than a DAG that cannot be parsed


def line(entry: Mapping[str, Any]) -> str:
    """`7 · mae 2.31 · pass · champion`."""
    value = f"{entry['metric']} {entry['value']:.4g}" if entry["value"] is not None and entry["metric"] else None
    shown = (str(entry["version"]), value, VERDICTS.get(entry["verdict"], str(entry["verdict"])), entry["standing"])
    return " · ".join(part for part in shown if part)[:LENGTH]


def numbers(values: dict[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a line that was chosen, or a number that was typed in, the version's number."""
    for name in named(schemas):
        if isinstance(values.get(name), str) and (found := re.search(r"\d+", values[name])):
            values[name] = int(found[0])


def named(schemas: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """The fields that name a version."""
    return [name for name, schema in schemas.items() if schema.get("pattern") == PATTERN]
