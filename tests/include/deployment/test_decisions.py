"""What a person decided is overruled by a newer decision of a person, and by nothing else."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from include import database, settings
from include.deployment import admission, decisions, gate, ledger, promotion, rollouts, withdrawal
from include.deployment.decisions import Decision, NeedsDecision
from tests.include.deployment import trials

SOON = dt.timedelta(minutes=1)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    trials.crown(engine, 1)
    yield engine
    engine.dispose()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def promote(engine: sa.Engine, version: int, against: int | None, decision: Decision | None = None) -> ledger.Entry:
    """What the gate found, carried out by a task."""
    return ledger.promote(
        engine, model="m", to_version=version, expected_from=against, **trials.served(version),
        verdict_id=trials.judge(engine, version, against), actor="run 7", reason="better", decision=decision,
    )  # fmt: skip


def back(engine: sa.Engine, to: int | None = None, **seen: object) -> withdrawal.Withdrawal:
    return withdrawal.withdraw(engine, "m", to, actor="ann", reason="strange answers", **seen)  # type: ignore[arg-type]


def who_clicks(database_url: str, who: str, seen_at: dt.datetime) -> int | str:
    """The version that the champion goes back to for somebody with a connection of their own, or what they are told."""
    own = database.connect(database_url)
    try:
        return withdrawal.withdraw(own, "m", actor=who, reason="bad", seen_at=seen_at).version
    except ledger.Superseded as error:
        return str(error)
    finally:
        own.dispose()


def rolled_back(engine: sa.Engine) -> None:
    trials.crown(engine, 2, 1)
    back(engine)


def canary_stopped(engine: sa.Engine) -> None:
    rollouts.stop(engine, trials.start(engine, 2), actor="ann", reason="strange answers")


def rolled_back_under_a_canary(engine: sa.Engine) -> None:
    trials.start(engine, 2)
    back(engine)


def canary_beyond_a_limit(engine: sa.Engine) -> None:
    rollouts.roll_back(
        engine, trials.start(engine, 2), actor=decisions.CONTROLLER, reason="strange answers", evidence={}
    )


def ab_test_stopped(engine: sa.Engine) -> None:
    rollouts.stop(engine, trials.start(engine, 2, "ab"), actor="ann", reason="strange answers")


TAKEN_BACK = [rolled_back, canary_stopped, rolled_back_under_a_canary, canary_beyond_a_limit, ab_test_stopped]


@pytest.mark.parametrize("take_back", TAKEN_BACK)
def test_what_was_taken_back_is_promoted_again_only_by_a_newer_decision(
    engine: sa.Engine, take_back: Callable[[sa.Engine], None]
) -> None:
    before = now()
    take_back(engine)
    for decision in (None, Decision("an old form", before)):
        with pytest.raises(NeedsDecision, match=r"strange answers.*deploy_m.*again"):
            promote(engine, 2, 1, decision)
        with pytest.raises(NeedsDecision, match="strange answers"):
            admission.start(
                engine, rollouts.Candidate("m", 2, **trials.served(2), verdict_id=trials.judge(engine, 2, 1)),
                kind="canary", settings=settings.Rollout(**trials.FAST), actor="run 7", reason="better",
                decision=decision,
            )  # fmt: skip
    found = ledger.champion(engine, "m")
    assert found is not None
    assert found.version == 1
    assert promote(engine, 2, 1, Decision("the source was mended", now() + SOON)).to_version == 2


def test_what_nobody_took_back_needs_no_decision(engine: sa.Engine) -> None:
    """Stopped by the controller because another became champion, a shadow, a newer version, one that came back."""
    superseded = trials.start(engine, 2)
    rollouts.stop(engine, superseded, actor=decisions.CONTROLLER, reason="another version is champion")
    shadow = trials.start(engine, 3, "shadow")
    rollouts.stop(engine, shadow, actor="ann", reason="enough seen")
    with engine.connect() as connection:
        assert [decisions.taken_back(connection, "m", version) for version in (1, 2, 3, 4)] == [None] * 4
    promote(engine, 2, 1)
    promote(engine, 3, 2)
    back(engine)  # to 2
    with engine.connect() as connection:
        assert decisions.taken_back(connection, "m", 2) is None
        assert decisions.taken_back(connection, "m", 3) is not None
    back(engine, 3)
    with engine.connect() as connection:
        assert decisions.taken_back(connection, "m", 3) is None
        assert decisions.taken_back(connection, "m", 2) is not None, "ann has left it for version 3"


def test_a_cleared_run_of_the_gate_holds_what_was_rolled_back_and_a_decision_lets_it_pass(engine: sa.Engine) -> None:
    rolled_back(engine)
    better = gate.Decision("PROMOTE", ["better by 10%"], {"metric": "mae"})
    held = gate._by_persons(engine, "m", 2, None, better)
    assert held.verdict == "HOLD"
    assert "was rolled back" in held.reasons[0]
    assert held.reasons[1:] == better.reasons
    assert held.numbers == better.numbers
    assert gate._by_persons(engine, "m", 2, Decision("mended", now() + SOON), better) == better
    rejected = gate.Decision("REJECT", ["worse"], {})
    assert gate._by_persons(engine, "m", 2, None, rejected) == rejected


@pytest.mark.parametrize("strategy", ["direct", "canary", "ab", "shadow"])
def test_a_deployment_carries_the_decision_whatever_the_strategy(
    engine: sa.Engine, database_url: str, strategy: str
) -> None:
    rolled_back(engine)
    verdict = {"id": trials.judge(engine, 2, 1), "model": "m", "version": 2, "champion_version": 1,
               "content_hash": trials.content(2), "reasons": ["better"]}  # fmt: skip
    how: dict[str, Any] = {
        "settings": settings.Rollout(strategy=strategy), "task": "binary", "database_url": database_url,
        "actor": "run 7", "run_key": "run 7",
    }  # fmt: skip
    with pytest.raises(NeedsDecision):
        promotion.carry_out(verdict, trials.served(2), **how)
    made = promotion.carry_out(verdict, trials.served(2), **how, decision=Decision("mended", now() + SOON))
    assert getattr(made, "to_version", None) == 2 or getattr(made, "version", None) == 2


def test_a_form_without_a_reason_is_no_decision() -> None:
    assert decisions.of("", now()) is None
    assert decisions.of("  ", now()) is None
    assert decisions.of(None, now()) is None
    at = now()
    assert decisions.of(" mended ", at) == Decision("mended", at)


# ------------------------------------------------------------------------------------------------ the way back


def test_of_two_that_go_back_at_once_one_does_and_the_other_is_told(engine: sa.Engine, database_url: str) -> None:
    trials.crown(engine, 2, 1)
    trials.crown(engine, 3, 2)
    seen_at, started, outcomes = now(), threading.Barrier(2), []

    def click(who: str) -> None:
        started.wait()
        outcomes.append(who_clicks(database_url, who, seen_at))

    threads = [threading.Thread(target=click, args=(who,)) for who in ("ann", "bob")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    told = next(str(outcome) for outcome in outcomes if outcome != 2)
    assert 2 in outcomes
    assert "nothing was changed: version 3 of m" in told
    found = ledger.champion(engine, "m")
    assert found is not None
    assert found.version == 2
    assert back(engine, seen_at=now() + SOON).version == 1, "who has seen version 2 goes back from it"


def test_who_goes_back_while_another_waits_to_do_so_is_told_too(engine: sa.Engine, database_url: str) -> None:
    """Of one who began first the change counts from when it was made: nobody has seen it before."""
    trials.crown(engine, 2, 1)
    trials.crown(engine, 3, 2)
    outcomes: list[int | str] = []

    def click(who: str, seen_at: dt.datetime) -> None:
        outcomes.append(who_clicks(database_url, who, seen_at))

    threads = []
    waiting = sa.text("select count(*) from pg_locks where locktype = 'advisory' and not granted")
    with engine.begin() as holder:
        ledger.lock(holder, "m")
        for number, who in enumerate(("ann", "bob"), 1):
            threads.append(threading.Thread(target=click, args=(who, now())))
            threads[-1].start()
            while holder.execute(waiting).scalar_one() < number:
                time.sleep(0.01)
    [thread.join() for thread in threads]
    assert outcomes[0] == 2
    assert "nothing was changed: version 3 of m" in str(outcomes[1])


def test_whatever_is_done_at_once_the_ledger_stays_a_chain_and_every_refusal_says_why(
    engine: sa.Engine, database_url: str
) -> None:
    trials.crown(engine, 2, 1)
    started, errors = threading.Barrier(3), []

    def champion() -> int:
        found = ledger.champion(engine, "m")
        return found.version if found else 0

    def deploy(own: sa.Engine) -> None:
        before, version = champion(), 10 + int(rounds)
        ledger.promote(
            own, model="m", to_version=version, expected_from=before or None, **trials.served(version),
            verdict_id=trials.judge(own, version, before or None), actor="run", reason="better",
        )  # fmt: skip

    def canary(own: sa.Engine) -> None:
        trials.start(own, 100 + int(rounds), against=champion())

    def carry_on(own: sa.Engine) -> None:
        for each in rollouts.running(own, "m"):
            rollouts.promote(own, each, actor=decisions.CONTROLLER, reason="baked", evidence={})

    def stop(own: sa.Engine) -> None:
        for each in rollouts.running(own, "m"):
            rollouts.stop(own, each, actor="ann", reason="enough")

    def go_back(own: sa.Engine) -> None:
        withdrawal.withdraw(own, "m", actor="ann", reason="bad", seen_at=now())

    def bring_back(own: sa.Engine) -> None:
        withdrawal.withdraw(own, "m", 1, actor="ann", reason="bad")

    def retire(own: sa.Engine) -> None:
        withdrawal.retire(own, "m", actor="ann", reason="closed")

    acts = [deploy, canary, carry_on, stop, go_back, bring_back, retire]

    def work(own: sa.Engine, chosen: list[Callable[[sa.Engine], None]]) -> None:
        for act in chosen:
            started.wait(30)
            try:
                act(own)
            except (ValueError, admission.Underway, rollouts.Ended, ledger.Superseded) as error:
                errors.extend([str(error)] if "\n" in str(error) else [])
            except Exception as error:  # noqa: BLE001  that is what is looked for
                errors.append(f"{act.__name__}: {error!r}")
            started.wait(30)

    chance, rounds = random.Random(7), 0.0
    plans = [[chance.choice(acts) for _ in range(40)] for _ in range(2)]
    engines = [database.connect(database_url) for _ in plans]
    threads = [threading.Thread(target=work, args=(own, plan)) for own, plan in zip(engines, plans, strict=True)]
    [thread.start() for thread in threads]
    for _ in plans[0]:
        rounds += 1
        started.wait(30)
        started.wait(30)
        entries = ledger.history(engine, "m")[::-1]
        found = ledger.champion(engine, "m")
        for before, after in itertools.pairwise(entries):
            assert after.from_version == (None if before.action == "retire" else before.to_version), (before, after)
            assert before.created_at < after.created_at
        assert (found and found.ledger_id) == (None if entries[-1].action == "retire" else entries[-1].id)
        running = rollouts.running(engine, "m")
        assert len(running) <= 1
    [thread.join() for thread in threads]
    [own.dispose() for own in engines]
    assert not errors


def test_a_champion_that_is_not_the_one_that_was_seen_stays(engine: sa.Engine) -> None:
    trials.crown(engine, 2, 1)
    canary = trials.start(engine, 3, against=2)
    with pytest.raises(ledger.Superseded, match="version 1 of m"):
        back(engine, seen=1)
    assert [each.id for each in rollouts.running(engine, "m")] == [canary.id], "nothing was stopped either"
    assert back(engine, seen=2).version == 1
    assert back(engine, 1, seen_at=now() - SOON).version == 1, "to a named version it may be said twice"


# ------------------------------------------------------------------------------------------------ retiring


def test_a_retired_model_has_no_champion_its_rollouts_end_and_its_history_stays(engine: sa.Engine) -> None:
    canary = trials.start(engine, 2)
    ended = withdrawal.retire(engine, "m", actor="ann", reason="the shop was closed")
    assert [each.id for each in ended.stopped] == [canary.id]
    assert ledger.champion(engine, "m") is None
    newest = ledger.history(engine, "m")[0]
    assert (newest.action, newest.from_version, newest.actor, newest.reason) == (
        "retire", 1, "ann", "the shop was closed",
    )  # fmt: skip
    with engine.connect() as connection:
        assert connection.execute(sa.select(database.retired_models.c.model)).scalars().all() == ["m"]
        assert ledger.champion_at(connection, "m", now() + SOON) is None
        assert ledger.champion_at(connection, "m", newest.created_at - dt.timedelta(microseconds=1)) == 1
    with pytest.raises(ValueError, match="no champion, so nothing serves it"):
        withdrawal.retire(engine, "m", actor="ann", reason="again")


def test_no_new_version_makes_a_retired_model_come_back_by_itself(engine: sa.Engine) -> None:
    withdrawal.retire(engine, "m", actor="ann", reason="the shop was closed")
    with pytest.raises(NeedsDecision, match=r"m was retired on .* by ann"):
        promote(engine, 5, None)
    assert promote(engine, 5, None, Decision("the shop is open again", now() + SOON)).to_version == 5
    with engine.connect() as connection:
        assert connection.execute(sa.select(database.retired_models)).all() == []
    promote(engine, 6, 5)


def test_a_retired_model_comes_back_with_the_version_that_a_person_names(engine: sa.Engine) -> None:
    trials.crown(engine, 2, 1)
    withdrawal.retire(engine, "m", actor="ann", reason="by mistake")
    with pytest.raises(ValueError, match="name a version that was one"):
        back(engine)
    returned = back(engine, 2)
    assert returned.entry is not None
    assert (returned.version, returned.entry.from_version) == (2, None)
    with engine.connect() as connection:
        assert connection.execute(sa.select(database.retired_models)).all() == []
    assert back(engine).version == 1
