"""Turns: what arrives together is answered and recorded together, and nobody suffers for another's row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from include.inference.errors import Refused
from include.inference.predictor import NotComputable
from include.serving.batching.micro_batcher import (
    COUNT_SECONDS,
    LARGEST_BATCH,
    LARGEST_BATCHES,
    MAX_IDLE_CHECKS,
    Batch,
    CommitFuture,
    MicroBatcher,
    Rows,
)
from include.serving.control.reconciler import Reconciler
from include.serving.metrics.counters import ArmCounters
from include.serving.metrics.prometheus import Metrics
from include.serving.prediction_log.log import LogFull
from include.serving.routing.route import Arm, Route
from include.serving.versions.disk_cache import write_bundle
from include.serving.versions.loader import Loaded
from tests.include.serving.crafted import ROWS, champion_of, craft


class Memory:
    """Records in memory; those who wait are told when the test wants it."""

    writing = False

    def __init__(self, failure: Exception | None = None, *, at_once: bool = True) -> None:
        self.commits: list[tuple[bytes, int]] = []
        self.waiting: list[Callable[[Exception | None], None]] = []
        self._failure, self._at_once = failure, at_once

    def commit(self, lines: bytes, rows: int, done: Callable[[Exception | None], None], table: str = "") -> None:
        self.commits.append((lines, rows))
        if self._at_once:
            asyncio.get_running_loop().call_soon(done, self._failure)
        else:
            self.waiting.append(done)

    def append(self, lines: bytes, rows: int, table: str = "") -> None:
        self.commits.append((lines, rows))

    def afterwards(self, call: Callable[[], object]) -> None:
        raise AssertionError("nothing is being written")

    def state(self) -> dict[str, Any]:
        return {}


def loaded_of(folder: Path, version: int = 7, **craft_arguments: Any) -> Loaded:
    crafted = craft(folder / "form", **craft_arguments)
    write_bundle(folder / "served", crafted.form, champion_of(crafted, version))
    models = Reconciler(Metrics(CollectorRegistry()), bundled=folder / "served")
    models.start()
    route = models.route("trips")
    assert route
    return route.champion.loaded


def arm_of(loaded: Loaded, name: str = "champion") -> Arm:
    return Arm(name, loaded, None, ArmCounters("trips", name, loaded.version))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded_of(tmp_path_factory.mktemp("loaded"))


async def ask(turns: MicroBatcher, route: Route, arm: Arm, row: dict[str, Any]) -> bytes:
    """As the application asks."""
    body = json.dumps(row).encode()
    rows: Rows = turns.add(route, arm, arm.loaded.predictor.schema.row(body), body, "somebody", 0.0)
    n = len(rows.rows) - 1
    failure = await rows.committed
    if failure is not None:
        raise failure
    answer = rows.answers[n]
    if isinstance(answer, Exception):
        raise answer
    return answer


def all_of(turns: MicroBatcher, route: Route, rows: list[dict[str, Any]], arm: Arm | None = None) -> list[Any]:
    async def together() -> list[Any]:
        asked = (ask(turns, route, arm or route.champion, row) for row in rows)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(together())


def test_rows_of_one_turn_are_answered_each_with_its_own_and_written_at_once(loaded: Loaded) -> None:
    memory = Memory()
    answers = all_of(MicroBatcher(memory), Route("trips", arm_of(loaded)), ROWS)
    documents = [json.loads(answer) for answer in answers]
    assert [d["prediction"] for d in documents] == pytest.approx(loaded.predictor.golden["expected"])
    assert len({d["prediction_id"] for d in documents}) == len(ROWS)
    ((lines, count),) = memory.commits
    assert count == len(ROWS) == lines.count(b"\n")
    for document in documents:
        assert document["prediction_id"].encode() in lines.replace(b"-", b"")


def test_a_row_alone_gets_the_very_answer_that_it_gets_among_others(loaded: Loaded) -> None:
    route = Route("trips", arm_of(loaded))
    alone = [json.loads(all_of(MicroBatcher(Memory()), route, [row])[0])["prediction"] for row in ROWS]
    together = [json.loads(answer)["prediction"] for answer in all_of(MicroBatcher(Memory()), route, ROWS)]
    assert alone == pytest.approx(together, rel=1e-9)


def test_only_the_row_that_is_wrong_is_refused_and_it_is_not_recorded(loaded: Loaded) -> None:
    """One client's value must not become another's error."""
    memory = Memory()
    rows = [ROWS[0], {**ROWS[1], "passenger_count": 1.5}, ROWS[2]]
    first, wrong, last = all_of(MicroBatcher(memory), Route("trips", arm_of(loaded)), rows)
    assert isinstance(wrong, Refused)
    assert (wrong.status, wrong.field) == (422, "passenger_count")
    expected = loaded.predictor.golden["expected"]
    assert [json.loads(a)["prediction"] for a in (first, last)] == pytest.approx([expected[0], expected[2]])
    ((lines, count),) = memory.commits
    assert count == 2 == lines.count(b"\n")


def test_what_a_challenger_cannot_answer_the_champion_does(loaded: Loaded, tmp_path: Path) -> None:
    broken = loaded_of(tmp_path, 8, scale=1e300)  # it overflows for large distances
    canary, champion = arm_of(broken, "canary"), arm_of(loaded)
    route = Route("trips", champion, challenger=canary, share=1.0)
    turns, rows = MicroBatcher(Memory()), [ROWS[0], {**ROWS[1], "trip_distance": 3e38}]
    first, second = map(json.loads, all_of(turns, route, rows, canary))
    assert first["version"] == 8
    assert second["version"] == 7
    assert canary.tally.take().errors == 1
    assert champion.tally.take().errors == 0


def test_an_answer_that_cannot_be_recorded_is_not_given(loaded: Loaded) -> None:
    full = LogFull("full")
    assert all_of(MicroBatcher(Memory(full)), Route("trips", arm_of(loaded)), ROWS[:2]) == [full, full]


def test_no_answer_leaves_before_it_is_recorded(loaded: Loaded) -> None:
    memory = Memory(at_once=False)
    turns, route = MicroBatcher(memory), Route("trips", arm_of(loaded))

    async def watch() -> None:
        asked = [asyncio.ensure_future(ask(turns, route, route.champion, row)) for row in ROWS[:3]]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in asked)
        memory.waiting[0](None)
        await asyncio.gather(*asked)

    asyncio.run(watch())


def test_a_request_that_is_cancelled_takes_no_other_with_it(loaded: Loaded) -> None:
    memory = Memory(at_once=False)
    turns, route = MicroBatcher(memory), Route("trips", arm_of(loaded))

    async def cancel_one() -> list[Any]:
        asked = [asyncio.ensure_future(ask(turns, route, route.champion, row)) for row in ROWS[:3]]
        await asyncio.sleep(0.01)
        asked[1].cancel()
        await asyncio.sleep(0.01)
        memory.waiting[0](None)
        return await asyncio.gather(*asked, return_exceptions=True)

    first, cancelled, last = asyncio.run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert json.loads(first)["version"] == json.loads(last)["version"] == 7


def test_a_disk_that_does_not_answer_holds_no_request_for_ever(loaded: Loaded) -> None:
    memory = Memory(at_once=False)
    (late,) = all_of(MicroBatcher(memory, seconds=0.05), Route("trips", arm_of(loaded)), ROWS[:1])
    assert isinstance(late, Refused)
    assert (late.status, late.code) == (503, "not_recorded")
    memory.waiting[0](None)  # it answers after all: nobody minds


def test_a_turn_does_not_grow_without_end(loaded: Loaded) -> None:
    memory = Memory()
    answers = all_of(
        MicroBatcher(memory), Route("trips", arm_of(loaded)), [ROWS[n % 12] for n in range(LARGEST_BATCH + 40)]
    )
    assert all(isinstance(answer, bytes) for answer in answers)
    assert [count for _, count in memory.commits] == [LARGEST_BATCH, 40]


def test_a_failing_log_fails_its_turn_and_no_other(loaded: Loaded) -> None:
    class Broken(Memory):
        def commit(self, lines: bytes, rows: int, done: Callable[[Exception | None], None], table: str = "") -> None:
            if not self.commits:
                self.commits.append((b"", 0))
                raise OSError("the disk has gone")
            super().commit(lines, rows, done)

    turns, route = MicroBatcher(Broken()), Route("trips", arm_of(loaded))
    (failed,) = all_of(turns, route, ROWS[:1])
    assert isinstance(failed, Refused)
    assert failed.status == 500
    (answered,) = all_of(turns, route, ROWS[:1])
    assert json.loads(answered)["version"] == 7


def joined(turns: MicroBatcher, arm: Arm, bodies: list[bytes]) -> list[np.ndarray | None]:
    """The predictions that batches get when they join one turn."""
    found: list[np.ndarray | None] = []

    def taking(predictions: np.ndarray | None) -> tuple[bytes, int]:
        found.append(predictions)
        return b"", 1 if predictions is None else len(predictions)

    async def together() -> None:
        schema = arm.loaded.predictor.schema
        for committed in [turns.join(Batch(arm, schema.many(body), taking)) for body in bodies]:
            assert await committed is None

    asyncio.run(together())
    return found


def test_batches_of_one_turn_are_predicted_by_one_call_each_gets_its_own(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, called = loaded.predictor, []
    monkeypatch.setattr(
        loaded.predictor, "predict", lambda columns: called.append(1) or type(predictor).predict(predictor, columns)
    )
    sizes = [1, 7, 3]
    bodies = [json.dumps({"rows": [ROWS[(n + size) % 12] for n in range(size)]}).encode() for size in sizes]
    found = joined(MicroBatcher(Memory()), arm_of(loaded), bodies)
    assert len(called) == 1
    for body, predictions in zip(bodies, found, strict=True):
        alone = type(predictor).predict(predictor, predictor.schema.many(body).columns)
        assert predictions is not None
        assert predictions.tolist() == alone.tolist()


def test_batches_that_cannot_be_predicted_together_are_left_to_themselves(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(columns: Any) -> np.ndarray:
        raise NotComputable(3)

    monkeypatch.setattr(loaded.predictor, "predict", fails)
    bodies = [json.dumps({"rows": some}).encode() for some in (ROWS[:2], ROWS[2:4])]
    assert [part is None for part in joined(MicroBatcher(Memory()), arm_of(loaded), bodies)] == [True, True]


def test_many_rows_of_batches_end_their_turn(loaded: Loaded) -> None:
    memory = Memory()
    bodies = [json.dumps({"rows": ROWS[:10]}).encode()] * (LARGEST_BATCHES // 10 + 2)
    assert sum(len(part) for part in joined(MicroBatcher(memory), arm_of(loaded), bodies) if part is not None) >= 1000
    assert len(memory.commits) == 2


def noted(*steps: str, fault: Exception | None = None) -> list[Any]:
    """What those who wait are called for when a turn takes these steps."""

    async def run() -> list[Any]:
        committed = CommitFuture(asyncio.get_running_loop(), 60)
        notes: list[Any] = []
        does: dict[str, Callable[[], None]] = {
            "then": lambda: committed.then(Noting(notes, fault)),
            "answers": committed.prepare,
            "recorded": lambda: committed.settle(None),
            "failed": lambda: committed.settle(TOO_LATE),
        }
        for step in steps:
            does[step]()
        return notes

    return asyncio.run(run())


TOO_LATE = RuntimeError("too late")


class Noting:
    """Waits, and notes what it is called for."""

    def __init__(self, notes: list[Any], fault: Exception | None = None) -> None:
        self.notes, self.fault = notes, fault

    def prepare(self) -> None:
        self.notes.append("prepare")
        if self.fault:
            raise self.fault

    def resolve(self, failure: Exception | None) -> None:
        self.notes.append(failure)
        if self.fault:
            raise self.fault

    def count(self) -> None:
        self.notes.append("count")


class Disk(Memory):
    """Is written to until the test says that it is done."""

    def __init__(self) -> None:
        super().__init__(at_once=False)
        self.next: list[Callable[[], object]] = []

    @property
    def writing(self) -> bool:  # type: ignore[override]
        return bool(self.waiting)

    def afterwards(self, call: Callable[[], object]) -> None:
        self.next.append(call)

    def done(self) -> None:
        """As the prediction log does it: first those who wait, then who comes after."""
        (resolve,), self.waiting = self.waiting, []
        resolve(None)
        calls, self.next = self.next, []
        for call in calls:
            call()


async def loops(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_who_asks_again_as_soon_as_the_answers_have_left_is_in_the_next_turn(loaded: Loaded) -> None:
    """Else clients that wait for their answers would fall into halves, and each would pay for a turn and a write."""
    row, arm = json.dumps(ROWS[0]).encode(), arm_of(loaded)

    async def run() -> list[int]:
        disk, loop = Disk(), asyncio.get_running_loop()
        turns = MicroBatcher(disk)

        def asked() -> CommitFuture:
            schema = loaded.predictor.schema
            return turns.add(Route("trips", arm), arm, schema.row(row), row, None, 0.0).committed

        class Client(Noting):
            def resolve(self, failure: Exception | None) -> None:
                loop.call_soon(loop.call_soon, asked)  # its answer is sent, then its next request is read

        asked().then(Client([]))
        await loops(4)
        asked()
        await loops(4)
        assert [rows for _, rows in disk.commits] == [1]
        disk.done()
        await loops(4)
        return [rows for _, rows in disk.commits]

    assert asyncio.run(run()) == [1, 2]


@pytest.mark.parametrize(
    ("clients", "turns"),
    [(1, [1]), (4, [4]), (20, [MAX_IDLE_CHECKS + 1, MAX_IDLE_CHECKS + 1, 18 - 2 * MAX_IDLE_CHECKS])],
)
def test_a_turn_goes_on_while_each_look_finds_somebody_new_and_not_for_ever(
    loaded: Loaded, clients: int, turns: list[int]
) -> None:
    """Their answers left one after the other, so they ask one after the other."""
    row, arm, memory = json.dumps(ROWS[0]).encode(), arm_of(loaded), Memory()

    async def run() -> None:
        loop, collected = asyncio.get_running_loop(), MicroBatcher(memory)

        def ask_and_let_ask(left: int) -> None:
            if left:
                loop.call_soon(loop.call_soon, ask_and_let_ask, left - 1)  # is read before the loop's next look ends
            collected.add(Route("trips", arm), arm, loaded.predictor.schema.row(row), row, None, 0.0)

        ask_and_let_ask(clients - 1)
        await loops(4 * clients + 4)

    asyncio.run(run())
    assert [rows for _, rows in memory.commits] == turns


def test_who_was_told_is_counted_when_the_next_write_has_begun_or_soon(loaded: Loaded) -> None:
    row, arm = json.dumps(ROWS[0]).encode(), arm_of(loaded)

    async def run() -> None:
        disk = Disk()
        turns = MicroBatcher(disk)

        async def told(fault: Exception | None = None) -> list[Any]:
            notes: list[Any] = []
            rows = turns.add(Route("trips", arm), arm, loaded.predictor.schema.row(row), row, None, 0.0)
            rows.committed.then(Noting(notes))
            await loops(4)
            disk.done()
            return notes

        first = await told()
        assert first == ["prepare", None]
        second = await told()
        assert first == ["prepare", None, "count"]
        await asyncio.sleep(10 * COUNT_SECONDS)
        assert second == ["prepare", None, "count"]
        third = await told()
        turns.count()
        assert third == ["prepare", None, "count"]

    asyncio.run(run())


def test_an_answer_is_prepared_while_the_disk_writes_and_told_when_it_has() -> None:
    assert noted("then", "answers") == ["prepare"]
    assert noted("then", "answers", "recorded") == ["prepare", None]
    assert noted("then", "answers", "failed") == ["prepare", TOO_LATE]


def test_what_is_recorded_before_there_are_answers_is_told_when_there_are() -> None:
    assert noted("then", "recorded") == []
    assert noted("then", "recorded", "answers") == [None]
    assert noted("then", "failed") == [TOO_LATE]


def test_who_asks_when_all_is_known_is_told_at_once_and_told_once() -> None:
    assert noted("then", "answers", "recorded", "failed", "then") == ["prepare", None, None]


def test_one_answers_fault_keeps_no_other_waiting() -> None:
    fault = ValueError("no answer")
    assert noted("then", "then", "answers", "recorded", fault=fault) == ["prepare", "prepare", None, None]
