"""What the service says of its state: pure text from a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from include.serving.control import status
from include.serving.control.ledger_reader import DesiredState
from include.serving.control.status import Snapshot
from include.serving.versions.cache import Refusal
from include.serving.versions.version import Champion

CHAMPION = Champion("trips", 3, "hash", "file:///served", "bento", 1)
EMPTY = Snapshot(
    routes={},
    desired=DesiredState(),
    refused={},
    taken_out={},
    over_budget=None,
    follows_ledger=True,
    ledger_error=None,
)
REFUSED = {("trips", "champion"): Refusal(CHAMPION, "its hash is another one", "2026-03-02T08:30:00+00:00", 2, 0.0)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "no champion was promoted yet"),
        ({"desired": DesiredState(retired=frozenset({"trips"}))}, "every model was retired"),
        ({"desired": DesiredState(champions=(CHAMPION,))}, "no champion could be loaded"),
        ({"ledger_error": "timeout"}, "the ledger in PostgreSQL cannot be read"),
        ({"follows_ledger": False, "ledger_error": "it was not read yet"}, "no model is packed into this Bento"),
    ],
)
def test_without_a_model_the_first_reason_is_named_and_no_detail(change: dict[str, Any], reason: str) -> None:
    snapshot = replace(EMPTY, **change)
    found = status.not_ready(snapshot)
    assert found is not None
    assert found.startswith(reason)
    assert "timeout" not in found
    assert status.word(snapshot) == "unavailable"
    assert status.problems(snapshot)[-1] == found


def test_a_refused_champion_is_a_problem_and_a_row_with_its_reason() -> None:
    snapshot = replace(EMPTY, desired=DesiredState(champions=(CHAMPION,)), refused=REFUSED)
    assert status.problems(snapshot)[0] == (
        "trips version 3 was not swapped in: its hash is another one; no version of it answers"
    )
    [row] = status.describe(snapshot)
    assert (row["model"], row["version"], row["arms"]) == ("trips", None, [])
    assert row["refused"] == {
        "version": 3,
        "content_hash": "hash",
        "ledger_id": 1,
        "reason": "its hash is another one",
        "at": "2026-03-02T08:30:00+00:00",
        "attempts": 2,
    }


def test_each_problem_is_one_sentence() -> None:
    snapshot = replace(EMPTY, refused=REFUSED, over_budget="the champions take 9 MB", ledger_error="gone")
    assert len(status.problems(snapshot)) == 4
    assert all("\n" not in problem for problem in status.problems(snapshot))
