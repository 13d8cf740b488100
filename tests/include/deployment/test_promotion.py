"""A verdict carried out by plain values, as the tasks of `deploy_<model>` have them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from include import database, settings, strategies
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


# ------------------------------------------------------------------------------------------------ tried first


def carry_out(database_url: str, judged: dict[str, Any], packed: dict[str, str], **declared: Any) -> Any:
    return promotion.carry_out(
        judged, packed, settings=settings.Rollout(**declared), task="binary", database_url=database_url,
        actor="deploy_m run 1 (ann)", run_key="deploy_m run 1",
    )  # fmt: skip


def test_by_default_the_verdict_makes_a_champion_at_once(database_url: str) -> None:
    made = carry_out(database_url, verdict(database_url), PACKAGED)
    assert made.to_version == 1


@pytest.mark.parametrize("strategy", strategies.names())
def test_where_it_is_declared_the_version_is_tried_first_and_a_retry_finds_it(database_url: str, strategy: str) -> None:
    first = carry_out(database_url, verdict(database_url), PACKAGED, strategy=strategy)
    assert first.to_version == 1  # there is nothing to try a first champion beside
    judged, packed = verdict(database_url, 2, 1, "b" * 64), {**PACKAGED, "content_hash": "b" * 64}
    made, again = (carry_out(database_url, judged, packed, strategy=strategy, share=30) for _ in range(2))
    assert made == again
    assert (made.kind, made.version, made.champion_version, made.reason) == (strategy, 2, 1, "better by 20.0%")
    assert made.declared.success == ("rate" if strategy == "ab" else None)  # by the task


def test_while_one_version_is_tried_the_next_waits_and_says_for_what(database_url: str) -> None:
    carry_out(database_url, verdict(database_url), PACKAGED)
    carry_out(
        database_url, verdict(database_url, 2, 1, "b" * 64), {**PACKAGED, "content_hash": "b" * 64}, strategy="ab"
    )
    judged, packed = verdict(database_url, 3, 1, "c" * 64), {**PACKAGED, "content_hash": "c" * 64}
    made = promotion.carry_out(
        judged, packed, settings=settings.Rollout(strategy="canary"), task="binary", database_url=database_url,
        actor="run 2", run_key="run 2",
    )  # fmt: skip
    assert isinstance(made, promotion.Waiting)
    assert "the A/B test of m version 2 answers 50% of the requests" in made.reason
