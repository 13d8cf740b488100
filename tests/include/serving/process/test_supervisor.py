"""The launcher with real BentoML workers of a tiny service: killed, orphaned, unwilling to start, many at once."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from include.serving.process.command import (
    STOP_SECONDS,
    CannotStart,
    certificate,
    check_keys,
    serve_command,
    serve_environment,
)
from include.serving.process.supervisor import listen, worker_command, worker_environment
from tests.conftest import ROOT, free_port
from tests.include.serving.process.test_service import params, workers_of
from tests.waiting import until

TINY = """
import asyncio, json, os, signal, time
import bentoml
from prometheus_client import Gauge

alive = Gauge("tiny_alive", "One a worker.", multiprocess_mode="liveall")

async def application(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

class InFront(bentoml.Service):
    def to_asgi(self, is_main=True):
        inner = super().to_asgi(is_main=is_main)
        async def both(scope, receive, send):
            http = scope["type"] == "http" and scope["path"] != "/metrics"
            await (application if http else inner)(scope, receive, send)
        return both

@bentoml.service(service_class=InFront, metrics={"enabled": True})
class Tiny:
    @bentoml.on_startup
    def start(self):
        alive.set(1)
        if os.environ.get("TINY") == "broken":
            raise RuntimeError("the tiny service is broken")
        if os.environ.get("TINY") == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from include.serving.process.shutdown import Shutdown
        Shutdown(lambda: None, 0.0).exit_with_parent()
"""


class Running:
    """A launcher of the tiny service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.url, self._log = process, port, f"http://127.0.0.1:{port}", log

    def log(self) -> str:
        """What it and its workers said."""
        return self._log.read_text()

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        return workers_of(self.process)


def started(folder: Path, port: int, *arguments: str, **variables: str) -> Running:
    """Start a launcher of the tiny service; nothing is waited for."""
    (folder / "tiny.py").write_text(TINY)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    environment |= serve_environment(folder / "bentoml", key="secret", root=ROOT)
    environment |= {"MLOPS_HOME": str(folder), "MLOPS_PARAMS": str(folder / "params.yaml"), **variables}
    command = [*serve_command(port, folder), "--service", "tiny:Tiny", *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    return Running(process, port, folder / "log")


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    """A launcher whose workers answer; stopped at the end."""
    tiny = started(folder, free_port(), *arguments, **variables)
    try:
        until(lambda: answer(tiny.url) is not None, show=tiny.log)
        yield tiny
    finally:
        tiny.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            tiny.process.wait(STOP_SECONDS + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(tiny.process.pid, signal.SIGKILL)
        tiny.process.wait()


def answer(url: str, path: str = "/") -> int | None:
    """The process that answered."""
    with contextlib.suppress(httpx.TransportError):
        return int(httpx.get(url + path, timeout=20).text)
    return None


# ------------------------------------------------------------------------------------------------ promises 35, 36


@pytest.mark.slow
def test_a_killed_worker_is_replaced_while_its_connections_wait(tmp_path: Path) -> None:
    """None of the requests that come while it is away is refused; its gauges no longer speak."""
    with running(tmp_path) as tiny:
        [first] = tiny.workers()
        metrics = tmp_path / "serving" / "run" / str(tiny.port) / "metrics"
        assert list(metrics.glob(f"gauge_liveall_{first}.db"))
        os.kill(first, signal.SIGKILL)
        answered: list[int | None] = []
        askers = [threading.Thread(target=lambda: answered.append(answer(tiny.url))) for _ in range(20)]
        for asker in askers:
            asker.start()
            time.sleep(0.02)
        for asker in askers:
            asker.join()
        [second] = tiny.workers()
        assert answered == [second] * 20
        assert second != first
        assert not list(metrics.glob(f"gauge_live*_{first}.db"))
        assert re.findall(r"^tiny_alive\{.*", httpx.get(f"{tiny.url}/metrics").text, re.M) == [
            f'tiny_alive{{pid="{second}"}} 1.0'
        ]
        assert '"event": "worker ended; another one is started"' in tiny.log()
    assert tiny.process.returncode == 0


HANGING = """
import asyncio, os, signal, sys, time
from include.serving.process import heartbeat as beat

beat.EVERY_SECONDS = 0.1

async def work():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, 3600)  # a handler that blocks the loop
    beat.begin(os.environ, loop)
    print("works", os.getpid(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(work())
"""
LAUNCHING = """
import os, pathlib, sys
from include.serving.process.supervisor import Launcher, listen
here = pathlib.Path.cwd()
command, first = [sys.executable, "-c", sys.argv[1]], listen("127.0.0.1", 0)
launcher = Launcher(command, os.environ, first, directory=here, metrics=here, hang_seconds=2.0)
sys.exit(launcher.run(1))
"""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "blocked"])
def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path, how: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LAUNCHING, HANGING]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout
        assert launcher.stderr
        first = int(launcher.stdout.readline().split()[1])
        os.kill(first, how)
        second = int(launcher.stdout.readline().split()[1])
        assert second != first
        assert not alive(first)
        launcher.terminate()
        assert launcher.wait(30) == 0
        said = launcher.stderr.read()
    assert "worker hangs; it is killed" in said


@pytest.mark.slow
def test_a_launcher_that_was_killed_leaves_nobody_behind_and_the_port_to_its_successor(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2") as tiny:
        until(lambda: len(tiny.workers()) == 2, show=tiny.log)
        workers = tiny.workers()
        tiny.process.kill()
        tiny.process.wait()
        successor = started(tmp_path, tiny.port)
        try:
            until(lambda: not any(alive(pid) for pid in workers), show=tiny.log)
            until(lambda: answer(tiny.url) in successor.workers(), show=tiny.log)
        finally:
            successor.process.terminate()
            successor.process.wait(STOP_SECONDS + 5)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_requests_in_flight_finish_and_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as tiny:
        finished: list[int | None] = []
        asker = threading.Thread(target=lambda: finished.append(answer(tiny.url, "/slow")))
        asker.start()
        time.sleep(0.3)
        [worker] = tiny.workers()
        tiny.process.terminate()
        asker.join()
        assert finished == [worker]
        assert tiny.process.wait(5) == 0
    with running(tmp_path, TINY="deaf") as tiny:
        [worker] = tiny.workers()
        tiny.process.terminate()
        began = time.monotonic()
        assert tiny.process.wait(STOP_SECONDS) == 0
        assert time.monotonic() - began > STOP_SECONDS - 2
        assert not alive(worker)
        assert '"event": "worker killed"' in tiny.log()


@pytest.mark.slow
def test_a_service_that_cannot_start_is_given_up_and_says_why(tmp_path: Path) -> None:
    tiny = started(tmp_path, free_port(), TINY="broken")
    assert tiny.process.wait(60) == 1
    assert "the tiny service is broken" in tiny.log()
    assert '"event": "the service does not start; the lines above say why"' in tiny.log()


# ------------------------------------------------------------------------------------------------ several workers


@pytest.mark.slow
def test_params_say_how_many_workers_and_connections_are_spread_over_them(tmp_path: Path) -> None:
    params(tmp_path, "workers: 2")
    with running(tmp_path) as tiny:
        until(lambda: len(tiny.workers()) == 2, show=tiny.log)
        until(lambda: {answer(tiny.url) for _ in range(20)} == set(tiny.workers()), show=tiny.log)
        clients = [httpx.Client(base_url=tiny.url) for _ in range(64)]  # at once, as a load generator begins
        whose = collections.Counter(int(client.get("/").text) for client in clients)
        for client in clients:
            client.close()
        assert set(whose) == set(tiny.workers())
        assert min(whose.values()) >= 16, whose  # 32 ± 4 by chance; all on one if they shared a socket


# ------------------------------------------------------------------------------------- before anything starts


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port, seconds=0.2)
    ours = listen("127.0.0.1", port)
    with ours, pytest.raises(CannotStart, match="in use"):
        listen("127.0.0.1", port, seconds=0.2)  # another launcher's, though the system would let us share it


def test_without_a_key_nothing_starts(tmp_path: Path) -> None:
    check_keys({"MLOPS_SERVING_KEY": "k"}, tmp_path)
    check_keys({"MLOPS_SERVING_OPEN": "1"}, tmp_path)
    with pytest.raises(CannotStart, match="set MLOPS_SERVING_KEY"):
        check_keys({"MLOPS_SERVING_OPEN": "0"}, tmp_path)
    keys = tmp_path / "var" / "serving" / "keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text('{"keys": []}')
    with pytest.raises(CannotStart, match="has no key"):
        check_keys({}, tmp_path)
    keys.write_text('{"keys": [{}]}')
    check_keys({}, tmp_path)
    keys.write_text("half a fi")
    with pytest.raises(CannotStart, match="cannot be used"):
        check_keys({}, tmp_path)


def test_a_certificate_comes_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    assert certificate({}) is None
    with pytest.raises(CannotStart, match="MLOPS_SERVING_CERTIFICATE_KEY is not set"):
        certificate({"MLOPS_SERVING_CERTIFICATE": str(file)})
    both = {"MLOPS_SERVING_CERTIFICATE": str(file), "MLOPS_SERVING_CERTIFICATE_KEY": str(file)}
    with pytest.raises(CannotStart, match="cannot be read"):
        certificate(both)
    file.touch()
    assert worker_command("a:B", certificate(both))[-4:] == ["--ssl-certfile", str(file), "--ssl-keyfile", str(file)]


def test_workers_compile_what_they_import_only_once(tmp_path: Path) -> None:
    """Even where Python was told to write no bytecode: half of each start would be compiling."""
    given = {"MLOPS_HOME": str(tmp_path), "PATH": "/bin"}
    code = (
        "import json, pathlib, sys; from include.serving.process.supervisor import worker_environment as of;"
        "print(json.dumps(of(json.loads(sys.argv[1]), pathlib.Path.cwd(), pathlib.Path('metrics'))))"
    )
    told = subprocess.run(
        [sys.executable, "-B", "-c", code, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    environment = json.loads(told.stdout)
    assert environment["PYTHONPYCACHEPREFIX"] == f"{sys.prefix}/bytecode"
    assert not environment["PYTHONDONTWRITEBYTECODE"]
    mine = worker_environment(given | {"PYTHONPYCACHEPREFIX": "/mine"}, ROOT, tmp_path)
    assert mine["PYTHONPYCACHEPREFIX"] == "/mine"


def test_the_launcher_needs_the_standard_library_only() -> None:
    code = (
        "import sys, include.serving.process.supervisor;"
        "print({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names - {'include', '__main__'})"
    )
    said = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == "set()", said.stdout + said.stderr
