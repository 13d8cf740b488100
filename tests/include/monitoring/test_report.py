from __future__ import annotations

import json
import re

import numpy as np

from include.features.profile import profile
from include.monitoring import drift, report
from include.monitoring.drift_measures import psi

THRESHOLDS = (0.1, 0.2)


def columns(seed, rows=400, shift=0.0):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(shift, 1, rows),
        "zone": random.choice(np.array(["a", "b", None], dtype=object), rows),
        "empty": np.full(rows, np.nan),
    }


def build(reference, current, **facts):
    pinned = profile(columns(1))
    findings = drift.find(pinned, current, by="psi", warn=0.1, critical=0.2)
    return report.build(
        findings,
        title="m",
        profile=pinned,
        reference=reference,
        current=current,
        measure=psi,
        thresholds=THRESHOLDS,
        facts=facts,
    )


def test_a_report_shows_the_pinned_statistic_and_leaves_empty_columns_out_by_name():
    """Promise 43: an empty column alone makes Evidently fail."""
    files = build(columns(2), columns(3, shift=1.0), model="m")
    page = files.contents["evidently.html"]
    assert b"<html" in page[:2000].lower()
    assert report.method(psi).encode() in page
    assert files.left_out == ["empty: all values are missing"]


def test_the_summary_holds_what_was_found_and_how_it_was_drawn():
    summary = json.loads(build(columns(2), columns(3, shift=2.0), model="m", version=3).contents["findings.json"])
    assert (summary["model"], summary["version"]) == ("m", 3)
    assert summary["findings"][0]["subject"] == "x"
    assert summary["findings"][0]["level"] == "critical"
    assert summary["evidently"]["method"] == report.method(psi)


def test_without_rows_of_the_training_set_the_picture_is_drawn_and_the_rest_is_said():
    files = build(None, columns(3))
    assert set(files.contents) == {"drift.png", "findings.json"}
    assert files.left_out == ["all: no rows of the training set are at hand"]


def test_a_window_of_which_every_column_is_empty_has_no_page():
    nothing = {name: np.full(50, np.nan) for name in ("x", "empty")} | {"zone": np.full(50, None, dtype=object)}
    page, left_out = report.evidently_page(profile(columns(1)), columns(2), nothing, [], measure=psi, warn=0.1)
    assert page is None
    assert len(left_out) == 3


def test_more_columns_than_a_person_reads_are_left_out_by_name():
    many = {f"x{i}": np.random.default_rng(i).normal(0, 1, 50) for i in range(report.MAXIMUM_COLUMNS + 2)}
    findings = drift.find(profile(many), many, by="psi", warn=0.1, critical=0.2)
    _, left_out = report.evidently_page(profile(many), many, many, findings, measure=psi, warn=0.1)
    assert left_out == [f"x{report.MAXIMUM_COLUMNS + n}: more than {report.MAXIMUM_COLUMNS} columns" for n in (0, 1)]


def test_the_page_counts_as_drifted_what_the_check_judged_so_and_nothing_else():
    """A weekday that only moved with the clock is no drift on either page."""
    random = np.random.default_rng(5)
    trained = {name: random.normal(0, 1, 300) for name in ("weekday", "price", "steady")}
    newest = {"weekday": trained["weekday"] + 3, "price": trained["price"] + 3, "steady": trained["steady"]}
    findings = drift.find(profile(trained), newest, by="psi", warn=0.1, critical=0.2, calendar={"weekday"})
    assert {f.subject: f.level for f in findings} == {"weekday": "ok", "price": "critical", "steady": "ok"}
    page, _ = report.evidently_page(profile(trained), trained, newest, findings, measure=psi, warn=0.1)
    assert b"of columns (1 out of 3)" in page


def test_a_sample_is_bounded_in_order_and_the_same_each_time():
    many = {"x": np.arange(100_000.0)}
    first = report.sample(many)["x"]
    assert len(first) == report.SAMPLE
    assert (np.diff(first) > 0).all()
    assert np.array_equal(first, report.sample(many)["x"])
    assert report.sample({"x": np.arange(3.0)})["x"].tolist() == [0, 1, 2]


def test_the_picture_is_a_png():
    assert build(None, columns(3)).contents["drift.png"].startswith(b"\x89PNG")


def test_names_and_values_are_no_markup_in_the_page():
    def page(text):
        values = {text: np.array([text, "b"] * 50, dtype=object), "x": np.arange(100.0)}
        findings = drift.find(profile(values), values, by="psi", warn=0.1, critical=0.2)
        return report.evidently_page(profile(values), values, values, findings, measure=psi, warn=0.1)[0].decode()

    def tags(text):
        return re.findall(r"<(script|form|meta|base|style|iframe|img)\b", text)

    harmless = page("plain")
    for hostile in ("</script><form action=//evil.example>", "<!--<script>", "<meta http-equiv=refresh content=0>"):
        found = page(hostile)
        assert hostile not in found
        assert any(hostile.replace("<", shown) in found for shown in ("\u2039", r"\u2039"))
        assert tags(found) == tags(harmless)
