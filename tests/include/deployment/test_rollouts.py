"""What is tried beside a champion: started, stepped, promoted, taken out, each in one transaction with its reason."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from include import database
from include.deployment import admission, ledger, rollouts, withdrawal
from include.deployment.decisions import Decision
from tests.include.deployment import trials
from tests.waiting import until

HOW: dict[str, Any] = {"actor": "ann", "reason": "because", "evidence": {"requests": 7}}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    trials.crown(engine, 1)
    yield engine
    engine.dispose()


def told(engine: sa.Engine, rollout: rollouts.Rollout) -> list[str]:
    return [event.event for event in reversed(rollouts.events(engine, [rollout.id]))]


def test_a_canary_begins_with_its_first_share_and_is_written_down(engine: sa.Engine) -> None:
    made = trials.start(engine, steps=(1, 25, 100))
    assert (made.status, made.kind, made.share, made.step, made.champion_version) == ("running", "canary", 0.01, 0, 1)
    assert rollouts.running(engine, "m") == [made]
    [event] = rollouts.events(engine, [made.id])
    assert (event.event, event.actor, event.reason, event.share) == ("start", "ann", "try it", 0.01)
    assert ledger.champion(engine, "m").version == 1


def test_an_ab_test_has_its_share_and_a_shadow_none(engine: sa.Engine) -> None:
    assert trials.start(engine, 2, "ab", share=30).share == 0.3
    assert trials.start(engine, 3, "shadow").share == 0
    assert [r.kind for r in rollouts.running(engine, "m")] == ["ab", "shadow"]


def test_two_rollouts_split_their_entities_independently(engine: sa.Engine) -> None:
    first, second = trials.start(engine, 2, "ab"), trials.start(engine, 3, "shadow")
    assert first.salt != second.salt


@pytest.mark.parametrize(("kind", "verdict", "message"), [
    ("canary", "HOLD", "cannot be tried: verdict .* says HOLD"),
    ("ab", "HOLD", "says HOLD"),
    ("shadow", "REJECT", "says REJECT"),
])  # fmt: skip
def test_only_a_judged_version_is_tried(engine: sa.Engine, kind: str, verdict: str, message: str) -> None:
    """Invariant I2."""
    with pytest.raises(ledger.NotProven, match=message):
        trials.start(engine, 2, kind, verdict=verdict)
    assert rollouts.running(engine) == []


def test_a_held_version_may_be_watched_as_a_shadow_and_never_becomes_champion_by_it(engine: sa.Engine) -> None:
    made = trials.start(engine, 2, "shadow", verdict="HOLD")
    with pytest.raises(ledger.NotProven, match="says HOLD"):
        rollouts.promote(engine, made, **HOW)
    assert trials.now(engine, made).status == "running"


def test_a_verdict_against_a_champion_of_the_past_starts_nothing(engine: sa.Engine) -> None:
    number = trials.judge(engine, 3, 1)
    trials.crown(engine, 2, 1)
    with pytest.raises(ledger.Superseded, match="version 2 is champion"):
        trials.start(engine, 3, verdict_id=number)


def test_a_spent_verdict_starts_nothing(engine: sa.Engine) -> None:
    spent = trials.crown(engine, 2, 1).verdict_id
    ledger.rollback(engine, "m", actor="ann", reason="bad")
    with pytest.raises(ledger.Superseded, match="rollback by ann"):
        trials.start(engine, 2, verdict_id=spent)


def test_the_champion_itself_or_a_model_without_one_is_not_tried(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="version 1 is champion already"):
        trials.start(engine, 1)
    with pytest.raises(ValueError, match="other has no champion to try version 2 beside"):
        trials.start(engine, 2, model="other")


def test_a_second_canary_is_refused_and_says_which_runs(engine: sa.Engine) -> None:
    trials.start(engine, 2)
    with pytest.raises(
        admission.Underway, match=r"the canary of m version 2 answers 5% of the requests.*by ann: try it"
    ):
        trials.start(engine, 3, "ab")


def test_a_new_shadow_takes_the_place_of_the_old(engine: sa.Engine) -> None:
    old = trials.start(engine, 2, "shadow")
    new = trials.start(engine, 3, "shadow")
    assert rollouts.running(engine) == [new]
    assert rollouts.events(engine, [old.id])[0].reason == "version 3 is the shadow from now on"


def test_starting_what_runs_changes_nothing_and_a_retry_finds_what_its_run_started(engine: sa.Engine) -> None:
    """Invariant I5."""
    first = trials.start(engine, 2, run_key="deploy_m run 1")
    assert trials.start(engine, 2) == first
    ended = rollouts.roll_back(engine, first, **HOW)
    assert trials.start(engine, 2, run_key="deploy_m run 1") == ended
    later = Decision("the limit was wrong", dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
    assert trials.start(engine, 2, run_key="deploy_m run 2", decision=later).id != first.id


def test_a_canary_takes_its_steps_and_then_becomes_champion(engine: sa.Engine) -> None:
    made = trials.start(engine, steps=(5, 50))
    second = rollouts.step(engine, made, **HOW)
    assert (second.share, second.step) == (0.5, 1)
    assert second.changed_at > made.changed_at
    with pytest.raises(ValueError, match="has no step after the one at 50%"):
        rollouts.step(engine, second, **HOW)
    entry = rollouts.promote(engine, second, **HOW)
    assert (entry.to_version, entry.verdict_id, entry.reason) == (2, made.verdict_id, "because")
    assert ledger.champion(engine, "m").version == 2
    assert trials.now(engine, made).status == "promoted"
    assert told(engine, made) == ["start", "step", "promote"]


def test_a_canary_that_is_rolled_back_leaves_its_evidence(engine: sa.Engine) -> None:
    made = trials.start(engine)
    ended = rollouts.roll_back(engine, made, actor="c", reason="error rate 9.0% > 5.0%", evidence={"errors": 9})
    assert ended.status == "rolled_back"
    assert ended.ended_at is not None
    assert told(engine, made) == ["start", "breach", "rollback"]
    newest = rollouts.events(engine, [made.id])[0]
    assert (newest.reason, newest.evidence, newest.share) == ("error rate 9.0% > 5.0%", {"errors": 9}, 0)
    assert ledger.champion(engine, "m").version == 1


@pytest.mark.parametrize("change", [rollouts.step, rollouts.promote, rollouts.roll_back, rollouts.stop])
def test_what_has_ended_is_not_changed_again(engine: sa.Engine, change) -> None:
    made = trials.start(engine)
    rollouts.stop(engine, made, **HOW)
    with pytest.raises(rollouts.Ended, match=r"the canary of m version 2, of .* UTC, has ended: stopped"):
        change(engine, made, **HOW)
    assert told(engine, made) == ["start", "stop"]
    assert ledger.champion(engine, "m").version == 1


def test_a_step_that_another_has_taken_is_not_taken_twice(engine: sa.Engine) -> None:
    made = trials.start(engine, steps=(1, 5, 25))
    rollouts.step(engine, made, **HOW)
    with pytest.raises(rollouts.Ended, match="answers 5% of the requests"):
        rollouts.step(engine, made, **HOW)


def test_a_canary_whose_champion_was_changed_is_not_promoted(engine: sa.Engine) -> None:
    """Promise 26."""
    made = trials.start(engine, 2)
    trials.crown(engine, 3, 1)
    with pytest.raises(ledger.Superseded, match="version 3 is champion"):
        rollouts.promote(engine, made, **HOW)
    assert trials.now(engine, made).status == "running"


def test_what_was_decided_cannot_be_rewritten(engine: sa.Engine) -> None:
    trials.start(engine)
    for statement in ("update rollout_events set reason = 'x'", "delete from rollout_events"):
        with pytest.raises(sa.exc.DatabaseError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_the_database_itself_refuses_a_rollout_without_a_verdict_on_its_content(engine: sa.Engine) -> None:
    made = trials.start(engine)
    rollouts.stop(engine, made, **HOW)
    with pytest.raises(sa.exc.IntegrityError, match="rollouts_verdict_of_the_same"), engine.begin() as connection:
        connection.execute(sa.text("update rollouts set content_hash = 'another'"))


# ------------------------------------------------------------------------------------------------ the way back


def test_going_back_stops_what_is_tried_and_brings_the_champion_before_back(engine: sa.Engine) -> None:
    trials.crown(engine, 2, 1)
    canary, shadow = trials.start(engine, 3, against=2), trials.start(engine, 4, "shadow", against=2)
    back = withdrawal.withdraw(engine, "m", actor="ann", reason="strange answers")
    assert [r.id for r in back.stopped] == [canary.id, shadow.id]
    assert (back.entry.from_version, back.entry.to_version, back.version) == (2, 1, 1)
    assert rollouts.running(engine) == []
    assert rollouts.events(engine, [canary.id])[0].reason == "strange answers"


def test_going_back_to_the_champion_only_stops_what_is_tried(engine: sa.Engine) -> None:
    trials.crown(engine, 2, 1)
    trials.start(engine, 3, against=2)
    back = withdrawal.withdraw(engine, "m", 2, actor="ann", reason="r")
    assert (len(back.stopped), back.entry, back.version) == (1, None, 2)


def test_beside_a_first_champion_going_back_stops_what_is_tried(engine: sa.Engine) -> None:
    trials.start(engine)
    back = withdrawal.withdraw(engine, "m", actor="ann", reason="r")
    assert (len(back.stopped), back.entry, back.version) == (1, None, 1)
    with pytest.raises(ValueError, match="first champion: there is none before it"):
        withdrawal.withdraw(engine, "m", actor="ann", reason="r")


def test_going_back_to_what_never_was_changes_nothing(engine: sa.Engine) -> None:
    made = trials.start(engine)
    with pytest.raises(ValueError, match="version 9 never was champion"):
        withdrawal.withdraw(engine, "m", 9, actor="ann", reason="r")
    assert rollouts.running(engine) == [made]
    with pytest.raises(ValueError, match="nobody has no champion"):
        withdrawal.withdraw(engine, "nobody", actor="ann", reason="r")


def test_a_retried_run_goes_back_once_and_a_person_as_often_as_asked(engine: sa.Engine) -> None:
    """Invariant I5."""
    trials.crown(engine, 2, 1)
    trials.crown(engine, 3, 2)
    runs = [withdrawal.withdraw(engine, "m", actor="rollback_m run 1", reason="r", once=True) for _ in range(2)]
    assert [run.version for run in runs] == [2, 2]
    assert runs[0].entry == runs[1].entry
    assert withdrawal.withdraw(engine, "m", actor="ann", reason="r").version == 1


# ------------------------------------------------------------------------------------------------ killed, and at once

PROMOTER = """
import json, sys
from include import database
from include.deployment import ledger, rollouts
engine = database.connect(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    try:
        [rollout] = rollouts.running(engine, "m")
        done = getattr(rollouts, line.strip())(engine, rollout, actor="child", reason="r", evidence={})
        print(json.dumps({"done": True}), flush=True)
    except (rollouts.Ended, ledger.Superseded, ValueError) as error:
        print(json.dumps({"refused": str(error)}), flush=True)
"""


@pytest.fixture
def child(database_url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROMOTER, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("change", "table"),
    [(change, table) for change in ("step", "promote", "roll_back", "stop") for table in ("rollouts", "rollout_events")]
    + [("promote", "champions"), ("promote", "ledger")],
)
def test_a_process_killed_between_two_steps_of_a_change_has_done_nothing(
    engine: sa.Engine, child: subprocess.Popen[str], change: str, table: str
) -> None:
    """Promise 27."""
    made = trials.start(engine)
    with engine.connect() as blocker:
        blocker.execute(sa.text(f"lock table {table} in exclusive mode"))
        child.stdin.write(f"{change}\n")
        child.stdin.flush()
        wait_for_a_lock(engine)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        blocker.rollback()
    assert trials.now(engine, made) == made
    assert told(engine, made) == ["start"]
    assert ledger.champion(engine, "m").version == 1
    assert rollouts.promote(engine, made, **HOW).to_version == 2


def wait_for_a_lock(engine: sa.Engine) -> None:
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    def is_awaited() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(sa.text(query)).scalar_one())

    until(is_awaited, "a session waits for the lock")


def test_of_a_promotion_and_a_way_back_at_once_one_comes_first_and_both_are_whole(
    engine: sa.Engine, database_url: str
) -> None:
    """Promise 28: they are serialised, and the later decides."""
    for version in range(2, 8):
        made = trials.start(engine, version, against=ledger.champion(engine, "m").version)
        other, refused = database.connect(database_url), []

        def promote(rollout: rollouts.Rollout = made, bind: sa.Engine = other) -> None:
            try:
                rollouts.promote(bind, rollout, **HOW)
            except (rollouts.Ended, ledger.Superseded) as late:
                refused.append(late)

        thread = threading.Thread(target=promote)
        thread.start()
        withdrawal.withdraw(engine, "m", 1, actor="ann", reason="now")
        thread.join()
        other.dispose()
        assert rollouts.running(engine, "m") == []
        assert ledger.champion(engine, "m").version == 1
        assert trials.now(engine, made).status == ("stopped" if refused else "promoted")
