"""A verdict carried out by plain values, as the tasks of `deploy_<model>` have them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from include import database
from include.deployment import ledger, promotion

PACKAGED = {"url": "served/m/1", "bento": "prediction-m:1", "content_hash": "a" * 64}


def verdict(
    database_url: str, version: int = 1, champion: int | None = None, content: str = "a" * 64
) -> dict[str, Any]:
    engine = database.connect(database_url)
    values = {
        "model": "m", "version": version, "verdict": "PROMOTE", "champion_version": champion, "content_hash": content,
        "reasons": ["better by 20.0%"], "numbers": {},
    }  # fmt: skip
    with engine.begin() as connection:
        key = connection.execute(
            sa.insert(database.verdicts).values(**values).returning(database.verdicts.c.id)
        ).scalar_one()
    engine.dispose()
    return {**values, "id": key}


def test_a_promotion_carries_its_evidence_and_a_retry_changes_nothing(database_url: str) -> None:
    judged = verdict(database_url)
    first, again = (promotion.promote(judged, PACKAGED, database_url=database_url, actor="run 1") for _ in range(2))
    assert first == again
    assert (first.to_version, first.reason, first.verdict_id) == (1, "better by 20.0%", judged["id"])


def test_other_content_than_was_judged_is_not_promoted(database_url: str) -> None:
    packed = {**PACKAGED, "content_hash": "b" * 64}
    with pytest.raises(ledger.NotProven, match="packed with other content"):
        promotion.promote(verdict(database_url), packed, database_url=database_url, actor="run 1")


def test_who_comes_second_is_told_who_came_first(database_url: str) -> None:
    """Promise 26: both were judged against no champion; one wins."""
    one, two = verdict(database_url), verdict(database_url, 2, content="b" * 64)
    promotion.promote(one, PACKAGED, database_url=database_url, actor="run 1")
    with pytest.raises(ledger.Superseded, match="version 1 is champion"):
        promotion.promote(two, {**PACKAGED, "content_hash": "b" * 64}, database_url=database_url, actor="run 2")
