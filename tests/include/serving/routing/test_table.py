"""What is tried beside a champion: it gets its share, and whatever it does, the champion goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from include import database
from include.deployment import arms, rollouts
from include.serving.control.reconciler import Reconciler
from include.serving.metrics.prometheus import Metrics
from include.serving.routing.route import Route
from include.serving.versions.version import Champion
from tests.conftest import administering
from tests.include.serving.control.test_reconciler import running, version_of
from tests.include.serving.crafted import (
    ROWS,
    Crafted,
    champion_of,
    constant_graph,
    craft,
    promote,
    slow_graph,
    try_out,
)
from tests.waiting import until

ENTITIES = [f"customer-{n}" for n in range(1000)]


def models_at(database_url: str, home: Path, registry: CollectorRegistry | None = None) -> Reconciler:
    return Reconciler(
        Metrics(registry or CollectorRegistry()),
        database_url=database_url,
        copies=home / "serving",
        home=home,
        poll_seconds=0.05,
    )


def route_of(models: Reconciler) -> Route:
    route = models.route("trips")
    assert route is not None
    return route


def arm_of(models: Reconciler, name: str) -> dict[str, Any]:
    [entry] = [arm for arm in models.describe()[0]["arms"] if arm["name"] == name]
    return dict(entry)


def challenged(models: Reconciler) -> Callable[[], bool]:
    return lambda: route_of(models).challenger is not None


def change(database_url: str, what: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """One of the deployment's changes of a rollout."""
    engine = database.connect(database_url)
    try:
        return what(engine, *arguments, actor="test", reason="test", **named)
    finally:
        engine.dispose()


@pytest.fixture
def versions(tmp_path: Path) -> dict[int, Crafted]:
    return {version: craft(tmp_path / f"v{version}", scale=version) for version in (1, 2, 3)}


def test_a_canary_grows_by_steps_and_becomes_champion_without_being_loaded_again(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    registry = CollectorRegistry()
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home", registry)) as models:
        assert version_of(models) == 1
        generation = models.generation
        rollout = try_out(database_url, champion_of(versions[2], 2), "canary", steps=(5, 25, 100))
        until(challenged(models))
        assert models.generation > generation
        first = route_of(models)
        assert (first.challenger.name, first.challenger.loaded.version, first.share) == ("canary", 2, 0.05)
        assert (first.champion.name, first.champion.loaded.version, first.challenger.rollout_id) == (
            "champion", 1, rollout.id,
        )  # fmt: skip
        gauges = {"model": "trips", "arm": "canary"}
        assert registry.get_sample_value("mlops_serving_arm_version", gauges) == 2
        assert registry.get_sample_value("mlops_serving_arm_share", gauges) == 0.05

        rollout = change(database_url, rollouts.step, rollout, evidence={})
        until(lambda: route_of(models).share == 0.25)
        second = route_of(models)
        assert second.challenger.loaded is first.challenger.loaded
        assert second.challenger.tally is first.challenger.tally
        assert {e for e in ENTITIES if first.choose(e).name == "canary"} < {
            e for e in ENTITIES if second.choose(e).name == "canary"
        }
        rollout = change(database_url, rollouts.step, rollout, evidence={})
        until(lambda: route_of(models).share == 1.0)
        assert {route_of(models).choose(e).name for e in ENTITIES} == {"canary"}

        change(database_url, rollouts.promote, rollout, evidence={})
        until(lambda: version_of(models) == 2)
        assert route_of(models).challenger is None
        assert models.get("trips").predictor is first.challenger.loaded.predictor
        assert registry.get_sample_value("mlops_serving_arm_version", gauges) == 0
        assert models.status == "ok"


def test_an_ab_test_has_the_arms_a_and_b_and_a_shadow_beside_them_answers_nothing(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        shadow = try_out(database_url, champion_of(versions[3], 3), "shadow")
        until(lambda: route_of(models).shadow)
        assert {route_of(models).choose(e).name for e in [*ENTITIES, None]} == {"champion"}
        test = try_out(database_url, champion_of(versions[2], 2), "ab", share=50)
        until(challenged(models))
        route = route_of(models)
        assert [(arm.name, arm.loaded.version) for arm in route.arms] == [("a", 1), ("b", 2), ("shadow", 3)]
        assert 400 < sum(route.choose(e).name == "b" for e in ENTITIES) < 600
        described = {
            arm["name"]: (arm["version"], arm["share"], arm["rollout_id"]) for arm in models.describe()[0]["arms"]
        }
        assert described == {"a": (1, 0.5, None), "b": (2, 0.5, test.id), "shadow": (3, 0.0, shadow.id)}
        change(database_url, rollouts.stop, test)
        until(lambda: [arm.name for arm in route_of(models).arms] == ["champion", "shadow"])


def test_what_the_arms_did_reaches_the_controller(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    """Counted here, read by include/deployment/arms.py: requests, errors, latencies, and drift over shared bins."""
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        canary = try_out(database_url, champion_of(versions[2], 2), "canary", minimum_requests=10)
        shadow = try_out(database_url, champion_of(versions[3], 3), "shadow", minimum_requests=10)
        until(lambda: route_of(models).challenger and route_of(models).shadow)
        route = route_of(models)
        for arm, requests, failed in ((route.champion, 400, 0), (route.challenger, 100, 2), (route.shadow, 500, 0)):
            arm.tally.answered(requests, 0.004)
            arm.tally.failed(failed)
            arm.tally.predicted(np.linspace(0, 30, requests) * arm.loaded.version)

        def window(rollout: rollouts.Rollout) -> arms.Window:
            engine = database.connect(database_url)
            with engine.connect() as connection:
                now = connection.execute(sa.select(sa.func.now())).scalar_one()
                found = arms.read(connection, rollout, now)
            engine.dispose()
            return found

        until(lambda: window(shadow).arm.requests == 500)
        seen = window(canary)
        assert (seen.arm.arm, seen.arm.version, seen.arm.requests, seen.arm.errors) == ("canary", 2, 102, 2)
        assert (seen.control.arm, seen.control.version, seen.control.requests) == ("champion", 1, 400)
        assert seen.arm.p99_ms == pytest.approx(5, abs=0.1)
        assert sum(seen.arm.predictions) == 100
        assert seen.drift > 0.05
        assert window(shadow).control.requests == 400
        assert arm_of(models, "canary")["errors"] == 2


def alerts_of(home: Path) -> str:
    """The lines that were written; a file is there a moment before its first one."""
    file = home / "logs" / "alerts.jsonl"
    return file.read_text() if file.is_file() else ""


def damaged(crafted: Crafted) -> Champion:
    (crafted.form.directory / "model.onnx").write_bytes(b"half")
    return champion_of(crafted, 2)


def unlike_itself(crafted: Crafted) -> Champion:
    directory = crafted.form.directory.with_name("constant")
    return champion_of(craft(directory, graph=constant_graph(crafted.weights.shape[0], 4.0)), 2)


@pytest.mark.parametrize("kind", ["canary", "ab", "shadow"])
@pytest.mark.parametrize("broken", [damaged, unlike_itself])
def test_a_tried_version_that_cannot_be_loaded_leaves_the_champion_alone_and_is_said(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted], kind: Any, broken: Callable[[Crafted], Champion]
) -> None:
    registry, home = CollectorRegistry(), tmp_path / "home"
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, home, registry)) as models:
        champion, generation = route_of(models), models.generation
        rollout = try_out(database_url, broken(versions[2]), kind)
        until(lambda: models.problems())
        assert (route_of(models), models.generation) == (champion, generation)
        [problem] = models.problems()
        assert f"version 2 was not loaded as {rollout.arm}" in problem
        assert problem.endswith("the champion answers alone")
        assert "trips version 2" not in str(arm_of(models, rollout.arm)["out"])
        assert arm_of(models, rollout.arm)["out"] in problem
        assert registry.get_sample_value("mlops_serving_refused_versions_total", {"model": "trips"}) >= 1
        assert not registry.get_sample_value("mlops_serving_model_behind", {"model": "trips"})
        until(lambda: alerts_of(home))
        [alert] = [json.loads(line) for line in alerts_of(home).splitlines()]
        assert (alert["event"], alert["message"], alert["arm"]) == ("version_refused", problem, rollout.arm)
        change(database_url, rollouts.stop, rollout)
        until(lambda: models.status == "ok")


def test_a_tried_version_that_takes_for_ever_does_not_hold_a_promotion_up(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    """Its golden rows run into their time-out of ten seconds, in a thread of its own."""
    slow = craft(tmp_path / "slow", graph=slow_graph(versions[1].weights, turns=10**9))
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        try_out(database_url, champion_of(slow, 9), "shadow")
        until(lambda: [arm["out"] for arm in models.describe()[0]["arms"]] == [None, "it is being loaded"])
        for version in (2, 3):
            promote(database_url, champion_of(versions[version], version))
            until(lambda: version_of(models) == version)
        assert "load-model" in {thread.name for thread in threading.enumerate()}, "the slow one is loaded already"


def test_an_arm_that_breaks_its_limits_is_taken_out_at_once_until_its_rollout_changes(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    """In this worker, without waiting for the controller; the database does not even know."""
    registry, home = CollectorRegistry(), tmp_path / "home"
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, home, registry)) as models:
        rollout = try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50, 100), minimum_requests=20)
        until(challenged(models))
        tally = route_of(models).challenger.tally
        tally.failed(19)
        time.sleep(1.5)
        assert route_of(models).challenger is not None
        tally.failed(1)
        until(lambda: route_of(models).challenger is None)
        assert {route_of(models).choose(e).name for e in ENTITIES} == {"champion"}
        reason = "its error rate is 100.0% (20 of 20 requests in 60 s), 5.0% is allowed"
        assert models.problems() == [
            f"trips version 2 was taken out as canary in this worker: {reason}; the champion answers alone"
        ]
        assert arm_of(models, "canary")["out"] == reason
        assert registry.get_sample_value("mlops_serving_arms_taken_out_total", {"model": "trips", "arm": "canary"}) == 1
        until(lambda: alerts_of(home))
        assert '"event": "arm_taken_out"' in alerts_of(home)
        change(database_url, rollouts.step, rollout, evidence={})
        until(challenged(models))
        assert (models.status, route_of(models).challenger.tally is tally) == ("ok", False)
        time.sleep(1.2)  # what it did before is not held against it once more
        assert route_of(models).challenger is not None


def test_while_postgresql_is_away_the_arms_go_on_and_their_seconds_are_written_afterwards(
    database_url: str, postgres_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    name = sa.make_url(database_url).database
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models, administering(postgres_url) as execute:
        try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50,))
        until(challenged(models))
        time.sleep(1.2)
        execute(f"alter database {name} allow_connections false")
        execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        until(lambda: models.status == "degraded")
        route_of(models).challenger.tally.answered(7, 0.001)
        time.sleep(2.5)
        assert route_of(models).challenger is not None
        execute(f"alter database {name} allow_connections true")
        until(lambda: models.status == "ok")
        engine = database.connect(database_url)

        def written() -> list[Any]:
            with engine.connect() as reading:
                return list(reading.execute(sa.text("select arm, requests from arm_windows")))

        until(lambda: written() == [("canary", 7)])
        engine.dispose()


def test_what_the_arms_did_last_is_written_at_the_end_and_a_full_table_stops_no_promotion(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    engine = database.connect(database_url)
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50,))
        until(challenged(models))
        with engine.begin() as connection:
            connection.execute(sa.text("alter table arm_windows add constraint full_disk check (requests < 0)"))
        route_of(models).challenger.tally.answered(3, 0.001)
        time.sleep(1.5)
        promote(database_url, champion_of(versions[3], 3))
        until(lambda: version_of(models) == 3)
        with engine.begin() as connection:
            connection.execute(sa.text("alter table arm_windows drop constraint full_disk"))
    with engine.connect() as connection:
        assert list(connection.execute(sa.text("select arm, requests from arm_windows"))) == [("canary", 3)]
    engine.dispose()


def test_a_database_from_before_rollouts_has_champions(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    promote(database_url, champion_of(versions[1], 1))
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("alter table rollouts rename to hidden_rollouts"))
    engine.dispose()
    with running(models_at(database_url, tmp_path / "home")) as models:
        assert (version_of(models), models.status) == (1, "ok")
        promote(database_url, champion_of(versions[2], 2), hidden="rollouts")
        until(lambda: version_of(models) == 2)


def test_another_champion_ends_what_was_tried_beside_the_one_before(
    database_url: str, tmp_path: Path, versions: dict[int, Crafted]
) -> None:
    """The rollout's row still says `running` until the controller has seen it."""
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50,))
        until(challenged(models))
        promote(database_url, champion_of(versions[3], 3))
        until(lambda: version_of(models) == 3)
        assert route_of(models).challenger is None


def test_the_copies_of_versions_in_use_stay(database_url: str, tmp_path: Path, versions: dict[int, Crafted]) -> None:
    """However many champions come and go beside them."""
    home = tmp_path / "home"
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, home)) as models:
        canary = try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50, 100))
        until(challenged(models))
        for number in range(4):
            shadow = try_out(
                database_url, champion_of(craft(tmp_path / f"s{number}", scale=9 + number), 9 + number), "shadow"
            )
            until(lambda: (s := route_of(models).shadow) and s.loaded.version == 9 + number)
            change(database_url, rollouts.stop, shadow)
            until(lambda: route_of(models).shadow is None)
        change(database_url, rollouts.step, canary, evidence={})
        until(lambda: route_of(models).share == 1.0)
    kept = {p.name for p in (home / "serving" / "trips").iterdir()}
    assert {versions[1].form.content_hash, versions[2].form.content_hash} < kept
    assert len(kept) == 3


def test_each_arm_answers_as_its_own_version(database_url: str, tmp_path: Path, versions: dict[int, Crafted]) -> None:
    promote(database_url, champion_of(versions[1], 1))
    with running(models_at(database_url, tmp_path / "home")) as models:
        try_out(database_url, champion_of(versions[2], 2), "canary", steps=(50,))
        until(challenged(models))
        for entity in ENTITIES[:20]:
            loaded = route_of(models).choose(entity).loaded
            body = json.dumps(ROWS[5]).encode()
            answer = float(loaded.predictor.predict(loaded.predictor.schema.one(body))[0])
            golden = json.loads((versions[loaded.version].form.directory / "golden.json").read_bytes())
            assert answer == pytest.approx(golden["expected"][5])
