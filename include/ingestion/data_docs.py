"""Data docs of a source: an index over its partitions, and a page for each delivery, from what validation recorded.

Values from data stand in these pages as text and as nothing else: the template escapes whatever is put into it, no
script, form or address of another place is allowed by the page's own policy, and its one style is named by its hash.
A page costs about a millisecond, so every partition has one; it opens anywhere, without a server or network.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from include import storage
from include.ingestion.profile import percent

_GENERATOR = "data docs 2"
"""Pages under an index of another generator are made anew."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1080px;padding:24px;color:#1d2733;background:#fff}
h1,h2{line-height:1.2} a{color:#0b5cad} table{border-collapse:collapse;width:100%;margin:8px 0 20px}
table.facts{width:auto} td,th{overflow-wrap:anywhere} small{color:#5b6b7b}
th,td{text-align:left;vertical-align:top;padding:6px 10px;border-bottom:1px solid #dde3ea}
th{background:#f3f6f9} td.number{text-align:right;font-variant-numeric:tabular-nums;overflow-wrap:normal}
.published{color:#18794e} .quarantined{color:#b42318} .validated{color:#8a6100}
@media(prefers-color-scheme:dark){
body{background:#12181f;color:#dbe4ee} th{background:#1c2631} th,td{border-color:#2c3947} a{color:#7db7f0}
.published{color:#58c795} .quarantined{color:#ff8a80} .validated{color:#e5b567}}
"""
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'"
"""What a browser may do for these pages: show them."""


def build(name: str, reports: Sequence[Mapping[str, Any]], judged: Collection[str], *, data_url: str) -> str:
    """Write the pages of the judged partitions, those of others that have none, and the index; returns its address.

    Args:
        name: the source.
        reports: rows of the table `partitions`, newest first.
        judged: the keys whose pages are made anew.
        data_url: where data lies; the docs go below `docs/<name>`.
    """
    folder = storage.join(data_url, "docs", name)
    there = set(storage.list_files(folder))
    index = storage.join(folder, "index.html")
    if "index.html" in there and f'content="{_GENERATOR}"'.encode() not in storage.read_bytes(index):
        there = set()
    for report in reports:
        for file, delivery in _deliveries(report):
            if report["key"] in judged or file not in there:
                storage.write_bytes(storage.join(folder, file), page(name, str(report["key"]), delivery).encode())
    return write_index(name, reports, data_url=data_url)


def write_index(name: str, reports: Sequence[Mapping[str, Any]], *, data_url: str) -> str:
    """Write the list of a source's partitions with their state of now; returns its address."""
    index = storage.join(data_url, "docs", name, "index.html")
    storage.write_bytes(index, index_page(name, reports).encode())
    return index


def page(name: str, key: str, delivery: Mapping[str, Any]) -> str:
    """One delivery of a partition: its numbers, reasons and every expectation."""
    return _render(f"{name} {key}", delivery=delivery)


def index_page(name: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """The list of a source's partitions: state, quality, rows, reasons."""
    return _render(f"Data docs: {name}", rows=[_index_row(report) for report in reports])


def _render(title: str, **values: Any) -> str:
    found = {"title": title, "generator": _GENERATOR, "policy": POLICY, "style": _STYLE, **values}
    return _template().render(found)


@functools.cache
def _template() -> jinja2.Template:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("data_docs.html")


# ------------------------------------------------------------------------------- what a row of `partitions` says


def _deliveries(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file of each delivery's page, and what is on it: the one that counts, and a later one that was refused."""
    key, stored = report["key"], report["report"]
    current: Mapping[str, Any] = stored.get("candidate") or {}
    facts = {**report, **{k: v for k, v in current.items() if k in ("rows", "quarantined_rows", "quality", "run_id")}}
    yield f"{key}.html", _delivery(current.get("report") or stored, facts)
    if refused := stored.get("refused_replacement"):
        facts = {"rows": 0, "quarantined_rows": refused.get("delivered", 0), "quality": refused.get("quality", 0.0)}
        yield f"{key}.refused.html", _delivery(refused, {**facts, "run_id": refused.get("run_id", "")})


def _delivery(detail: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    checks = detail.get("checks") or [{**check, "outcome": "failed"} for check in detail.get("failed", ())]
    passed = sum(check["outcome"] == "passed" for check in checks)
    return {
        "refused": detail.get("message"),
        "quality": percent(facts["quality"]),
        "rows": facts["rows"],
        "quarantined": facts["quarantined_rows"],
        "run_id": facts.get("run_id") or "",
        "reasons": detail.get("reasons") or {},
        "columns": [*_schema_lines(detail.get("schema") or {}), *_type_changes(detail), *_infinite_lines(detail)],
        "checks": checks,
        "passed": passed,
        "failed": len(checks) - passed,
    }


def _schema_lines(schema: Mapping[str, Any]) -> list[str]:
    lines = [f"{column} is missing" for column in schema.get("missing", ())]
    lines += [f"{column} is unknown" for column in schema.get("unknown", ())]
    lines += [f"{old} was perhaps renamed to {new}" for old, new in (schema.get("renamed") or {}).items()]
    retyped = (schema.get("retyped") or {}).items()
    return lines + [f"{column} is {found['found']}, expected {found['expected']}" for column, found in retyped]


def _type_changes(detail: Mapping[str, Any]) -> list[str]:
    return [f"column {column} is {change}" for column, change in (detail.get("types_changed") or {}).items()]


def _infinite_lines(detail: Mapping[str, Any]) -> list[str]:
    infinite = (detail.get("infinite") or {}).items()
    return [
        f"column {column} is infinite in {_rows(found['rows'])}, first in row {found['first_row']}: no features are"
        " built of such rows"
        for column, found in infinite
    ]


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _index_row(report: Mapping[str, Any]) -> dict[str, Any]:
    (file, delivery), *later = _deliveries(report)
    why = [f"{reason}: {count}" for reason, count in delivery["reasons"].items()]
    why = [*([str(delivery["refused"])] if delivery["refused"] else []), *why]
    current = report["report"].get("candidate") or {}
    why += _type_changes(current.get("report") or report["report"])
    status = str(report["status"])
    return {
        **delivery,
        "key": report["key"],
        "file": file,
        "status": status,
        "shown": "accepted" if status == "validated" else status,
        "why": "; ".join(why),
        "refused": {"file": later[0][0], "message": later[0][1]["refused"]} if later else None,
    }
