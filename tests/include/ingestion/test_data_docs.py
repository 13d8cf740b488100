"""Data docs open anywhere: no server, no network, nobody told."""

from __future__ import annotations

import re

from tests.include.ingestion.conftest import Ingest, generated

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


def test_text_from_data_is_escaped(ingest: Ingest) -> None:
    from include.ingestion.data_docs import index_page

    report = {"message": "<b>x</b>", "reasons": {"<script>": 1}}
    row = {"key": DAY, "status": "quarantined", "rows": 1, "quarantined_rows": 1, "quality": 0.5, "report": report}
    assert "<b>" not in index_page("trips", [row], set())
    assert "<script>" not in index_page("trips", [row], set())
