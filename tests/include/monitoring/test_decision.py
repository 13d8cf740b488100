from __future__ import annotations

import datetime as dt

import pytest

from include.monitoring.decision import Finding, by_weight, decide, level_of, worst

NOW = dt.datetime(2024, 3, 1, 3, 30, tzinfo=dt.UTC)


def finding(level="critical", subject="distance", kind="drift", value=0.3, threshold=0.2):
    return Finding(kind, subject, level, f"{subject}: {level}", value, threshold)


def decision(findings, **changes):
    given = {"last_request": None, "now": NOW, "cooldown": 20, "unseen": 1}
    return decide(findings, **{**given, **changes})


@pytest.mark.parametrize(
    ("value", "level"), [(0.05, "ok"), (0.1, "ok"), (0.11, "warn"), (0.2, "warn"), (0.21, "critical")]
)
def test_a_threshold_must_be_passed(value, level):
    assert level_of(value, 0.1, 0.2) == level


def test_a_critical_finding_asks_and_says_why():
    assert decision([finding("ok"), finding("critical")]).reason == "distance: critical"
    assert decision([finding("critical", kind="performance", subject="mae")]).request


def test_a_warning_asks_for_nothing():
    found = decision([finding("warn")])
    assert (found.request, found.reason) == (False, "nothing critical; distance: warn")


def test_no_findings_ask_for_nothing():
    assert decision([]).request is False


@pytest.mark.parametrize(("hours", "asks"), [(1, False), (19.9, False), (20, True), (24, True)])
def test_a_cooldown_keeps_it_from_asking_every_night(hours, asks):
    """Promise 46."""
    found = decision([finding()], last_request=NOW - dt.timedelta(hours=hours))
    assert found.request is asks
    assert asks or "not requested again before" in found.reason


def test_without_new_data_there_is_nothing_to_ask_for():
    found = decision([finding()], unseen=0)
    assert not found.request
    assert "nothing new since training" in found.reason


def test_thirty_columns_that_drift_at_once_are_one_request_with_a_short_reason():
    """Promise 44, as far as the request goes."""
    found = decision([finding(subject=f"c{i}", value=0.2 + i) for i in range(30)])
    assert found.reason == "c29: critical; c28: critical; c27: critical; and 27 more"


def test_performance_is_told_before_drift_and_critical_before_warnings():
    found = by_weight(
        [finding("warn", "a"), finding("critical", "b", value=9.0), finding("critical", "mae", "performance")]
    )
    assert [f.subject for f in found] == ["mae", "b", "a"]


def test_the_worst_level_stands_for_all():
    assert worst([]) == "ok"
    assert worst([finding("ok"), finding("warn")]) == "warn"
    assert worst([finding("critical"), finding("warn")]) == "critical"
