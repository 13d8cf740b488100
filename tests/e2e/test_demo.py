"""From a clone to two served models, and a night that nobody watched: one stack, in the order of a user's days."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest
import yaml

from include.stack import lifecycle, machine, parts, postgres, shutdown, status
from include.stack.airflow_api import Airflow, AirflowError
from include.stack.progress import Progress
from include.stack.supervision import processes, supervisor
from tests.conftest import free_port
from tests.e2e.conftest import Checkout, until
from tests.e2e.stacks import Load, kill_9, mine, ready, waiting, watchers

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

TRIP = {
    "pickup_datetime": "2026-03-02T08:30:00",
    "trip_distance": 2.4,
    "pickup_location_id": 161,
    "dropoff_location_id": 236,
    "vendor_id": 1,
    "passenger_count": 1,
    "rate_code_id": 1,
}


def test_make_demo_takes_both_models_to_a_served_champion(demo: Checkout) -> None:
    served = demo.models()
    assert served["trip_duration"]["version"] == 1
    assert served["tumour"]["version"] == 1
    answer = demo.predict("trip_duration", TRIP).json()
    assert (answer["model"], answer["version"]) == ("trip_duration", 1)
    assert 2 < answer["prediction"] < 60
    assert answer["prediction_id"]


def test_no_task_of_the_demo_was_skipped_and_each_log_ends_with_its_line(demo: Checkout) -> None:
    """As an operator reads it: our lines with their level and name, a summary at the end, and no library's chatter."""
    states = demo.airflow("GET", "/dags/~/dagRuns/~/taskInstances", params={"state": "skipped"})
    assert [f"{task['dag_id']}.{task['task_id']}" for task in states["task_instances"]] == []
    logs = sorted((Path(demo.environment["MLOPS_HOME"]) / "airflow" / "logs").glob("dag_id=*/**/attempt=*.log"))
    assert len({re.search(r"dag_id=(\w+)", str(log))[1] for log in logs}) >= 9
    for log in logs:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
        if any(line["event"] == "Task failed with exception" for line in lines):
            continue  # tried again: a network's error, on a busy machine
        shown = [line for line in lines if line["event"] != "::endgroup::"]
        assert (shown[-1]["logger"], shown[-1]["level"]) == ("mlops", "info"), f"{log}: {shown[-1]}"
        loud = [line for line in shown if line["level"] in ("error", "critical") or "task.std" in line["logger"]]
        assert loud == [], f"{log}: {loud[:3]}"
        chatter = [line for line in shown if not re.match(r"mlops|include|task|airflow", line["logger"])]
        assert [line for line in chatter if line["level"] == "info"] == [], f"{log}: {chatter[:3]}"


def test_the_curl_line_of_the_summary_works_when_pasted(demo: Checkout) -> None:
    line = next(text.strip() for text in demo.outputs["make demo"].splitlines() if text.strip().startswith("curl "))
    assert '"prediction"' in demo.run(line)


def test_the_work_leaves_the_checkout_clean(demo: Checkout) -> None:
    assert demo.run("git status --porcelain") == ""


def test_a_second_demo_changes_nothing(demo: Checkout) -> None:
    before = {dag: len(demo.runs(dag)) for dag in ("train_trip_duration", "deploy_trip_duration", "train_tumour")}
    demo.run("make demo", timeout=300)
    assert {dag: len(demo.runs(dag)) for dag in before} == before
    assert demo.models()["trip_duration"]["version"] == 1


def test_the_credentials_are_one_file_that_only_its_owner_reads(demo: Checkout) -> None:
    credentials = Path(demo.environment["MLOPS_HOME"]) / "credentials.env"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert demo.run("git check-ignore -q var/credentials.env; echo $?").strip() == "0"


def test_everything_listens_on_loopback_only(demo: Checkout) -> None:
    sockets = [connection for process in demo.processes() for connection in _connections(process)]
    listening = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4
    assert [address for address in listening if address.ip not in ("127.0.0.1", "::1")] == []


def test_wrong_requests_are_refused_with_the_fields_path(demo: Checkout) -> None:
    answer = demo.predict("trip_duration", {**TRIP, "trip_distance": "far"})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "trip_distance"


def test_everything_comes_back_after_kill_9_of_everything(demo: Checkout) -> None:
    """Promises 2, 9 and 30 on the whole stack: no lock to remove by hand, all data there."""
    assert len(demo.processes()) > 6
    while killed := demo.processes():  # the guard may have started a supervisor in the moment before its own death
        for process in killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(killed, timeout=10)
    credentials = Path(demo.environment["MLOPS_HOME"]) / "credentials.env"
    before = credentials.read_bytes()
    assert "ready" not in demo.run(".venv/bin/mlops status", check=False)
    assert "migrated" not in demo.run("make up", timeout=300)
    assert credentials.read_bytes() == before
    until(lambda: demo.models().get("trip_duration", {}).get("version") == 1, "the champion is served again", 60)
    assert demo.predict("trip_duration", TRIP).status_code == 200
    assert demo.runs("train_trip_duration")[0]["state"] == "success"


def test_the_serving_pages_lines_work_when_pasted(demo: Checkout) -> None:
    """docs/serving.md, from calling to keys; what needs a second version is tried further below."""
    done = demo.run("set -euo pipefail\n" + "\n".join(_blocks(demo, without=("Go back", "Try a version"))))
    assert done.count('"prediction"') >= 50
    assert '"explanation"' in done
    assert done.count('{"accepted":1}') == 2


def test_a_running_run_keeps_its_dag_file_and_a_broken_one_harms_no_other(demo: Checkout) -> None:
    """Promise 50. What does not load replaces nothing: a run goes on as it began, and an edit changes the next one."""
    file = demo.folder / "dags" / "train.py"
    shipped = file.read_text()
    edited = re.sub(r"(def fit\(.*\n)", r"\1            raise RuntimeError('edited in mid-run')\n", shipped)
    assert edited != shipped
    run = demo.airflow(
        "POST", "/dags/train_tumour/dagRuns", json={"logical_date": None, "conf": {"trials": 4, "reason": "promise 50"}}
    )["dag_run_id"]  # fmt: skip
    path = f"/dags/train_tumour/dagRuns/{run}"
    until(lambda: demo.airflow("GET", path)["state"] == "running", "the run has begun", 60)
    try:
        file.write_text("from airflow.sdk import DAG\n\nthis is no python\n")
        errors = until(lambda: demo.airflow("GET", "/importErrors")["import_errors"], "the error is visible", 120)
        assert [Path(error["filename"]).name for error in errors] == ["refused.py"]  # what is in force stays whole
        assert "train.py" in errors[0]["stack_trace"]
        assert not demo.airflow("GET", "/dags/ingest_trips")["is_stale"]
        file.write_text(edited)
        until(lambda: demo.airflow("GET", path)["state"] in ("success", "failed"), "the run ends", 240)
        assert demo.airflow("GET", path)["state"] == "success"
    finally:
        file.write_text(shipped)


class TestASecondStack:
    """Beside the first, from the same checkout, on ports that nobody named, in a folder that is closed to others."""

    @pytest.fixture(scope="class")
    def beside(self, demo: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
        named = {name for name in demo.environment if re.fullmatch(r"MLOPS_\w+_PORT", name)}
        inherited = {name: value for name, value in demo.environment.items() if name not in named}
        home = tmp_path_factory.mktemp("user") / "a home with spaces"
        made = Checkout(demo.folder, {**inherited, "MLOPS_HOME": str(home)})
        try:
            made.run(".venv/bin/mlops up", timeout=300)
            yield made
        finally:
            made.run(".venv/bin/mlops down", timeout=120)
        assert made.processes() == []

    @pytest.fixture(scope="class")
    def stack(self, beside: Checkout) -> machine.Stack:
        """Once its first task runs: until then the scheduler imports what tasks need, and its heartbeat may be late."""
        made = machine.load(beside.folder, Path(beside.environment["MLOPS_HOME"]))
        ready(made, supervised=True, seconds=240)
        return made

    def test_neither_disturbs_the_other(self, demo: Checkout, beside: Checkout, stack: machine.Stack) -> None:
        assert not {str(port) for port in stack.ports.values()} & set(demo.environment.values())
        beside.run(".venv/bin/mlops status")
        demo.run(".venv/bin/mlops status")
        assert demo.predict("trip_duration", TRIP).status_code == 200

    def test_every_part_is_ready(self, stack: machine.Stack) -> None:
        assert set(ready(stack, supervised=True)) == set(machine.PARTS)

    def test_a_second_up_changes_nothing(self, stack: machine.Stack, beside: Checkout) -> None:
        before = {line.part: line.pid for line in status.status(stack.root, stack.home)}
        assert "already up" in beside.mlops("up")
        assert {line.part: line.pid for line in status.status(stack.root, stack.home)} == before

    def test_another_port_needs_a_down_first(self, stack: machine.Stack) -> None:
        asked = {"MLOPS_AIRFLOW_PORT": str(free_port())}
        with pytest.raises(machine.StackError, match="`make down` first"):
            lifecycle.up(stack.root, stack.home, inherited=asked, progress=Progress(io.StringIO()))

    def test_no_folder_was_opened_for_postgresql(self, stack: machine.Stack) -> None:
        """Pytest's folder is closed to others, and so is the home; PostgreSQL works below both, as another user."""
        assert stack.home.stat().st_mode & 0o077 == 0
        assert stack.home.parent.stat().st_mode & 0o077 == 0
        if os.geteuid() == 0:
            [server] = {p.username() for p in processes.postgres(stack.home / "postgres")}
            assert server == postgres.ACCOUNT

    def test_airflow_lets_only_the_admin_in(self, stack: machine.Stack) -> None:
        keys = stack.credentials()
        with pytest.raises(AirflowError, match="refuses"):
            Airflow(stack.address("airflow"), "admin", "guessed")
        airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password)
        assert "example_bash_operator" not in airflow.dags()

    def test_mlflow_answers_nobody_without_the_password(self, stack: machine.Stack) -> None:
        url = f"{stack.address('mlflow')}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url)  # noqa: S310  (an http URL of ours)
        variables = parts.platform_variables(stack, {})
        code = "import mlflow; print(mlflow.MlflowClient().get_experiment('0').name)"
        environment = {**os.environ, **variables}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.stdout.strip() == "Default", result.stderr[-2000:]

    def test_no_file_of_ours_can_be_read_by_others(self, stack: machine.Stack) -> None:
        secrets = [s.encode() for s in vars(stack.credentials()).values()]
        for path in stack.home.rglob("*"):
            if not path.is_file() or path.is_relative_to(stack.home / "postgres") or path.stat().st_size > 1 << 20:
                continue
            content = path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0 or not any(secret in content for secret in secrets), path

    def test_a_part_that_is_killed_is_started_again_by_its_supervisor(self, stack: machine.Stack) -> None:
        killed = next(line for line in status.status(stack.root, stack.home) if line.part == "prediction")
        assert killed.pid
        psutil.Process(killed.pid).kill()

        def replaced() -> bool:
            now = next(line for line in status.status(stack.root, stack.home) if line.part == "prediction")
            return now.state == "ready" and now.pid != killed.pid

        until(replaced, "another process is ready", 90)

    @pytest.mark.parametrize("alone", [True, False], ids=["its-guard-lives", "with-its-guard"])
    def test_a_killed_supervisor_comes_back_by_itself_and_stops_nothing(
        self, stack: machine.Stack, alone: bool
    ) -> None:
        before = ready(stack, supervised=True)
        killed = [p for p in watchers(stack) if not alone or processes.part_of(p) != supervisor.GUARD]
        with Load(stack) as load:
            kill_9(killed)

            def supervised() -> list[status.PartStatus]:
                lines = status.status(stack.root, stack.home)
                return lines if all(line.supervised for line in lines) else []

            lines = until(supervised, "every part is supervised", 60)
        assert {line.part: line.pid for line in lines} == before
        assert set(load.statuses) == {200}
        alerts = [json.loads(line) for line in stack.paths.alerts.read_text().splitlines()]
        assert "supervisor_died" in [alert["event"] for alert in alerts]

    def test_without_supervisor_and_guard_status_says_so_and_up_adopts_what_serves(
        self, stack: machine.Stack, beside: Checkout
    ) -> None:
        before = ready(stack, supervised=True)
        with Load(stack) as load:
            kill_9([*watchers(stack), *waiting(stack)])
            assert ready(stack, supervised=False) == before
            scheduler = psutil.Process(before["scheduler"])
            scheduler.kill()  # one part that does not live is started, the others are adopted
            scheduler.wait(10)
            told = beside.mlops("up")
        assert set(load.statuses) == {200}
        assert len(load.statuses) > 10
        assert "adopted as they run" in told
        after = ready(stack, supervised=True)
        assert after.pop("scheduler") != before.pop("scheduler")
        assert after == before

    def test_down_after_kill_9_of_the_supervisor_leaves_no_process(self, stack: machine.Stack) -> None:
        kill_9([*watchers(stack), *waiting(stack)])
        assert len(mine(stack)) > 6
        assert shutdown.down(stack.root, stack.home) > 6
        assert mine(stack) == []
        assert not (stack.home / "postgres" / "postmaster.pid").exists()
        assert json.loads((stack.home / "stack.json").read_text())["id"] == stack.stack_id


def test_the_first_stack_serves_on_when_the_second_is_gone(demo: Checkout) -> None:
    assert demo.predict("trip_duration", TRIP).status_code == 200
    demo.run(".venv/bin/mlops status")


def test_the_exact_training_data_of_a_version_comes_back(demo: Checkout, tmp_path: Path) -> None:
    demo.mlops(f"restore trip_duration 1 --to {tmp_path}/back")
    assert len(list((tmp_path / "back").rglob("*.parquet"))) >= 60


def test_a_csv_never_seen_becomes_a_served_model_by_the_readmes_walk_through(demo: Checkout) -> None:
    """The blocks of the README's section, executed in their order, and nothing else."""
    readme = (demo.folder / "README.md").read_text()
    section = re.search(r"^## A model from your own CSV\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert section
    blocks = re.findall(r"```(\w+)\n(.*?)```", section[1], re.DOTALL)
    assert [kind for kind, _ in blocks][:1] == ["bash"]
    for kind, text in blocks:
        if kind == "bash":
            demo.run(text, timeout=600)
        elif kind == "yaml":
            _add_to_params(demo, text)
    served = demo.models()["churn"]
    assert served["version"] == 1
    answer = demo.predict("churn", {"age": 41, "plan": "basic", "monthly_fee": None, "visits": 3, "region": "north"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["prediction"] in ("yes", "no")


def test_a_night_with_an_incident_ends_with_a_better_champion_and_nobody_at_the_keyboard(demo: Checkout) -> None:
    """The machine was off for six nights in which the traffic changed; the scheduler catches up by itself."""
    today = dt.datetime.now(dt.UTC).date()
    first, last, tomorrow = today - dt.timedelta(30), today - dt.timedelta(7), today + dt.timedelta(1)
    source: dict[str, Any] = {
        "type": "sample", "dataset": "taxi_trips", "rows_per_day": 600, "seed": 5, "suite": "trips",
        "quarantine_share": 0.1, "start": tomorrow,  # nothing scheduled yet
        "derive": {"duration_minutes": "minutes(dropoff_datetime - pickup_datetime)"},
    }  # fmt: skip
    model = {
        "source": "night_trips", "target": "duration_minutes", "task": "regression", "metric": "mae", "window": 10,
        "features": {"definition": "trip_duration"},
        "estimators": {"xgboost": {"objective": "reg:absoluteerror", "n_estimators": 150}},
        "tuning": {"trials": 4, "time_budget": 60}, "monitoring": {"cooldown": 0},
    }  # fmt: skip
    _add_to_params(demo, yaml.safe_dump({"sources": {"night_trips": source}, "models": {"night_duration": model}}))
    dags = {"ingest_night_trips", *(f"{step}_night_duration" for step in ("features", "train", "deploy", "monitor"))}
    until(lambda: dags <= _known(demo), "the new DAGs are parsed", 120)
    for dag in sorted(dags):
        demo.airflow("PATCH", f"/dags/{dag}", json={"is_paused": False})
    demo.airflow(
        "POST", "/dags/ingest_night_trips/dagRuns",
        json={"logical_date": None, "conf": {"from": str(first), "to": str(last)}},
    )  # fmt: skip
    until(lambda: demo.models().get("night_duration", {}).get("version") == 1, "the first champion", 300)

    # From here on nobody touches anything: the days since have an incident, and the schedule finds them.
    changed = {**source, "start": today - dt.timedelta(6), "catchup": True,
               "incidents": [{"kind": "shift", "start": today - dt.timedelta(6)}]}  # fmt: skip
    _replace_in_params(demo, "night_trips", changed)
    until(lambda: demo.models()["night_duration"]["version"] > 1, "the loop replaces the champion", 900)

    scheduled = [run for run in demo.runs("ingest_night_trips") if run["run_type"] == "scheduled"]
    assert scheduled
    retrained = [run for run in demo.runs("train_night_duration") if run["run_type"] == "asset_triggered"]
    assert len(retrained) >= 2
    history = demo.mlops("history night_duration")
    assert "PROMOTE" in history
    assert demo.predict("night_duration", TRIP).json()["version"] > 1


def test_an_operator_rolls_back_and_the_service_follows(demo: Checkout) -> None:
    """docs/serving.md's lines, for the model that has had two champions."""
    _let_rest(demo, "night_duration")  # a champion that came meanwhile would end what is tried
    version = demo.models()["night_duration"]["version"]
    back = "\n".join(_blocks(demo, only=("Go back",))).replace("trip_duration", "night_duration")
    demo.run("set -euo pipefail\n" + back)
    assert demo.models()["night_duration"]["version"] < version

    tried = "\n".join(_blocks(demo, only=("Try a version",))).replace("trip_duration", "night_duration")
    done = demo.run("set -euo pipefail\n" + tried.replace("--version 2", f"--version {version}"))
    assert "canary" in done
    assert "was stopped" in done


def test_the_forms_offer_the_versions_there_are_with_their_verdicts(demo: Checkout) -> None:
    def offered() -> list[str]:
        return list(demo.airflow("GET", "/dags/deploy_tumour/details")["params"]["version"]["schema"]["examples"])

    champion = until(lambda: [line for line in offered() if line.endswith("champion")], "the list is fresh", 120)
    assert re.fullmatch(r"1 · roc_auc 0\.\d+ · pass · champion", champion[0])
    assert [line for line in offered() if re.match(r"2 · roc_auc 0\.\d+ · hold$", line)]


@pytest.mark.parametrize("answer", ["Reject", "Approve"])
def test_a_version_waits_for_a_person_and_each_answer_ends_well(demo: Checkout, answer: str) -> None:
    """Promise 29. The champion is put forward again: it passes, as it did."""
    entry = yaml.safe_load((demo.folder / "params.yaml").read_text())["models"]["tumour"]
    _add_to_params(demo, yaml.safe_dump({"models": {"tumour": {**entry, "gate": {"approval": True}}}}))
    tasks = "/dags/deploy_tumour/tasks"
    until(lambda: "approve" in str(demo.airflow("GET", tasks)["tasks"]), "the DAG has a person in it", 120)
    body = {"logical_date": None, "conf": {"version": 1}}
    run = demo.airflow("POST", "/dags/deploy_tumour/dagRuns", json=body)["dag_run_id"]
    path = f"/dags/deploy_tumour/dagRuns/{run}"
    task = f"{path}/taskInstances/approve"
    until(lambda: demo.airflow("GET", task)["state"] == "awaiting_input", "it waits", 120)

    place = f"/dags/deploy_tumour/runs/{quote(run)}/tasks/approve/required_actions"
    page = httpx.get(
        f"{demo.address('airflow')}/ml-platform/",
        headers={"Authorization": f"Bearer {demo.airflow_token()}"},
        timeout=30,
    ).text
    assert "waits for approval" in page
    assert place in page
    alerts = [json.loads(line) for line in (demo.folder / "var" / "logs" / "alerts.jsonl").read_text().splitlines()]
    (alert,) = [alert for alert in alerts if alert["event"] == "approval_waits" and alert["run_id"] == run]
    for text in ("Promote tumour v1? PROMOTE version 1: better by", "roc_auc 0.", "Approve: version 1 answers every",
                 "Reject, or no answer within 2 days", f"Answer at {demo.address('airflow')}{place}"):  # fmt: skip
        assert text in alert["message"], alert

    # Whoever is quicker than the scheduler is seen to in include/orchestration/executor.py, and tested there.
    noted = re.compile(
        rf"Finished: dag_id=deploy_tumour, task_id=approve, run_id={re.escape(run)}.* state=awaiting_input"
    )
    log = demo.folder / "var" / "logs" / "scheduler.log"
    until(lambda: noted.search(log.read_text()), "the scheduler has noted that it waits", 60)
    demo.airflow("PATCH", f"{task}/-1/hitlDetails", json={"chosen_options": [answer]})
    until(lambda: demo.airflow("GET", path)["state"] in ("success", "failed"), "the run ends", 120)
    states = {one["task_id"]: one["state"] for one in demo.airflow("GET", f"{path}/taskInstances")["task_instances"]}
    assert set(states.values()) == {"success"}, states
    verify = demo.airflow("GET", f"{path}/taskInstances/verify/xcomEntries/return_value")["value"]
    assert ("rejected by admin" in str(verify)) == (answer == "Reject"), verify
    assert demo.models()["tumour"]["version"] == 1


def test_make_down_leaves_no_process_behind(demo: Checkout) -> None:
    demo.run("make down", timeout=120)
    assert demo.processes() == []


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:  # a task that has just ended
        return []


def _let_rest(demo: Checkout, model: str) -> None:
    """Let nothing ask for another training of the model, and what was begun come to its end."""
    nights = [dag for dag in _known(demo) if "night" in dag and not dag.startswith(("train", "deploy", "roll"))]
    assert any(dag.startswith("ingest") for dag in nights)
    for dag in nights:
        demo.airflow("PATCH", f"/dags/{dag}", json={"is_paused": True})
    quiet = 0

    def rests() -> bool:
        nonlocal quiet
        runs = [run["state"] for dag in ("train", "deploy") for run in demo.runs(f"{dag}_{model}")]
        quiet = 0 if {"queued", "running"} & set(runs) else quiet + 1
        return quiet >= 4  # looks, two seconds apart: a training's end is soon followed by its deployment

    until(rests, f"{model} rests", 300, pause=2)


def _known(demo: Checkout) -> set[str]:
    return {entry["dag_id"] for entry in demo.airflow("GET", "/dags", params={"limit": 100})["dags"]}


def _add_to_params(demo: Checkout, text: str) -> None:
    path = demo.folder / "params.yaml"
    params, added = yaml.safe_load(path.read_text()), yaml.safe_load(text)
    for section, entries in added.items():
        params[section] |= entries
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def _replace_in_params(demo: Checkout, source: str, entry: dict[str, Any]) -> None:
    _add_to_params(demo, yaml.safe_dump({"sources": {source: entry}}))


def _blocks(demo: Checkout, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[str]:
    """The shell lines of docs/serving.md, of some sections; the first, which sets variables, always, with our port."""
    page = (demo.folder / "docs" / "serving.md").read_text()
    first, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    chosen = [s for s in sections if (not only or s.startswith(only)) and not s.startswith(without or ("\0",))]
    blocks = [block for text in (first, *chosen) for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    return [block.replace("http://127.0.0.1:3000", demo.address("serving")) for block in blocks]
