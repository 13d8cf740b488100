"""The blue-green switch: nothing, then everything, when a person says so, and back as quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from include import database
from include.cli import main as cli
from include.deployment import controller, ledger, rollouts
from include.serving.control.reconciler import Reconciler
from include.serving.http.application import Application
from include.serving.metrics.prometheus import Metrics
from include.strategies import blue_green
from tests.include.deployment import trials
from tests.include.serving.crafted import ROWS, champion_of, craft, promote, try_out
from tests.include.serving.http.test_application import around, call
from tests.waiting import until

ENTITIES = [f"customer-{n}" for n in range(200)]


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def green(engine: sa.Engine) -> rollouts.Rollout:
    """Version 2 beside version 1, without traffic."""
    trials.crown(engine, 1)
    return trials.start(engine, 2, blue_green.STRATEGY.name)


def switched(engine: sa.Engine, rollout: rollouts.Rollout) -> rollouts.Rollout:
    return rollouts.step(engine, rollout, actor="ann", reason="the trial went well", evidence={})


# ------------------------------------------------------------------------------------------------ the controller


def test_it_waits_for_a_person_whatever_the_trial_did(
    engine: sa.Engine, green: rollouts.Rollout, tmp_path: Path
) -> None:
    trials.report(engine, green, "green", 10_000, ago=-0.01)
    assert controller.watch(engine, tmp_path, {})
    assert trials.now(engine, green) == green
    assert (green.share, green.is_waiting) == (0, True)
    assert green.hint.startswith("`mlops rollout m advance --reason …` gives it all requests")


def test_with_all_requests_it_becomes_champion_once_they_went_well(
    engine: sa.Engine, green: rollouts.Rollout, tmp_path: Path
) -> None:
    trials.report(engine, green, "green", 10_000, ago=0)  # of the trial, which bakes nothing
    moved = switched(engine, green)
    assert (moved.share, moved.is_waiting, moved.hint) == (1, False, "")
    assert controller.watch(engine, tmp_path, {})
    assert trials.now(engine, green) == moved
    trials.report(engine, moved, "green", ago=-0.01, worker="w2")
    assert controller.watch(engine, tmp_path, {})
    entry = ledger.history(engine, "m")[0]
    assert (entry.action, entry.to_version, entry.verdict_id) == ("promote", 2, green.verdict_id)
    assert entry.reason.startswith("blue-green switch: 100% went well")
    assert [event.event for event in rollouts.events(engine, [green.id])] == ["promote", "step", "start"]


@pytest.mark.parametrize("move", [lambda _, rollout: rollout, switched])
def test_beyond_a_limit_it_goes_back_by_itself_from_the_trial_too(
    engine: sa.Engine, green: rollouts.Rollout, tmp_path: Path, move: Callable[..., rollouts.Rollout]
) -> None:
    trials.report(engine, move(engine, green), "green", errors=100, ago=-0.01)
    assert controller.watch(engine, tmp_path, {})
    assert trials.now(engine, green).status == "rolled_back"
    champion = ledger.champion(engine, "m")
    assert champion is not None
    assert champion.version == 1


# ------------------------------------------------------------------------------------------------ the service


@pytest.fixture
def models(database_url: str, tmp_path: Path) -> Iterator[Reconciler]:
    promote(database_url, champion_of(craft(tmp_path / "v1"), 1))
    home = tmp_path / "home"
    models = Reconciler(
        Metrics(CollectorRegistry()), database_url=database_url, copies=home / "serving", home=home, poll_seconds=0.05
    )
    models.start()
    yield models
    models.stop()


def answering(models: Reconciler) -> set[int]:
    route = models.route("trips")
    assert route is not None
    return {route.choose(entity).loaded.version for entity in ENTITIES}


def arms(models: Reconciler) -> dict[str, tuple[float, Any]]:
    return {arm["name"]: (arm["share"], arm["out"]) for arm in models.describe()[0]["arms"]}


def infer(app: Application, version: int) -> Any:
    """One row to a version, by its name."""
    entries = call(app, "GET", f"/v2/models/trips/versions/{version}").json().get("inputs", [])
    inputs = [
        {"name": each["name"], "datatype": each["datatype"], "shape": [1], "data": [ROWS[0][each["name"]]]}
        for each in entries
    ]
    return call(app, "POST", f"/v2/models/trips/versions/{version}/infer", json={"inputs": inputs})


def test_all_requests_move_at_once_and_back_and_nothing_is_loaded_again(
    engine: sa.Engine, database_url: str, tmp_path: Path, models: Reconciler
) -> None:
    made = try_out(database_url, champion_of(craft(tmp_path / "v2", scale=2), 2), blue_green.STRATEGY.name)
    until(lambda: arms(models) == {"champion": (1.0, None), "green": (0.0, None)})
    assert answering(models) == {1}
    before = {arm.name: arm.loaded for arm in models.routes["trips"].arms}

    moved = switched(engine, made)
    until(lambda: arms(models) == {"champion": (0.0, None), "green": (1.0, None)})
    assert answering(models) == {2}
    assert {arm.name: arm.loaded for arm in models.routes["trips"].arms} == before

    rollouts.stop(engine, moved, actor="ann", reason="back")
    until(lambda: arms(models) == {"champion": (1.0, None)})
    assert answering(models) == {1}
    assert models.routes["trips"].champion.loaded is before["champion"]


def test_a_request_that_names_its_version_is_answered_by_it_before_the_switch(
    database_url: str, tmp_path: Path, models: Reconciler
) -> None:
    app = around(models, Metrics(CollectorRegistry()))
    assert infer(app, 2).status_code == 404
    try_out(database_url, champion_of(craft(tmp_path / "v2", scale=2), 2), blue_green.STRATEGY.name)
    until(lambda: "green" in arms(models) and arms(models)["green"] == (0.0, None))
    answers = {version: infer(app, version).json() for version in (1, 2)}
    assert {version: answer["model_version"] for version, answer in answers.items()} == {1: "1", 2: "2"}
    assert answers[1]["outputs"][0]["data"] != answers[2]["outputs"][0]["data"]
    assert call(app, "POST", "/models/trips/predict", json=ROWS[0]).json()["version"] == 1
    assert infer(app, 3).json()["error"]["code"] == "unknown_version"


# ------------------------------------------------------------------------------------------------ the command


def test_a_person_moves_only_what_waits_and_only_once_every_worker_has_it(
    engine: sa.Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in {
        "MLOPS_HOME": str(tmp_path), "MLOPS_PARAMS": str(tmp_path / "params.yaml"), "MLOPS_DATABASE_URL": database_url,
        "MLOPS_SERVING_URL": "http://127.0.0.1:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def mlops(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["mlops", "rollout", "m", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        shown = capsys.readouterr()
        return shown.out + shown.err

    trials.crown(engine, 1)
    assert "nothing waits for a person" in mlops("advance", "--reason", "now")
    made = trials.start(engine, 2, blue_green.STRATEGY.name)
    shown = mlops()
    assert "version 2 stands by without traffic beside version 1" in shown
    assert f"\n  {made.hint}\n" in shown
    assert "say why" in mlops("advance")
    monkeypatch.setattr("include.deployment.verification.POLL_SECONDS", 0)
    monkeypatch.setattr("include.cli.rollouts.SEEN_WITHIN", 0.1)
    assert "127.0.0.1:1" in mlops("advance", "--reason", "now")
    assert trials.now(engine, made) == made
