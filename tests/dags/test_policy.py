"""What every DAG must have; a DAG file that nobody listed here fails."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from include import settings
from include.orchestration import assets, before, dag_defaults, ending, versions
from include.orchestration.bundle import OFFER_VERSIONS
from tests.conftest import ROOT
from tests.dags import airflow_home
from tests.dags.conftest import PARAMS

FILES = {
    "ingest": "sources",
    "features": "models",
    "train": "models",
    "deploy": "models",
    "monitor": "models",
    "rollout": "models",
    "rollback": "models",
    "maintenance": "",  # one for the platform
}
HEAVY = (
    "pandas",
    "numpy",
    "pyarrow",
    "sklearn",
    "xgboost",
    "mlflow",
    "dvc",
    "great_expectations",
    "bentoml",
    "optuna",
    "evidently",
    "onnx",
)


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    params = tmp_path_factory.mktemp("params") / "params.yaml"
    params.write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_PARAMS", str(params))
        bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags


def test_every_dag_file_is_listed_here_and_in_the_readme() -> None:
    assert sorted(p.stem for p in (ROOT / "dags").glob("*.py")) == sorted(FILES)


def test_there_is_one_dag_for_each_source_and_one_of_each_kind_for_each_model(dags: dict[str, Any]) -> None:
    params = settings.parse_params(PARAMS)
    expected = {f"{kind}_{name}" for kind, section in FILES.items() if section for name in getattr(params, section)}
    assert set(dags) == expected | {"maintenance"}


def test_the_shipped_params_yaml_makes_dags() -> None:
    params = settings.load_params(ROOT / "params.yaml")
    assert params.sources
    assert params.models


def test_every_dag_has_a_manual_an_owner_tags_and_a_time_out(dags: dict[str, Any]) -> None:
    kinds = {str(tag) for tag in dag_defaults.Tag}
    for dag in dags.values():
        assert len(dag.doc_md) > 500, dag.dag_id
        assert "When a task fails" in dag.doc_md
        assert dag.description
        assert dag.owner not in ("", "airflow")
        assert {str(tag) for tag in dag.tags} & kinds, dag.dag_id
        assert any(str(tag).startswith(("source:", "model:")) for tag in dag.tags) or dag.dag_id == "maintenance"
        assert dag.dagrun_timeout >= dt.timedelta(minutes=5), dag.dag_id
        assert dag.max_active_runs == 1
        assert dag.on_failure_callback
        assert dag.catchup is False


def test_a_dags_manual_has_its_own_names_and_links_and_each_task_the_lines_about_it(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.dag_display_name != dag.dag_id
        assert "/ml-platform/" in dag.doc_md
        own = "source" if dag.dag_id.startswith("ingest_") else "model"
        assert f"<{own}>" not in dag.doc_md or dag.dag_id == "maintenance"
        for task in dag.tasks:
            assert task.doc_md.startswith("**When it fails**: "), f"{dag.dag_id}.{task.task_id}"
    train = dags["train_trip_duration"]
    assert train.dag_display_name == "Train trip_duration"
    assert "`retraining(trip_duration)`: by `monitor_trip_duration`" in train.doc_md
    assert "[deploy_trip_duration](/dags/deploy_trip_duration)" in train.doc_md
    assert "/#/models/trip_duration)" in train.doc_md
    assert "a worker was killed: it is tried again" in train.get_task("tune").doc_md


def test_every_task_stands_in_its_dags_manual(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        for task_id in dag.task_ids:
            assert f"`{task_id}`" in dag.doc_md, (
                f"{dag.dag_id}: its docstring does not say what to do when {task_id} fails"
            )


def test_every_task_retries_by_cause_and_tells_of_its_failure(dags: dict[str, Any]) -> None:
    """Promises 1 and 17."""
    for dag in dags.values():
        for task in dag.tasks:
            if task.task_id == "outcome":  # it only repeats that another task failed
                assert task.retries == 0
                continue
            assert task.retries == 3, f"{dag.dag_id}.{task.task_id}"
            assert task.retry_policy is dag_defaults.RETRY_BY_CAUSE
            hook = task.partial_kwargs["pre_execute"] if task.is_mapped else task._pre_execute_hook
            assert hook is before.task
            assert task.on_failure_callback


def own(task: Any, name: str) -> Any:
    """An argument of a task, mapped or not."""
    return task.partial_kwargs.get(name) if task.is_mapped else getattr(task, name)


def test_every_tasks_log_ends_with_our_line(dags: dict[str, Any], asking: Any) -> None:
    """Whatever becomes of it, and with no answer of Airflow's own logged before it."""
    for task in (task for dag in (*dags.values(), asking) for task in dag.tasks):
        hook = "post_execute" if task.is_mapped else "_post_execute_hook"
        assert own(task, hook) is ending.summarised, task
        assert own(task, "on_success_callback") in (ending.succeeded, [ending.succeeded])
        assert own(task, "on_retry_callback") in (ending.tried_again, [ending.tried_again])
        failed = ending.failed_again if task.task_id == "outcome" else ending.failed
        assert own(task, "on_failure_callback") in (failed, [failed])
        if task.task_id != "approve":  # Airflow's operator for it logs no answer
            assert own(task, "show_return_value_in_logs") is False, task


def test_no_task_skips_itself_or_another(dags: dict[str, Any], asking: Any) -> None:
    """A task with nothing to do says so and ends well: pink is what a run's time-out leaves."""
    ours = [*(ROOT / "dags").glob("*.py"), *(ROOT / "include" / "orchestration").glob("*.py")]
    assert [path.name for path in ours if "SkipException" in path.read_text()] == []
    for task in (task for dag in (*dags.values(), asking) for task in dag.tasks):
        kind = type(task).__name__
        assert "Branch" not in kind, task
        assert "ShortCircuit" not in kind, task
        assert task.trigger_rule in ("all_success", "all_done"), task


def test_the_dag_files_that_are_parsed_for_another_version_are_those_whose_forms_name_one(dags: dict[str, Any]) -> None:
    naming = set()
    for dag in dags.values():
        schemas = {name: dag.params.get_param(name).schema for name in dag.params}
        fields = set(versions.named(schemas))
        assert fields == {name for name in schemas if "version" in name}, dag.dag_id
        naming |= {f"{dag.dag_id.split('_')[0]}.py"} if fields else set()
    assert naming == set(OFFER_VERSIONS)


def test_the_forms_of_manual_runs_are_typed(dags: dict[str, Any]) -> None:
    forms = {kind: [dag.params for name, dag in dags.items() if name.startswith(f"{kind}_")] for kind in FILES}
    assert all({"trials", "time_budget", "window", "reason"} == set(form) for form in forms["train"])
    assert all({"version", "again"} == set(form) for form in forms["deploy"])
    assert all(
        {"version", "kind", "steps", "bake_minutes", "share", "reason"} == set(form) for form in forms["rollout"]
    )
    assert all({"version", "reason"} == set(form) for form in forms["rollback"])
    assert set(dags["ingest_trips"].params) == {"from", "to", "replace"}
    for dag in dags.values():
        for name in dag.params:
            schema = dag.params.get_param(name).schema
            assert "type" in schema, f"{dag.dag_id}.{name}"
            assert "title" in schema


def test_the_wiring_is_the_map_in_assets_py(dags: dict[str, Any]) -> None:
    """The docstring of assets.py says who makes which asset and who runs on it; this reads both."""
    said = set(re.findall(r"(\w+)_<\w+>\s+→ (\w+)\(\w+\)\s+→ (?:(\w+)_<\w+>|the service)", assets.__doc__ or ""))
    made = {
        (dag.dag_id.split("_")[0], asset.name.split(".")[0])
        for dag in dags.values()
        for task in dag.tasks
        for asset in task.outlets
        if asset != assets.CAUGHT_UP  # announces again what others made
    }
    run_on: dict[str, set[str]] = {}
    for dag in dags.values():
        condition = getattr(dag.timetable, "asset_condition", None)
        for key in condition.objects if condition else ():
            run_on.setdefault(key.name.split(".")[0], set()).add(dag.dag_id.split("_")[0])
    wired = {(maker, asset, runner) for maker, asset in made for runner in run_on.get(asset, {""})}
    assert wired == said


def test_no_dag_triggers_another(dags: dict[str, Any]) -> None:
    assert [t.task_id for dag in dags.values() for t in dag.tasks if "Trigger" in type(t).__name__] == []


def test_each_assets_address_is_its_own() -> None:
    made = [
        make(name)
        for make in (assets.validated, assets.features, assets.retraining, assets.candidate, assets.champion)
        for name in "ab"
    ]
    assert len({asset.uri for asset in made}) == len({asset.name for asset in made}) == 10


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A deployment that a person has to approve."""
    params = yaml.safe_load(PARAMS)
    params["models"]["trip_duration"]["gate"] = {"approval": True}
    bag = parsed(tmp_path_factory.mktemp("asking"), yaml.safe_dump(params), ROOT / "dags" / "deploy.py")
    return bag.dags["deploy_trip_duration"]


def test_where_approval_is_asked_for_a_person_stands_before_the_promotion(asking: Any) -> None:
    """Promise 29: unanswered means refused."""
    dag = asking
    approve = dag.get_task("approve")
    assert approve.downstream_task_ids == {"promote"}
    assert approve.upstream_task_ids == {"package"}
    assert approve.defaults == ["Reject"]
    assert approve.response_timeout < dag.dagrun_timeout


def parsed(folder: Path, params: str, dag_folder: Path = ROOT / "dags") -> Any:
    from airflow.dag_processing.dagbag import DagBag

    (folder / "params.yaml").write_text(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_PARAMS", str(folder / "params.yaml"))
        return DagBag(str(dag_folder))


def test_a_broken_dag_file_is_an_import_error_and_the_others_are_unaffected(tmp_path: Path) -> None:
    """Promise 50."""
    shutil.copytree(ROOT / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dags" / "train.py").write_text("from airflow.sdk import DAG\n\nthis is no python\n")
    bag = parsed(tmp_path, PARAMS, tmp_path / "dags")
    assert [Path(name).name for name in bag.import_errors] == ["train.py"]
    assert "SyntaxError" in next(iter(bag.import_errors.values()))
    assert "ingest_trips" in bag.dags
    assert "train_trip_duration" not in bag.dags


def test_a_mistake_in_params_yaml_is_the_import_error_in_words(tmp_path: Path) -> None:
    bag = parsed(tmp_path, PARAMS.replace("trials: 3", "trails: 3"))
    assert bag.dags == {}
    for error in bag.import_errors.values():
        last = error.strip().splitlines()[-1]
        assert re.search(
            r"params.yaml:\d+: models.trip_duration.tuning.trails: unknown key; did you mean 'trials'", last
        )
        assert "ValidationError" not in error


EACH_ALONE = f"""
import json, os, sys, time
from airflow.dag_processing.dagbag import DagBag
for file in {sorted(FILES)!r}:
    if not os.fork():  # what one file imports is not there for the next
        began = time.perf_counter()
        bag = DagBag({str(ROOT / "dags")!r} + "/" + file + ".py")
        seconds = time.perf_counter() - began
        imported = {{name.split(".")[0] for name in sys.modules}}
        print(json.dumps([file, seconds, len(bag.dags), sorted(imported & set({list(HEAVY)!r}))]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def each_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, int, list[str]]]:
    """Of each DAG file, parsed in a process that has imported Airflow and no other: seconds, DAGs, what is heavy."""
    variables = airflow_home.configuration(tmp_path_factory.mktemp("alone"))
    environment = {**os.environ, **variables, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", EACH_ALONE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {file: (seconds, count, heavy) for file, seconds, count, heavy in lines}


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(FILES))
def test_a_dag_file_parses_and_imports_nothing_heavy(
    file: str, each_alone: dict[str, tuple[float, int, list[str]]]
) -> None:
    """How long it takes is in the output: on a busy machine it says little."""
    seconds, count, heavy = each_alone[file]
    print(f"{file}.py: {seconds:.3f} s")
    assert count >= (2 if FILES[file] else 1)
    assert heavy == []
