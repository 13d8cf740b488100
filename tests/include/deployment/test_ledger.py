from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa

from include import database
from include.deployment import ledger
from include.deployment.decisions import Decision, NeedsDecision
from tests.waiting import until


@pytest.fixture
def engine(database_url):
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def content(version):
    return f"{version:064x}"


def verdict(engine, version, against=None, verdict="PROMOTE", model="m", content_hash=None):
    with engine.begin() as connection:
        return connection.execute(
            sa.insert(database.verdicts)
            .values(
                model=model,
                version=version,
                verdict=verdict,
                champion_version=against,
                content_hash=content_hash or content(version),
                reasons=["better"],
                numbers={},
            )
            .returning(database.verdicts.c.id)
        ).scalar_one()


def promotion(version, against, verdict_id, **changes):
    return {
        "model": "m",
        "to_version": version,
        "expected_from": against,
        "content_hash": content(version),
        "url": f"served/m/{version}",
        "bento": f"m:{version}",
        "verdict_id": verdict_id,
        "actor": "test",
        "reason": "it is better",
        **changes,
    }


def promote(engine, version, against=None, **changes):
    return ledger.promote(engine, **promotion(version, against, verdict(engine, version, against), **changes))


def test_a_model_has_no_champion_before_its_first_promotion(engine):
    assert ledger.champion(engine, "m") is None
    assert ledger.history(engine, "m") == []


def test_a_promotion_sets_the_champion_and_is_written_down(engine):
    entry = promote(engine, 1)
    champion = ledger.champion(engine, "m")
    assert (champion.version, champion.content_hash, champion.url) == (1, content(1), "served/m/1")
    assert champion.ledger_id == entry.id
    assert champion.since == entry.created_at
    assert ledger.history(engine, "m") == [entry]
    assert (entry.action, entry.from_version, entry.to_version, entry.actor) == ("promote", None, 1, "test")


def test_promoting_the_champion_again_changes_nothing(engine):
    """Invariant I5."""
    first = promote(engine, 1)
    again = ledger.promote(engine, **promotion(1, None, first.verdict_id))
    assert again == first
    assert len(ledger.history(engine, "m")) == 1


def test_a_promotion_against_a_champion_of_the_past_is_told_who_won(engine):
    promote(engine, 1)
    promote(engine, 2, 1)
    with pytest.raises(ledger.Superseded, match=r"version 3 was superseded: version 2 is .*by test") as superseded:
        promote(engine, 3, 1)
    assert superseded.value.winner.to_version == 2
    assert ledger.champion(engine, "m").version == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict_id": 999}, "there is no verdict 999"),
        ({"content_hash": "f" * 64}, "is about m version 1"),
        ({"to_version": 2, "content_hash": content(1)}, "is about m version 1"),
        ({"model": "other"}, "is about m version 1"),
    ],
)
def test_a_champion_needs_a_verdict_on_its_very_content(engine, changes, message):
    """Invariant I2."""
    passing = verdict(engine, 1)
    with pytest.raises(ledger.NotProven, match=message):
        ledger.promote(engine, **{**promotion(1, None, passing), **changes})
    assert ledger.champion(engine, "m") is None


@pytest.mark.parametrize("outcome", ["HOLD", "REJECT"])
def test_only_a_passing_verdict_promotes(engine, outcome):
    held = verdict(engine, 1, verdict=outcome)
    with pytest.raises(ledger.NotProven, match=f"says {outcome}"):
        ledger.promote(engine, **promotion(1, None, held))


def test_a_verdict_against_another_champion_does_not_count(engine):
    promote(engine, 1)
    against_baseline = verdict(engine, 2, None)
    with pytest.raises(ledger.NotProven, match="compared it with the baseline, not with version 1"):
        ledger.promote(engine, **promotion(2, 1, against_baseline))


def test_the_database_itself_refuses_a_champion_without_evidence(engine):
    """Invariant I2 holds whatever the program does."""
    row = {"model": "m", "version": 1, "content_hash": "h", "url": "u", "bento": "b", "ledger_id": 1}
    with pytest.raises(sa.exc.IntegrityError, match="champions_follow_the_ledger"), engine.begin() as connection:
        connection.execute(sa.insert(database.champions).values(**row))
    number = verdict(engine, 1)
    entry = promotion(1, None, number, content_hash="another")
    entry["from_version"] = entry.pop("expected_from")
    with pytest.raises(sa.exc.IntegrityError, match="ledger_verdict_of_the_same"), engine.begin() as connection:
        connection.execute(sa.insert(database.ledger).values(action="promote", **entry))


def test_a_rollback_brings_the_champion_before_back(engine):
    promote(engine, 1)
    promote(engine, 2, 1)
    entry = ledger.rollback(engine, "m", actor="ann", reason="too slow")
    assert (entry.action, entry.from_version, entry.to_version) == ("rollback", 2, 1)
    assert ledger.champion(engine, "m").url == "served/m/1"


def test_rollbacks_go_further_back_and_not_to_and_fro(engine):
    for version in (1, 2, 3):
        promote(engine, version, version - 1 or None)
    assert ledger.rollback(engine, "m", actor="a", reason="r").to_version == 2
    assert ledger.rollback(engine, "m", actor="a", reason="r").to_version == 1
    with pytest.raises(ValueError, match="first champion: there is none before it"):
        ledger.rollback(engine, "m", actor="a", reason="r")


def test_a_rollback_to_a_named_version_can_be_run_again(engine):
    for version in (1, 2, 3):
        promote(engine, version, version - 1 or None)
    first = ledger.rollback(engine, "m", 1, actor="a", reason="r")
    assert ledger.rollback(engine, "m", 1, actor="a", reason="r") == first
    assert len(ledger.history(engine, "m")) == 4


@pytest.mark.parametrize(("to_version", "message"), [(7, "version 7 never was champion"), (None, "has no champion")])
def test_a_rollback_to_what_never_was_is_refused(engine, to_version, message):
    if to_version:
        promote(engine, 1)
    with pytest.raises(ValueError, match=message):
        ledger.rollback(engine, "m", to_version, actor="a", reason="r")


def test_a_late_retry_does_not_promote_again_what_was_rolled_back(engine):
    """Promise 28: the later entry wins; a verdict is spent once."""
    promote(engine, 1)
    promoted = promote(engine, 2, 1)
    ledger.rollback(engine, "m", actor="ann", reason="too slow")
    with pytest.raises(ledger.Superseded, match="rollback by ann: too slow"):
        ledger.promote(engine, **promotion(2, 1, promoted.verdict_id))
    assert ledger.champion(engine, "m").version == 1


def test_what_was_rolled_back_can_return_on_a_new_verdict_and_a_new_decision(engine):
    promote(engine, 1)
    promote(engine, 2, 1)
    ledger.rollback(engine, "m", actor="ann", reason="by mistake")
    with pytest.raises(NeedsDecision, match=r"rolled back .* by ann \(by mistake\)"):
        promote(engine, 2, 1)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    assert promote(engine, 2, 1, decision=Decision("it was well", later)).to_version == 2


PROMOTER = """
import json, sys
from include import database
from include.deployment import ledger
from include.deployment.decisions import Decision, NeedsDecision
engine = database.connect(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(json.dumps({"won": ledger.promote(engine, **json.loads(line)).to_version}), flush=True)
    except ledger.Superseded as error:
        print(json.dumps({"lost_to": error.winner.to_version}), flush=True)
"""


@pytest.fixture
def promoter(database_url):
    started = []

    def start():
        child = subprocess.Popen(
            [sys.executable, "-c", PROMOTER, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_of_two_processes_that_promote_at_once_exactly_one_wins_every_round(engine, promoter):
    """Promise 26 and invariant I1."""
    pair, current, winners = [promoter(), promoter()], None, set()
    for round_number in range(30):
        rivals = (2 * round_number + 1, 2 * round_number + 2)
        orders = [json.dumps(promotion(v, current, verdict(engine, v, current))) for v in rivals]
        start = round_number % 2
        for index in (start, 1 - start):
            pair[index].stdin.write(orders[index] + "\n")
            pair[index].stdin.flush()
        answers = [json.loads(child.stdout.readline()) for child in pair]
        won = [a["won"] for a in answers if "won" in a]
        lost = [a["lost_to"] for a in answers if "lost_to" in a]
        assert len(won) == 1
        assert lost == won
        assert ledger.champion(engine, "m").version == won[0]
        winners.add(won[0] % 2)
        current = won[0]
    entries = ledger.history(engine, "m")
    assert len(entries) == 30
    assert [e.from_version for e in entries[:-1]] == [e.to_version for e in entries[1:]]


def test_of_many_threads_that_promote_at_once_exactly_one_wins(engine, database_url):
    """Promise 26."""
    orders = [promotion(v, None, verdict(engine, v)) for v in range(1, 7)]
    won, lost = [], []

    def run(order):
        own = database.connect(database_url)
        try:
            won.append(ledger.promote(own, **order).to_version)
        except ledger.Superseded as error:
            lost.append(error.winner.to_version)
        finally:
            own.dispose()

    threads = [threading.Thread(target=run, args=(order,)) for order in orders]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(won) == 1
    assert lost == won * 5


@pytest.mark.parametrize("table", ["verdicts", "ledger", "champions"])
def test_a_promoter_killed_between_two_steps_has_done_nothing_and_frees_its_lock(engine, promoter, table):
    """Promise 27: stopped before it reads the verdict, before it writes the ledger, before it sets the champion."""
    promote(engine, 1)
    order = promotion(2, 1, verdict(engine, 2, 1))
    child = promoter()
    mode = "access exclusive" if table == "verdicts" else "exclusive"
    with engine.connect() as blocker:
        blocker.execute(sa.text(f"lock table {table} in {mode} mode"))
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        wait_for_a_lock(engine)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        blocker.rollback()
    assert ledger.champion(engine, "m").version == 1
    assert len(ledger.history(engine, "m")) == 1
    assert ledger.promote(engine, **order).to_version == 2


def wait_for_a_lock(engine):
    waiting = sa.text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )

    def is_awaited() -> bool:
        with engine.connect() as connection:  # a new transaction: within one, the answer does not change
            return bool(connection.execute(waiting).scalar_one())

    until(is_awaited, "a session waits for the lock")


def test_a_rollback_during_a_promotion_waits_and_the_later_entry_wins(engine, database_url):
    """Promise 28."""
    promote(engine, 1)
    promote(engine, 2, 1)
    order = promotion(3, 2, verdict(engine, 3, 2))
    other = database.connect(database_url)
    results = []

    def roll_back():
        results.append(ledger.rollback(other, "m", 1, actor="ann", reason="now"))

    with engine.begin() as blocker:
        blocker.execute(sa.text("lock table champions in exclusive mode"))
        promoting = threading.Thread(target=lambda: results.append(ledger.promote(other, **order)))
        promoting.start()
        wait_for_a_lock(engine)
        rolling = threading.Thread(target=roll_back)
        rolling.start()
        time.sleep(0.2)
        assert results == []
    promoting.join()
    rolling.join()
    other.dispose()
    newest, before, *_ = ledger.history(engine, "m")
    assert (before.to_version, newest.from_version, newest.to_version) == (3, 3, 1)
    assert ledger.champion(engine, "m").version == 1


def test_the_challenger_is_the_newest_judged_version_that_waits(engine):
    assert ledger.challenger(engine, "m") is None
    promote(engine, 1)
    assert ledger.challenger(engine, "m") is None
    verdict(engine, 2, 1, "HOLD")
    assert ledger.challenger(engine, "m") == 2
    verdict(engine, 3, 1, "REJECT")
    assert ledger.challenger(engine, "m") is None


def test_models_do_not_see_each_other(engine):
    promote(engine, 1)
    number = verdict(engine, 9, model="other")
    ledger.promote(engine, **promotion(9, None, number, model="other"))
    assert ledger.champion(engine, "m").version == 1
    assert ledger.champion(engine, "other").version == 9
