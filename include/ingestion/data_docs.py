"""Data docs of a source: an index over its partitions, and Great Expectations' own page for the newest.

Great Expectations' pages fetch styles, scripts and a logo from other people's servers; these are taken out and a
style of our own put in, so that a page opens anywhere and tells nobody. Rendering costs some 50 ms a page, so of
a long range only the newest few are rendered; pages of earlier runs stay.
"""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from include import storage

if TYPE_CHECKING:
    from include.ingestion.suites import Suite
    from include.ingestion.validation import Judgement

PAGES = 8
"""Pages rendered by one run, at most: the newest refused partitions first, then the newest accepted."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1080px;padding:24px;color:#1d2733;background:#fff}
h1,h2,h3,h4{line-height:1.2} a{color:#0b5cad} table{border-collapse:collapse;width:100%;margin:8px 0 20px}
th,td{text-align:left;vertical-align:top;padding:6px 10px;border-bottom:1px solid #dde3ea}
th{background:#f3f6f9} td.number{text-align:right;font-variant-numeric:tabular-nums}
.published,.text-success{color:#18794e} .quarantined,.text-danger{color:#b42318} .validated{color:#8a6100}
.badge,.text-muted{color:#5b6b7b} .alert{padding:8px 12px;background:#f3f6f9}
.fa-check-circle::before{content:"✓"} .fa-times::before{content:"✗"} .fa-exclamation-triangle::before{content:"!"}
.navbar,.cooltip,.modal,#ge-cta-footer,.cloud-footer,footer{display:none}
@media(prefers-color-scheme:dark){
body{background:#12181f;color:#dbe4ee} th,.alert{background:#1c2631} th,td{border-color:#2c3947} a{color:#7db7f0}
.published,.text-success{color:#58c795} .quarantined,.text-danger{color:#ff8a80} .validated{color:#e5b567}}
"""


def choose(judgements: Mapping[str, Judgement]) -> list[str]:
    """Which partitions get a page."""
    newest = sorted(judgements, reverse=True)
    refused = [key for key in newest if judgements[key].refused is not None]
    return [*refused, *(key for key in newest if key not in refused)][:PAGES]


def build(
    name: str,
    suite: Suite,
    judgements: Mapping[str, Judgement],
    reports: Sequence[Mapping[str, Any]],
    *,
    data_url: str,
) -> str:
    """Write the pages of some judged partitions and the source's index; returns the index's address.

    Args:
        name: the source.
        suite: what it was judged by.
        judgements: by partition key, those that may get a page.
        reports: rows of the table `partitions`, newest first, for the index.
        data_url: where data lies; the docs go below `docs/<name>`.
    """
    folder = storage.join(data_url, "docs", name)
    for key in choose(judgements):
        storage.write_bytes(storage.join(folder, f"{key}.html"), page(name, suite, key, judgements[key]).encode())
    existing = {file.removesuffix(".html") for file in storage.list_files(folder)}
    index = storage.join(folder, "index.html")
    storage.write_bytes(index, index_page(name, reports, existing).encode())
    return index


def page(name: str, suite: Suite, key: str, judgement: Judgement) -> str:
    """Great Expectations' validation result of one partition, as a page that needs no network."""
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    results = [_presentable(result) for result in judgement.results]
    passed = sum(bool(result.success) for result in results)
    outcome = ExpectationSuiteValidationResult(
        suite_name=suite.name,
        success=judgement.refused is None,
        results=results,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100 * passed / max(len(results), 1),
        },
        meta={"run_id": {"run_name": f"{name} {key}", "run_time": "1970-01-01T00:00:00+00:00"}},
    )
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(outcome)
    return _self_contained(DefaultJinjaPageView().render(document), f"{name} {key}", judgement)


def _presentable(result: Any) -> Any:
    """A copy with plain Python numbers, which is all that the renderer knows, and without the long lists of rows."""
    shown = copy.copy(result)
    values = {k: v for k, v in (result.result or {}).items() if k not in ("unexpected_list", "unexpected_index_list")}
    observed: Any = values.get("observed_value")
    if hasattr(observed, "item"):
        values["observed_value"] = observed.item()
    elif observed is not None and not isinstance(observed, int | float | str | list | dict):
        values["observed_value"] = str(observed)
    shown.result = values
    return shown


def _self_contained(text: str, title: str, judgement: Judgement) -> str:
    text = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)
    text = re.sub(r"<link\b[^>]*>", "", text)
    text = re.sub(r"<img\b[^>]*>", "", text)
    text = re.sub(r"<footer\b.*?</footer>", "", text, flags=re.DOTALL)
    text = re.sub(r'<a\b[^>]*href="(?:https?:)?//[^"]*"[^>]*>.*?</a>', "", text, flags=re.DOTALL)
    text = re.sub(r'href="\.\./[^"]*"', 'href="index.html"', text)
    text = re.sub(r"<title>.*?</title>", f"<title>{html.escape(title)}</title>", text, flags=re.DOTALL)
    verdict = judgement.refused or "accepted"
    head = (
        f'<p><a href="index.html">all partitions</a></p><h1>{html.escape(title)}</h1>'
        f"<p>quality {judgement.quality:.4f}: {html.escape(verdict)}</p>"
    )
    text = text.replace("</head>", f"<style>{_STYLE}</style></head>", 1)
    return re.sub(r"(<body[^>]*>)", lambda body: body[1] + head, text, count=1)


def index_page(name: str, reports: Sequence[Mapping[str, Any]], pages: set[str]) -> str:
    """The list of a source's partitions: state, quality, rows, reasons."""
    rows = "\n".join(_index_row(report, pages) for report in reports)
    title = html.escape(name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data docs: {title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>Data docs: {title}</h1>"
        "<p>Each partition of the source, newest first, as Great Expectations judged it. Quality is the weighted"
        " share of checks passed (include/ingestion/validation.py has the formula).</p>"
        "<table><thead><tr><th>partition</th><th>state</th><th>quality</th><th>rows</th>"
        "<th>quarantined</th><th>why</th></tr>"
        f"</thead><tbody>\n{rows}\n</tbody></table></body></html>"
    )


def _index_row(report: Mapping[str, Any], pages: set[str]) -> str:
    key, status = html.escape(str(report["key"])), str(report["status"])
    current: Mapping[str, Any] = report["report"].get("candidate") or {}
    facts = {**report, **{k: v for k, v in current.items() if k in ("rows", "quarantined_rows", "quality")}}
    detail = current.get("report") or report["report"]
    told = [f"{reason}: {count}" for reason, count in (detail.get("reasons") or {}).items()]
    told += [f"column {column} is {change}" for column, change in (detail.get("types_changed") or {}).items()]
    if detail.get("message"):
        told.insert(0, str(detail["message"]))
    if refused := report["report"].get("refused_replacement"):
        told.insert(0, f"a later delivery was refused, this one stays: {refused.get('message')}")
    link = f'<a href="{key}.html">{key}</a>' if report["key"] in pages else key
    shown = "accepted" if status == "validated" else status
    return (
        f'<tr><td>{link}</td><td class="{status}">{shown}</td><td class="number">{facts["quality"]:.4f}</td>'
        f'<td class="number">{facts["rows"]:,}</td><td class="number">{facts["quarantined_rows"]:,}</td>'
        f"<td>{html.escape('; '.join(told))}</td></tr>"
    )
