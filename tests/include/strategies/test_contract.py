"""What every rollout strategy keeps to, whatever it decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from include import database, settings, strategies
from include.deployment import ledger, rollouts
from include.inference import served_form
from include.orchestration import dag_defaults
from include.serving.metrics.limits import Limits
from include.serving.metrics.prometheus import Metrics
from include.serving.metrics.reporter import Reporter
from include.serving.routing.rollout import Rollout
from include.serving.routing.route import Route
from include.serving.routing.table import Routes
from include.serving.versions.loader import Loaded, load
from include.strategies import Action, Evidence, Labels, Strategy
from tests.include.deployment import trials
from tests.include.serving.crafted import champion_of, craft

ENTITIES = [f"customer-{n}" for n in range(2000)]
PARAMS = """
sources: {cells: {type: sample, dataset: breast_cancer}}
models: {m: {source: cells, target: diagnosis, task: binary, serving: {rollout: {%s}}}}
"""


@pytest.fixture(params=strategies.names())
def strategy(request: pytest.FixtureRequest) -> Strategy[Any]:
    return strategies.load(request.param)


@pytest.fixture
def declared(strategy: Strategy[Any]) -> settings.Rollout:
    return strategy.completed(settings.Rollout(strategy=strategy.name), "binary")  # type: ignore[no-any-return]


def steps(strategy: Strategy[Any], declared: settings.Rollout) -> list[tuple[int, float]]:
    return list(enumerate(strategy.shares(declared)))


# ------------------------------------------------------------------------------------------------ who answers


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Loaded]:
    folder = tmp_path_factory.mktemp("versions")
    found = []
    for version in (1, 2):
        crafted = craft(folder / f"v{version}", scale=version)
        champion = champion_of(crafted, version)
        form = served_form.verify(crafted.form.directory, champion.content_hash)
        found.append(Loaded(champion, load(form, champion), "ledger"))
    return found[0], found[1]


def routed(strategy: Strategy[Any], share: float, versions: tuple[Loaded, Loaded]) -> Route:
    """The route that the service makes of a running rollout's row."""
    champion, tried = versions
    row = Rollout(
        7, tried.served, strategy.arm, strategy.control, strategy.mirrored, 1, share, 0, "salt", Limits(), "now"
    )
    metrics = Metrics(CollectorRegistry())
    routes = Routes(metrics, Reporter(metrics, lambda _: None))
    routes.combine({"trips": champion}, [(row, tried)])
    return routes.current["trips"]


def test_at_each_step_the_arms_answer_every_request_together(
    strategy: Strategy[Any], declared: settings.Rollout, versions: tuple[Loaded, Loaded]
) -> None:
    for _, share in steps(strategy, declared):
        route = routed(strategy, share, versions)
        assert sum(route.share_of(arm) for arm in route.arms) == pytest.approx(1)
        assert {arm.name: route.share_of(arm) for arm in route.arms} == pytest.approx(
            {strategy.arm: share, strategy.control if not strategy.mirrored else "champion": 1 - share}
        )


def test_a_request_goes_where_its_strategy_says(
    strategy: Strategy[Any], declared: settings.Rollout, versions: tuple[Loaded, Loaded]
) -> None:
    for _, share in steps(strategy, declared):
        route = routed(strategy, share, versions)
        answered = [route.choose(entity).loaded.version for entity in ENTITIES]
        assert answered.count(2) / len(ENTITIES) == pytest.approx(share, abs=0.05)
        assert set(answered) <= ({2} if share == 1 else {1} if share == 0 else {1, 2})
        scored = route.shadow.loaded.version if route.shadow else None
        assert scored == (2 if strategy.mirrored else None)


def test_what_waits_for_its_share_answers_those_that_name_it_and_nothing_else(
    strategy: Strategy[Any], declared: settings.Rollout, versions: tuple[Loaded, Loaded]
) -> None:
    for _, share in steps(strategy, declared):
        route = routed(strategy, share, versions)
        waits = share == 0 and not strategy.mirrored
        assert (route.standby is not None) == (route.trial is not None) == waits
        if route.trial:
            assert route.challenger is None  # a request costs no choice
            assert {route.trial.choose(entity).loaded.version for entity in ENTITIES} == {2}


def test_shares_grow_and_a_mirrored_version_has_none(strategy: Strategy[Any], declared: settings.Rollout) -> None:
    shares = strategy.shares(declared)
    assert list(shares) == sorted(set(shares))
    assert all(0 <= share <= 1 for share in shares)
    assert (max(shares) == 0) == strategy.mirrored


def test_no_two_strategies_share_an_arm() -> None:
    """Nor the champion's, so that what is counted and logged under a name is of one kind."""
    arms = [strategy.arm for strategy in strategies.every()]
    controls = {strategy.control for strategy in strategies.every()}
    assert len(set(arms)) == len(arms)
    assert not controls & set(arms)


# ------------------------------------------------------------------------------------------------ what follows


def every_evidence(step: int, share: float) -> Iterator[Evidence]:
    labels = (None, Labels(None, "no difference"), Labels(False, "worse"), Labels(True, "better"))
    for breach, baked, found in itertools.product((None, "error rate 9.0% > 5.0%"), (False, True), labels):
        yield Evidence(step, share, breach=breach, baked=baked, minutes=12, requests=340, labels=found)


def test_without_evidence_it_waits(strategy: Strategy[Any], declared: settings.Rollout) -> None:
    for step, share in steps(strategy, declared):
        assert strategy.decide(declared, Evidence(step, share, minutes=1e6, requests=10**9)) == strategies.WAIT


def test_a_step_never_skips_its_evidence(strategy: Strategy[Any], declared: settings.Rollout) -> None:
    """On only from evidence of this step, one step at a time, to champion only from the last; each with its reason."""
    shares = strategy.shares(declared)
    for step, share in steps(strategy, declared):
        for evidence in every_evidence(step, share):
            move = strategy.decide(declared, evidence)
            assert move == strategy.decide(declared, evidence)
            assert bool(move.reason) == (move.action != "wait")
            if move.action in ("advance", "promote"):
                assert not evidence.breach
                assert evidence.baked or (evidence.labels and evidence.labels.better)
                assert (move.action == "promote") == (step + 1 == len(shares))
            if move.action == "advance":
                assert not strategy.manual


def test_beyond_a_limit_what_answers_is_rolled_back_at_every_step(
    strategy: Strategy[Any], declared: settings.Rollout
) -> None:
    for step, share in steps(strategy, declared):
        for evidence in every_evidence(step, share):
            if evidence.breach:
                action: Action = "wait" if strategy.mirrored else "roll_back"
                move = strategy.decide(declared, evidence)
                assert (move.action, move.reason) == (action, "" if strategy.mirrored else evidence.breach)


# ------------------------------------------------------------------------------------------------ the way back, and on


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.connect(database_url)
    trials.crown(engine, 1)
    yield engine
    engine.dispose()


def stepped(engine: sa.Engine, strategy: Strategy[Any]) -> Iterator[rollouts.Rollout]:
    """A rollout at each of its steps."""
    made = trials.start(engine, 2, strategy.name)
    yield made
    for _ in strategy.shares(made.declared)[1:]:
        made = rollouts.step(engine, made, actor="ann", reason="on", evidence={})
        yield made


def test_its_row_says_what_the_service_needs(engine: sa.Engine, strategy: Strategy[Any]) -> None:
    for made, share in zip(stepped(engine, strategy), strategy.shares(settings.Rollout(**trials.FAST)), strict=True):
        assert (made.kind, made.arm, made.control) == (strategy.name, strategy.arm, strategy.control)
        assert (made.mirrored, made.share) == (strategy.mirrored, share)


def test_a_stop_at_any_step_returns_everything_to_the_champion(engine: sa.Engine, strategy: Strategy[Any]) -> None:
    *_, last = stepped(engine, strategy)
    ended = rollouts.stop(engine, last, actor="ann", reason="not today")
    assert ended.status == "stopped"
    assert rollouts.running(engine, "m") == []
    assert rollouts.events(engine, [last.id])[0].share == 0
    champion = ledger.champion(engine, "m")
    assert champion is not None
    assert champion.version == 1


def test_it_becomes_champion_by_the_ledger_on_its_verdict(engine: sa.Engine, strategy: Strategy[Any]) -> None:
    *_, last = stepped(engine, strategy)
    move = strategies.Move("promote", "all went well")
    rollouts.apply(engine, last, move, actor="the controller", evidence={"requests": 7})
    entry = ledger.history(engine, "m")[0]
    assert (entry.action, entry.to_version, entry.verdict_id) == ("promote", 2, last.verdict_id)
    assert (entry.actor, entry.reason) == ("the controller", "all went well")
    assert trials.now(engine, last).status == "promoted"


# ------------------------------------------------------------------------------------------------ words and settings


def test_it_has_its_words(strategy: Strategy[Any], declared: settings.Rollout) -> None:
    assert strategy.title
    assert strategy.about.endswith(".")
    for step, share in steps(strategy, declared):
        assert strategy.traffic(share).split()[0].endswith("s"), "as in `version 2 answers 5% of the requests`"
        waits_for_a_person = strategy.manual and step + 1 < len(strategy.shares(declared))
        assert bool(strategy.hint("trips", step)) == waits_for_a_person


def test_the_form_offers_it_with_its_fields(strategy: Strategy[Any]) -> None:
    entry = settings.parse_params(PARAMS % f"strategy: {strategy.name}").models["m"]
    form = dag_defaults.rollout_form("m", entry)
    assert form["kind"].value == strategy.name
    assert strategy.name in form["kind"].schema["enum"]
    assert strategy.about in form["kind"].description
    for name in strategy.form:
        assert form[name].schema["title"] != name.capitalize()
        assert form[name].value == entry.serving.rollout.model_dump(mode="json")[name]
    filled = dag_defaults.with_rollout(entry, {name: param.value for name, param in form.items()})
    assert filled == entry.serving.rollout


def test_a_misspelt_strategy_or_key_is_named_with_the_one_that_was_meant(strategy: Strategy[Any]) -> None:
    with pytest.raises(settings.ParamsError, match=f"did you mean '{strategy.name}'"):
        settings.parse_params(PARAMS % f"strategy: {strategy.name}x")
    for key in strategy.settings.model_fields:
        with pytest.raises(settings.ParamsError, match=f"serving.rollout.{key}x: unknown key; did you mean '{key}'"):
            settings.parse_params(PARAMS % f"{key}x: 1")
    with pytest.raises(strategies.UnknownStrategy, match=f"did you mean '{strategy.name}'"):
        strategies.load(f"{strategy.name}x")


def test_its_name_is_its_files(strategy: Strategy[Any]) -> None:
    folder = Path(strategies.__file__).parent
    assert {file.stem for file in folder.glob("[a-z]*.py")} == set(strategies.names())
    assert strategies.load(strategy.name) is strategy
    assert strategies.title(strategy.name) == strategy.title
    assert strategies.title("gone") == "gone"  # an old row must stay readable
