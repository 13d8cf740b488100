"""Starts the prediction service: opens the port, runs BentoML's workers on it, and keeps them running.

`bentoml serve` imports all of BentoML a second time, in a supervisor of 100 MB that opens a control port without a
password; this one needs the standard library only, and 15 MB. It starts the very command with which BentoML starts its
own workers, so that inside a worker nothing differs. It

- refuses to start without a key, with half a certificate, or on a port that is taken, and says so;
- holds the listening sockets, so that connections wait while a worker is replaced, instead of being refused;
- restarts a worker that has ended, at once, and later and later if it ends again and again;
- kills a worker whose event loop has shown no life for half a minute (heartbeat.py), and restarts it;
- hands SIGTERM on, closes its sockets, and kills what does not end in time;
- takes no worker with it into oblivion: one whose launcher was killed ends by itself (shutdown.py).

Each worker has a socket of its own on the same port (SO_REUSEPORT): the kernel spreads connections over them evenly,
where workers that share one socket take as many as they can, and one of two may end up with all. The launcher keeps
them open while a worker is away: what waits there is answered by its successor.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from include import home
from include.home import ROOT
from include.serving.process import heartbeat
from include.serving.process.command import SERVICE, STOP_SECONDS, CannotStart, certificate, check_keys
from include.serving.process.json_log import log_as_json

WORKER = "import gc; gc.disable(); from _bentoml_impl.worker.service import main; main()"
"""BentoML's own worker, `-m _bentoml_impl.worker.service`. Importing leaves no garbage worth looking for, and a
tenth of its time is spent looking. The service's start turns the collector on again."""
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""Longer than the minute after which load balancers drop idle connections: else requests are sent to a closed one."""
FINISH_SECONDS = 5
"""After the listener was closed: how long requests in flight may take, before they are cancelled."""
QUICK_SECONDS = 15.0
"""A worker that ends sooner than this after its start did not really start."""
TRIES = 2
"""Quick ends with an error, of workers that never served, after which the launcher gives up."""
LONGEST_WAIT = 10.0
HANG_SECONDS = 30.0
"""Without a beat, after the first one, a worker is taken to be stuck: no turn of its loop takes a second."""
BIND_SECONDS = 5.0
"""How long a port may stay taken: by the workers of a killed launcher, which are about to notice."""

_SERVICE = re.compile(rb"^[^#\n]*\bservice[\"']?\s*:", re.MULTILINE).search
"""Whether params.yaml may have that section at all."""
_READ_PARAMS = """
import os, pathlib, sys
from include.serving.process import declared
print(declared.read(os.environ, pathlib.Path(sys.argv[1])).service.workers)
"""
"""How many are in force: a value that is wrong in params.yaml does not change it. The workers say what is wrong."""

log = logging.getLogger("mlops.serving")


@dataclasses.dataclass
class WorkerSlot:
    """A place for a worker: its socket, and who sits there now."""

    number: int
    listener: socket.socket
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ends: int = 0
    """Quick ends in a row."""
    again: float = 0.0
    """When the next one is started."""
    beats: int | None = None
    """Where its signs of life are read."""
    beat: float | None = None
    """When the last one came; None: none has, it is starting."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="launcher", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, help="default: MLOPS_SERVING_WORKERS, or service.workers of params.yaml")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose service is started")
    parser.add_argument("--service", default=SERVICE)
    options = parser.parse_args()
    log_as_json()
    try:
        check_keys(os.environ, options.root)
        tls = certificate(os.environ)
        known = options.workers or _number(os.environ.get("MLOPS_SERVING_WORKERS"))
        first = listen(options.host, options.port)
        run = _private(_home(os.environ, options.root).serving_run(first.getsockname()[1]))
    except CannotStart as error:
        raise SystemExit(str(error)) from None
    command = worker_command(options.service, tls)
    environment = worker_environment(os.environ, options.root, run / "metrics")
    launcher = Launcher(command, environment, first, directory=options.root, metrics=run / "metrics")
    try:
        status = launcher.run(known, None if known else _start_reading_params(os.environ, options.root, environment))
    finally:
        shutil.rmtree(run, ignore_errors=True)
    raise SystemExit(status)


class Launcher:
    """Starts workers, watches them, and ends them.

    Args:
        command: what a worker is started by; its socket and its number are added.
        environment: what it finds in its environment.
        first: the listening socket of the first worker; the others get their own on the same address.
        directory: where it works.
        metrics: the folder in which workers leave their metrics.
        hang_seconds: how long a worker may show no life.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        first: socket.socket,
        *,
        directory: Path,
        metrics: Path,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        self._command, self._environment = command, environment
        self._hang_seconds = hang_seconds
        self._directory, self._metrics = directory, metrics
        self._workers = [WorkerSlot(1, first)]
        self._served = False
        self._stop_requested = False
        self._stopping: float | None = None
        self._wakeups, self._wake = os.pipe()

    def run(self, number: int | None, reader: subprocess.Popen[bytes] | None = None) -> int:
        """Run until SIGTERM or SIGINT has ended every worker; returns the exit status.

        Args:
            number: how many workers.
            reader: or a process that will print it; meanwhile the first one is started.
        """
        self._hear_signals()
        self._grow(number or 1)
        try:
            while any(worker.process for worker in self._workers) or self._stopping is None:
                if reader is not None and reader.poll() is not None and not self._stop_requested:
                    self._grow(_printed_number(reader))
                    reader = None
                if self._stop_requested and self._stopping is None:
                    self._stop()
                if self._stopping is None:
                    self._start_due()
                elif time.monotonic() > self._stopping:
                    self._kill()
                self._sleep(0.05 if reader else self._next())
                self._listen()
                if (failed := self._reap()) is not None:
                    return failed
        finally:
            self._kill()
            if reader is not None:
                reader.kill()
                reader.wait()
        return 0

    # ------------------------------------------------------------------------------------------- starting

    def _grow(self, number: int) -> None:
        listener = self._workers[0].listener
        while len(self._workers) < number:
            if sys.platform == "linux":  # elsewhere SO_REUSEPORT does not spread
                listener = _listener(*listener.getsockname()[:2])
            self._workers.append(WorkerSlot(len(self._workers) + 1, listener))

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None and now >= worker.again:
                descriptor, number = str(worker.listener.fileno()), str(worker.number)
                worker.started = now
                worker.beats, beats = os.pipe()
                os.set_blocking(worker.beats, False)
                worker.process = subprocess.Popen(
                    [*self._command, "--fd", descriptor, "--worker-id", number],
                    env={**self._environment, "MLOPS_SERVING_WORKER": number, heartbeat.VARIABLE: str(beats)},
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[worker.listener.fileno(), beats],
                )
                os.close(beats)

    # ------------------------------------------------------------------------------------------- watching

    def _hear_signals(self) -> None:
        for end in (self._wakeups, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to interrupt the sleep
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)

    def _request_stop(self, *_: object) -> None:
        self._stop_requested = True

    def _sleep(self, seconds: float) -> None:
        select.select([self._wakeups], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wakeups, 512):
                pass

    def _next(self) -> float:
        """Seconds until there is something to do that no signal announces."""
        now = time.monotonic()
        if self._stopping is not None:
            return max(0.05, self._stopping - now)
        waiting = [worker.again - now for worker in self._workers if worker.process is None]
        return max(0.05, min([*waiting, self._hang_seconds / 4]))

    def _listen(self) -> None:
        """Read the workers' signs of life, and kill those that have shown none for too long."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None or worker.beats is None:
                continue
            with contextlib.suppress(BlockingIOError):
                while os.read(worker.beats, 4096):
                    worker.beat = now
            if worker.beat is not None and now - worker.beat > self._hang_seconds:
                fields = {"worker": worker.number, "pid": worker.process.pid, "seconds": round(now - worker.beat, 1)}
                log.error("worker hangs; it is killed", extra={"fields": fields})
                worker.process.kill()
                worker.beat = None

    def _reap(self) -> int | None:
        """Note which workers have ended, and when their successors start; a status when it is given up."""
        now = time.monotonic()
        for worker in self._workers:
            process = worker.process
            if process is None or process.poll() is None:
                continue
            worker.process = None
            if worker.beats is not None:
                os.close(worker.beats)
            worker.beats = worker.beat = None
            self._forget_metrics(process.pid)
            if self._stopping is not None:
                continue
            quick, failed = now - worker.started < QUICK_SECONDS, process.returncode > 0
            self._served = self._served or not quick
            worker.ends = worker.ends + 1 if quick else 1
            fields = {"worker": worker.number, "pid": process.pid, "status": process.returncode}
            if failed and not self._served and worker.ends >= TRIES:
                log.error("the service does not start; the lines above say why", extra={"fields": fields})
                return 1
            wait = 0.0 if worker.ends == 1 else min(LONGEST_WAIT, 0.25 * 2.0**worker.ends)
            worker.again = now + wait
            log.error("worker ended; another one is started", extra={"fields": {**fields, "seconds": wait}})
        return None

    def _forget_metrics(self, pid: int) -> None:
        """As prometheus_client.multiprocess.mark_process_dead: a gauge of the living must not speak for the dead."""
        for file in self._metrics.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------- ending

    def _stop(self) -> None:
        """Ask the workers to end; they go on listening for as long as they drain, this process does not."""
        self._stopping = time.monotonic() + STOP_SECONDS - 1
        for worker in self._workers:
            worker.listener.close()
            if worker.process is not None:
                worker.process.terminate()

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                log.error("worker killed", extra={"fields": {"worker": worker.number, "pid": worker.process.pid}})
                worker.process.kill()
                worker.process.wait()


# ----------------------------------------------------------------------------------------------- the port


def listen(host: str, port: int, seconds: float = BIND_SECONDS) -> socket.socket:
    """The first worker's listening socket.

    Raises:
        CannotStart: the address cannot be had.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with _listener(host, port, alone=True) as alone:  # a port that others share is taken as well
                port = alone.getsockname()[1]
            return _listener(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or error
                raise CannotStart(f"the prediction service cannot listen on {host}:{port}: {reason}") from None
            time.sleep(0.1)


def _listener(host: str, port: int, *, alone: bool = False) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if not alone:
            listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


# ----------------------------------------------------------------------------------------------- what a worker gets


def worker_command(service: str, tls: tuple[Path, Path] | None) -> list[str]:
    """What BentoML would start a worker by, without its socket and its number."""
    command = [sys.executable, "-c", WORKER, service, "--backlog", str(BACKLOG)]
    command += ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS), "--timeout-graceful-shutdown", str(FINISH_SECONDS)]
    return command if tls is None else [*command, "--ssl-certfile", str(tls[0]), "--ssl-keyfile", str(tls[1])]


def worker_environment(inherited: Mapping[str, str], root: Path, metrics: Path) -> dict[str, str]:
    """A worker's environment; `metrics` is an empty folder in a private one."""
    found = [str(root), *filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        **inherited,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(found)),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "TMPDIR": str(metrics.parent),  # BentoML's clients make folders there, which a killed worker leaves behind
        "MLOPS_SERVING_LAUNCHER": str(os.getpid()),
    }
    return environment | _bytecode(inherited, _home(inherited, root))


def _home(environment: Mapping[str, str], root: Path) -> home.Home:
    return home.Home(home.of(environment, root))


def _bytecode(inherited: Mapping[str, str], paths: home.Home) -> dict[str, str]:
    """Where Python keeps what it compiled, if it would keep nothing: half of each start is compiling otherwise."""
    spec = importlib.util.find_spec("bentoml")
    if "PYTHONPYCACHEPREFIX" in inherited or spec is None or spec.origin is None:
        return {}
    cached = Path(importlib.util.cache_from_source(spec.origin)).exists() or os.access(
        Path(spec.origin).parent, os.W_OK
    )
    if cached and not sys.dont_write_bytecode:
        return {}
    place = Path(sys.prefix, "bytecode") if os.access(sys.prefix, os.W_OK) else paths.serving_bytecode
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(place)}


def _private(folder: Path) -> Path:
    """The folder of this start, ours alone, with an empty one for metrics: the port in its name is ours, too."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "metrics").mkdir(mode=0o700)
    except OSError as error:
        raise CannotStart(f"the prediction service cannot write {folder}: {error.strerror}; set MLOPS_HOME") from None
    return folder


def _number(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise CannotStart(f"MLOPS_SERVING_WORKERS: must be a number from 1 to 64, not {text!r}")
    return int(text)


def _start_reading_params(
    inherited: Mapping[str, str], root: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | None:
    """A process that prints `service.workers`: reading params.yaml takes libraries that this process does without.

    Where its data lies in object storage, what was in force before is not known to the service.
    """
    params = Path(inherited.get("MLOPS_PARAMS") or root / "params.yaml")
    data = inherited.get("MLOPS_DATA_URL") or str(_home(inherited, root).data)
    earlier = Path(data, home.IN_FORCE).exists()  # it may have what is lost from the file
    if not earlier and not (params.is_file() and _SERVICE(params.read_bytes())):
        return None
    reader = subprocess.Popen([sys.executable, "-c", _READ_PARAMS, str(root)], stdout=subprocess.PIPE, env=environment)
    os.setpriority(os.PRIO_PROCESS, reader.pid, 10)  # the first worker's start comes first
    return reader


def _printed_number(reader: subprocess.Popen[bytes]) -> int:
    output = reader.communicate()[0].strip()
    if output.isdigit():
        return int(output)
    log.error(
        "nobody knows how many workers there should be; one serves", extra={"fields": {"status": reader.returncode}}
    )
    return 1


if __name__ == "__main__":
    main()
