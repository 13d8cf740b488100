"""What the page in Airflow's UI is made of."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from include import database, settings
from include.deployment import rollouts
from include.monitoring import measures
from include.monitoring.decision import Finding
from include.monitoring.overview import Champion, overview
from tests.include.deployment import trials
from tests.plugins.conftest import PARAMS, fill

ENTRIES = settings.parse_params(PARAMS)


def test_an_empty_platform_is_shown_as_such(database_url: str) -> None:
    found = overview(ENTRIES, database_url)
    assert [(m.name, m.champion, m.check, m.verdicts) for m in found.models] == [
        ("trip_duration", None, None, []),
        ("tumour", None, None, []),
    ]
    assert [(s.name, s.published, s.newest) for s in found.sources] == [("trips", 0, None), ("cells", 0, None)]


def test_a_champion_stands_beside_its_baseline_with_its_verdicts(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    model = overview(ENTRIES, database_url).models[0]
    champion = model.champion
    assert champion
    assert (champion.version, champion.value, champion.baseline, champion.estimator) == (7, 2.871, 4.35, "xgboost")
    assert champion.gain == "34% less mae than the baseline"
    assert [(v.version, v.verdict, v.against) for v in model.verdicts] == [
        (8, "HOLD", "v7"),
        (7, "PROMOTE", "baseline"),
    ]
    assert model.check
    assert model.check.findings == [
        "mae: 4 on 300 new rows, 2.9 at training",
        "trip_distance: PSI 0.31 (critical above 0.2)",
    ]
    assert model.check.words == [("performance lost", "critical"), ("some drift", "warn")]


def test_what_is_tried_beside_the_champion_is_shown_with_what_was_decided(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    engine = database.connect(database_url)
    trials.start(engine, 8, model="trip_duration", against=7, kind="shadow", verdict="HOLD")
    canary = trials.start(engine, 9, model="trip_duration", against=7, steps=(1, 5))
    rollouts.step(engine, canary, actor="the controller", reason="1% went well", evidence={})
    model = overview(ENTRIES, database_url).models[0]
    engine.dispose()
    assert [(tried.kind, tried.version, tried.share) for tried in model.tried] == [
        ("shadow", 8, 0),
        ("canary", 9, 0.05),
    ]
    assert [decision.what for decision in model.decisions] == [
        "canary v9: step",
        "canary v9: start",
        "shadow v8: start",
    ]
    assert model.decisions[0].reason == "1% went well"


def test_columns_that_came_after_the_inputs_were_decided_are_shown_with_how_to_include_them(database_url: str) -> None:
    columns = ["mean_area", "mean_radius", "diagnosis"]
    engine = database.connect(database_url)
    with engine.begin() as connection:
        taken = {"model": "tumour", "source": "cells", "columns": columns}
        connection.execute(sa.insert(database.model_columns).values(taken))
        for column in (*columns, "fee"):
            kind = "string" if column == "diagnosis" else "float"
            row = {"source": "cells", "column": column, "type": kind, "history": []}
            connection.execute(sa.insert(database.source_schemas).values(row))
    engine.dispose()
    found = {model.name: model.left_out for model in overview(ENTRIES, database_url).models}
    why = "came after the inputs were decided; `features.include: [fee]` makes it one"
    assert found == {"trip_duration": {}, "tumour": {"fee": why}}


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "words"),
    [
        ("mae", 3.0, 4.0, "25% less mae than the baseline"),
        ("mae", 5.0, 4.0, "25% more mae than the baseline"),
        ("mae", 5.0, 0.0, None),
        ("roc_auc", 0.9994, 0.5, "+0.4994 roc_auc against the baseline"),
        ("r2", -0.25, 0.0, "-0.25 r2 against the baseline"),
        ("accuracy", 1.0, 1.0, "+0 accuracy against the baseline"),
        ("log_loss", None, 0.4, None),
    ],
)
def test_what_a_champion_gains_is_said_in_its_metric(
    metric: str, value: float | None, baseline: float, words: str | None
) -> None:
    row: dict[str, Any] = dict.fromkeys(
        ("version", "since", "content_hash", "bento", "actor", "reason", "run_id", "estimator", "feature_version")
    )
    champion = Champion(**row, metrics={}, value=value, baseline=baseline, metric=metric, problem=None)
    assert champion.gain == words


@pytest.mark.parametrize(
    ("status", "findings", "words"),
    [
        ("ok", [{"kind": "performance", "level": "ok", "message": "mae: 3"}], ["no drift"]),
        ("critical", [{"kind": "performance", "level": "critical"}], ["performance lost", "no drift"]),
        ("critical", [{"kind": "drift", "level": "critical"}, {"kind": "drift", "level": "warn"}], ["critical drift"]),
        (
            "critical",
            [{"kind": "performance", "level": "critical"}, {"kind": "drift", "level": "warn"}],
            ["performance lost", "some drift"],
        ),
        ("warn", [{"kind": "data", "level": "warn"}], ["rows without an answer", "no drift"]),
        ("warn", [{"message": "of before findings had a kind"}], ["some drift"]),
        ("insufficient_data", [], ["drift unknown: too few rows"]),
    ],
)
def test_lost_performance_is_not_shown_as_drift(
    database_url: str, status: str, findings: list[dict[str, Any]], words: list[str]
) -> None:
    engine = database.connect(database_url)
    with engine.begin() as connection:
        result = {"version": 1, "window": ["2026-03-30"], "status": status, "findings": findings, "reason": ""}
        connection.execute(sa.insert(database.monitor_results).values(model="tumour", **result))
    engine.dispose()
    check = overview(ENTRIES, database_url).models[1].check
    assert check
    assert [word for word, _ in check.words] == words


def test_the_champions_metric_over_time_is_there_to_be_drawn(database_url: str) -> None:
    engine = database.connect(database_url)
    with engine.begin() as connection:
        for day in range(1, 41):
            at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=day)
            result = {"version": 7, "window": [], "status": "ok", "findings": [], "reason": ""}
            result_id = connection.execute(
                sa.insert(database.monitor_results)
                .values(model="tumour", **result)
                .returning(database.monitor_results.c.id)
            ).scalar_one()
            finding = Finding("performance", "roc_auc", "ok", "", 0.1, 0.2, metric=day / 100, rows=50)
            measures.replace(connection, result_id, "tumour", 7, at, [finding.as_json()])
    engine.dispose()
    drawn = overview(ENTRIES, database_url).models[1].over_time
    assert [figure.value for figure in drawn] == [day / 100 for day in range(11, 41)]


def test_the_page_costs_as_many_queries_for_fifty_models_as_for_two(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    many = settings.parse_params(
        "sources:\n"
        + "".join(f"  s{n}: {{type: sample, dataset: breast_cancer}}\n" for n in range(50))
        + "models:\n"
        + "".join(f"  m{n}: {{source: s{n}, target: diagnosis, task: binary}}\n" for n in range(50))
    )
    counted: dict[str, int] = {}
    for name, params in (("two", ENTRIES), ("fifty", many)):
        counted[name] = 0

        def count(*_: Any, name: str = name) -> None:
            counted[name] += 1

        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        try:
            assert len(overview(params, database_url).models) == len(params.models)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", count)
    assert counted["two"] == counted["fifty"] <= 8


def test_a_sources_newest_partitions_are_in_order_with_the_refused_among_them(
    database_url: str, tmp_path: Path
) -> None:
    fill(database_url, tmp_path)
    source = overview(ENTRIES, database_url, recent=20).sources[0]
    assert (source.published, source.refused, len(source.recent)) == (29, 1, 20)
    assert [mark.key for mark in source.recent] == [f"2026-03-{day:02}" for day in range(11, 31)]
    assert [mark.key for mark in source.recent if mark.status != "published"] == ["2026-03-17"]


def test_a_column_that_changed_its_type_is_shown_with_what_when_and_why(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    trips, cells = overview(ENTRIES, database_url).sources
    assert [(change.column, change.types, change.partition) for change in trips.type_changes] == [
        ("store_and_fwd_flag", ["bool", "string"], "2026-03-19"),
        ("passenger_count", ["int", "float", "string"], "2026-03-12"),
    ]
    assert trips.type_changes[0].at == dt.datetime(2026, 3, 20, 2, 1, tzinfo=dt.UTC)
    assert cells.type_changes == []


def test_a_champion_whose_files_are_gone_is_shown_with_what_is_wrong(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    (tmp_path / "served" / "trip_duration" / "abc" / "manifest.json").unlink()
    champion = overview(ENTRIES, database_url).models[0].champion
    assert champion
    assert champion.version == 7
    assert "no such file" in (champion.problem or "")


def test_a_database_that_is_away_is_an_error_and_not_an_empty_page() -> None:
    with pytest.raises(sa.exc.OperationalError):
        overview(ENTRIES, "postgresql+psycopg2://nobody@127.0.0.1:9/none")
    with pytest.raises(ValueError, match="MLOPS_DATABASE_URL"):
        overview(ENTRIES, "")
