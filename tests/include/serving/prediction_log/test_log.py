"""Promises I3, 36, 40 and 41: what was acknowledged is in PostgreSQL once, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from include import database
from include.monitoring import forgetting
from include.serving.prediction_log import log as prediction_log
from include.serving.prediction_log import segments
from include.serving.prediction_log.copy_text import prediction_lines
from include.serving.prediction_log.log import LogFull, PredictionLog
from include.serving.versions.response_encoder import prediction_ids
from include.stack import postgres
from tests.conftest import ROOT, free_port
from tests.waiting import eventually, until

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


def libpq(url: str) -> str:
    return re.sub(r"^postgresql\+\w+://", "postgresql://", url)


def ask(url: str, query: str, *parameters: object) -> list[tuple]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        return connection.execute(query, parameters).fetchall()


def copied(url: str) -> list[str]:
    """The ids in PostgreSQL, in the order in which they came."""
    return [row[0].hex for row in ask(url, "select id from predictions order by tableoid, ctid")]


def lines(ids: list[str], at: float | None = None, **changes: object) -> bytes:
    count = len(ids)
    told: dict[str, Any] = {
        "model": "trips",
        "version": 3,
        "arm": "champion",
        "at": time.time() if at is None else at,
        "latency_ms": 1.25,
        "inputs": [b'{"distance":1.5,"zone":"a"}'] * count,
        "outputs": [b'"prediction":12.5'] * count,
        "scores": [12.5] * count,
        "entities": None,
        "callers": ["shop"] * count,
    }
    return prediction_lines(ids, **told | changes)


async def commit(log: PredictionLog, content: bytes, table: str = "predictions") -> Exception | None:
    done = asyncio.get_running_loop().create_future()
    log.commit(content, content.count(b"\n"), done.set_result, table)
    return await done


def on_a_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run to its end."""

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        asyncio.run(test(*arguments, **named))

    return run


@contextlib.asynccontextmanager
async def running(folder: Path, url: str, **settings: Any) -> AsyncIterator[PredictionLog]:
    log = PredictionLog(folder, database_url=url, **{"registry": CollectorRegistry(), **settings})
    log.start(asyncio.get_running_loop())
    try:
        yield log
    finally:
        await log.stop()


async def traffic(log: PredictionLog, stop: asyncio.Event, rows: int = 5, pause: float = 0.002) -> list[str]:
    """Commit groups until told to stop; returns the acknowledged ids in their order."""
    acknowledged = []
    while not stop.is_set():
        ids = prediction_ids(rows)
        assert await commit(log, lines(ids)) is None
        acknowledged += ids
        await asyncio.sleep(pause)
    return acknowledged


def in_spool(folder: Path) -> list[str]:
    """The ids of all frames on disk, as somebody finds them who comes after a crash."""
    found = []
    for slot in sorted(folder.glob("slot-*")):
        for path in sorted(slot.glob("*.seg")):
            for frame in segments.read(path, int(path.stem)):
                found += [line.split(b"\t", 1)[0].decode() for line in bytes(frame.lines).splitlines()]
    return found


# ------------------------------------------------------------------------------------------------ lines


NASTY = 'tab\t newline\n return\r backslash \\ quote " \\N \\. ünï 東京 \u2028 \x07'


def test_whatever_text_there_is_arrives_as_it_was(tmp_path, database_url):
    ids = prediction_ids(3)
    given = {"zone": NASTY, "raw": "\\u0041 \\\\u0000"}
    pretty = json.dumps(given, indent=2).encode()  # a client's own white space between the parts
    changes = {
        "model": NASTY,
        "inputs": [json.dumps(given).encode(), json.dumps(given, ensure_ascii=False).encode(), pretty],
        "outputs": [json.dumps({"prediction": NASTY})[1:-1].encode()] * 3,
        "scores": [None, 1e308, -0.1],
        "entities": [NASTY, None, "\\N"],
        "callers": ["shop", NASTY, None],
    }

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            assert await commit(log, lines(ids, 1_700_000_000.25, **changes)) is None

    asyncio.run(write())
    columns = "model, inputs, output, prediction, entity, caller, version, arm, latency_ms, extract(epoch from at)"
    rows = ask(
        database_url, f"select {columns} from predictions order by array_position(%s, id)", list(map(uuid.UUID, ids))
    )
    assert [row[0] for row in rows] == [NASTY] * 3
    assert [row[1] for row in rows] == [given] * 3
    assert [row[2] for row in rows] == [{"prediction": NASTY}] * 3
    assert [row[3] for row in rows] == [None, 1e308, -0.1]
    assert [row[4] for row in rows] == [NASTY, None, "\\N"]
    assert [row[5] for row in rows] == ["shop", NASTY, None]
    assert {row[6:] for row in rows} == {(3, "champion", 1.25, 1_700_000_000.25)}


def test_a_nul_that_postgresql_has_no_room_for_does_not_cost_the_row(tmp_path, database_url):
    inputs = [b'{"a":"\\u0000"}', b'{"a":"\\\\u0000"}', b'{"a":"\\\\\\u0000"}']

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            content = lines(prediction_ids(3), inputs=inputs, entities=["a\0b"] * 3)
            assert await commit(log, content) is None

    asyncio.run(write())
    rows = ask(database_url, "select inputs ->> 'a', entity from predictions order by ctid")
    assert [row[0] for row in rows] == ["\ufffd", "\\u0000", "\\\ufffd"]
    assert {row[1] for row in rows} == {"a\ufffdb"}


# ------------------------------------------------------------------------------------------------ committing


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_what_is_acknowledged_is_in_the_spool_and_soon_in_postgresql_once(fsync, tmp_path, database_url):
    async def write() -> list[str]:
        async with running(tmp_path, database_url, fsync=fsync) as log:
            ids = prediction_ids(7)
            assert await commit(log, lines(ids[:4])) is None
            assert in_spool(tmp_path) == ids[:4]
            assert await commit(log, lines(ids[4:])) is None
            assert in_spool(tmp_path) == ids
            await eventually(lambda: len(copied(database_url)) == 7)
            return ids

    assert asyncio.run(write()) == copied(database_url)


def test_groups_that_come_while_one_is_written_share_the_next_write(tmp_path, database_url):
    async def write() -> tuple[PredictionLog, list[str]]:
        async with running(tmp_path, database_url) as log:
            assert await commit(log, lines(prediction_ids(1))) is None
            order: list[str] = []
            groups = [commit(log, lines(prediction_ids(2))) for _ in range(50)]
            first = asyncio.ensure_future(groups[0])
            await asyncio.sleep(0)
            assert log.writing
            log.afterwards(lambda: order.append("afterwards"))
            first.add_done_callback(lambda _: order.append("answered"))
            assert await asyncio.gather(first, *groups[1:]) == [None] * 50
            await asyncio.sleep(0)
        return log, order

    log, order = asyncio.run(write())
    assert log.metrics.syncs._value.get() in (3, 4)  # 4 where the disk is done before the next has come
    assert sorted(order) == ["afterwards", "answered"]
    assert len(copied(database_url)) == 101


def test_labels_and_predictions_go_each_to_their_table(tmp_path, database_url):
    label = (
        f"trips\t{uuid.uuid4().hex}\t\\N\t12.5\t2026-03-02T08:30:00Z\t2026-03-02T08:31:00Z\tshop\t{uuid.uuid4().hex}\n"
    )

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            groups = [commit(log, lines(prediction_ids(2))), commit(log, label.encode(), "labels")] * 1
            groups += [commit(log, lines(prediction_ids(1))), commit(log, label.encode() * 2, "labels")]
            assert await asyncio.gather(*groups) == [None] * 4

    asyncio.run(write())
    assert len(copied(database_url)) == 3
    assert ask(database_url, "select count(*), min(label::text) from labels") == [(3, "12.5")]


def test_what_a_thread_appends_arrives_too(tmp_path, database_url):
    ids = prediction_ids(2)

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            log.append(lines(ids[:1]), 1)
            await asyncio.to_thread(log.append, lines(ids[1:], arm="shadow"), 1)

    asyncio.run(write())
    assert sorted(copied(database_url)) == sorted(ids)


def test_segments_follow_each_other_and_are_used_again(tmp_path, database_url):
    async def write() -> list[str]:
        async with running(tmp_path, database_url, spool_megabytes=0.6) as log:  # of 36,864 bytes each
            acknowledged = []
            for _ in range(60):
                ids = prediction_ids(40)
                assert await commit(log, lines(ids)) is None
                acknowledged += ids
                await asyncio.sleep(0.01)
            await eventually(lambda: log.state()["backlog_bytes"] == 0)
            return acknowledged

    acknowledged = asyncio.run(write())
    assert copied(database_url) == acknowledged
    files = [path.name for path in (tmp_path / "slot-0").iterdir()]
    assert len(files) < 6
    assert max(files) > "000000000008.seg"


def test_a_row_larger_than_a_segment_is_recorded_like_any_other(tmp_path, database_url):
    ids = prediction_ids(3)
    large = lines(ids[1:2], inputs=[json.dumps({"text": "ü" * 300_000}).encode()])

    async def write() -> None:
        async with running(tmp_path, database_url, spool_megabytes=8) as log:
            for content in (lines(ids[:1]), large, lines(ids[2:])):
                assert await commit(log, content) is None

    asyncio.run(write())
    assert copied(database_url) == ids
    assert ask(database_url, "select max(length(inputs ->> 'text')) from predictions") == [(300_000,)]


def test_a_row_of_any_day_finds_its_partition_and_one_of_no_day_is_put_aside(tmp_path, database_url):
    ids = prediction_ids(4)
    days = [0, 951_782_400, time.time() + 40 * 86_400]  # 1970, a leap day, next month
    never = re.sub(
        rb"champion\t[^\t]*", b"champion\t294276-12-31 12:00:00+00", lines(ids[3:])
    )  # its last, without an end

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            for prediction_id, at in zip(ids, days, strict=False):
                assert await commit(log, lines([prediction_id], at)) is None
            assert await commit(log, never) is None

    asyncio.run(write())
    assert sorted(copied(database_url)) == sorted(ids[:3])
    found = dict(ask(database_url, "select tableoid::regclass::text, count(*) from predictions group by 1"))
    assert found["predictions_19700101"] == found["predictions_20000229"] == 1
    assert (tmp_path / "slot-0" / "rejected-predictions").read_bytes() == never


def test_a_row_that_postgresql_refuses_does_not_hold_the_others_up(tmp_path, database_url):
    ids = prediction_ids(400)
    poison = lines(ids[123:124], inputs=[b'{"a":tru}']) + lines(ids[124:125], inputs=[b'{"a":1,}'])
    groups = [lines(ids[:123]), poison, lines(ids[125:])]

    async def write() -> PredictionLog:
        async with running(tmp_path / "spool", database_url, home=tmp_path) as log:
            assert await asyncio.gather(*(commit(log, group) for group in groups)) == [None] * 3
        return log

    log = asyncio.run(write())
    assert copied(database_url) == ids[:123] + ids[125:]
    assert (tmp_path / "spool" / "slot-0" / "rejected-predictions").read_bytes() == poison
    assert log.metrics.rejected._value.get() == 2
    assert log.metrics.drained._value.get() == 398
    alert = json.loads((tmp_path / "logs" / "alerts.jsonl").read_text())
    assert alert["event"] == "prediction_log_rejected"
    assert "refused 2 rows" in alert["message"]


# ------------------------------------------------------------------------------------------------ PostgreSQL away


class Server:
    """A PostgreSQL of a test's own, to be killed."""

    def __init__(self, data: Path) -> None:
        self._data, self.port = data, free_port()
        postgres.prepare(data, "secret")
        self.url = f"postgresql+psycopg2://postgres:secret@127.0.0.1:{self.port}/postgres"
        self.start()
        engine = database.connect(self.url)
        database.migrate(engine)
        engine.dispose()

    def start(self) -> None:
        command = postgres.standalone(self._data, self.port, self._data.parent / "log")
        self.process = subprocess.Popen(command, start_new_session=True)
        until(lambda: ask(self.url, "select 1"), "PostgreSQL answers", ignore=psycopg.OperationalError)

    def kill(self, sign: int = signal.SIGQUIT) -> None:
        self.process.send_signal(sign)
        self.process.wait(30)

    def signal_all(self, sign: int) -> None:
        os.killpg(self.process.pid, sign)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"mlops-pg-{uuid.uuid4().hex[:8]}"
    server = Server(folder / "data")
    yield server
    server.signal_all(signal.SIGCONT)
    server.kill()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.slow
def test_postgresql_is_killed_under_load_and_everything_arrives_in_order_once(tmp_path, server):
    """Promise 40."""

    async def write() -> tuple[list[str], int]:
        async with running(tmp_path, server.url) as log:
            stop = asyncio.Event()
            load = asyncio.ensure_future(traffic(log, stop))
            await asyncio.sleep(1)
            await asyncio.to_thread(server.kill)
            await eventually(lambda: log.state()["backlog_rows"] > 1000)
            await eventually(lambda: log.metrics.backlog_rows._value.get() > 1000)
            state = log.state()
            assert state["backlog_bytes"] > 100_000
            assert state["oldest_seconds"] > 0.5
            assert state["problem"]
            await asyncio.to_thread(server.start)
            await eventually(lambda: log.state()["problem"] is None)
            await eventually(lambda: log.state()["backlog_rows"] < 500)
            stop.set()
            return await load, log.metrics.dropped._value.get()

    acknowledged, dropped = asyncio.run(write())
    assert copied(server.url) == acknowledged
    assert dropped == 0


@pytest.mark.slow
def test_postgresql_hangs_for_a_while_and_nothing_is_lost_or_doubled(tmp_path, server):
    async def write() -> list[str]:
        async with running(tmp_path, server.url) as log:
            stop = asyncio.Event()
            load = asyncio.ensure_future(traffic(log, stop))
            for _ in range(3):
                await asyncio.sleep(0.7)
                server.signal_all(signal.SIGSTOP)
                await asyncio.sleep(0.7)
                server.signal_all(signal.SIGCONT)
            stop.set()
            return await load

    assert asyncio.run(write()) == copied(server.url)


@pytest.mark.slow
def test_connections_are_cut_at_any_moment_and_nothing_is_lost_or_doubled(tmp_path, database_url, monkeypatch):
    """Also in the middle of a COPY, and of a commit that nobody is told of."""
    monkeypatch.setattr("include.serving.prediction_log.shipper.LINGER_SECONDS", 0.0)
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mlops-prediction-log'"
    chance, cuts = random.Random(3), 0

    def interrupt(ended: threading.Event) -> None:
        nonlocal cuts
        while not ended.is_set():
            cuts += sum(row[0] for row in ask(database_url, cut))
            time.sleep(chance.uniform(0, 0.03))

    async def write() -> list[str]:
        async with running(tmp_path, database_url) as log:
            stop, ended = asyncio.Event(), threading.Event()
            load = asyncio.ensure_future(traffic(log, stop, rows=200))
            interrupting = threading.Thread(target=interrupt, args=(ended,))
            interrupting.start()
            await asyncio.sleep(6)
            stop.set()
            acknowledged = await load
            ended.set()
            interrupting.join()
            await eventually(lambda: log.state()["backlog_bytes"] == 0)
            return acknowledged

    acknowledged = asyncio.run(write())
    assert cuts > 4
    assert sorted(copied(database_url)) == sorted(acknowledged)  # what is inserted after an abort may lie anywhere


def test_a_transaction_that_an_earlier_drain_left_behind_is_waited_for_and_not_repeated(tmp_path, database_url):
    """The service was killed while its transaction was being committed: PostgreSQL finishes it after the restart."""
    ids = prediction_ids(3)

    async def fill() -> None:
        async with running(tmp_path, NOWHERE) as log:
            assert await commit(log, lines(ids)) is None

    asyncio.run(fill())
    slot = f"{segments.folder_id(tmp_path)}/slot-0"
    end = (tmp_path / "slot-0" / "000000000001.seg").stat().st_size
    with psycopg.connect(libpq(database_url), autocommit=True) as zombie:
        zombie.execute("insert into spool_positions values (%s, 0, 0)", (slot,))
        zombie.execute("select make_prediction_partition(current_date)")
        zombie.execute("begin")
        zombie.execute("update spool_positions set segment = 1, position = %s where slot = %s", (end, slot))
        with zombie.cursor().copy(f"copy predictions ({prediction_log_columns()}) from stdin") as copy:
            copy.write(lines(ids))

        async def restart() -> None:
            async with running(tmp_path, database_url) as log:
                await asyncio.sleep(1)
                assert copied(database_url) == []
                zombie.execute("commit")
                await eventually(lambda: log.state()["backlog_rows"] == 0 and len(copied(database_url)) == 3)
                assert await commit(log, lines(prediction_ids(1))) is None

        asyncio.run(restart())
    assert copied(database_url)[:3] == ids
    assert len(copied(database_url)) == 4


def prediction_log_columns() -> str:
    from include.serving.prediction_log.copy_text import COLUMNS

    return COLUMNS["predictions"]


# ------------------------------------------------------------------------------------------------ killed


WRITER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from prometheus_client import CollectorRegistry
    from include.serving.versions.response_encoder import prediction_ids
    from include.serving.prediction_log.log import PredictionLog
    from tests.include.serving.prediction_log.test_log import commit, lines

    async def client(log):
        while True:
            ids = prediction_ids(7)
            assert await commit(log, lines(ids)) is None
            sys.stdout.write("".join(f"{i}\\n" for i in ids))
            sys.stdout.flush()

    async def main(folder, url, fsync):
        log = PredictionLog(
            Path(folder), database_url=url, fsync=fsync, spool_megabytes=60, registry=CollectorRegistry()
        )
        log.start(asyncio.get_running_loop())
        await asyncio.gather(*(client(log) for _ in range(8)))

    asyncio.run(main(*sys.argv[1:]))
""")


def killed_writer(folder: Path, url: str, fsync: str, seconds: float) -> list[str]:
    """The ids that a process had acknowledged when it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), url, fsync], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert child.stdout is not None
    told = [child.stdout.readline().strip()]
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    told += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return [prediction_id for prediction_id in told if len(prediction_id) == 32]


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_every_acknowledged_prediction_of_killed_processes_is_in_postgresql_once(fsync, tmp_path, database_url):
    """Promise 36: killed under load, three times over, sometimes while copying."""
    acknowledged: list[str] = []
    for seconds, url in ((0.4, database_url), (0.9, NOWHERE), (0.6, libpq(database_url))):
        acknowledged += killed_writer(tmp_path, url, fsync, seconds)

    async def restart() -> None:
        async with running(tmp_path, database_url, fsync=fsync) as log:
            await eventually(
                lambda: log.state()["backlog_bytes"] == 0 and set(acknowledged) <= set(copied(database_url))
            )

    asyncio.run(restart())
    found = copied(database_url)
    assert len(acknowledged) > 1000
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert {path.name for path in tmp_path.glob("slot-*")} == {"slot-0"}


@pytest.mark.slow
def test_what_a_worker_leaves_is_copied_by_one_that_lives(tmp_path, database_url):
    async def live() -> list[str]:
        async with running(tmp_path, database_url) as log:
            assert await commit(log, lines(own)) is None
            acknowledged = await asyncio.to_thread(killed_writer, tmp_path, NOWHERE, "always", 1.0)
            await eventually(lambda: set(acknowledged) <= set(copied(database_url)))
            await eventually(lambda: log.state()["backlog_bytes"] == 0)
            return acknowledged

    own = prediction_ids(5)
    acknowledged = asyncio.run(live())
    found = copied(database_url)
    assert set(own + acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert sum(path.stat().st_size for path in (tmp_path / "slot-1").glob("*.seg")) == 0
    later = killed_writer(tmp_path, NOWHERE, "always", 0.3)  # the slot is used again, its numbers are not

    async def restart() -> None:
        async with running(tmp_path, database_url):
            await eventually(lambda: set(later) <= set(copied(database_url)))

    asyncio.run(restart())


def test_two_workers_have_a_slot_each_and_all_rows_arrive(tmp_path, database_url):
    async def both() -> list[str]:
        async with running(tmp_path, database_url) as one, running(tmp_path, database_url) as other:
            stop = asyncio.Event()
            load = [asyncio.ensure_future(traffic(log, stop)) for log in (one, other)]
            await asyncio.sleep(1)
            stop.set()
            return [i for ids in await asyncio.gather(*load) for i in ids]

    acknowledged = asyncio.run(both())
    assert sorted(copied(database_url)) == sorted(acknowledged)
    assert [row[0][-6:] for row in ask(database_url, "select slot from spool_positions order by 1")] == [
        "slot-0",
        "slot-1",
    ]


def test_a_torn_tail_is_passed_over_and_what_came_before_and_after_arrives(tmp_path, database_url):
    ids = prediction_ids(6)

    async def write(url: str, *groups: list[str]) -> None:
        async with running(tmp_path, url) as log:
            for group in groups:
                assert await commit(log, lines(group)) is None

    asyncio.run(write(NOWHERE, ids[:2], ids[2:4]))
    segment = tmp_path / "slot-0" / "000000000001.seg"
    content = segment.read_bytes()
    segment.write_bytes(content + content[:200] + os.urandom(3000))  # a write that did not get to its end
    asyncio.run(write(database_url, ids[4:]))
    assert copied(database_url) == ids


def test_rows_that_the_disk_has_lost_are_missed(tmp_path, database_url):
    ids = prediction_ids(9)

    async def write(url: str, *groups: list[str]) -> None:
        async with running(tmp_path / "spool", url, home=tmp_path) as log:
            for group in groups:
                assert await commit(log, lines(group)) is None

    asyncio.run(write(NOWHERE, ids[:3], ids[3:6], ids[6:8]))
    segment = tmp_path / "spool" / "slot-0" / "000000000001.seg"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    asyncio.run(write(database_url, ids[8:]))
    assert copied(database_url) == ids[:3] + ids[6:]
    alerts = (tmp_path / "logs" / "alerts.jsonl").read_text()
    assert "3 rows of" in alerts
    assert "cannot be read" in alerts


def test_a_folder_that_was_restored_from_an_older_copy_is_copied_again_and_said(tmp_path, database_url):
    async def write(url: str, ids: list[str]) -> None:
        async with running(tmp_path / "spool", url, home=tmp_path) as log:
            assert await commit(log, lines(ids)) is None

    asyncio.run(write(NOWHERE, prediction_ids(1)))
    slot = f"{segments.folder_id(tmp_path / 'spool')}/slot-0"
    ask(database_url, "insert into spool_positions values (%s, 900, 5) returning 1", slot)
    asyncio.run(write(database_url, prediction_ids(2)))
    assert len(copied(database_url)) == 3
    assert "older copy" in (tmp_path / "logs" / "alerts.jsonl").read_text()


# ------------------------------------------------------------------------------------------------ full


def test_a_full_spool_answers_counts_and_alerts_and_takes_again_when_there_is_room(tmp_path, server):
    """Promise 41, `count`."""
    server.kill()

    async def flood() -> tuple[list[str], list[str], int]:
        async with running(tmp_path / "spool", server.url, spool_megabytes=0.5, home=tmp_path) as log:
            committed, dropped = [], log.metrics.dropped._value
            while dropped.get() == 0:
                ids = prediction_ids(100)
                assert await commit(log, lines(ids)) is None
                committed += ids
            assert segments.used_bytes(tmp_path / "spool") <= 500_000
            assert "spool_megabytes" in log.state()["problem"]
            await asyncio.to_thread(server.start)
            await eventually(lambda: log.state()["problem"] is None and log.state()["backlog_bytes"] == 0)
            later = prediction_ids(5)
            assert await commit(log, lines(later)) is None
            return committed, later, int(dropped.get())

    committed, later, dropped = asyncio.run(flood())
    assert copied(server.url) == committed[:-dropped] + later
    alerts = [json.loads(line) for line in (tmp_path / "logs" / "alerts.jsonl").read_text().splitlines()]
    assert [alert["event"] for alert in alerts] == ["prediction_log_full"]
    assert "answered, but not recorded" in alerts[0]["message"]


def test_a_full_spool_refuses_where_no_answer_may_go_unrecorded(tmp_path, database_url):
    """Promise 41, `refuse`: told as 503 with Retry-After, and nothing that was refused is recorded."""

    async def flood() -> tuple[list[str], float]:
        async with running(tmp_path, NOWHERE, spool_megabytes=0.5, when_full="refuse") as log:
            acknowledged = []
            while True:
                ids = prediction_ids(100)
                failure = await commit(log, lines(ids))
                if failure is not None:
                    break
                acknowledged += ids
            assert isinstance(failure, LogFull)
            assert (failure.status, failure.code) == (503, "not_recorded")
            assert failure.retry_after
            assert isinstance(await commit(log, lines(prediction_ids(1000))), LogFull)
            return acknowledged, log.metrics.refused._value.get()

    acknowledged, refused = asyncio.run(flood())
    assert refused == 1100
    assert in_spool(tmp_path) == acknowledged

    async def drain() -> None:
        async with running(tmp_path, database_url) as log:
            await eventually(lambda: len(copied(database_url)) == len(acknowledged))
            assert await commit(log, lines(prediction_ids(1))) is None

    asyncio.run(drain())
    assert copied(database_url)[:-1] == acknowledged


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a file system of 2 MB cannot be mounted here: " + done.stderr.decode().strip())
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_is_really_full_is_like_a_full_spool(small_disk, database_url):
    """Promise 49, on a file system of 2 MB."""

    async def flood() -> int:
        async with running(small_disk, NOWHERE, spool_megabytes=50) as log:  # segments of 3 MB
            assert await commit(log, lines(prediction_ids(10))) is None
            assert "No space left" in log.state()["problem"]
            return int(log.metrics.dropped._value.get())

    assert asyncio.run(flood()) == 10
    assert segments.used_bytes(small_disk) == 0

    async def go_on() -> None:
        async with running(small_disk, database_url, spool_megabytes=4) as log:
            assert await commit(log, lines(prediction_ids(10))) is None

    asyncio.run(go_on())
    assert len(copied(database_url)) == 10


def test_a_folder_that_cannot_be_written_does_not_stop_the_answers(tmp_path, database_url):
    (tmp_path / "spool").write_text("a file where the folder should be")

    async def write() -> dict:
        async with running(tmp_path / "spool", database_url) as log:
            assert await commit(log, lines(prediction_ids(2))) is None
            return log.state() | {"dropped": log.metrics.dropped._value.get()}

    state = asyncio.run(write())
    assert state["dropped"] == 2
    assert "spool" in state["problem"]


def test_after_the_stop_nothing_is_taken_silently(tmp_path, database_url):
    async def write() -> PredictionLog:
        async with running(tmp_path, database_url) as log:
            assert await commit(log, lines(prediction_ids(1))) is None
        assert await commit(log, lines(prediction_ids(1))) is None
        return log

    assert asyncio.run(write()).metrics.dropped._value.get() == 1


def test_a_callers_own_error_does_not_reach_the_others(tmp_path, database_url):
    def fail(_: Exception | None) -> None:
        raise ZeroDivisionError

    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            log.commit(lines(prediction_ids(1)), 1, fail)
            assert await commit(log, lines(prediction_ids(1))) is None

    asyncio.run(write())
    assert len(copied(database_url)) == 2


def test_a_score_that_is_no_number_is_one_for_postgresql(tmp_path, database_url):
    async def write() -> None:
        async with running(tmp_path, database_url) as log:
            assert await commit(log, lines(prediction_ids(1), scores=[math.inf])) is None

    asyncio.run(write())
    assert ask(database_url, "select prediction from predictions") == [(math.inf,)]


def test_the_service_waits_for_nothing_when_it_starts(tmp_path):
    async def write() -> float:
        log = PredictionLog(tmp_path, database_url=NOWHERE, registry=CollectorRegistry())
        began = time.perf_counter()
        log.start(asyncio.get_running_loop())
        seconds = time.perf_counter() - began
        await log.stop()
        return seconds

    assert asyncio.run(write()) < 0.1
    assert prediction_log.SEGMENT_BYTES >= 2**20


# ------------------------------------------------------------------------------------------------ forgetting


def with_marker(folder: Path, marker: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and marker in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "interval"])
@on_a_loop
async def test_what_is_forgotten_at_once_is_in_no_file_of_a_service_that_runs(tmp_path, database_url, fsync):
    """The segment that is being written has the text of copied rows; so have those that wait to be used again."""
    marker, other = b"a-marked-subject", prediction_ids(1)
    engine = database.connect(database_url)
    async with running(tmp_path, database_url, fsync=fsync) as log:
        stop = asyncio.Event()
        busy = asyncio.create_task(traffic(log, stop, rows=1, pause=0.05))
        for _ in range(2):
            ids = prediction_ids(2)
            assert await commit(log, lines(ids, entities=[marker.decode(), None])) is None
            assert await commit(log, lines(other, inputs=[b'{"zone":"%b"}' % marker], entities=["b"])) is None
            assert with_marker(tmp_path, marker)
            assert await asyncio.to_thread(forgetting.wait_until_copied, engine, tmp_path, 20)
            gone = [
                await asyncio.to_thread(forgetting.forget, engine, "trips", entity=who, folder=tmp_path)
                for who in (marker.decode(), "b")
            ]
            assert [(one.predictions, one.remains) for one in gone] == [(1, ()), (1, ())]
            assert with_marker(tmp_path, marker) == []
            found = ask(database_url, "select count(*) from predictions p where p::text like %s", "%marked%")
            assert found == [(0,)]
        stop.set()
        kept = set(await busy)
        await eventually(lambda: kept <= set(copied(database_url)))
    engine.dispose()


@pytest.mark.slow
@on_a_loop
async def test_a_worker_that_does_not_go_on_to_another_segment_is_named(tmp_path, database_url):
    engine = database.connect(database_url)
    async with running(tmp_path, database_url) as log:
        assert await commit(log, lines(prediction_ids(1), entities=["a-subject"])) is None
        assert await asyncio.to_thread(forgetting.wait_until_copied, engine, tmp_path, 20)
        gone = forgetting.forget(engine, "trips", entity="a-subject", folder=tmp_path, seconds=2)  # its loop stands
        assert gone.predictions == 1
        assert "slot-0" in gone.remains[0]
        assert with_marker(tmp_path, b"a-subject")
        again = await asyncio.to_thread(forgetting.forget, engine, "trips", entity="a-subject", folder=tmp_path)
        assert again.remains == ()
        assert with_marker(tmp_path, b"a-subject") == []
    engine.dispose()


@on_a_loop
async def test_no_alert_repeats_a_row_that_postgresql_refused(tmp_path, database_url):
    """PostgreSQL's second line says where in COPY it was, with the row's beginning."""
    home = tmp_path / "home"
    async with running(tmp_path / "spool", database_url, home=home) as log:
        secret = b'{"zone": "a-marked-subject"'  # no whole JSON
        assert await commit(log, lines(prediction_ids(1), inputs=[secret])) is None
        await eventually(lambda: (home / "logs" / "alerts.jsonl").exists())
    said = (home / "logs" / "alerts.jsonl").read_text()
    assert "PostgreSQL refused 1 rows" in said
    assert "invalid input syntax for type json" in said
    assert "a-marked-subject" not in said
