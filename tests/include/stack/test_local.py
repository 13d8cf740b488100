"""The whole stack, really started, really killed (promises 2, 16, 30 and 49 as far as the stack is concerned)."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from include.stack import local, part, postgres, processes, supervisor
from include.stack.airflow_api import Airflow, AirflowError
from include.stack.progress import Progress
from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def variables() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not re.match(r"MLOPS_|AIRFLOW|MLFLOW|XDG_RUNTIME", k)}
    return {**kept, **{f"MLOPS_{p}_PORT": str(free_port()) for p in ("AIRFLOW", "MLFLOW", "SERVING", "POSTGRES")}}


def up(home: Path, inherited: dict[str, str]) -> tuple[local.Stack, str]:
    told = io.StringIO()
    return local.up(ROOT, home, inherited=inherited, progress=Progress(told)), told.getvalue()


def mine(stack: local.Stack) -> list[psutil.Process]:
    return processes.marked(stack.stack_id) + processes.postgres(stack.home / "postgres")


def kill_9(victims: list[psutil.Process]) -> None:
    for process in victims:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=10)


def watchers(stack: local.Stack) -> list[psutil.Process]:
    """The supervisor and its guard, which restart each other, and everything else."""
    return [
        process
        for process in processes.marked(stack.stack_id)
        if processes.part_of(process) == supervisor.GUARD or "supervisor.supervisord" in " ".join(process.cmdline())
    ]


def waiting(stack: local.Stack) -> list[psutil.Process]:
    """What waits for a part, and starts a supervisor when there is none."""
    return [process for process in processes.marked(stack.stack_id) if part.__file__ in process.cmdline()]


class Load:
    """Requests to the service, one after another, for as long as the block runs."""

    def __init__(self, stack: local.Stack) -> None:
        self._url = f"{stack.address('serving')}/models"
        self._headers = {"Authorization": f"Bearer {stack.credentials().serving_key}"}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: list[int | str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                self.statuses.append(httpx.get(self._url, headers=self._headers, timeout=30).status_code)
            except httpx.HTTPError as error:
                self.statuses.append(repr(error))


def ready(stack: local.Stack, *, supervised: bool, seconds: float = 120) -> dict[str, int | None]:
    """The process of each part, once all are ready, with or without a supervisor: a heartbeat may be late."""
    deadline = time.monotonic() + seconds
    while True:
        lines = local.status(ROOT, stack.home)
        if {(line.state, line.supervised) for line in lines} == {("ready", supervised)}:
            return {line.part: line.pid for line in lines}
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)


class TestADyingPart:
    def test_it_is_told_at_once_by_name_with_its_last_words_and_nothing_is_left_running(self, tmp_path: Path) -> None:
        home, inherited = tmp_path / "home", variables()
        home.mkdir()
        keys = local.credentials.read_or_create(home / "credentials.env")
        postgres.prepare(home / "postgres", keys.postgres_password)
        (home / "postgres" / "global" / "pg_control").write_bytes(b"damaged")
        began = time.monotonic()
        with pytest.raises(local.StackError) as error:
            up(home, inherited)
        assert time.monotonic() - began < 30
        assert str(error.value).startswith("postgres could not start")
        assert "pg_control" in str(error.value)
        assert mine(local.load(ROOT, home)) == []

    def test_lost_credentials_are_not_replaced_when_data_depends_on_them(self, tmp_path: Path) -> None:
        (tmp_path / "postgres").mkdir()
        (tmp_path / "postgres" / "PG_VERSION").write_text("18")
        with pytest.raises(local.StackError, match="bring the file back"):
            up(tmp_path, variables())


@pytest.mark.e2e
class TestAStack:
    @pytest.fixture(scope="class")
    def home(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("user") / "a home with spaces"

    @pytest.fixture(scope="class")
    def inherited(self) -> dict[str, str]:
        return variables()

    @pytest.fixture(scope="class")
    def stack(self, home: Path, inherited: dict[str, str]) -> Iterator[local.Stack]:
        made, _ = up(home, inherited)
        yield made
        local.down(ROOT, home)
        assert mine(made) == []

    def test_every_part_is_ready(self, stack: local.Stack) -> None:
        assert {line.part: line.state for line in local.status(ROOT, stack.home)} == dict.fromkeys(local.PARTS, "ready")

    def test_a_second_up_changes_nothing(self, stack: local.Stack, inherited: dict[str, str]) -> None:
        before = {line.part: line.pid for line in local.status(ROOT, stack.home)}
        _, told = up(stack.home, inherited)
        assert "already up" in told
        assert {line.part: line.pid for line in local.status(ROOT, stack.home)} == before

    def test_another_port_needs_a_down_first(self, stack: local.Stack) -> None:
        with pytest.raises(local.StackError, match="`make down` first"):
            up(stack.home, {"MLOPS_AIRFLOW_PORT": str(free_port())})

    def test_no_folder_was_opened_for_postgresql(self, stack: local.Stack) -> None:
        """Pytest's folder is closed to others, and so is the home; PostgreSQL works below both, as another user."""
        assert stack.home.stat().st_mode & 0o077 == 0
        assert stack.home.parent.stat().st_mode & 0o077 == 0
        if os.geteuid() == 0:
            [server] = {p.username() for p in processes.postgres(stack.home / "postgres")}
            assert server == postgres.ACCOUNT

    def test_everything_listens_on_loopback_only(self, stack: local.Stack) -> None:
        listening = {
            connection.laddr.ip
            for process in mine(stack)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}

    def test_airflow_lets_only_the_admin_in(self, stack: local.Stack) -> None:
        keys = stack.credentials()
        with pytest.raises(AirflowError, match="refuses"):
            Airflow(stack.address("airflow"), "admin", "guessed")
        airflow = Airflow(stack.address("airflow"), "admin", keys.airflow_admin_password)
        assert "example_bash_operator" not in airflow.dags()

    def test_mlflow_answers_nobody_without_the_password(self, stack: local.Stack) -> None:
        url = f"{stack.address('mlflow')}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url)  # noqa: S310  (an http URL of ours)
        variables = local.platform_variables(stack, {})
        code = "import mlflow; print(mlflow.MlflowClient().get_experiment('0').name)"
        environment = {**os.environ, **variables}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.stdout.strip() == "Default", result.stderr[-2000:]

    def test_no_file_of_ours_can_be_read_by_others(self, stack: local.Stack) -> None:
        secrets = [s.encode() for s in vars(stack.credentials()).values()]
        for path in stack.home.rglob("*"):
            if not path.is_file() or path.is_relative_to(stack.home / "postgres") or path.stat().st_size > 1 << 20:
                continue
            content = path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0 or not any(secret in content for secret in secrets), path

    def test_a_part_that_is_killed_is_started_again_by_its_supervisor(self, stack: local.Stack) -> None:
        killed = next(line for line in local.status(ROOT, stack.home) if line.part == "prediction")
        assert killed.pid
        psutil.Process(killed.pid).kill()
        deadline = time.monotonic() + 90
        while True:
            now = next(line for line in local.status(ROOT, stack.home) if line.part == "prediction")
            if now.state == "ready" and now.pid != killed.pid:
                break
            assert time.monotonic() < deadline
            time.sleep(0.5)

    @pytest.mark.parametrize("alone", [True, False], ids=["its-guard-lives", "with-its-guard"])
    def test_a_killed_supervisor_comes_back_by_itself_and_stops_nothing(self, stack: local.Stack, alone: bool) -> None:
        before = ready(stack, supervised=True)
        killed = [p for p in watchers(stack) if not alone or processes.part_of(p) != supervisor.GUARD]
        with Load(stack) as load:
            kill_9(killed)
            deadline = time.monotonic() + 60
            while not (lines := local.status(ROOT, stack.home)) or not all(line.supervised for line in lines):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert {line.part: line.pid for line in lines} == before
        assert set(load.statuses) == {200}
        alerts = [json.loads(line) for line in stack.paths.alerts.read_text().splitlines()]
        assert "supervisor_died" in [alert["event"] for alert in alerts]

    def test_without_supervisor_and_guard_status_says_so_and_up_adopts_what_serves(
        self, stack: local.Stack, inherited: dict[str, str]
    ) -> None:
        before = ready(stack, supervised=True)
        with Load(stack) as load:
            kill_9([*watchers(stack), *waiting(stack)])
            assert ready(stack, supervised=False) == before
            scheduler = psutil.Process(before["scheduler"])
            scheduler.kill()  # one part that does not live is started, the others are adopted
            scheduler.wait(10)
            _, told = up(stack.home, inherited)
        assert set(load.statuses) == {200}
        assert len(load.statuses) > 10
        assert "adopted as they run" in told
        after = ready(stack, supervised=True)
        assert after.pop("scheduler") != before.pop("scheduler")
        assert after == before

    def test_down_after_kill_9_of_the_supervisor_leaves_no_process(self, stack: local.Stack) -> None:
        kill_9(watchers(stack))
        assert len(mine(stack)) > 6
        assert local.down(ROOT, stack.home) > 6
        assert mine(stack) == []
        assert not (stack.home / "postgres" / "postmaster.pid").exists()
        assert json.loads((stack.home / "stack.json").read_text())["id"] == stack.stack_id
