"""Data docs open anywhere: no server, no network, nobody told."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.include.ingestion.conftest import Ingest, files, generated

DAY = "2018-01-05"


def test_docs_have_an_index_and_pages_that_need_no_network(ingest: Ingest) -> None:
    source = generated(incidents=[{"kind": "poisoned_day", "start": DAY, "end": DAY}])
    found = ingest(source, ["2018-01-04", DAY])
    index = ingest.path("docs", "trips", "index.html").read_text()
    assert found.docs_url.endswith("docs/trips/index.html")
    assert f'href="{DAY}.html"' in index
    assert "quarantined" in index
    assert "do not tell their passengers" in index
    page = ingest.path("docs", "trips", f"{DAY}.html").read_text()
    assert "the trip did not take 1 to 120 minutes" in page
    assert "Unsuccessful Expectations" in page
    for text in (index, page):
        assert not re.search(r'(src|href)="(https?:)?//', text)
        assert "<script" not in text


def test_an_all_published_index_tells_it(ingest: Ingest) -> None:
    ingest(generated(), [DAY])
    ingest(generated(), ["2018-01-06"], "r2")
    index = ingest.path("docs", "trips", "index.html").read_text()
    assert '<td class="published">published</td>' in index


HOSTILE = [
    "<script>alert(1)</script>",
    '<meta http-equiv="refresh" content="0;url=//evil.example">',
    '<base href="//evil.example/">',
    "<style>*{display:none}</style>",
    '<form action="//evil.example"><input name="password"></form>',
    '"><img src=x onerror=alert(1)>',
    "</style></title></table><iframe src=//evil.example>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<a href='//evil.example'>x</a>",
]


class _Markup(HTMLParser):
    """Which tags and attributes a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action")]


def _hostile(text: str) -> dict[str, Any]:
    """A row of `partitions` that has a text in every place that data, a suite or a column name can reach."""
    check: dict[str, Any] = {
        "type": text,
        "columns": [text],
        "severity": "warning",
        "text": text,
        "outcome": "failed",
        "rows": 1,
    }
    detail: dict[str, Any] = {
        "message": text,
        "reasons": {text: 1},
        "schema": {"missing": [text], "renamed": {text: text}, "retyped": {text: {"found": text, "expected": text}}},
        "types_changed": {text: text},
        "checks": [{**check, "found": text, "examples": [text]}],
    }
    report = {**detail, "refused_replacement": {**detail, "delivered": 1, "quality": 0.5, "run_id": text}}
    return {
        "key": DAY,
        "status": text,
        "rows": 1,
        "quarantined_rows": 1,
        "quality": 0.5,
        "report": report,
        "run_id": text,
    }


def test_a_value_is_text_wherever_it_comes_from() -> None:
    from include.ingestion.data_docs import _deliveries, index_page, page

    def pages(text: str) -> list[str]:
        row = _hostile(text)
        return [index_page(text, [row]), *(page(text, DAY, delivery) for _, delivery in _deliveries(row))]

    for hostile in HOSTILE:
        for harmless, page_text in zip(pages("harmless"), pages(hostile), strict=True):
            found = _Markup(page_text)
            assert found.found == _Markup(harmless).found, hostile
            assert set(found.links) <= {f"{DAY}.html", f"{DAY}.refused.html", "index.html"}
            assert "default-src 'none'" in html.unescape(page_text)
            assert hostile.split("'")[0] in html.unescape(page_text)


def test_hostile_columns_and_values_come_through_validation_as_text(ingest: Ingest, tmp_path: Path) -> None:
    """From a delivered file and a suite to the page, a NUL included."""
    name = "<b>name</b>"
    table = pa.table({name: ["<script>alert(1)</script>", "nul \0", "fine"], "x": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    suite = tmp_path / "s.json"
    kwargs = {"column": name, "value_set": ["fine"]}
    rule = {"type": "expect_column_values_to_be_in_set", "kwargs": kwargs, "severity": "warning"}
    suite.write_text(json.dumps({"name": "s", "expectations": [{**rule, "description": "<form>no</form>"}]}))
    found = ingest(files(tmp_path / "t.parquet", quarantine_share=0.9), ["all"], suite=suite)
    assert (found.accepted, found.quarantined) == (["all"], 2)
    text = ingest.path("docs", "trips", "all.html").read_text()
    tags = {tag for tag, _ in _Markup(text).found}
    assert not tags & {"script", "form", "b"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "nul \u2400" in text
    assert "&lt;form&gt;no&lt;/form&gt;" in text


def test_a_page_allows_its_own_style_and_nothing_else() -> None:
    from include.ingestion.data_docs import STYLE_HASH, index_page

    text = index_page("trips", [])
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() == STYLE_HASH


def test_quality_is_rounded_down() -> None:
    from include.ingestion.data_docs import index_page

    row = {"key": DAY, "status": "published", "rows": 123_152 - 2011, "quarantined_rows": 2011, "report": {}}
    text = index_page("trips", [{**row, "quality": 0.99999, "run_id": "r"}])
    assert '<td class="number">99.9 %</td>' in text
    assert "100 %" not in text


def test_pages_of_before_are_made_anew_and_a_day_without_one_gets_it(ingest: Ingest) -> None:
    ingest(generated(), [DAY])
    docs = ingest.path("docs", "trips")
    (docs / f"{DAY}.html").write_text("<script>from an earlier release</script>")
    (docs / "index.html").write_text("<h1>an earlier release's</h1>")
    ingest(generated(), ["2018-01-06"], "r2")
    assert "<script" not in (docs / f"{DAY}.html").read_text()
    (docs / f"{DAY}.html").unlink()
    ingest(generated(), ["2018-01-07"], "r3")
    assert (docs / f"{DAY}.html").exists()


def test_a_refused_replacement_has_a_page_and_so_has_what_it_would_have_replaced(ingest: Ingest) -> None:
    ingest(generated(), [DAY])
    ingest(generated(incidents=[{"kind": "poisoned_day", "start": DAY}]), [DAY], "r2")
    docs = ingest.path("docs", "trips")
    assert ">accepted<" in (docs / f"{DAY}.html").read_text()
    assert "refused: " in (docs / f"{DAY}.refused.html").read_text()
    assert f'<a href="{DAY}.refused.html">a later delivery was refused</a>' in (docs / "index.html").read_text()
