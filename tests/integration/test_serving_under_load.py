"""The whole service under load while it is swapped, ended, killed, cut off and flooded: what section 7 promises of it.

Real processes, a real PostgreSQL and real connections. What single parts promise is tested beside them, in
tests/include/serving and tests/include/deployment/test_way_back.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from onnx import helper

from include import database
from include.deployment import ledger, rollouts
from include.serving.process.command import STOP_SECONDS
from tests.include.deployment import trials
from tests.include.deployment.test_way_back import watching
from tests.include.serving.crafted import (
    ROWS,
    Crafted,
    champion_of,
    craft,
    craft_trees,
    graph_of,
    promote,
    try_out,
)
from tests.include.serving.prediction_log.test_log import Server, copied
from tests.include.serving.process.test_service import (
    KEY,
    NO_DATABASE,
    answers,
    golden_of,
    params,
    served,
    service,
    workers_of,
)
from tests.integration.traffic import Traffic, percentile
from tests.waiting import seconds_until, until

pytestmark = pytest.mark.slow


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", httpx.get(f"{url}/metrics", headers=KEY, timeout=10).text, re.M)
    return sum(map(float, lines))


# ------------------------------------------------------------------------------------------------ promise 34

SWAPS, WARM_UP, GROWTH = 100, 10, 15.0
"""How many, how many before them, and by how many MB the worker may have grown after them."""


def test_a_hundred_swaps_under_load_fail_nobody_and_leave_the_memory_as_it_was(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 34: two models of trees promoted by turns through the ledger; each answer is whole, of one version."""
    forms = [craft_trees(tmp_path / f"f{seed}", seed=seed, rounds=100) for seed in range(2)]
    right = [golden_of(crafted.form.directory)["expected"] for crafted in forms]
    promote(database_url, champion_of(forms[0], 2))
    took, version = [], 2
    with service(tmp_path / "home", database_url) as (url, launcher):
        until(lambda: answers(f"{url}/readyz"))
        [worker] = workers_of(launcher)
        with Traffic(url, ROWS, clients=4, pause=0.002) as traffic:

            def swap(times: int) -> None:
                nonlocal version
                for _ in range(times):
                    version += 1
                    promote(database_url, champion_of(forms[version % 2], version))
                    took.append(seconds_until(lambda: traffic.answers[-1].told.get("version") == version))

            def megabytes() -> float:
                return psutil.Process(worker).memory_info().rss / 1e6

            until(lambda: len(traffic.answers) > 100)
            swap(WARM_UP)
            time.sleep(1.5)  # until what was dropped is given back
            before = megabytes()
            swap(SWAPS)
            until(lambda: megabytes() - before < GROWTH)
            after = megabytes()
        assert workers_of(launcher) == [worker]
    print(
        f"{SWAPS} swaps under {len(traffic.answers)} requests: RSS {before:.1f} → {after:.1f} MB; each was answered"
        f" with after {sorted(took)[len(took) // 2]:.2f} s, at most {max(took):.2f} s; p99 of the requests"
        f" {percentile(traffic.answers, 0.99) * 1e3:.1f} ms"
    )
    assert not traffic.lost
    assert not traffic.unreachable
    assert {answer.status for answer in traffic.answers} == {200}
    told = [(answer.body, answer.told) for answer in traffic.answers]
    assert {answer["version"] for _, answer in told} == set(range(2, version + 1))
    wrong = [a for body, a in told if a["prediction"] != pytest.approx(right[a["version"] % 2][body], abs=1e-3)]
    assert not wrong, wrong[:3]


# ------------------------------------------------------------------------------------------------ promise 35


@pytest.mark.alone
def test_sigterm_under_a_load_that_does_not_heed_it_loses_nothing_acknowledged(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 35 and I3: readiness first, nobody fails while the listener is open, and the log is brought away."""
    drain = 2.0
    promote(database_url, champion_of(craft(tmp_path / "form"), 1))
    with service(tmp_path / "home", database_url, **params(tmp_path, f"drain_seconds: {drain}")) as (url, launcher):
        until(lambda: answers(f"{url}/readyz"))
        with Traffic(url, ROWS, clients=8, until_refused=True) as traffic:
            until(lambda: len(traffic.answers) > 1000)
            told = time.monotonic()
            launcher.terminate()
            noticed = seconds_until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 503, seconds=drain)
            assert traffic.wait(STOP_SECONDS)
        assert launcher.wait(STOP_SECONDS) == 0
        ended = time.monotonic() - told
    closed = min([*traffic.unreachable, *(lost.at for lost in traffic.lost)]) - told
    recorded = Counter(copied(database_url))
    late = sum(answer.at > told + noticed for answer in traffic.answers)
    print(
        f"not ready after {noticed:.2f} s, {late} answers after that, the listener closed after {closed:.2f} s with"
        f" {len(traffic.lost)} requests on their way, ended after {ended:.2f} s; {len(recorded)} rows"
    )
    assert {answer.status for answer in traffic.answers} == {200}
    assert noticed < closed
    assert closed > drain - 0.05
    assert late > 100
    assert len(traffic.lost) <= 8  # one each: a request that reached a closed door
    assert ended < STOP_SECONDS
    assert set(traffic.acknowledged) == recorded.keys()  # what was begun was answered: no answer was cut off
    assert set(recorded.values()) == {1}


# ------------------------------------------------------------------------------------------------ promise 36


def test_a_killed_worker_and_then_everything_killed_lose_no_acknowledged_prediction(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 36 and I3, with two workers: also what only the spools of the dead had is recorded, and once."""
    promote(database_url, champion_of(craft(tmp_path / "form"), 1))
    home, two = tmp_path / "home", {"MLOPS_SERVING_WORKERS": "2"}
    traffics = []
    with service(home, database_url, **two) as (url, launcher):
        until(lambda: answers(f"{url}/readyz") and len(workers_of(launcher)) == 2)
        with Traffic(url, ROWS, clients=8) as traffic:
            traffics.append(traffic)
            until(lambda: len(traffic.answers) > 1000)
            killed = workers_of(launcher)[0]
            os.kill(killed, signal.SIGKILL)
            replaced = seconds_until(lambda: killed not in workers_of(launcher) and len(workers_of(launcher)) == 2)
            answered = len(traffic.answers)
            until(lambda: len(traffic.answers) > answered + 1000)
            assert not traffic.unreachable
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            until(lambda: bool(traffic.unreachable))
    before = set(copied(database_url))
    with service(home, database_url, **two) as (url, launcher):
        until(lambda: answers(f"{url}/readyz"))
        with Traffic(url, ROWS, clients=8) as traffic:
            traffics.append(traffic)
            until(lambda: len(traffic.answers) > 1000)
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    with service(home, database_url) as (url, launcher):
        until(lambda: answers(f"{url}/readyz"))
        until(lambda: metric(url, "mlops_prediction_log_backlog_rows") == 0)
        acknowledged = {i for traffic in traffics for i in traffic.acknowledged}
        until(lambda: acknowledged <= set(copied(database_url)), seconds=10)
    recorded = Counter(copied(database_url))
    lost = [lost for traffic in traffics for lost in traffic.lost]
    first = set(traffics[0].acknowledged)
    print(
        f"{len(acknowledged)} acknowledged, {len(first - before)} of them were only on disk when everything had been"
        f" killed; {len(lost)} requests were lost, {len(recorded.keys() - acknowledged)} of them are recorded; a"
        f" worker's successor was started after {replaced:.2f} s"
    )
    assert {answer.status for traffic in traffics for answer in traffic.answers} == {200}
    assert set(recorded.values()) == {1}
    assert len(recorded.keys() - acknowledged) <= len(lost)  # those whose answer was on its way


# ------------------------------------------------------------------------------------------------ promise 40

STEP = 700
"""By how many rows the backlog grows between two looks at it, while PostgreSQL is away."""


def waiting(url: str) -> float:
    """The rows that are not in PostgreSQL yet."""
    return metric(url, "mlops_prediction_log_backlog_rows")


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A PostgreSQL of the test's own, where the user that it runs as may go."""
    folder = Path(tempfile.mkdtemp(prefix="mlops-pg-"))
    folder.chmod(0o755)
    server = Server(folder / "data")
    yield server
    server.kill()
    shutil.rmtree(folder)


def test_postgresql_is_away_while_thousands_are_answered_and_everything_arrives_once_and_in_order(
    postgres: Server, tmp_path: Path
) -> None:
    """Promise 40: nobody notices but whoever looks at the health and at the backlog."""
    promote(postgres.url, champion_of(craft(tmp_path / "form"), 1))
    with served(tmp_path / "home", postgres.url) as url:
        until(lambda: answers(f"{url}/readyz"))
        until(lambda: httpx.get(f"{url}/health").json() == {"status": "ok"})
        with Traffic(url, ROWS, clients=4, pause=0.02) as traffic:
            until(lambda: len(traffic.answers) > 50)
            postgres.kill(signal.SIGQUIT)  # as an immediate shutdown
            gone, backlog = time.monotonic(), [0.0]
            for _ in range(4):
                until(lambda: waiting(url) > backlog[-1] + STEP, seconds=60)
                backlog.append(waiting(url))
            health: dict[str, Any] = {}

            def noticed() -> bool:
                health.update(httpx.get(f"{url}/health", headers=KEY, timeout=5).json())
                return bool(health["problems"] and health["prediction_log"]["problem"])

            until(noticed)
            ready = answers(f"{url}/readyz")
            during = sum(answer.asked > gone for answer in traffic.answers)
            postgres.start()
            drained = seconds_until(lambda: waiting(url) < 100, seconds=60)
            until(lambda: httpx.get(f"{url}/health").json() == {"status": "ok"}, seconds=20)
        acknowledged = traffic.acknowledged
        until(lambda: len(copied(postgres.url)) >= len(acknowledged), seconds=20)
        assert metric(url, "mlops_prediction_log_dropped_rows_total") == 0
    found = copied(postgres.url)
    print(
        f"{during} answers without PostgreSQL, p99 {percentile(traffic.answers, 0.99) * 1e3:.1f} ms, slowest"
        f" {percentile(traffic.answers, 1 - 1e-9) * 1e3:.0f} ms; backlog"
        f" {', '.join(f'{rows:.0f}' for rows in backlog)} rows, drained {drained:.2f} s after the return"
    )
    assert not traffic.lost
    assert {answer.status for answer in traffic.answers} == {200}
    assert during > 4 * STEP
    assert ready
    assert health["status"] == "degraded"
    assert any("the ledger in PostgreSQL cannot be read" in problem for problem in health["problems"])
    assert health["prediction_log"]["backlog_rows"] > 4 * STEP
    assert sorted(found) == sorted(acknowledged)
    place = {prediction_id: n for n, prediction_id in enumerate(found)}
    for client in range(4):  # each asked one thing after another: so they stand in the table
        places = [place[a.told["prediction_id"]] for a in traffic.good if a.client == client]
        assert places == sorted(places)


# ------------------------------------------------------------------------------------------------ promise 39

BEARABLE = 32


@pytest.mark.alone
def test_ten_times_the_bearable_load_is_refused_where_it_must_be_and_forgotten_when_it_is_over(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 39. Bearable is the declared concurrency: so many clients that ask without a pause are all answered."""
    promote(database_url, champion_of(craft_trees(tmp_path / "form", seed=1), 1))
    limited = params(tmp_path, f"max_concurrency: {BEARABLE}")
    with served(tmp_path / "home", database_url, **limited) as url:
        until(lambda: answers(f"{url}/readyz"))

        def ask(clients: int, seconds: float) -> Traffic:
            with Traffic(url, ROWS, clients=clients) as traffic:
                time.sleep(seconds)
            return traffic

        ask(4, 0.5)
        bearable, flood = ask(BEARABLE, 3), ask(10 * BEARABLE, 6)
        # Those who ask at once are as many as may be in progress, so it ends by itself while they go on.
        with Traffic(url, ROWS, clients=BEARABLE) as after:
            time.sleep(4)
        limit = metric(url, "mlops_serving_admission_limit")
    since = after.answers[-1].at - 1
    p99 = [percentile(traffic.good, 0.99) * 1e3 for traffic in (bearable, flood)]
    recovered = [answer for answer in after.answers if answer.asked > since]
    statuses = Counter(answer.status for answer in flood.answers)
    refused = [answer for answer in flood.answers if answer.status != 200]
    print(
        f"p99 {p99[0]:.1f} ms at {BEARABLE} clients ({len(bearable.good) / 3:.0f}/s), {p99[1]:.1f} ms at"
        f" {10 * BEARABLE} ({len(flood.good) / 6:.0f}/s, {statuses[503] / 6:.0f} refused/s, slowest refusal"
        f" {max(a.seconds for a in refused):.2f} s); afterwards {Counter(a.status for a in after.answers)}"
        f" p99 {percentile(recovered, 0.99) * 1e3:.1f} ms, limit {limit:g}"
    )
    assert {answer.status for answer in bearable.answers} == {200}
    assert not flood.lost
    assert not flood.unreachable
    assert statuses.keys() == {200, 503}
    assert all(b"\r\nretry-after: 1" in answer.head for answer in refused)
    assert {answer.told["error"]["code"] for answer in refused} == {"overloaded"}
    assert p99[1] <= 5 * p99[0]
    assert len(flood.good) / 6 > len(bearable.good) / 3 / 4
    assert {answer.status for answer in recovered} == {200}
    assert percentile(recovered, 0.99) * 1e3 <= 3 * p99[0]
    assert limit == BEARABLE


# ------------------------------------------------------------------------------------------------ rollouts

FAR = {**ROWS[5], "trip_distance": 4000.0}


@pytest.mark.alone
def test_a_canary_without_finite_answers_is_taken_out_and_a_rollback_reaches_every_worker(
    database_url: str, tmp_path: Path
) -> None:
    """Its golden rows reproduce, other rows do not: the champion answers those, and the errors are the evidence."""
    forms = {version: craft(tmp_path / str(version), scale=1 + version / 1000) for version in (1, 2)}
    broken = craft(tmp_path / "3", scale=1.001, graph=_not_a_number_far_away(forms[1]))
    home = tmp_path / "home"
    for version in (1, 2):
        promote(database_url, champion_of(forms[version], version))
    engine = database.connect(database_url)
    with (
        served(home, database_url, MLOPS_SERVING_WORKERS="2") as url,
        watching(database_url, home),
        Traffic(url, [*ROWS[:3], FAR], clients=8) as traffic,
    ):

        def versions(since: float) -> set[int]:
            return {answer.told["version"] for answer in traffic.good if answer.asked > since}

        until(lambda: len(traffic.answers) > 500)
        began = time.monotonic()
        canary = try_out(database_url, champion_of(broken, 3), "canary", steps=(25,), minimum_requests=100)
        until(lambda: 3 in versions(began))
        first = time.monotonic()
        decided = seconds_until(lambda: trials.now(engine, canary).status == "rolled_back")
        time.sleep(2)
        out = max(answer.at for answer in traffic.good if answer.told["version"] == 3) - first
        asked = time.monotonic()
        ledger.rollback(engine, "trips", actor="test", reason="strange answers")
        until(lambda: versions(time.monotonic() - 0.5) == {1}, seconds=10)
        time.sleep(2)
        back = max(answer.at for answer in traffic.good if answer.told["version"] == 2) - asked
    events = {event.event: event for event in rollouts.events(engine, [canary.id])}
    engine.dispose()
    told = [json.loads(line) for line in (home / "logs" / "alerts.jsonl").read_text().splitlines()]
    print(
        f"{events['rollback'].reason}: decided {decided:.1f} s after its first answer, its last one after {out:.1f} s;"
        f" ledger.rollback: the last answer of the old champion {back:.2f} s after; {len(traffic.answers)} requests"
    )
    assert {answer.status for answer in traffic.answers} == {200}
    assert not traffic.lost
    assert {a.told["version"] for a in traffic.good if a.body == 3} == {1, 2}
    assert "error rate" in events["rollback"].reason
    assert events["breach"].evidence["arm"]["errors"] > 5
    assert decided < 10
    assert out < 15
    assert back < 10
    assert [a["version"] for a in told if a["event"] == "rollout_rolled_back"] == [3]


def _not_a_number_far_away(crafted: Crafted) -> bytes:
    """As the crafted model, but √(100 - answer) · 0 is added: nothing below 100, not a number above."""
    import numpy as np

    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["line"]),
        helper.make_node("Sub", ["most", "line"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    constants = {"W": crafted.weights, "most": np.array([100.0]), "zero": np.zeros(1)}
    return graph_of(nodes, constants, crafted.weights.shape[0], 1)


# ------------------------------------------------------------------------------------------------ promise 30


def test_with_nothing_behind_it_and_nothing_kept_it_waits_and_begins_when_a_model_comes(tmp_path: Path) -> None:
    """Promise 30: not ready, with the reason, and the worker lives on."""
    with service(tmp_path / "home", NO_DATABASE) as (url, launcher):
        workers = workers_of(launcher)
        for _ in range(15):
            refused = httpx.get(f"{url}/readyz", timeout=5)
            assert refused.status_code == 503
            time.sleep(0.2)
        assert "no last good copy of a model" in refused.json()["error"]["message"]
        assert httpx.get(f"{url}/health", timeout=5).json() == {"status": "unavailable"}
        assert httpx.post(f"{url}/models/trips/predict", json=ROWS[0], headers=KEY, timeout=5).status_code == 503
        assert answers(f"{url}/livez")
        assert workers_of(launcher) == workers
