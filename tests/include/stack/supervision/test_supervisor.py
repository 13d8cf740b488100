"""supervisord: what we write is what it reads, and a dead part is seen at once."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from supervisor.options import ServerOptions

from include.home import ROOT, Home
from include.stack import credentials
from include.stack.supervision import guard, processes, supervisor
from include.stack.supervision.supervisor import Control, Program, SupervisorError
from tests.waiting import until

ODD = {"SPACES": "a b", "PERCENT": "50%", "COMMA": "a,b=c", "QUOTED": '{"admin": "x"}', "EMPTY": "", "HASH": "a#b;c"}


def text(programs: list[Program], home: Path, password: str = "secret%") -> str:  # noqa: S107
    return supervisor.configuration(
        programs,
        run=home / "run",
        logs=home / "logs",
        socket=supervisor.socket_path(home / "run"),
        password=password,
        directory=home,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "a home 100%"
    for name in ("run", "logs"):
        (home / name).mkdir(parents=True)
    return home


def test_supervisord_reads_back_odd_paths_commands_and_values(folder: Path) -> None:
    program = Program("odd", ("/bin/echo", "two words", "it's", "50%"), ODD)
    (folder / "supervisord.conf").write_text(text([program], folder))
    options = ServerOptions()
    options.realize(["-c", str(folder / "supervisord.conf")])
    [read] = [one for group in options.process_group_configs for one in group.process_configs if one.name == "odd"]
    assert read.environment == ODD | {"MLOPS_PART": "odd"}
    words = shlex.split(read.command)
    assert words[words.index("--") + 1 :] == ["/bin/echo", "two words", "it's", "50%"]
    assert words[words.index("--log") + 1] == str(folder / "logs" / "odd.log")


def test_supervisord_itself_writes_no_log_that_a_full_disk_could_end_it_by(folder: Path) -> None:
    (folder / "supervisord.conf").write_text(text([Program("one", ("true",))], folder))
    options = ServerOptions()
    options.realize(["-c", str(folder / "supervisord.conf")])
    assert options.logfile == "/dev/null"
    read = [one for group in options.process_group_configs for one in group.process_configs]
    assert [one.name for one in read if one.name == "one" and one.stdout_logfile is not None] == []
    assert [one.name for one in read if one.stderr_logfile is not None] == []


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
        Program("good", (sys.executable, "-c", forever), {"MLOPS_HOME": str(folder), "PYTHONPATH": str(ROOT)}),
        Program("silent", ("sleep", "600")),
        Program("parent", (sys.executable, "-c", child)),
        Program("bad", (sys.executable, "-c", "raise SystemExit('no such table')")),
    ]
    password = credentials.read_or_create(Home(folder).credentials).supervisor_password
    Home(folder).meant_to_run.touch()
    control = supervisor.start(
        text(programs, folder, password),
        run=folder / "run",
        logs=folder / "logs",
        socket=supervisor.socket_path(folder / "run"),
        password=password,
        environment={"PATH": os.environ["PATH"], processes.MARKER: str(folder)},
    )
    yield control
    control.close()
    Home(folder).meant_to_run.unlink()
    supervisor.kill(processes.marked(str(folder)))
    processes.stop(processes.marked(str(folder)), seconds=5)


def connected(home: Path) -> Control | None:
    password = credentials.read(Home(home).credentials).supervisor_password
    return supervisor.connect(supervisor.socket_path(home / "run"), password)


def alerts_of(home: Path) -> list[tuple[str, str]]:
    file = home / "logs" / "alerts.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [(alert["event"], alert["part"]) for alert in map(json.loads, lines)]


def test_a_part_that_dies_is_seen_and_its_last_words_are_there(control: Control, folder: Path) -> None:
    control.start("bad")
    until(lambda: control.states()["bad"].dead)
    assert control.states()["bad"].state in ("BACKOFF", "FATAL")
    assert supervisor.last_lines(folder / "logs" / "bad.log", 1) == "no such table"


def test_a_part_that_is_killed_is_started_again(control: Control) -> None:
    control.start("good")
    until(lambda: control.states()["good"].state == "RUNNING")
    first = control.states()["good"].pid
    psutil.Process(first).kill()
    until(lambda: control.states()["good"].pid not in (first, 0))
    assert not control.states()["good"].dead


def test_starting_what_runs_and_stopping_what_does_not_is_no_error(control: Control) -> None:
    control.start("good")
    control.start("good")
    control.stop(["good", "bad"])
    control.stop(["good"])
    assert control.states()["good"].dead


def test_a_child_in_a_session_of_its_own_is_found_by_its_mark(control: Control, folder: Path) -> None:
    control.start("parent")
    until(lambda: any(p.cmdline()[:2] == ["sleep", "601"] for p in processes.marked(str(folder))))
    control.stop(["parent"])
    control.shutdown()
    assert processes.stop(processes.marked(str(folder)), seconds=5) >= 1
    assert processes.marked(str(folder)) == []


def test_without_the_password_nobody_controls_it(control: Control, folder: Path) -> None:
    assert supervisor.connect(supervisor.socket_path(folder / "run"), "wrong") is None
    again = connected(folder)
    assert again is not None
    again.close()


# ------------------------------------------------------------------------------------------------ who watches the watch


def test_a_killed_supervisor_is_replaced_and_what_lives_is_adopted_untouched(control: Control, folder: Path) -> None:
    control.start("good")
    part = until(lambda: processes.living_parts(str(folder), folder).get("good"))
    old = control.pid()
    psutil.Process(old).kill()
    new = until(lambda: connected(folder))
    assert new.pid() != old
    until(lambda: new.states()["good"].state == "RUNNING")
    assert processes.living_parts(str(folder), folder)["good"] == part
    assert (folder / "logs" / "good.log").read_text().count("at work") == 1
    until(lambda: ("supervisor_died", "supervisor") in alerts_of(folder))

    psutil.Process(new.pid()).kill()  # and a second time: what waited for the part ends, and does not end the part
    new.close()
    newest = until(lambda: connected(folder))
    until(lambda: newest.states()["good"].state == "RUNNING")
    waiting = [p for p in processes.of_part(str(folder), "good") if p != part]
    until(lambda: sum(p.is_running() for p in waiting) == 1)
    assert processes.living_parts(str(folder), folder)["good"] == part
    new = newest

    part.kill()  # from here on it is the new supervisor's part
    again = until(lambda: (now := processes.living_parts(str(folder), folder).get("good")) and now != part and now)
    assert again.is_running()
    until(lambda: ("part_died", "good") in alerts_of(folder))
    new.stop(["good"])
    assert "good" not in processes.living_parts(str(folder), folder)
    new.close()


def test_supervisor_and_guard_killed_at_once_are_replaced_by_what_waits_for_a_part(
    control: Control, folder: Path
) -> None:
    control.start("good")
    part = until(lambda: processes.living_parts(str(folder), folder).get("good"))
    psutil.Process(control.pid()).kill()
    new = until(lambda: connected(folder))
    # A process waits for the part from now on, as one does for each forked part.
    until(lambda: "adopted" in (folder / "logs" / "good.log").read_text())
    killed = new.pid()
    watching = until(lambda: [p for p in processes.marked(str(folder)) if processes.part_of(p) == supervisor.GUARD])
    for process in [psutil.Process(killed), *watching]:
        process.suspend()  # neither lives to see the other's death
    for process in [psutil.Process(killed), *watching]:
        process.kill()
    new.close()
    newest = until(lambda: (found := connected(folder)) and found.pid() != killed and found, seconds=120)
    until(lambda: newest.states()["good"].state == "RUNNING")
    assert processes.living_parts(str(folder), folder)["good"] == part
    assert "MLOPS_HOME" not in psutil.Process(newest.pid()).environ()  # of its predecessor, and not of the part
    newest.close()


def test_stopping_an_adopted_part_stops_the_part_itself(control: Control, folder: Path) -> None:
    control.start("good")
    part = until(lambda: processes.living_parts(str(folder), folder).get("good"))
    psutil.Process(control.pid()).kill()
    new = until(lambda: connected(folder))
    until(lambda: new.states()["good"].state == "RUNNING")
    new.stop(["good"])
    assert not part.is_running()
    new.close()


def test_a_stack_that_was_stopped_is_not_started_again(control: Control, folder: Path) -> None:
    Home(folder).meant_to_run.unlink()
    watching = until(lambda: [p for p in processes.marked(str(folder)) if processes.part_of(p) == supervisor.GUARD])
    psutil.Process(control.pid()).kill()
    psutil.wait_procs(watching, timeout=20)
    assert connected(folder) is None
    Home(folder).meant_to_run.touch()


def test_a_full_disk_ends_no_supervisor_and_the_alert_comes_when_there_is_room_again(
    control: Control, folder: Path
) -> None:
    """/dev/full refuses each byte as a full disk does."""
    for name in ("silent.log", "guard.log", "alerts.jsonl"):
        (folder / "logs" / name).unlink(missing_ok=True)
        (folder / "logs" / name).symlink_to("/dev/full")
    pid = control.pid()
    control.start("silent")
    for _ in range(2):
        part = until(lambda: processes.living_parts(str(folder), folder).get("silent"))
        until(lambda: control.states()["silent"].state == "RUNNING")
        part.kill()
        until(lambda: processes.living_parts(str(folder), folder).get("silent") != part)
    assert control.pid() == pid
    assert psutil.pid_exists(pid)
    (folder / "logs" / "alerts.jsonl").unlink()  # room again
    until(lambda: alerts_of(folder).count(("part_died", "silent")) == 2)


def test_a_part_that_the_supervisor_gave_up_comes_back_when_its_reason_has_gone() -> None:
    moments = guard.Watch()
    moments.observe("PROCESS_STATE_FATAL", "mlflow", 100.0)
    assert moments.due(110.0) == []
    assert moments.due(131.0) == ["mlflow"]
    assert moments.due(140.0) == []  # and once more half a minute later
    assert moments.due(162.0) == ["mlflow"]
    moments.observe("PROCESS_STATE_RUNNING", "mlflow", 163.0)
    assert moments.due(1000.0) == []
