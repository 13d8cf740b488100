"""Parts that are forked from a process that has imported what they need."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from include.stack import environment
from include.stack.supervision import part, processes
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="parts are forked on Linux only")

MODULE = """
import os, sys, time
print("began", sys.argv[1:], os.getcwd(), os.environ["OWN"], "json" in sys.modules, flush=True)
time.sleep(600) if sys.argv[1] == "stays" else sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_part.py").write_text(MODULE)
    return tmp_path


def variables(folder: Path, **own: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")}
    path = os.pathsep.join([str(Path(part.__file__).parents[2]), str(folder)])
    return {**found, part.MARKER: str(folder), "PYTHONPATH": path, "SPT_NOENV": "1", **own}


@pytest.fixture
def forkserver(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "include.stack.supervision.forkserver", "--socket", str(folder / "socket"), "json"]
    process = subprocess.Popen(command, env=variables(folder, MLOPS_PART="airflow"))
    until(lambda: part.forks(folder / "socket"))
    yield process
    process.kill()
    process.wait()
    processes.stop(processes.marked(str(folder)), seconds=5)


def start(folder: Path, *arguments: str, job: bool = False) -> subprocess.Popen[bytes]:
    command = part.through(
        [sys.executable, "-m", "a_part", *arguments],
        "one",
        folder / "one.log",
        directory=folder,
        forkserver=folder / "socket",
        job=job,
    )
    return subprocess.Popen(command, env=variables(folder, OWN="its own"), process_group=0)


def log(folder: Path) -> str:
    return (folder / "one.log").read_text() if (folder / "one.log").exists() else ""


def test_a_fork_is_its_part_by_environment_group_log_and_title_and_is_stopped_with_it(
    folder: Path, forkserver: subprocess.Popen[bytes]
) -> None:
    first = start(folder, "stays")
    until(lambda: "began" in log(folder))
    assert log(folder) == f"began ['stays'] {folder} its own True\n"
    fork = part.roots(str(folder))["one"]
    assert fork.ppid() == forkserver.pid
    assert (fork.environ()["OWN"], fork.environ()[part.PART]) == ("its own", "one")
    assert os.getpgid(fork.pid) == first.pid
    assert "a_part stays" in " ".join(fork.cmdline())
    second = start(folder, "stays")  # adopts it
    until(lambda: "adopted" in log(folder))
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(30) != 0
    assert second.wait(30) != 0
    assert part.roots(str(folder)) == {}
    assert log(folder).count("began") == 1


def test_a_forkservers_death_ends_no_part_and_its_successor_forks_at_the_same_place(
    folder: Path, forkserver: subprocess.Popen[bytes]
) -> None:
    start(folder, "stays")
    fork = until(lambda: part.roots(str(folder)).get("one"))
    forkserver.kill()
    forkserver.wait()
    assert fork.is_running()
    assert not part.forks(folder / "socket")
    command = [sys.executable, "-m", "include.stack.supervision.forkserver", "--socket", str(folder / "socket")]
    with subprocess.Popen(command, env=variables(folder, MLOPS_PART="airflow")) as successor:
        until(lambda: part.forks(folder / "socket"))
        assert part.roots(str(folder))["one"] == fork
        successor.kill()


def test_a_job_has_its_exit_code_and_ends_with_the_one_who_started_it(
    folder: Path, forkserver: subprocess.Popen[bytes]
) -> None:
    assert start(folder, "ends", "3", job=True).wait(60) == 3
    assert start(folder, "ends", "0", job=True).wait(60) == 0
    job = start(folder, "stays", job=True)
    until(lambda: "stays" in log(folder))
    [fork] = psutil.Process(forkserver.pid).children()
    assert part.PART not in fork.environ()
    job.kill()
    job.wait()
    until(lambda: not psutil.pid_exists(fork.pid))


def test_where_the_forkserver_ends_before_it_forks_the_part_is_started_without(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        threading.Thread(target=lambda: listener.accept()[0].close()).start()
        process = start(folder, "ends", "7")
        assert process.wait(60) == 7
    assert "its own False" in log(folder)


def test_nothing_of_ours_is_shared_so_that_an_edit_counts_from_a_parts_next_start_on() -> None:
    assert [module for module in environment.SHARED if module.split(".")[0] in ("include", "dags", "plugins")] == []
