"""supervisord: what we write is what it reads, and a dead part is seen at once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from supervisor.options import ServerOptions

from include.stack import processes, supervisor
from include.stack.supervisor import Control, Program, SupervisorError

ODD = {"SPACES": "a b", "PERCENT": "50%", "COMMA": "a,b=c", "QUOTED": '{"admin": "x"}', "EMPTY": "", "HASH": "a#b;c"}


def text(programs: list[Program], folder: Path) -> str:
    (folder / "logs dir").mkdir(exist_ok=True)
    return supervisor.configuration(
        programs,
        run=folder,
        logs=folder / "logs dir",
        socket=supervisor.socket_path(folder),
        password="secret%",
        directory=folder,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "a home 100%"
    home.mkdir()
    return home


def test_supervisord_reads_back_odd_paths_commands_and_values(folder: Path) -> None:
    program = Program("odd", ("/bin/echo", "two words", "it's", "50%"), ODD)
    (folder / "supervisord.conf").write_text(text([program], folder))
    options = ServerOptions()
    options.realize(["-c", str(folder / "supervisord.conf")])
    (group,) = options.process_group_configs
    (read,) = group.process_configs
    assert read.environment == ODD
    assert read.command == "/bin/echo 'two words' 'it'\"'\"'s' 50%"
    assert read.stdout_logfile == str(folder / "logs dir" / "odd.log")


def test_what_the_configuration_cannot_hold_is_refused(folder: Path) -> None:
    with pytest.raises(SupervisorError, match="BOTH"):
        text([Program("odd", ("true",), {"BOTH": "a'b\"c"})], folder)
    with pytest.raises(SupervisorError, match="comment"):
        text([Program("odd", ("echo", "a #b"))], folder)


def test_a_long_home_puts_the_socket_into_a_short_folder_of_ours_alone(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    socket = supervisor.socket_path(long)
    assert len(str(socket)) <= supervisor.LONGEST_SOCKET_PATH
    assert socket.parent.stat().st_mode & 0o077 == 0
    assert supervisor.socket_path(long) == socket
    socket.parent.rmdir()


@pytest.fixture
def control(folder: Path) -> Iterator[Control]:
    forever = "import time; print('at work', flush=True); time.sleep(600)"
    child = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '601'], start_new_session=True);"
        " print('started', flush=True); time.sleep(600)"
    )
    programs = [
        Program("good", (sys.executable, "-c", forever), {"ODD": "a b"}),
        Program("parent", (sys.executable, "-c", child)),
        Program("bad", (sys.executable, "-c", "raise SystemExit('no such table')")),
    ]
    (folder / "logs dir").mkdir()
    control = supervisor.start(
        text(programs, folder),
        run=folder,
        logs=folder / "logs dir",
        socket=supervisor.socket_path(folder),
        password="secret%",
        environment={"PATH": os.environ["PATH"], processes.MARKER: str(folder)},
    )
    yield control
    control.close()
    processes.stop(processes.marked(str(folder)), seconds=5)


def test_a_part_that_dies_is_seen_and_its_last_words_are_there(control: Control, folder: Path) -> None:
    control.start("bad")
    deadline = time.monotonic() + 10
    while not (state := control.states()["bad"]).dead:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state.state in ("BACKOFF", "FATAL")
    assert supervisor.last_lines(folder / "logs dir" / "bad.log", 1) == "no such table"


def test_a_part_that_is_killed_is_started_again(control: Control) -> None:
    control.start("good")
    deadline = time.monotonic() + 20
    while control.states()["good"].state != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first = control.states()["good"].pid
    psutil.Process(first).kill()
    while (state := control.states()["good"]).pid in (first, 0):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not state.dead
    assert state.pid != first


def test_starting_what_runs_and_stopping_what_does_not_is_no_error(control: Control) -> None:
    control.start("good")
    control.start("good")
    control.stop(["good", "bad"])
    control.stop(["good"])
    assert control.states()["good"].dead


def test_a_child_in_a_session_of_its_own_is_found_by_its_mark(control: Control, folder: Path) -> None:
    control.start("parent")
    deadline = time.monotonic() + 10
    while not any(p.cmdline()[:2] == ["sleep", "601"] for p in processes.marked(str(folder))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    control.stop(["parent"])
    control.shutdown()
    assert processes.stop(processes.marked(str(folder)), seconds=5) >= 1
    assert processes.marked(str(folder)) == []


def test_without_the_password_nobody_controls_it(control: Control, folder: Path) -> None:
    assert supervisor.connect(supervisor.socket_path(folder), "wrong") is None
    again = supervisor.connect(supervisor.socket_path(folder), "secret%")
    assert again is not None
    again.close()
